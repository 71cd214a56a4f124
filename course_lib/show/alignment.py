"""Cross-attention as an alignment: two texts, one above the other, and lines from each word written to the words read."""

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from course_lib.show.style import BLUE, INK, MUTED, ORANGE, blank_page
from course_lib.show.tokens import text_width

SIZE = 17  # of the type, in points
GAP = 16  # between words, in points
DROP = 120  # from one text to the other, in points
THICKNESS = 11  # of a line of weight 1, in points
DRAWN = 0.05  # weights from here on get a line

# draw


def draw_alignment(
    source: Sequence[str],
    target: Sequence[str],
    weights: np.ndarray,
    links: Collection[tuple[int, int]] = (),
    title: str = "",
) -> Figure:
    """`source` above, `target` below, and for each target word a line to each source word that it looked at.

    weights: (target, source), each row a target word's attention, adding up to 1; the thickness of its lines. links: pairs
    (source place, target place) that truly translate each other; their lines are blue, all others orange. Weights below
    0.05 aren't drawn. Raises ValueError where weights and words don't fit.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(target), len(source)):
        raise ValueError(
            f"weights must be ({len(target)}, {len(source)}), target and source, not {weights.shape}"
        )
    above, below = _places(source), _places(target)
    fig, ax = blank_page(max(above[-1], below[-1], 600) + 40, bottom=-1.4 * SIZE, top=DROP + 5 * SIZE)
    for j, i in np.argwhere(weights >= DRAWN):
        color = BLUE if (i, j) in links else ORANGE
        ax.add_patch(_line(above[i], below[j], THICKNESS * weights[j, i], color))
    _write(ax, source, above, DROP + 0.5 * SIZE)
    _write(ax, target, below, -SIZE)
    ax.text(0, DROP + 5 * SIZE, title, fontsize=16, va="top", parse_math=False)
    key = "Thickness is attention weight. Blue: a word and its translation. Orange: any other word"
    ax.text(0, DROP + 3.5 * SIZE, key, fontsize=12, va="top", color=MUTED)
    return fig


def _places(words: Sequence[str]) -> np.ndarray:
    """Where the middle of each word stands, in points."""
    widths = np.array([SIZE * text_width(word) for word in words])
    return np.cumsum(widths + GAP) - GAP - widths / 2


def _line(x_above: float, x_below: float, width: float, color: str) -> PathPatch:
    points = [(x_above, DROP), (x_above, DROP / 2), (x_below, DROP / 2), (x_below, 0)]
    path = Path(points, [Path.MOVETO] + 3 * [Path.CURVE4])
    return PathPatch(path, fill=False, linewidth=width, edgecolor=color, alpha=0.75, capstyle="butt")


def _write(ax: Axes, words: Sequence[str], places: np.ndarray, y: float) -> None:
    for word, x in zip(words, places, strict=True):
        ax.text(x, y, word, fontsize=SIZE, color=INK, ha="center", va="baseline", parse_math=False)
