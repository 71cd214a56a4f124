"""One token's attention weights as ribbons over the sentence, and a widget to explore them.

A ribbon leads from the query to each key; its thickness is the weight:

      ╭───────────╮
      │     ╭────╮│
    tiger drank  it
    0.80  0.20
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from course_lib.arguments import number, whole
from course_lib.model import LanguageModel
from course_lib.show.attention import MIN_DRAWN, AttentionWeights, attention, describe_row
from course_lib.show.figures import show
from course_lib.show.style import BLUE, FAINT, INK, MUTED, ORANGE, WEIGHTS, blank_page
from course_lib.show.tokens import text_width, token_label

FONT_SIZE = 17  # of the sentence, in points
VALUE_SIZE = 0.7  # of a weight's digits, relative to the sentence's font size
RIBBON = 26  # thickness of a ribbon of weight 1, in points
MIN_WRITTEN = 0.05  # smaller weights get a ribbon, but no digits

# draw


def draw_row(att: AttentionWeights, layer: int, head: int, query: int, width: float = 11.0) -> Figure:
    """Draw one query's attention: the sentence on a line, and a ribbon from the query to each key.

    A ribbon is as thick as its weight, and all of them side by side are as thick as the total weight of 1.
    Weights of at least 0.05 are written below their token; ribbons below 0.005 aren't drawn.

    layer, head, query: counted from 0.
    width: in inches. If the sentence is wider, tokens after the query that a causal model masks are left out;
        if that isn't enough, the font shrinks.

    Raises IndexError if there is no such layer, head or token, ValueError for a width that isn't above 0.
    """
    number("width", width, above=0, most=100)
    weights = att.row(layer, head, query)  # (key,)
    line = _set_line(att.tokens, weights, query, limit=72 * width)
    starts = line.x[query] + RIBBON * _fan_out(weights, query)  # (key,)
    ends = np.where(np.arange(len(weights)) == query, starts, line.x)  # (key,)
    base = 1.25 * line.size
    top = base + _ribbon_height(np.abs(ends - starts)[weights >= MIN_DRAWN].max(initial=0)) + 75
    fig, ax = blank_page(max(line.length, 400), bottom=-1.3 * line.size, top=top)
    for key in np.argsort(weights, kind="stable"):  # the heaviest on top
        if weights[key] >= MIN_DRAWN:
            ax.add_patch(_ribbon(starts[key], ends[key], base, weights[key], gid=f"key-{key}"))
    _write_line(ax, line, weights, query)
    title = f"Layer {layer}, head {head}: where does “{line.labels[query]}” look?"
    _write_heading(ax, top, title, line.has_masked)
    return fig


@dataclass(frozen=True, eq=False)
class _Line:
    """A sentence set on one line.

    labels: each token's text.
    x: (token,), the centre of each token, in points.
    size: the font size, in points.
    shown: how many tokens fit on the line.
    length: the length of the line, in points.
    has_masked: whether the line shows tokens that a causal mask hides from the query.
    """

    labels: list[str]
    x: np.ndarray
    size: float
    shown: int
    length: float
    has_masked: bool


def _set_line(tokens: list[str], weights: np.ndarray, query: int, limit: float) -> _Line:
    """Set the tokens on a line of at most `limit` points."""
    labels = [token_label(token) for token in tokens]
    right, x = _measure_line(tokens, labels, weights, query)
    causal = not weights[query + 1 :].any()
    shown = max(query + 1, int((FONT_SIZE * right < limit).sum())) if causal else len(x)
    size = min(FONT_SIZE, limit / right[shown - 1])
    length = size * (right[shown - 1] + 1)
    return _Line(labels, size * x, size, shown, length, has_masked=causal and shown > query + 1)


def _measure_line(
    tokens: list[str], labels: list[str], weights: np.ndarray, query: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each token's right end and centre on the line, both (token,), in units of the font size."""
    value_width = text_width("0.00", bold=True) * VALUE_SIZE
    widths = np.array([text_width(word, bold=i == query) for i, word in enumerate(labels)])
    widths = np.where(weights >= MIN_WRITTEN, np.maximum(widths, value_width), widths)
    gaps = np.array([0.45 if token[:1].isspace() else 0.06 for token in tokens])
    gaps[0] = 0
    right = np.cumsum(gaps + widths)
    return right, right - widths / 2


def _fan_out(weights: np.ndarray, query: int) -> np.ndarray:
    """Return where each key's ribbon starts at the query, (key,), from -0.5 to 0.5, so that no two cross."""
    n = len(weights)
    order = [*range(query, -1, -1), *range(n - 1, query, -1)]
    starts = np.empty(n)
    starts[order] = np.cumsum(weights[order]) - weights[order] / 2 - 0.5
    return starts


def _ribbon_height(span: float) -> float:
    """Return how high a ribbon rises whose ends are `span` points apart."""
    return 14 + 5.5 * float(np.sqrt(span))


def _ribbon(start: float, end: float, base: float, weight: float, gid: str) -> PathPatch:
    """Return a ribbon with vertical ends; from a token to itself it is a straight stub."""
    up = base + _ribbon_height(abs(end - start)) / 0.75
    path = Path([(start, base), (start, up), (end, up), (end, base)], [Path.MOVETO] + 3 * [Path.CURVE4])
    color = WEIGHTS(0.4 + 0.4 * weight)
    return PathPatch(path, fill=False, linewidth=RIBBON * weight, edgecolor=color, capstyle="butt", gid=gid)


def _write_line(ax: Axes, line: _Line, weights: np.ndarray, query: int) -> None:
    style = {"ha": "center", "va": "baseline", "parse_math": False}
    for i, (x, word, weight) in enumerate(zip(line.x[: line.shown], line.labels, weights, strict=False)):
        color = ORANGE if i == query else FAINT if i > query and weight == 0 else INK
        bold = "bold" if i == query else "normal"
        ax.text(x, 0, word, fontsize=line.size, color=color, fontweight=bold, **style)
        if weight >= MIN_WRITTEN:
            digits = {"fontsize": VALUE_SIZE * line.size, "fontweight": "bold", "color": BLUE}
            ax.text(x, -1.2 * line.size, f"{weight:.2f}", **digits, **style)
    if line.shown < len(line.labels):
        ax.text(line.length - line.size, 0, " …", fontsize=line.size, color=FAINT)


def _write_heading(ax: Axes, top: float, title: str, has_masked: bool) -> None:
    key = "Thickness is attention weight" + (". Grey: later words, which it can’t see" if has_masked else "")
    ax.text(0, top, title, fontsize=16, va="top", parse_math=False)
    ax.text(0, top - 25, key, fontsize=12, va="top", color=MUTED)


# explore


def explore_attention(lm: LanguageModel, text: str, layer: int = 0, head: int = 0, query: int = -1) -> None:
    """Display `draw_row` with a box for the text, sliders for layer and head, and a button for each token.

    An error in a new text is shown in one line beside the sliders.

    text: what the box contains at first.
    layer, head: what the sliders show at first.
    query: the token that is chosen at first; a negative number counts from the end.

    Raises ValueError if `text` can't be drawn, and if there is no such layer, head or token.
    """
    compute = lru_cache(maxsize=4)(partial(attention, lm))
    layers, heads = compute(text).weights.shape[:2]
    box = widgets.Text(text, description="text", continuous_update=False, layout=widgets.Layout(width="95%"))
    problem = widgets.Label()
    controls = _make_controls(layers, heads, layer, head)

    def list_tokens(text: str, query: int = -1) -> None:
        tokens = compute(text).tokens
        controls["token"].options = [(token_label(token), (text, i)) for i, token in enumerate(tokens)]
        controls["token"].index = range(len(tokens))[whole("query", query, -len(tokens), len(tokens) - 1)]

    def draw(layer: int, head: int, token: tuple[str, int]) -> None:
        att = compute(token[0])
        show(draw_row(att, layer, head, token[1]), alt=describe_row(att, layer, head, token[1]))

    list_tokens(text, query)
    box.observe(partial(_report_errors, list_tokens, problem), "value")
    sliders = widgets.HBox([controls["layer"], controls["head"], problem])
    display(widgets.VBox([box, sliders, controls["token"], widgets.interactive_output(draw, controls)]))


def _make_controls(layers: int, heads: int, layer: int, head: int) -> dict[str, widgets.Widget]:
    whole("layer", layer, 0, layers - 1)
    whole("head", head, 0, heads - 1)
    return {
        "layer": widgets.IntSlider(layer, 0, layers - 1, description="layer"),
        "head": widgets.IntSlider(head, 0, heads - 1, description="head"),
        "token": widgets.ToggleButtons(description="who looks", style={"button_width": "auto"}),
    }


def _report_errors(list_tokens: Callable[[str], None], problem: widgets.Label, change: dict) -> None:
    """List the new text's tokens, or write in `problem` why it can't be drawn."""
    problem.value = ""
    try:
        list_tokens(change["new"])
    except ValueError as error:
        problem.value = str(error)
