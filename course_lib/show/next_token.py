"""What may come next, before a knob is turned and after."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.evaluate import entropy
from course_lib.show.style import BLUE, FAINT, INK, SKY, drawable

MOST = 20  # rows that fit on a projector


@dataclass(frozen=True, eq=False)
class NextToken:
    """The likeliest tokens, with their probabilities before and after, and the sum over all others as the last one.

    tokens         (n + 1,) as text, the likeliest before first, the last naming the others
    before, after  (n + 1,) probabilities; each adds up to 1
    kept           how many of the whole vocabulary can still come
    entropies      in nats, before and after
    """

    tokens: list[str]
    before: np.ndarray
    after: np.ndarray
    kept: int
    entropies: tuple[float, float]


# compute


def next_token(before: Tensor, after: Tensor, token_text: Callable[[int], str], n: int = 12) -> NextToken:
    """Compare two sets of logits (vocab_size,) or (1, vocab_size). Raises ValueError when they differ in size, or n isn't 1 to 20."""
    before, after = before.flatten().double(), after.flatten().double()
    if len(before) != len(after):
        raise ValueError(
            f"{len(before)} logits before and {len(after)} after: they must be of one vocabulary"
        )
    if not 1 <= n <= min(MOST, len(before)):
        raise ValueError(f"one picture shows 1 to {min(MOST, len(before))} tokens, not {n}")
    ranks = before.argsort(descending=True, stable=True)[:n]
    chances = [logits.softmax(dim=-1)[ranks] for logits in (before, after)]
    rows = [np.append(part.numpy(), max(0.0, 1 - part.sum().item())) for part in chances]
    names = [repr(token_text(int(i)))[1:-1].replace(" ", "␣") for i in ranks] + [
        f"{len(before) - n:,} others"
    ]
    both = (entropy(before).item(), entropy(after).item())
    return NextToken(names, *rows, kept=int((after > -float("inf")).sum()), entropies=both)


def describe_next_token(t: NextToken) -> str:
    """The picture in words, for those who don't see it."""
    pairs = ", ".join(
        f"{name} {b:.2f} → {a:.2f}" for name, b, a in zip(t.tokens[:3], t.before, t.after, strict=False)
    )
    return f"{t.kept:,} tokens can come; {pairs}; entropy {t.entropies[0]:.1f} → {t.entropies[1]:.1f} nats"


# draw


def draw_next_token(t: NextToken, title: str = "", ax: Axes | None = None) -> Figure:
    """A row for each token: pale what the model said, solid what is left after the knobs. Crossed out is what can't come."""
    if ax is None:
        ax = Figure(figsize=(9, 1.4 + 0.34 * len(t.tokens)), layout="constrained").subplots()
    rows = range(len(t.tokens))
    ax.barh(rows, t.before, height=0.85, color=SKY, alpha=0.45, label="the model's")
    ax.barh(rows, t.after, height=0.45, color=BLUE, label="after the knobs")
    ax.set_yticks(rows, [drawable(name) for name in t.tokens], parse_math=False)
    for row, label in zip(rows, ax.get_yticklabels(), strict=True):
        label.set_color(INK if t.after[row] > 0 else FAINT)
        if t.after[row] <= 0:
            ax.plot(0, row, marker="x", color=INK, markersize=7, markeredgewidth=2, clip_on=False)
    ax.set(xlim=(0, 1.08 * max(t.before.max(), t.after.max())), xlabel="probability", title=title)
    ax.invert_yaxis()
    ax.legend(loc="center right", fontsize=12)
    return ax.figure
