"""The map of the course: the way of a text through a model, and the lesson that opens each stop."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from course_lib.show.style import BLUE, FAINT, INK, MUTED, SKY, blank_page

# What happens, what comes out, the lesson about it.
STOPS = (
    ("text", "“ because it was”", ""),
    ("tokens", "975  357  436", "01"),
    ("vectors", "576 numbers each", "02"),
    ("attention", "who listens to whom", "03, 04"),
    ("feed-forward", "each token alone", "05"),
    ("scores", "49,152 of them", "07"),
    ("next token", "“ thirsty”", "19"),
)
WIDTH, GAP, HEIGHT = 112, 20, 62


def describe_map(ready: Sequence[str]) -> str:
    """The map in words, for those who don't see it."""
    stops = [
        f"{name} (lesson {lessons})" if _is_ready(lessons, ready) else name for name, _, lessons in STOPS
    ]
    return f"A row of boxes: {', '.join(stops)}. Attention and feed-forward come 30 times; the next token joins the text, and all begins again."


def draw_map(ready: Sequence[str]) -> Figure:
    """The stops in a row, the repeated layers bracketed, the way back for the next token; filled where all its lessons are `ready`."""
    step = WIDTH + GAP
    fig, ax = blank_page(step * len(STOPS) - GAP, bottom=-70, top=112)
    for i, (name, example, lessons) in enumerate(STOPS):
        x, done = i * step, _is_ready(lessons, ready)
        ax.add_patch(_box(x, done))
        ax.text(
            x + WIDTH / 2, HEIGHT * 0.66, name, ha="center", va="center", size=13, weight="bold", color=INK
        )
        ax.text(x + WIDTH / 2, HEIGHT * 0.27, example, ha="center", va="center", size=10, color=MUTED)
        label = f"lesson {lessons}" if lessons else "yours"
        ax.text(x + WIDTH / 2, -12, label, ha="center", va="top", size=11, color=BLUE if done else MUTED)
        if i:
            ax.add_patch(_arrow((x - GAP, HEIGHT / 2), (x, HEIGHT / 2)))
    left, right = 3 * step, 4 * step + WIDTH
    ax.plot(
        [left, left, right, right], [HEIGHT + 8, HEIGHT + 16, HEIGHT + 16, HEIGHT + 8], color=MUTED, lw=1.5
    )
    ax.text((left + right) / 2, HEIGHT + 22, "30 times", ha="center", va="bottom", size=13, color=INK)
    end = (len(STOPS) - 1) * step + WIDTH / 2
    ax.plot([end, end, WIDTH / 2], [-32, -54, -54], color=MUTED, lw=1.5, solid_joinstyle="miter")
    ax.add_patch(_arrow((WIDTH / 2, -54), (WIDTH / 2, -30)))
    again = ax.text(
        end / 2 + WIDTH / 4,
        -54,
        "the new token joins the text, and all begins again",
        ha="center",
        va="center",
    )
    again.set(size=12, color=INK, backgroundcolor="white")
    return fig


def _is_ready(lessons: str, ready: Sequence[str]) -> bool:
    return bool(lessons) and set(lessons.split(", ")) <= set(ready)


def _box(x: float, done: bool) -> FancyBboxPatch:
    style = {"facecolor": SKY, "alpha": 0.45} if done else {"facecolor": "white", "linestyle": "--"}
    return FancyBboxPatch(
        (x, 0), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=8", edgecolor=FAINT, **style
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    return FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=14, color=MUTED, lw=1.5, shrinkA=0, shrinkB=1
    )
