"""FlashAttention's tiles: the state on the chip at each step, the tiles a kernel loads, and the roofline.

Dao et al. 2022. Each program keeps, for each of its queries, the largest score and the sum of exponentials so
far (the online softmax, Milakov and Gimelshein 2018).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.kernels import Cost
from course_lib.kernels.meter import Event
from course_lib.show.checks import numbers
from course_lib.show.style import BLUE, FAINT, GREEN, HIDDEN, INK, MUTED, ORANGE, PALETTE

MAX_TOKENS = 32  # more squares can't be told apart on a projector
WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps text readable on top of a line


@dataclass(frozen=True, eq=False)
class TileStep:
    """One tile of scores, and the state of the online softmax after it.

    queries: the tile's rows.
    keys: the tile's columns.
    largest: (rows,), each query's largest score so far.
    total: (rows,), each query's sum of exponentials so far, relative to its largest score.
    grown: (rows,), whether the tile raised a query's largest score, so that its sum was scaled down.
    """

    queries: slice
    keys: slice
    largest: np.ndarray
    total: np.ndarray
    grown: np.ndarray


# compute


def tile_steps(scores: np.ndarray, block_q: int, block_k: int, causal: bool = True) -> list[TileStep]:
    """Compute the online softmax of `scores`, and return a step for each tile, program after program.

    scores: (time, time), a row for each query.
    block_q: how many queries a program handles.
    block_k: how many of their keys it visits at a time.
    causal: whether later keys are masked.

    Raises ValueError for scores that aren't square, more than 32 tokens, and blocks below 1; TypeError for
    scores that are no numbers.
    """
    scores = numbers("scores", scores)
    n = len(scores)
    if scores.shape != (n, n) or not 1 <= n <= MAX_TOKENS or min(block_q, block_k) < 1:
        given = f"{scores.shape}, {block_q}, {block_k}"
        raise ValueError(f"1 to {MAX_TOKENS} tokens and blocks of 1 or more are drawn, not {given}")
    if causal:
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    blocks = (slice(start, min(start + block_q, n)) for start in range(0, n, block_q))
    return [step for queries in blocks for step in _program_steps(scores, queries, block_k, causal)]


def _program_steps(scores: np.ndarray, queries: slice, block_k: int, causal: bool) -> Iterator[TileStep]:
    """Yield the steps of one program; a causal one stops at its last query's tile."""
    n = len(scores)
    rows = queries.stop - queries.start
    largest, total = np.full(rows, -np.inf), np.zeros(rows)
    for start in range(0, queries.stop if causal else n, block_k):
        keys = slice(start, min(start + block_k, n))
        tile = scores[queries, keys]  # (rows, keys)
        new = np.maximum(largest, tile.max(axis=1))  # (rows,)
        total = total * np.exp(largest - new) + np.exp(tile - new[:, None]).sum(axis=1)  # (rows,)
        yield TileStep(queries, keys, new, total, grown=(new > largest) & (start > 0))
        largest = new


def visited(events: Sequence[Event], q: Tensor, k: Tensor) -> dict[int, list[int]]:
    """Return which tiles each program loaded: its first query → the first key of each tile, in order.

    events: those of a `Meter` that was open while attention ran on `q` and `k`.
    q, k: (1, 1, time, d_head), contiguous.
    """
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
    """Return the row of `x`, (1, 1, rows, width), that contains `address`, or None if it lies outside `x`."""
    offset = address - x.data_ptr()
    return offset // (x.shape[-1] * x.element_size()) if 0 <= offset < x.nbytes else None


# draw


def draw_tile_step(steps: list[TileStep], i: int) -> Figure:
    """Draw the scores at step `i`, and beside them the largest score and the sum that the program keeps.

    Finished tiles are grey, the current one is blue, and unvisited ones are white. A query's values are
    orange if this step raised its largest score.
    """
    fig = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_scores(left, steps, i)
    left.set_title(f"step {i + 1} of {len(steps)}")
    _draw_state(right, steps[i])
    return fig


def draw_tile_strip(steps: list[TileStep], which: Sequence[int]) -> Figure:
    """Draw the scores at several steps side by side, as in the left half of `draw_tile_step`."""
    fig = Figure(figsize=(2.6 * len(which), 3.1), layout="constrained")
    for ax, i in zip(np.atleast_1d(fig.subplots(1, len(which))), which, strict=True):
        _draw_scores(ax, steps, i, names=False)
        ax.set_title(f"step {i + 1}", fontsize=14)
    return fig


def _draw_scores(ax: Axes, steps: list[TileStep], now: int, names: bool = True) -> None:
    n = steps[-1].queries.stop
    ax.set(xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -0.6), aspect="equal", xticks=[], yticks=[])
    for i, step in enumerate(steps[: now + 1]):
        ax.add_patch(_tile(step.queries, step.keys, BLUE if i == now else HIDDEN))
    for edge in range(n + 1):
        ax.plot([-0.5, n - 0.5], [edge - 0.5] * 2, color="#C8C8C8", linewidth=0.6)
        ax.plot([edge - 0.5] * 2, [-0.5, n - 0.5], color="#C8C8C8", linewidth=0.6)
    queries, keys, bar = steps[now].queries, steps[now].keys, {"linewidth": 6, "clip_on": False}
    ax.plot([-0.75] * 2, [queries.start - 0.4, queries.stop - 0.6], color=GREEN, **bar)
    ax.plot([keys.start - 0.4, keys.stop - 0.6], [-0.75] * 2, color=BLUE, **bar)
    ax.spines[:].set_visible(False)
    if names:
        ax.set_xlabel("keys →")
        ax.set_ylabel("← queries", labelpad=12)


def _tile(queries: slice, keys: slice, color: str) -> Rectangle:
    corner = keys.start - 0.5, queries.start - 0.5
    width, height = keys.stop - keys.start, queries.stop - queries.start
    return Rectangle(corner, width, height, facecolor=color, edgecolor="none")


def _draw_state(ax: Axes, step: TileStep) -> None:
    rows = range(step.queries.start, step.queries.stop)
    ax.set(xlim=(0, 4), ylim=(len(rows) + 0.5, -1.2))
    ax.set_axis_off()
    for x, name in ((0.5, "query"), (1.8, "largest so far"), (3.3, "sum so far")):
        ax.text(x, -0.6, name, ha="center", color=MUTED, fontsize=14)
    for i, row in enumerate(rows):
        color = ORANGE if step.grown[i] else INK
        ax.text(0.5, i + 0.2, str(row), ha="center", va="center", color=INK)
        ax.text(1.8, i + 0.2, f"{step.largest[i]:.2f}", ha="center", va="center", color=color)
        ax.text(3.3, i + 0.2, f"{step.total[i]:.2f}", ha="center", va="center", color=color)
    ax.set_title("on the chip")


def draw_visits(
    visits: dict[int, list[int]], block_q: int, block_k: int, keys: int, title: str = ""
) -> Figure:
    """Draw a row for each program and a square for each tile of keys, numbered in the order of loading.

    visits: as `visited` returns them.
    block_q, block_k: the tiles' sizes.
    keys: how many keys there are.
    """
    columns = math.ceil(keys / block_k)
    fig = Figure(figsize=(2.4 + 0.8 * columns, 1.6 + 0.62 * len(visits)), layout="constrained")
    ax = fig.subplots()
    for row, loaded in enumerate(visits.values()):
        for column in range(columns):
            color = BLUE if column * block_k in loaded else HIDDEN
            ax.add_patch(Rectangle((column, row), 0.94, 0.9, facecolor=color))
        for order, key in enumerate(loaded, 1):
            ax.text(key // block_k + 0.47, row + 0.45, str(order), ha="center", va="center", color="white")
    ax.set(xlim=(0, columns), ylim=(len(visits), 0), title=title)
    ax.set(xlabel="tiles of keys", ylabel="programs, by their queries")
    x, y = [column + 0.47 for column in range(columns)], [row + 0.45 for row in range(len(visits))]
    ax.set_xticks(x, _name_ranges(range(0, keys, block_k), block_k, keys), fontsize=12)
    ax.set_yticks(y, _name_ranges(visits, block_q, keys), fontsize=12)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def _name_ranges(starts: Iterable[int], block: int, end: int) -> list[str]:
    return [f"{start}–{min(start + block, end) - 1}" for start in starts]


def draw_roofline(
    machines: dict[str, tuple[float, float]], operations: dict[str, Cost], title: str = ""
) -> Figure:
    """Draw each machine's roofline, and a vertical line at each operation's arithmetic intensity.

    A roofline (Williams et al. 2009) climbs where memory is the limit, and is flat where arithmetic is.

    machines: name → (bytes per second, operations per second).
    operations: name → its cost.
    """
    fig = Figure(figsize=(10, 5), layout="constrained")
    ax = fig.subplots()
    intensity = np.geomspace(0.1, 5_000, 200)
    for (name, (bandwidth, rate)), color in zip(machines.items(), PALETTE, strict=False):
        ax.plot(intensity, np.minimum(bandwidth * intensity, rate), color=color)
        ax.text(5_600, rate, name, color=color, va="center", fontsize=13)
        ax.plot(rate / bandwidth, rate, "o", color=color)
    low = min(bandwidth for bandwidth, _ in machines.values()) * 0.1
    style = {"rotation": 90, "fontsize": 12, "color": INK, "va": "bottom", "bbox": WHITE_BOX}
    for name, cost in operations.items():
        ax.axvline(cost.intensity, color=FAINT, linewidth=1.2, linestyle=":")
        ax.text(cost.intensity * 1.06, low * 1.3, name, **style)
    ax.set(xscale="log", yscale="log", xlim=(0.1, 5_000))
    ax.set(xlabel="operations a byte", ylabel="operations a second")
    ax.set_title(title)
    return fig


def draw_growth(
    lengths: Sequence[int], kinds: dict[str, Sequence[float]], ylabel: str, title: str = ""
) -> Figure:
    """Draw measurements at several lengths on logarithmic axes, where n^p is a straight line of slope p.

    lengths: the numbers of tokens.
    kinds: name → a value for each length.
    ylabel: what was measured, with its unit.
    """
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
