"""Routing in a mixture of experts: the experts that each token chooses, and the choices that are dropped."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.arguments import finite, listed, number, whole
from course_lib.model import route
from course_lib.show.style import BLUE, HIDDEN, INK, MUTED, ORANGE

MAX_TOKENS = 40  # more rows don't fit on a projector


@dataclass(frozen=True, eq=False)
class Routing:
    """The experts that each token of a text chooses.

    tokens: the n tokens, as text.
    shares: (token, expert), the weight of the expert's output, 0 if the token doesn't choose the expert.
    dropped: (token, expert), whether the token chooses the expert, but the expert is full.
    limit: how many tokens an expert takes; None for no limit.
    """

    tokens: list[str]
    shares: np.ndarray
    dropped: np.ndarray
    limit: int | None = None

    @property
    def load(self) -> np.ndarray:
        """How many tokens choose each expert, (expert,), dropped ones included."""
        return (self.shares > 0).sum(axis=0)


# compute


def routing(
    tokens: list[str], scores: Tensor, n_active: int, normalize: bool = True, capacity: float | None = None
) -> Routing:
    """Send each token to its `n_active` best experts.

    tokens: their texts.
    scores: the router's scores, (token, expert).
    n_active: how many experts each token chooses.
    normalize: as `normalize_shares` in `ExpertsConfig`.
    capacity: as `capacity_factor` in `ExpertsConfig`. A full expert drops the tokens that come last.

    Raises ValueError if tokens and scores don't fit, for scores that aren't finite, for more active experts
    than there are, for a capacity that isn't above 0 or is above 10⁶, and for no tokens or more than 40.
    """
    tokens = listed("tokens", tokens, "a list of texts")
    capacity = capacity if capacity is None else number("capacity", capacity, above=0, most=1e6)
    _check_routing(tokens, scores, n_active)
    shares, chosen = route(scores, n_active, normalize)  # (token, n_active) each
    table = torch.zeros_like(scores).scatter(1, chosen, shares)  # (token, expert)
    table = table.detach().float().cpu().numpy()
    if capacity is None:
        return Routing(tokens, table, np.zeros(table.shape, bool))
    limit = math.ceil(capacity * len(tokens) * n_active / scores.shape[1])
    rank = (table > 0).cumsum(axis=0)  # (token, expert): how many choices the expert has so far
    return Routing(tokens, table, (table > 0) & (rank > limit), limit)


def _check_routing(tokens: list[str], scores: Tensor, n_active: int) -> None:
    if scores.dim() != 2 or len(tokens) != len(scores):
        shape = tuple(scores.shape)
        raise ValueError(f"{len(tokens)} tokens need scores ({len(tokens)}, experts), not {shape}")
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise ValueError(f"one picture shows 1 to {MAX_TOKENS} tokens, not {len(tokens)}")
    experts = scores.shape[1]
    finite("scores", scores)
    if not 1 <= whole("n_active", n_active) <= experts:
        raise ValueError(f"of {experts} experts a token can take 1 to {experts}, not {n_active}")


def describe_routing(r: Routing) -> str:
    """Describe `draw_routing` in a sentence, the figure's alternative text."""
    load = ", ".join(map(str, r.load))
    return f"{len(r.tokens)} tokens; choices an expert: {load}; turned away: {r.dropped.sum()}"


# draw


def draw_routing(r: Routing, title: str = "") -> Figure:
    """Draw a row for each token and a column for each expert; a square's area is the expert's share.

    Bars above the columns show how many tokens choose each expert, and a dashed line how many it takes.
    Dropped choices are orange and crossed out.
    """
    n, experts = r.shares.shape
    fig = Figure(figsize=(2.2 + 0.62 * experts, 2.2 + 0.36 * n), layout="constrained")
    top, grid = fig.subplots(2, 1, sharex=True, height_ratios=[1.3, 0.36 * n])
    _draw_load(top, r)
    for token, expert in np.argwhere(r.shares > 0):
        _draw_choice(grid, expert, token, r.shares[token, expert], r.dropped[token, expert])
    grid.set_xticks(range(experts), range(experts))
    grid.set_yticks(range(n), r.tokens, parse_math=False)
    grid.set(xlim=(-0.5, experts - 0.5), ylim=(n - 0.5, -0.5), xlabel="expert")
    grid.set_xticks(np.arange(experts) - 0.5, minor=True)
    grid.set_yticks(np.arange(n) - 0.5, minor=True)
    grid.grid(which="minor", color=HIDDEN, linewidth=0.8)
    grid.tick_params(which="both", length=0)
    grid.spines[:].set_visible(False)
    top.set_title(title or f"{n} tokens, {experts} experts")
    return fig


def _draw_load(ax: Axes, r: Routing) -> None:
    bars = ax.bar(range(len(r.load)), r.load, color=MUTED, width=0.7)
    ax.bar_label(bars, fontsize=12)
    if r.limit is not None:
        ax.axhline(r.limit, color=ORANGE, linestyle="--", linewidth=1.5)
    ax.set(ylim=(0, 1.35 * max(r.load.max(), r.limit or 0)), yticks=[], ylabel="chosen by")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelbottom=False)


def _draw_choice(ax: Axes, x: int, y: int, share: float, dropped: bool) -> None:
    """Draw a square whose area is `share` of a cell, but at least 0.03 of it so that it stays visible."""
    side = 0.9 * math.sqrt(max(share, 0.03))
    edge = ORANGE if dropped else BLUE
    face = "none" if dropped else BLUE
    ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=face, edgecolor=edge))
    if dropped:
        ax.plot(x, y, marker="x", color=INK, markersize=8, markeredgewidth=2)
