"""Cross-attention as an alignment: two texts, one above the other, and lines from target to source words."""

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from course_lib.arguments import finite, listed, whole
from course_lib.show.checks import numbers, texts
from course_lib.show.style import BLUE, INK, MUTED, ORANGE, blank_page
from course_lib.show.tokens import text_width

FONT_SIZE = 17  # in points
GAP = 16  # between words, in points
DROP = 120  # from one text to the other, in points
THICKNESS = 11  # of a line of weight 1, in points
MIN_DRAWN = 0.05  # smaller weights get no line

# draw


def draw_alignment(
    source: Sequence[str],
    target: Sequence[str],
    weights: np.ndarray,
    links: Collection[tuple[int, int]] = (),
    title: str = "",
) -> Figure:
    """Draw `source` above `target`, and a line from each target word to each source word it attends to.

    source, target: the words of each text.
    weights: (target, source), the attention weights of each target word. A line is as thick as its weight;
        weights below 0.05 aren't drawn.
    links: pairs (source index, target index) of words that translate each other; their lines are blue, all
        other lines orange.

    Raises ValueError for a text without words, weights that aren't finite, and if weights and words don't
    fit; TypeError for words that are no texts, weights that are no numbers, and links that are no pairs of
    whole numbers.
    """
    source, target, weights, links = _check_alignment(source, target, weights, links)
    above, below = _centers(source), _centers(target)  # (source,), (target,)
    length = max(above[-1], below[-1], 600) + 40
    fig, ax = blank_page(length, bottom=-1.4 * FONT_SIZE, top=DROP + 5 * FONT_SIZE)
    for j, i in np.argwhere(weights >= MIN_DRAWN):
        color = BLUE if (i, j) in links else ORANGE
        ax.add_patch(_line(above[i], below[j], THICKNESS * weights[j, i], color))
    _write(ax, source, above, DROP + 0.5 * FONT_SIZE)
    _write(ax, target, below, -FONT_SIZE)
    _write_heading(ax, title)
    return fig


def _check_alignment(
    source: Sequence[str], target: Sequence[str], weights: np.ndarray, links: Collection[tuple[int, int]]
) -> tuple[list[str], list[str], np.ndarray, set[tuple[int, int]]]:
    """Return the words as lists, the weights as an array, (target, source), and the links as a set."""
    source, target = texts("source", source, "a list of words"), texts("target", target, "a list of words")
    links = [listed("a link", link, "a pair") for link in listed("links", links, "a list of pairs")]
    links = {tuple(whole("a link's index", index) for index in link) for link in links}
    weights = finite("weights", numbers("weights", weights).astype(float))
    if not (len(source) and len(target)):
        raise ValueError("there is nothing to align: both texts need at least one word")
    if weights.shape != (len(target), len(source)):
        expected = f"({len(target)}, {len(source)})"
        raise ValueError(f"weights must be {expected}, target and source, not {weights.shape}")
    return source, target, weights, links


def _write_heading(ax: Axes, title: str) -> None:
    ax.text(0, DROP + 5 * FONT_SIZE, title, fontsize=16, va="top", parse_math=False)
    key = "Thickness is attention weight. Blue: a word and its translation. Orange: any other word"
    ax.text(0, DROP + 3.5 * FONT_SIZE, key, fontsize=12, va="top", color=MUTED)


def _centers(words: Sequence[str]) -> np.ndarray:
    """Return the x-coordinate of each word's centre, (words,), in points."""
    widths = np.array([FONT_SIZE * text_width(word) for word in words])  # (words,)
    return np.cumsum(widths + GAP) - GAP - widths / 2


def _line(x_above: float, x_below: float, width: float, color: str) -> PathPatch:
    points = [(x_above, DROP), (x_above, DROP / 2), (x_below, DROP / 2), (x_below, 0)]
    path = Path(points, [Path.MOVETO] + 3 * [Path.CURVE4])
    return PathPatch(path, fill=False, linewidth=width, edgecolor=color, alpha=0.75, capstyle="butt")


def _write(ax: Axes, words: Sequence[str], centers: np.ndarray, y: float) -> None:
    for word, x in zip(words, centers, strict=True):
        ax.text(x, y, word, fontsize=FONT_SIZE, color=INK, ha="center", va="baseline", parse_math=False)
