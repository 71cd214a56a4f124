"""Attention in tiles: what is on the chip at each step, which tiles a kernel visited, and what the machine allows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.kernels import Cost
from course_lib.kernels.meter import Event
from course_lib.show.style import BLUE, FAINT, GREEN, HIDDEN, INK, MUTED, ORANGE, PALETTE

BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # lets a word be read on top of a line
MAX_TOKENS = 32  # more squares can't be told apart on a projector


@dataclass(frozen=True, eq=False)
class TileStep:
    """One tile of scores, and what is known after it.

    queries, keys   which rows and columns the tile has
    largest, total  (rows,): each query's largest score so far, and the sum of exponentials relative to it
    grown           (rows,): whose largest score this tile raised, so that its sums were scaled down
    """

    queries: slice
    keys: slice
    largest: np.ndarray
    total: np.ndarray
    grown: np.ndarray


# compute


def tile_steps(scores: np.ndarray, block_q: int, block_k: int, causal: bool = True) -> list[TileStep]:
    """Online softmax over square scores (time, time), tile by tile, each program's tiles one after the other.

    Raises ValueError for scores that aren't square, more than 32 tokens, and blocks below 1.
    """
    n = len(scores)
    if scores.shape != (n, n) or not 1 <= n <= MAX_TOKENS or min(block_q, block_k) < 1:
        raise ValueError(
            f"1 to {MAX_TOKENS} tokens and blocks of 1 or more are drawn, not {scores.shape}, {block_q}, {block_k}"
        )
    if causal:
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    steps = []
    for first in range(0, n, block_q):
        queries = slice(first, min(first + block_q, n))
        largest, total = np.full(queries.stop - first, -np.inf), np.zeros(queries.stop - first)
        for start in range(0, queries.stop if causal else n, block_k):
            tile = scores[queries, start : start + block_k]
            new = np.maximum(largest, tile.max(axis=1))
            total = total * np.exp(largest - new) + np.exp(tile - new[:, None]).sum(axis=1)
            steps.append(
                TileStep(
                    queries, slice(start, min(start + block_k, n)), new, total, (new > largest) & (start > 0)
                )
            )
            largest = new
    return steps


def visited(events: Sequence[Event], q: Tensor, k: Tensor) -> dict[int, list[int]]:
    """First query → the first keys of the tiles that its program loaded, in order, from what a `Meter` noted while attention ran.
    q, k: what it ran on, one sequence and head, contiguous."""
    tiles: dict[tuple, list[int]] = {}
    queries: dict[tuple, int] = {}
    for event in events:
        if event.kind != "load" or event.address is None:
            continue
        row = row_of(event.address, q)
        if row is not None:
            queries[event.program] = row
        row = row_of(event.address, k)
        if row is not None:
            tiles.setdefault(event.program, []).append(row)
    return dict(sorted((queries[program], keys) for program, keys in tiles.items()))


def row_of(address: int, x: Tensor) -> int | None:
    """Which row of x, (1, 1, rows, width), begins at or has the address; None where it isn't x's."""
    place = address - x.data_ptr()
    return place // (x.shape[-1] * x.element_size()) if 0 <= place < x.nbytes else None


# draw


def draw_tile_step(steps: list[TileStep], i: int) -> Figure:
    """Scores as squares: done (grey), being worked on (blue), not looked at (white); beside them what the program keeps of each of
    its queries. Orange: the largest score has just grown."""
    fig = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_scores(left, steps, i)
    left.set_title(f"step {i + 1} of {len(steps)}")
    _draw_kept(right, steps[i])
    return fig


def draw_tile_strip(steps: list[TileStep], which: Sequence[int]) -> Figure:
    """The left half of `draw_tile_step` for some steps, side by side."""
    fig = Figure(figsize=(2.6 * len(which), 3.1), layout="constrained")
    for ax, i in zip(np.atleast_1d(fig.subplots(1, len(which))), which, strict=True):
        _draw_scores(ax, steps, i, names=False)
        ax.set_title(f"step {i + 1}", fontsize=14)
    return fig


def _draw_scores(ax: Axes, steps: list[TileStep], now: int, names: bool = True) -> None:
    n = steps[-1].queries.stop
    ax.set(xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -0.6), aspect="equal", xticks=[], yticks=[])
    for i, step in enumerate(steps[: now + 1]):
        at, size = (
            (step.keys.start - 0.5, step.queries.start - 0.5),
            (
                step.keys.stop - step.keys.start,
                step.queries.stop - step.queries.start,
            ),
        )
        ax.add_patch(Rectangle(at, *size, facecolor=BLUE if i == now else HIDDEN, edgecolor="none"))
    for edge in range(n + 1):
        ax.plot([-0.5, n - 0.5], [edge - 0.5] * 2, color="#C8C8C8", linewidth=0.6)
        ax.plot([edge - 0.5] * 2, [-0.5, n - 0.5], color="#C8C8C8", linewidth=0.6)
    step = steps[now]
    ax.plot(
        [-0.75] * 2,
        [step.queries.start - 0.4, step.queries.stop - 0.6],
        color=GREEN,
        linewidth=6,
        clip_on=False,
    )
    ax.plot(
        [step.keys.start - 0.4, step.keys.stop - 0.6], [-0.75] * 2, color=BLUE, linewidth=6, clip_on=False
    )
    ax.spines[:].set_visible(False)
    if names:
        ax.set_xlabel("keys →")
        ax.set_ylabel("← queries", labelpad=12)


def _draw_kept(ax: Axes, step: TileStep) -> None:
    rows = range(step.queries.start, step.queries.stop)
    ax.set(xlim=(0, 4), ylim=(len(rows) + 0.5, -1.2))
    ax.set_axis_off()
    for x, name in ((0.5, "query"), (1.8, "largest so far"), (3.3, "sum so far")):
        ax.text(x, -0.6, name, ha="center", color=MUTED, fontsize=14)
    for place, row in enumerate(rows):
        color = ORANGE if step.grown[place] else INK
        ax.text(0.5, place + 0.2, str(row), ha="center", va="center", color=INK)
        ax.text(1.8, place + 0.2, f"{step.largest[place]:.2f}", ha="center", va="center", color=color)
        ax.text(3.3, place + 0.2, f"{step.total[place]:.2f}", ha="center", va="center", color=color)
    ax.set_title("on the chip")


def draw_visits(
    visits: dict[int, list[int]], block_q: int, block_k: int, keys: int, title: str = ""
) -> Figure:
    """A row for each program, named by its queries, a square for each tile of keys; the number says when it was loaded."""
    across = math.ceil(keys / block_k)
    fig = Figure(figsize=(2.4 + 0.8 * across, 1.6 + 0.62 * len(visits)), layout="constrained")
    ax = fig.subplots()
    for place, loaded in enumerate(visits.values()):
        for column in range(across):
            seen = column * block_k in loaded
            ax.add_patch(Rectangle((column, place), 0.94, 0.9, facecolor=BLUE if seen else HIDDEN))
        for order, key in enumerate(loaded, 1):
            ax.text(key // block_k + 0.47, place + 0.45, str(order), ha="center", va="center", color="white")
    ax.set(
        xlim=(0, across),
        ylim=(len(visits), 0),
        title=title,
        xlabel="tiles of keys",
        ylabel="programs, by their queries",
    )
    ax.set_xticks(
        [c + 0.47 for c in range(across)], _stretches(range(0, keys, block_k), block_k, keys), fontsize=12
    )
    ax.set_yticks([p + 0.45 for p in range(len(visits))], _stretches(visits, block_q, keys), fontsize=12)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def _stretches(starts: Iterable[int], block: int, end: int) -> list[str]:
    return [f"{start}–{min(start + block, end) - 1}" for start in starts]


def draw_roofline(
    machines: dict[str, tuple[float, float]], operations: dict[str, Cost], title: str = ""
) -> Figure:
    """Machines: name → (bytes a second, operations a second), a line that climbs as far as memory allows and is flat where the
    processor is the limit. Operations stand below at their intensity."""
    fig = Figure(figsize=(10, 5), layout="constrained")
    ax = fig.subplots()
    at = np.geomspace(0.1, 5_000, 200)
    for (name, (bandwidth, rate)), color in zip(machines.items(), PALETTE, strict=False):
        ax.plot(at, np.minimum(bandwidth * at, rate), color=color)
        ax.text(5_600, rate, name, color=color, va="center", fontsize=13)
        ax.plot(rate / bandwidth, rate, "o", color=color)
    low = min(bandwidth for bandwidth, _ in machines.values()) * 0.1
    for name, cost in operations.items():
        ax.axvline(cost.intensity, color=FAINT, linewidth=1.2, linestyle=":")
        ax.text(
            cost.intensity * 1.06,
            low * 1.3,
            name,
            rotation=90,
            fontsize=12,
            color=INK,
            va="bottom",
            bbox=BEHIND,
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(0.1, 5_000),
        xlabel="operations a byte",
        ylabel="operations a second",
    )
    ax.set_title(title)
    return fig


def draw_growth(
    lengths: Sequence[int], kinds: dict[str, Sequence[float]], ylabel: str, title: str = ""
) -> Figure:
    """Something measured at several lengths, on logarithmic axes: a straight line's slope is the power with which it grows."""
    fig = Figure(figsize=(8.5, 4.5), layout="constrained")
    ax = fig.subplots()
    for (name, values), marker in zip(kinds.items(), "os^D", strict=False):
        (line,) = ax.plot(lengths, values, marker=marker)
        ax.text(lengths[-1] * 1.08, values[-1], name, color=line.get_color(), va="center")
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel=ylabel, title=title)
    ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
    ax.minorticks_off()
    ax.set_xlim(lengths[0] * 0.85, lengths[-1] * 2.2)
    return fig
