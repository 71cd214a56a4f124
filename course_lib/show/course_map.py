"""The map of the course: the steps from a text to the next token, and the lessons about each step."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from course_lib.show.style import BLUE, FAINT, INK, MUTED, SKY, blank_page

D_MODEL, VOCAB_SIZE, N_LAYERS = 576, 49_152, 30  # of SmolLM2-135M, the model of the lessons

# The name of each step, an example of its output, and its lessons. The token ids are those of
# " because it was" under SmolLM2's tokenizer.
STOPS = (
    ("text", "“ because it was”", ()),
    ("tokens", "975  357  436", ("tokenization",)),
    ("vectors", f"{D_MODEL} numbers each", ("embeddings_and_positions",)),
    ("attention", "who listens to whom", ("self_attention", "multi_head_attention")),
    ("feed-forward", "each token alone", ("transformer_block",)),
    ("scores", f"{VOCAB_SIZE:,} of them", ("decoder_only",)),
    ("next token", "“ thirsty”", ("sampling",)),
)
WIDTH, GAP, HEIGHT = 112, 20, 62  # of a box, in points
STEP = WIDTH + GAP


def describe_map(numbers: Mapping[str, str]) -> str:
    """Describe `draw_map` in two sentences, the figure's alternative text."""
    labels = [(name, _label(lessons, numbers)) for name, _, lessons in STOPS]
    stops = ", ".join(f"{name} ({label})" if label else name for name, label in labels)
    repeats = f"Attention and feed-forward come {N_LAYERS} times"
    return f"A row of boxes: {stops}. {repeats}; the next token joins the text, and all begins again."


def draw_map(numbers: Mapping[str, str]) -> Figure:
    """Draw the steps as a row of boxes, a bracket over the repeated layers, and an arrow back to the text.

    numbers: those of the published lessons, by name: {"self_attention": "03"}. A box is filled if all its
    lessons are published.
    """
    fig, ax = blank_page(STEP * len(STOPS) - GAP, bottom=-70, top=112)
    for i, (name, example, lessons) in enumerate(STOPS):
        label = _label(lessons, numbers)
        _draw_stop(ax, i * STEP, name, example, label or ("" if lessons else "yours"), bool(label))
        if i:
            ax.add_patch(_arrow((i * STEP - GAP, HEIGHT / 2), (i * STEP, HEIGHT / 2)))
    _draw_bracket(ax, 3 * STEP, 4 * STEP + WIDTH)
    _draw_way_back(ax, (len(STOPS) - 1) * STEP + WIDTH / 2)
    return fig


def _label(lessons: tuple[str, ...], numbers: Mapping[str, str]) -> str:
    """Return "lesson 01", or "lessons 03 and 05", or nothing if one of them isn't published."""
    if not lessons or not set(lessons) <= set(numbers):
        return ""
    return f"lesson{'s' * (len(lessons) > 1)} {' and '.join(numbers[name] for name in lessons)}"


def _draw_stop(ax: Axes, x: float, name: str, example: str, label: str, ready: bool) -> None:
    style = {"ha": "center", "va": "center"}
    ax.add_patch(_box(x, ready))
    ax.text(x + WIDTH / 2, HEIGHT * 0.66, name, size=13, weight="bold", color=INK, **style)
    ax.text(x + WIDTH / 2, HEIGHT * 0.27, example, size=10, color=MUTED, **style)
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
