"""Learning in pictures: the loss, step by step, while it falls and afterwards."""

import io
from collections.abc import Mapping, Sequence
from time import perf_counter

import ipywidgets as widgets
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.show.figures import image
from course_lib.show.style import MUTED, PALETTE
from course_lib.train import History, Training

MEMORY = 20  # steps that the smooth line mostly looks back on
SHARE = 0.1  # of the time of training that may go into drawing it
PAUSE = 0.3  # seconds between two pictures, at least


# compute


def smooth(values: Sequence[float], memory: float = MEMORY) -> np.ndarray:
    """Means of the values so far, each older one counting less by the factor 1 − 1/memory."""
    kept, total, weight, means = 1 - 1 / memory, 0.0, 0.0, []
    for value in values:
        total, weight = kept * total + value, kept * weight + 1
        means.append(total / weight)
    return np.array(means)


# draw


def draw_loss(histories: History | Mapping[str, History], marks: Mapping[str, float] | None = None) -> Figure:
    """Loss against steps: each batch's, pale, and their smoothed mean; one run, or several by name.

    marks: levels to compare with, by name, such as {"guessing": math.log(vocab_size)}. Raises ValueError for a run of no step.
    """
    runs = {"": histories} if isinstance(histories, History) else histories
    ax = Figure(figsize=(9, 4.5), layout="constrained").subplots()
    for i, (name, history) in enumerate(runs.items()):
        if not history.losses:
            raise ValueError(f"the run {name!r} has taken no step yet: there is no loss to draw")
        steps, color = range(1, len(history.losses) + 1), PALETTE[i % len(PALETTE)]
        ax.plot(steps, history.losses, color=color, alpha=0.25, linewidth=1)
        ax.plot(steps, smooth(history.losses), color=color, label=name or None)
    for name, level in (marks or {}).items():
        ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.5)
        ax.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED
        )
    if len(runs) > 1:
        ax.legend()
    ax.set(xlabel="step", ylabel="loss (nats a token)")
    return ax.figure


# explore


class live_loss:
    """The curve while it grows: pass one to `train(…, watch=live_loss())` in a notebook.

    The picture is redrawn in place, as often as a tenth of the training's time allows, and after the last of `config.steps`. It lives
    in the running notebook only: for the stored page, show `draw_loss(history)` after it. Outside notebooks it does nothing.
    """

    def __init__(self, marks: Mapping[str, float] | None = None):
        self.marks, self.next = marks, 0.0
        self.picture = widgets.HTML()
        self.seen = get_ipython() is not None
        if self.seen:
            display(self.picture)

    def __call__(self, training: Training) -> None:
        last = training.step == training.config.steps
        if not self.seen or not (last or perf_counter() >= self.next):
            return
        start = perf_counter()
        alt = f"The loss after {training.step} steps: {training.history.losses[-1]:.2f}."
        draw_loss(training.history, self.marks).savefig(png := io.BytesIO(), format="png")
        self.picture.value = image(png.getvalue(), alt, width=650)
        end = perf_counter()
        self.next = end + max(PAUSE, (end - start) / SHARE)
