"""Who goes where: the tokens of a text, the experts they choose, and who is turned away."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.model import route
from course_lib.show.style import BLUE, HIDDEN, INK, MUTED, ORANGE

MAX_TOKENS = 40  # more rows don't fit on a projector


@dataclass(frozen=True, eq=False)
class Routing:
    """Where the tokens of a text are sent.

    tokens   the n tokens, as text
    shares   (token, expert): the weight that an expert's output gets, 0 where it wasn't chosen
    refused  (token, expert): chosen, but the expert was full
    room     how many tokens an expert takes; None for as many as come
    """

    tokens: list[str]
    shares: np.ndarray
    refused: np.ndarray
    room: int | None = None

    @property
    def load(self) -> np.ndarray:
        """(expert,): how many tokens chose it, those it refused included."""
        return (self.shares > 0).sum(axis=0)


# compute


def routing(
    tokens: list[str], scores: Tensor, n_active: int, normalize: bool = True, capacity: float | None = None
) -> Routing:
    """Send each token to its `n_active` best experts. scores: the router's, (token, expert).

    capacity: as in `ModelConfig`; an expert takes the first tokens that come. Raises ValueError when tokens and scores
    don't fit together, when there aren't that many experts, and for no tokens or more than 40.
    """
    if scores.dim() != 2 or len(tokens) != len(scores):
        raise ValueError(
            f"{len(tokens)} tokens need scores ({len(tokens)}, experts), not {tuple(scores.shape)}"
        )
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise ValueError(f"one picture shows 1 to {MAX_TOKENS} tokens, not {len(tokens)}")
    if not 1 <= n_active <= scores.shape[1]:
        raise ValueError(
            f"of {scores.shape[1]} experts a token can take 1 to {scores.shape[1]}, not {n_active}"
        )
    shares, chosen = route(scores, n_active, normalize)
    table = torch.zeros_like(scores).scatter(1, chosen, shares).detach().float().numpy()
    if capacity is None:
        return Routing(tokens, table, np.zeros(table.shape, bool))
    room = math.ceil(capacity * len(tokens) * n_active / scores.shape[1])
    return Routing(tokens, table, (table > 0) & ((table > 0).cumsum(axis=0) > room), room)


def describe_routing(r: Routing) -> str:
    """The picture in words, for those who don't see it."""
    load = ", ".join(map(str, r.load))
    return f"{len(r.tokens)} tokens; choices an expert: {load}; turned away: {r.refused.sum()}"


# draw


def draw_routing(r: Routing, title: str = "") -> Figure:
    """A row for each token, a column for each expert; a square is as large as the expert's share in the token's output.

    Above stands how many tokens chose each expert, and (dashed) how many it takes; orange and crossed out is who was
    turned away.
    """
    n, experts = r.shares.shape
    fig = Figure(figsize=(2.2 + 0.62 * experts, 2.2 + 0.36 * n), layout="constrained")
    top, grid = fig.subplots(2, 1, sharex=True, height_ratios=[1.3, 0.36 * n])
    _draw_load(top, r)
    for token, expert in np.argwhere(r.shares > 0):
        _square(grid, expert, token, r.shares[token, expert], r.refused[token, expert])
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
    if r.room is not None:
        ax.axhline(r.room, color=ORANGE, linestyle="--", linewidth=1.5)
    ax.set(ylim=(0, 1.35 * max(r.load.max(), r.room or 0)), yticks=[], ylabel="chosen by")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelbottom=False)


def _square(ax: Axes, x: int, y: int, share: float, refused: bool) -> None:
    """A full cell is a share of 1; a thin share is still visible."""
    side = 0.9 * math.sqrt(max(share, 0.03))
    color = ORANGE if refused else BLUE
    ax.add_patch(
        Rectangle(
            (x - side / 2, y - side / 2), side, side, facecolor="none" if refused else color, edgecolor=color
        )
    )
    if refused:
        ax.plot(x, y, marker="x", color=INK, markersize=8, markeredgewidth=2)
