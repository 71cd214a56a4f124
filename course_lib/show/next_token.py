"""The distribution of the next token before and after a change to its logits, such as a temperature."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.arguments import short, whole
from course_lib.evaluate import entropy
from course_lib.show.style import BLUE, FAINT, INK, SKY, drawable

MAX_TOKENS = 20  # more rows don't fit on a projector


@dataclass(frozen=True, eq=False)
class NextToken:
    """The n likeliest tokens with their probabilities before and after; the last entry is all other tokens.

    tokens: the texts of the n tokens, by falling probability before, and the number of all others, such as
        "45 others".
    before, after: (n + 1,), probabilities; each sums to 1.
    kept: how many tokens of the vocabulary have a probability above 0 after.
    entropies: before and after, in nats.
    """

    tokens: list[str]
    before: np.ndarray
    after: np.ndarray
    kept: int
    entropies: tuple[float, float]


# compute


def next_token(before: Tensor, after: Tensor, token_text: Callable[[int], str], n: int = 12) -> NextToken:
    """Compare two sets of logits.

    before, after: the logits, each (vocab_size,) or (1, vocab_size).
    token_text: token id → its text.
    n: how many tokens to list.

    Raises ValueError if the logits differ in size, hold NaN or +∞ or are all −∞, or if n isn't from 1 to 20;
    TypeError if `token_text` gives anything but texts.
    """
    before, after = (
        logits.detach().flatten().double().cpu() for logits in (before, after)
    )  # (vocab_size,) each
    if len(before) != len(after):
        sizes = f"{len(before)} logits before and {len(after)} after"
        raise ValueError(f"{sizes}: they must be of one vocabulary")
    if before.isnan().any() or after.isnan().any() or max(before.max(), after.max()) == float("inf"):
        raise ValueError("the logits hold NaN or +∞: they give no probabilities")
    if min(before.max(), after.max()) == -float("inf"):
        raise ValueError("all logits are −∞: no token can come")
    if not 1 <= whole("n", n) <= min(MAX_TOKENS, len(before)):
        raise ValueError(f"one picture shows 1 to {min(MAX_TOKENS, len(before))} tokens, not {n}")
    likeliest = before.argsort(descending=True, stable=True)[:n]  # (n,)
    listed = [logits.softmax(dim=-1)[likeliest] for logits in (before, after)]  # (n,) each
    rows = [np.append(part.numpy(), max(0.0, 1 - part.sum().item())) for part in listed]  # (n + 1,) each
    names = [_name(token_text(int(i))) for i in likeliest]
    names.append(f"{len(before) - n:,} others")
    both = (entropy(before).item(), entropy(after).item())
    return NextToken(names, *rows, kept=int((after > -float("inf")).sum()), entropies=both)


def _name(text: str) -> str:
    """Return a token's text with visible spaces and line ends."""
    if not isinstance(text, str):
        raise TypeError(f"token_text must give a token's text, and gave {short(text)}")
    return repr(text)[1:-1].replace(" ", "␣")


def describe_next_token(t: NextToken) -> str:
    """Describe `draw_next_token` in a sentence, the figure's alternative text."""
    first = zip(t.tokens[:3], t.before, t.after, strict=False)
    pairs = ", ".join(f"{name} {before:.2f} → {after:.2f}" for name, before, after in first)
    return f"{t.kept:,} tokens can come; {pairs}; entropy {t.entropies[0]:.1f} → {t.entropies[1]:.1f} nats"


# draw


def draw_next_token(t: NextToken, title: str = "", ax: Axes | None = None) -> Figure:
    """Draw two bars for each token: pale for its probability before, solid for its probability after.

    A token whose probability after is 0 is crossed out. ax: where to draw; a new figure by default.
    """
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
