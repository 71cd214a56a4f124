"""The map of the course: the steps from a text to the next token, and the lessons about each step."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from course_lib.show.style import BLUE, FAINT, INK, MUTED, SKY, blank_page

D_MODEL, VOCAB_SIZE, N_LAYERS = 576, 49_152, 30  # of SmolLM2-135M, the model of the lessons

# The name of each step, an example of its output, and the numbers of its lessons. The token ids are those of
# " because it was" under SmolLM2's tokenizer.
STOPS = (
    ("text", "“ because it was”", ""),
    ("tokens", "975  357  436", "01"),
    ("vectors", f"{D_MODEL} numbers each", "02"),
    ("attention", "who listens to whom", "03, 04"),
    ("feed-forward", "each token alone", "05"),
    ("scores", f"{VOCAB_SIZE:,} of them", "07"),
    ("next token", "“ thirsty”", "19"),
)
WIDTH, GAP, HEIGHT = 112, 20, 62  # of a box, in points
STEP = WIDTH + GAP


def describe_map(ready: Sequence[str]) -> str:
    """Describe `draw_map` in two sentences, the figure's alternative text."""
    stops = [
        f"{name} (lesson {lessons})" if _is_ready(lessons, ready) else name for name, _, lessons in STOPS
    ]
    repeats = f"Attention and feed-forward come {N_LAYERS} times"
    last = "the next token joins the text, and all begins again."
    return f"A row of boxes: {', '.join(stops)}. {repeats}; {last}"


def draw_map(ready: Sequence[str]) -> Figure:
    """Draw the steps as a row of boxes, a bracket over the repeated layers, and an arrow back to the text.

    ready: the numbers of the published lessons, such as "03". A box is filled if all its lessons are
    published.
    """
    fig, ax = blank_page(STEP * len(STOPS) - GAP, bottom=-70, top=112)
    for i, (name, example, lessons) in enumerate(STOPS):
        _draw_stop(ax, i * STEP, name, example, lessons, _is_ready(lessons, ready))
        if i:
            ax.add_patch(_arrow((i * STEP - GAP, HEIGHT / 2), (i * STEP, HEIGHT / 2)))
    _draw_bracket(ax, 3 * STEP, 4 * STEP + WIDTH)
    _draw_way_back(ax, (len(STOPS) - 1) * STEP + WIDTH / 2)
    return fig


def _is_ready(lessons: str, ready: Sequence[str]) -> bool:
    return bool(lessons) and set(lessons.split(", ")) <= set(ready)


def _draw_stop(ax: Axes, x: float, name: str, example: str, lessons: str, ready: bool) -> None:
    style = {"ha": "center", "va": "center"}
    ax.add_patch(_box(x, ready))
    ax.text(x + WIDTH / 2, HEIGHT * 0.66, name, size=13, weight="bold", color=INK, **style)
    ax.text(x + WIDTH / 2, HEIGHT * 0.27, example, size=10, color=MUTED, **style)
    label = f"lesson {lessons}" if lessons else "yours"
    ax.text(x + WIDTH / 2, -12, label, ha="center", va="top", size=11, color=BLUE if ready else MUTED)


def _draw_bracket(ax: Axes, left: float, right: float) -> None:
    low, high = HEIGHT + 8, HEIGHT + 16
    ax.plot([left, left, right, right], [low, high, high, low], color=MUTED, lw=1.5)
    style = {"ha": "center", "va": "bottom", "size": 13, "color": INK}
    ax.text((left + right) / 2, HEIGHT + 22, f"{N_LAYERS} times", **style)


def _draw_way_back(ax: Axes, start: float) -> None:
    ax.plot([start, start, WIDTH / 2], [-32, -54, -54], color=MUTED, lw=1.5, solid_joinstyle="miter")
    ax.add_patch(_arrow((WIDTH / 2, -54), (WIDTH / 2, -30)))
    style = {"ha": "center", "va": "center", "size": 12, "color": INK, "backgroundcolor": "white"}
    ax.text(start / 2 + WIDTH / 4, -54, "the new token joins the text, and all begins again", **style)


def _box(x: float, ready: bool) -> FancyBboxPatch:
    style = {"facecolor": SKY, "alpha": 0.45} if ready else {"facecolor": "white", "linestyle": "--"}
    style |= {"boxstyle": "round,pad=0,rounding_size=8", "edgecolor": FAINT}
    return FancyBboxPatch((x, 0), WIDTH, HEIGHT, **style)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    style = {"arrowstyle": "-|>", "mutation_scale": 14, "color": MUTED, "lw": 1.5}
    return FancyArrowPatch(start, end, shrinkA=0, shrinkB=1, **style)
