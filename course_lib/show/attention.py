"""Attention in pictures: whole heads, one token's gaze, all heads at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from .style import BLUE, HIDDEN, INK, MUTED, ORANGE, FAINT, SIGNED, WEIGHTS
from .tokens import label, text_width

if TYPE_CHECKING:
    from course_lib.families import LanguageModel

MAX_TOKENS = 64  # more don't fit on a projector
RIBBON = 26  # thickness, in points, of a ribbon of weight 1
TITLE = {"va": "top", "parse_math": False}
DRAWN = 0.005  # weights from here on get a ribbon
WRITTEN = 0.05  # weights from here on are written out
NUMBER_SIZE = 0.7  # of the type's size


@dataclass(frozen=True)
class Attention:
    """Where every head of a model looks, in one text.

    tokens   the n tokens, as text
    weights  (layers, heads, query, key): row `query` says how that token spreads its attention; a row sums to 1
    """

    tokens: list[str]
    weights: np.ndarray

    def __post_init__(self):
        n = len(self.tokens)
        if self.weights.ndim != 4 or self.weights.shape[2:] != (n, n):
            raise ValueError(
                f"{n} tokens need weights of shape (layers, heads, {n}, {n}), and these are {self.weights.shape}"
            )

    def head(self, layer: int, head: int) -> np.ndarray:
        """(query, key) of one head, counted from 0. Raises IndexError when there is no such head."""
        layers, heads = self.weights.shape[:2]
        _require_index("layer", layer, layers)
        _require_index("head", head, heads)
        return self.weights[layer, head]

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """(key,) of one token in one head: where does it look? Raises IndexError when there is no such token."""
        _require_index("query", query, len(self.tokens))
        return self.head(layer, head)[query]

    def index(self, word: str) -> int:
        """Position of the first token that reads `word`, spaces aside. Raises ValueError when none does."""
        labels = [label(token) for token in self.tokens]
        if word.strip() not in labels:
            raise ValueError(f"no token reads {word.strip()!r}; the tokens are {' | '.join(labels)}")
        return labels.index(word.strip())


def _require_index(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise IndexError(f"{name} {value} doesn't exist: they are numbered from 0 to {count - 1}")


# compute


def attention(lm: LanguageModel, text: str) -> Attention:
    """Run `lm` once on `text` and keep what every head looked at.

    Raises ValueError for an empty text, and for more than 64 tokens, which no picture could show.
    """
    from course_lib.model import Trace

    ids = lm.tokenizer.encode(text)
    if not ids:
        raise ValueError("there is no text to look at: type a word or two")
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"{len(ids)} tokens are too many for one picture: keep it under {MAX_TOKENS}")
    trace = Trace(keep="*.attention.weights")
    with torch.inference_mode():
        lm.model(torch.tensor([ids]), trace=trace)
    return Attention([lm.tokenizer.token_text(i) for i in ids], trace.attention().float().numpy())


# draw


def draw_attention(
    att: Attention, layer: int, head: int, query: int | None = None, ax: Axes | None = None
) -> Figure:
    """Heat map of one head: a row for each token that looks, a column for each token looked at.

    What a causal model hides from a row (the future) is grey. `query` frames one row.
    """
    weights = att.head(layer, head)
    n = len(att.tokens)
    if ax is None:
        side = float(np.clip(0.36 * n, 3.5, 9))
        ax = Figure(figsize=(side + 2.4, side + 1.2), layout="constrained").subplots()
    future = np.triu(np.ones((n, n), bool), k=1) & (weights == 0)
    ax.set_facecolor(HIDDEN)
    image = ax.imshow(np.ma.masked_where(future, weights), cmap=WEIGHTS, vmin=0, vmax=1)
    ax.set_xticks(np.arange(n) - 0.5, minor=True)
    ax.set_yticks(np.arange(n) - 0.5, minor=True)
    ax.grid(which="minor", color=HIDDEN, linewidth=0.8)
    _name_ticks(ax, [label(token) for token in att.tokens])
    if n <= 8:
        _write_values(ax, weights, future)
    if query is not None:
        _require_index("query", query, n)
        ax.add_patch(Rectangle((-0.5, query - 0.5), n, 1, fill=False, edgecolor=ORANGE, linewidth=2.5, clip_on=False))
        ax.get_yticklabels()[query].set(color=ORANGE, fontweight="bold")
    ax.set_title(f"Layer {layer}, head {head}")
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.6, ticks=[0, 0.5, 1])
    return ax.figure


def _name_ticks(ax: Axes, labels: list[str]) -> None:
    size = float(np.interp(len(labels), [8, 20, 64], [14, 12, 7]))
    style = {"fontsize": size, "parse_math": False}
    ax.set_xticks(range(len(labels)), labels, rotation=55, ha="left", rotation_mode="anchor", **style)
    ax.set_yticks(range(len(labels)), labels, **style)
    ax.tick_params(which="both", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.set_xlabel("looked at (key)")
    ax.set_ylabel("who looks (query)")
    ax.spines[:].set_visible(False)


def _write_values(ax: Axes, weights: np.ndarray, hidden: np.ndarray) -> None:
    for query, key in np.argwhere(~hidden):
        weight = weights[query, key]
        ink = "white" if weight > 0.5 else INK
        ax.text(key, query, f"{weight:.2f}", ha="center", va="center", color=ink, fontsize=12)


def draw_row(att: Attention, layer: int, head: int, query: int, width: float = 11.0) -> Figure:
    """Where one token looks: the sentence on a line, and a ribbon to each token looked at, as thick as its weight.

    Side by side the ribbons fill the token's whole attention, which is 1. Weights from 0.05 on are written below
    their token; ribbons under 0.005 are left out. A sentence wider than `width` inches is set in smaller type.
    """
    weights = att.row(layer, head, query)
    labels = [label(token) for token in att.tokens]
    x, length = _line_up(att.tokens, labels, weights, query)
    size = min(17, 72 * width / length)
    x, length = x * size, max(length * size, 400)
    starts = x[query] + RIBBON * _fan_out(weights, query)
    ends = np.where(np.arange(len(x)) == query, starts, x)
    spans = np.abs(ends - starts)
    top = 1.3 * size + _arch(spans[weights >= DRAWN].max()) + 75
    fig, ax = _page(length, bottom=-1.3 * size, top=top)
    for key in np.argsort(weights, kind="stable"):  # the heaviest on top
        if weights[key] >= DRAWN:
            ax.add_patch(_ribbon(starts[key], ends[key], 1.25 * size, weights[key], gid=f"key-{key}"))
    for i, word in enumerate(labels):
        _write_token(ax, x[i], word, size, weights[i], i - query)
    ax.text(0, top, f"Layer {layer}, head {head}: where does “{labels[query]}” look?", fontsize=16, **TITLE)
    later = ". Grey: later words, which it can’t see" if not weights[query + 1 :].any() and i > query else ""
    ax.text(0, top - 25, f"Thickness is attention weight{later}", fontsize=12, color=MUTED, **TITLE)
    return fig


def _line_up(tokens: list[str], labels: list[str], weights: np.ndarray, query: int) -> tuple[np.ndarray, float]:
    """Each token's centre, and the length of the line, in units of the type's size."""
    number = text_width("0.00", bold=True) * NUMBER_SIZE
    widths = [text_width(word, bold=i == query) for i, word in enumerate(labels)]
    widths = np.array([max(w, number) if weight >= WRITTEN else w for w, weight in zip(widths, weights, strict=True)])
    gaps = np.array([0.45 if token[:1].isspace() else 0.06 for token in tokens])
    gaps[0] = 0
    right = np.cumsum(gaps + widths)
    return right - widths / 2, float(right[-1])


def _fan_out(weights: np.ndarray, query: int) -> np.ndarray:
    """Where in the query's unit of attention, from -0.5 to 0.5, each key's ribbon starts so that none cross."""
    n = len(weights)
    order = [*range(query, -1, -1), *range(n - 1, query, -1)]
    starts = np.empty(n)
    starts[order] = np.cumsum(weights[order]) - weights[order] / 2 - 0.5
    return starts


def _page(length: float, bottom: float, top: float, margin: float = 14) -> tuple[Figure, Axes]:
    """An empty figure whose unit of length is the point."""
    width, height = length + 2 * margin, top - bottom + 2 * margin
    fig = Figure(figsize=(width / 72, height / 72), layout="none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(-margin, length + margin), ylim=(bottom - margin, top + margin))
    ax.set_axis_off()
    return fig, ax


def _arch(span: float) -> float:
    """How high a ribbon rises that spans so many points."""
    return 14 + 7 * float(np.sqrt(span))


def _ribbon(start: float, end: float, base: float, weight: float, gid: str) -> PathPatch:
    """A ribbon of `weight` that leaves and lands vertically; a stub for a token that looks at itself."""
    up = base + _arch(abs(end - start)) / 0.75
    path = Path([(start, base), (start, up), (end, up), (end, base)], [Path.MOVETO] + 3 * [Path.CURVE4])
    color = WEIGHTS(0.4 + 0.4 * weight)
    return PathPatch(path, fill=False, linewidth=RIBBON * weight, edgecolor=color, capstyle="butt", gid=gid)


def _write_token(ax: Axes, x: float, word: str, size: float, weight: float, offset: int) -> None:
    """A token and its weight; `offset` is its position after the token that looks, whose own is 0."""
    color = ORANGE if offset == 0 else FAINT if offset > 0 and weight == 0 else INK
    style = {"ha": "center", "va": "baseline", "parse_math": False}
    ax.text(x, 0, word, fontsize=size, color=color, fontweight="bold" if offset == 0 else "normal", **style)
    if weight >= WRITTEN:
        ax.text(x, -1.2 * size, f"{weight:.2f}", fontsize=NUMBER_SIZE * size, color=BLUE, fontweight="bold", **style)


def draw_head_grid(scores: np.ndarray, title: str = "", top: int = 5) -> Figure:
    """Heat map of one number per head, `scores` of shape (layers, heads); the `top` largest are ringed and listed.

    Scores with both signs get two colours, white at zero, and the largest of either sign are ringed.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2:
        raise ValueError(f"one score per head is an array (layers, heads), and this is of shape {scores.shape}")
    layers, heads = scores.shape
    fig = Figure(figsize=(0.28 * layers + 3.4, 0.28 * heads + 1.7), layout="constrained")
    ax = fig.subplots()
    limit = np.abs(scores).max() or 1
    colors = {"cmap": SIGNED, "vmin": -limit} if scores.min() < 0 else {"cmap": WEIGHTS, "vmin": 0}
    image = ax.imshow(scores.T, vmax=limit, **colors)
    step = 5 if layers > 12 else 1
    ax.set(xlabel="layer", ylabel="head", xticks=range(0, layers, step), yticks=range(heads))
    ax.set_title(title, parse_math=False)
    fig.colorbar(image, ax=ax, pad=0.02, aspect=15)
    rings = [ax.add_patch(_ring(layer, head)) for layer, head in _largest(scores, top)]
    names = [f"{layer}.{head}   {scores[layer, head]:.2f}" for layer, head in _largest(scores, top)]
    fig.legend(rings, names, loc="outside right center", title="layer.head", fontsize=13, handlelength=0.8, handleheight=0.8)
    return fig


def _ring(layer: int, head: int) -> Rectangle:
    halo = [withStroke(linewidth=4.5, foreground="white")]
    style = {"edgecolor": INK, "linewidth": 2, "clip_on": False, "zorder": 3, "path_effects": halo}
    return Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, **style)


def _largest(scores: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The (layer, head) of the `count` scores farthest from zero, the first of equals first."""
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")[:count]
    return [divmod(int(i), scores.shape[1]) for i in order]
