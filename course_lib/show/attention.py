"""Attention in pictures: whole heads, one token's gaze, all heads at a glance."""

from dataclasses import dataclass
from functools import lru_cache, partial

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from course_lib.model import LanguageModel, Trace
from course_lib.show.figures import show
from course_lib.show.style import BLUE, FAINT, HIDDEN, INK, MUTED, ORANGE, SIGNED, WEIGHTS, blank_page
from course_lib.show.tokens import label, name, text_width

MAX_TOKENS = 64  # more don't fit on a projector
SIZE = 17  # of the sentence's type, in points
RIBBON = 26  # thickness, in points, of a ribbon of weight 1
DRAWN = 0.005  # weights from here on get a ribbon
WRITTEN = 0.05  # weights from here on are written out
NUMBER_SIZE = 0.7  # of the type's size


@dataclass(frozen=True, eq=False)
class Attention:
    """Where every head of a model looks, in one text.

    tokens   the n tokens, as text
    weights  (layers, heads, query, key): a row says how `query` spreads its attention, and sums to 1
    """

    tokens: list[str]
    weights: np.ndarray

    def __post_init__(self):
        n = len(self.tokens)
        if self.weights.ndim != 4 or self.weights.shape[2:] != (n, n):
            raise ValueError(
                f"{n} tokens need weights (layers, heads, {n}, {n}), and these are {self.weights.shape}"
            )

    def head(self, layer: int, head: int) -> np.ndarray:
        """(query, key) of one head, counted from 0. Raises IndexError when there is no such head."""
        layers, heads = self.weights.shape[:2]
        _require_index("layer", layer, layers)
        _require_index("head", head, heads)
        return self.weights[layer, head]

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """(key,) of one token in one head: where it looks. Raises IndexError when there is no such token."""
        _require_index("query", query, len(self.tokens))
        return self.head(layer, head)[query]

    def index(self, word: str) -> int:
        """Position of the first token that reads `word`, spaces aside. Raises ValueError when none does."""
        names = [name(token) for token in self.tokens]
        if word.strip() not in names:
            raise ValueError(f"no token reads {word.strip()!r}; the tokens are {' | '.join(names)}")
        return names.index(word.strip())


def _require_index(what: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise IndexError(f"{what} {value} doesn't exist: they are numbered from 0 to {count - 1}")


# compute


def attention(lm: LanguageModel, text: str) -> Attention:
    """Run `lm` once on `text` and keep what every head looked at.

    Raises ValueError for an empty text, and for more than 64 tokens, which no picture could show.
    """
    ids = lm.tokenizer.encode(text)
    if not ids:
        raise ValueError("there is no text to look at: type a word or two")
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"{len(ids)} tokens are too many for one picture: at most {MAX_TOKENS} fit")
    trace = Trace(keep="*.attention.weights")
    with torch.inference_mode():
        lm.model(torch.tensor([ids]), trace=trace)
    return Attention([lm.tokenizer.token_text(i) for i in ids], trace.attention().float().numpy())


def describe_row(att: Attention, layer: int, head: int, query: int, count: int = 3) -> str:
    """One row in words, the `count` largest weights first: the text for those who don't see the picture."""
    weights = att.row(layer, head, query)
    largest = np.argsort(-weights, kind="stable")[:count]
    parts = [f"{name(att.tokens[i])} {weights[i]:.2f}" for i in largest if weights[i] >= DRAWN]
    looker = f"{name(att.tokens[query])} (token {query})"
    return f"Layer {layer}, head {head}: {looker} looks at {', '.join(parts)}"


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
    _name_ticks(ax, [label(token) for token in att.tokens])
    if n <= 8:
        _write_values(ax, weights, future)
    if query is not None:
        _require_index("query", query, n)
        _frame_row(ax, query, n)
    ax.set_title(f"Layer {layer}, head {head}")
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.6, ticks=[0, 0.5, 1])
    return ax.figure


def _name_ticks(ax: Axes, labels: list[str]) -> None:
    size = float(np.interp(len(labels), [8, 20, 64], [14, 12, 7]))
    style = {"fontsize": size, "parse_math": False}
    edges = np.arange(len(labels)) - 0.5
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(which="minor", color=HIDDEN, linewidth=0.8)
    ax.set_xticks(range(len(labels)), labels, rotation=55, ha="left", rotation_mode="anchor", **style)
    ax.set_yticks(range(len(labels)), labels, **style)
    ax.tick_params(which="both", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.set_xlabel("looked at (key)")
    ax.set_ylabel("who looks (query)")
    ax.spines[:].set_visible(False)


def _frame_row(ax: Axes, query: int, n: int) -> None:
    style = {"edgecolor": ORANGE, "linewidth": 2.5, "clip_on": False, "zorder": 3}
    ax.add_patch(Rectangle((-0.5, query - 0.5), n, 1, fill=False, **style))
    ax.get_yticklabels()[query].set(color=ORANGE, fontweight="bold")


def _write_values(ax: Axes, weights: np.ndarray, hidden: np.ndarray) -> None:
    for query, key in np.argwhere(~hidden):
        weight = weights[query, key]
        ink = "white" if weight > 0.5 else INK
        ax.text(key, query, f"{weight:.2f}", ha="center", va="center", color=ink, fontsize=12)


def draw_row(att: Attention, layer: int, head: int, query: int, width: float = 11.0) -> Figure:
    """Where one token looks: the sentence on a line, and a ribbon to each token looked at.

    A ribbon is as thick as its weight: side by side they fill the token's whole attention, which is 1.
    Weights from 0.05 on are written below their token, and ribbons under 0.005 left out. When the sentence is
    wider than `width` inches, first tokens that `query` can't see are left out, then the type gets smaller.
    """
    weights = att.row(layer, head, query)
    line = _set_line(att.tokens, weights, query, limit=72 * width)
    starts = line.x[query] + RIBBON * _fan_out(weights, query)
    ends = np.where(np.arange(len(weights)) == query, starts, line.x)
    base = 1.25 * line.size
    top = base + _arch(np.abs(ends - starts)[weights >= DRAWN].max()) + 75
    fig, ax = blank_page(max(line.length, 400), bottom=-1.3 * line.size, top=top)
    for key in np.argsort(weights, kind="stable"):  # the heaviest on top
        if weights[key] >= DRAWN:
            ax.add_patch(_ribbon(starts[key], ends[key], base, weights[key], gid=f"key-{key}"))
    _write_line(ax, line, weights, query)
    _write_heading(
        ax, top, f"Layer {layer}, head {head}: where does “{line.labels[query]}” look?", line.hidden
    )
    return fig


@dataclass(frozen=True, eq=False)
class _Line:
    """A sentence set on a line: the centre of each token, in points, and how many tokens fit.

    hidden  does the line show tokens that the query can't see?
    """

    labels: list[str]
    x: np.ndarray
    size: float
    shown: int
    length: float
    hidden: bool


def _set_line(tokens: list[str], weights: np.ndarray, query: int, limit: float) -> _Line:
    labels = [label(token) for token in tokens]
    right, x = _line_up(tokens, labels, weights, query)
    causal = not weights[query + 1 :].any()
    shown = max(query + 1, int((SIZE * right < limit).sum())) if causal else len(x)
    size = min(SIZE, limit / right[shown - 1])
    return _Line(labels, size * x, size, shown, size * (right[shown - 1] + 1), causal and shown > query + 1)


def _line_up(
    tokens: list[str], labels: list[str], weights: np.ndarray, query: int
) -> tuple[np.ndarray, np.ndarray]:
    """Right end and centre of each token on the line, in units of the type's size."""
    number = text_width("0.00", bold=True) * NUMBER_SIZE
    widths = np.array([text_width(word, bold=i == query) for i, word in enumerate(labels)])
    widths = np.where(weights >= WRITTEN, np.maximum(widths, number), widths)
    gaps = np.array([0.45 if token[:1].isspace() else 0.06 for token in tokens])
    gaps[0] = 0
    right = np.cumsum(gaps + widths)
    return right, right - widths / 2


def _fan_out(weights: np.ndarray, query: int) -> np.ndarray:
    """Where in the query's unit of attention, -0.5 to 0.5, each key's ribbon starts so that none cross."""
    n = len(weights)
    order = [*range(query, -1, -1), *range(n - 1, query, -1)]
    starts = np.empty(n)
    starts[order] = np.cumsum(weights[order]) - weights[order] / 2 - 0.5
    return starts


def _arch(span: float) -> float:
    """How high a ribbon rises that spans so many points."""
    return 14 + 5.5 * float(np.sqrt(span))


def _ribbon(start: float, end: float, base: float, weight: float, gid: str) -> PathPatch:
    """A ribbon of `weight` that leaves and lands vertically; a stub for a token that looks at itself."""
    up = base + _arch(abs(end - start)) / 0.75
    path = Path([(start, base), (start, up), (end, up), (end, base)], [Path.MOVETO] + 3 * [Path.CURVE4])
    color = WEIGHTS(0.4 + 0.4 * weight)
    return PathPatch(path, fill=False, linewidth=RIBBON * weight, edgecolor=color, capstyle="butt", gid=gid)


def _write_line(ax: Axes, line: _Line, weights: np.ndarray, query: int) -> None:
    style = {"ha": "center", "va": "baseline", "parse_math": False}
    for i, (x, word, weight) in enumerate(zip(line.x[: line.shown], line.labels, weights, strict=False)):
        color = ORANGE if i == query else FAINT if i > query and weight == 0 else INK
        bold = "bold" if i == query else "normal"
        ax.text(x, 0, word, fontsize=line.size, color=color, fontweight=bold, **style)
        if weight >= WRITTEN:
            number = {"fontsize": NUMBER_SIZE * line.size, "fontweight": "bold", "color": BLUE}
            ax.text(x, -1.2 * line.size, f"{weight:.2f}", **number, **style)
    if line.shown < len(line.labels):
        ax.text(line.length - line.size, 0, " …", fontsize=line.size, color=FAINT)


def _write_heading(ax: Axes, top: float, title: str, hidden: bool) -> None:
    key = "Thickness is attention weight" + (". Grey: later words, which it can’t see" if hidden else "")
    ax.text(0, top, title, fontsize=16, va="top", parse_math=False)
    ax.text(0, top - 25, key, fontsize=12, va="top", color=MUTED)


def draw_head_grid(scores: np.ndarray, title: str = "", top: int = 5) -> Figure:
    """Heat map of `scores`, (layers, heads), one for each head; the `top` largest are ringed and listed.

    Scores with both signs get two colours, white at zero, and the largest of either sign are ringed.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2:
        raise ValueError(f"scores must have the shape (layers, heads), and these have {scores.shape}")
    layers, heads = scores.shape
    fig = Figure(figsize=(0.28 * layers + 3.4, 0.28 * heads + 1.7), layout="constrained")
    ax = fig.subplots()
    limit = np.abs(scores).max() or 1
    colors = {"cmap": SIGNED, "vmin": -limit} if scores.min() < 0 else {"cmap": WEIGHTS, "vmin": 0}
    image = ax.imshow(scores.T, vmax=limit, **colors)
    step = 5 if layers > 12 else 1
    ax.set(xlabel="layer", ylabel="head", xticks=range(0, layers, step), yticks=range(heads))
    ax.set_title(title, parse_math=False)
    fig.colorbar(image, ax=ax, pad=0.02, aspect=12, shrink=0.7)
    rings = [ax.add_patch(_ring(layer, head)) for layer, head in _largest(scores, top)]
    names = [f"{layer}.{head}   {scores[layer, head]:.2f}" for layer, head in _largest(scores, top)]
    square = {"handlelength": 0.8, "handleheight": 0.8}
    fig.legend(rings, names, loc="outside right center", title="layer.head", fontsize=13, **square)
    return fig


def _ring(layer: int, head: int) -> Rectangle:
    halo = [withStroke(linewidth=4.5, foreground="white")]
    style = {"edgecolor": INK, "linewidth": 2, "clip_on": False, "zorder": 3, "path_effects": halo}
    return Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, **style)


def _largest(scores: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The (layer, head) of the `count` scores farthest from zero, the first of equals first."""
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")[:count]
    return [divmod(int(i), scores.shape[1]) for i in order]


# explore


def explore_attention(lm: LanguageModel, text: str, layer: int = 0, head: int = 0, query: int = -1) -> None:
    """`draw_row` with a box for the text, sliders for layer and head, and a button for each token.

    A negative `query` counts from the end. What is wrong with a text is said in one line beside the sliders.
    """
    look = lru_cache(maxsize=4)(partial(attention, lm))
    layers, heads = look(text).weights.shape[:2]
    box = widgets.Text(text, description="text", continuous_update=False, layout=widgets.Layout(width="95%"))
    problem = widgets.Label()
    controls = {
        "layer": widgets.IntSlider(layer, 0, layers - 1, description="layer"),
        "head": widgets.IntSlider(head, 0, heads - 1, description="head"),
        "token": widgets.ToggleButtons(description="who looks", style={"button_width": "auto"}),
    }

    def choose_token(text: str, query: int = -1) -> None:
        tokens = look(text).tokens
        controls["token"].options = [(label(token), (text, i)) for i, token in enumerate(tokens)]
        controls["token"].index = range(len(tokens))[query]

    def read(change: dict) -> None:
        problem.value = ""
        try:
            choose_token(change["new"])
        except ValueError as error:
            problem.value = str(error)

    def draw(layer: int, head: int, token: tuple[str, int]) -> None:
        att = look(token[0])
        show(draw_row(att, layer, head, token[1]), alt=describe_row(att, layer, head, token[1]))

    choose_token(text, query)
    box.observe(read, "value")
    sliders = widgets.HBox([controls["layer"], controls["head"], problem])
    display(widgets.VBox([box, sliders, controls["token"], widgets.interactive_output(draw, controls)]))
