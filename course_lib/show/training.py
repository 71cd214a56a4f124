"""Training as a loss curve: one that is redrawn while the model trains, and one for afterwards."""

import io
from collections.abc import Mapping, Sequence
from time import perf_counter

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.arguments import short
from course_lib.show.checks import numbers
from course_lib.show.figures import image, in_notebook
from course_lib.show.style import MUTED, PALETTE
from course_lib.train import History, Training

MEMORY = 20  # steps over which the smooth line mostly averages
MAX_SHARE = 0.1  # of the training time, spent on drawing
MIN_PAUSE = 0.3  # seconds between two redraws


# compute


def smooth(values: Sequence[float], memory: float = MEMORY) -> np.ndarray:
    """Return the exponential moving average of `values`, (steps,), with the decay 1 − 1/memory.

    Each mean is divided by the sum of its weights, so that the first one is the first value.
    """
    decay, total, weight, means = 1 - 1 / memory, 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return np.array(means)


# draw


def draw_loss(
    histories: History | Mapping[str, History], levels: Mapping[str, float] | None = None
) -> Figure:
    """Draw each step's loss (pale) and the moving average (solid) of one run, or of several by name.

    levels: losses to compare with, by name, such as {"guessing": math.log(vocab_size)}: dashed lines.

    Raises ValueError for no run, for one without a step, and for a level that isn't finite, TypeError for
    what is no history, and for levels that are no numbers by name.
    """
    runs, levels = _read_runs(histories), _read_levels(levels)
    ax = Figure(figsize=(9, 4.5), layout="constrained").subplots()
    lines = []
    for i, losses in enumerate(runs.values()):
        steps, color = range(1, len(losses) + 1), PALETTE[i % len(PALETTE)]
        ax.plot(steps, losses, color=color, alpha=0.25, linewidth=1)
        lines += ax.plot(steps, smooth(losses), color=color)
    style = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "color": MUTED}
    for name, level in levels.items():
        ax.axhline(level, color=MUTED, linestyle="--", linewidth=1.5)
        ax.annotate(name, (1, level), **style)
    if len(runs) > 1:
        ax.legend(lines, runs)  # of lines' own labels it would leave out those that begin with _
    ax.set(xlabel="step", ylabel="loss (nats a token)")
    return ax.figure


def _read_runs(histories: History | Mapping[str, History]) -> dict[str, np.ndarray]:
    """Return the losses of each run, (steps,)."""
    runs = {"": histories} if isinstance(histories, History) else histories
    if not isinstance(runs, Mapping):
        raise TypeError(f"histories must be a History, or several by name, not {short(runs)}")
    if not runs:
        raise ValueError("there is no run to draw: name one, {'a name': history}")
    for name, history in runs.items():
        if not isinstance(history, History):
            raise TypeError(f"the run {name!r} must be a History, not {short(history)}")
        if not history.losses:
            raise ValueError(f"the run {name!r} has taken no step yet: there is no loss to draw")
    return {name: numbers(f"the losses of {name!r}", history.losses) for name, history in runs.items()}


def _read_levels(levels: Mapping[str, float] | None) -> dict[str, float]:
    if levels is not None and not isinstance(levels, Mapping):
        raise TypeError(f"levels must be losses by name, {{'guessing': 7.3}}, not {short(levels)}")
    levels = {name: numbers(f"the level {name!r}", level) for name, level in (levels or {}).items()}
    for name, level in levels.items():
        if level.ndim or not np.isfinite(level):
            raise ValueError(f"the level {name!r} must be one finite number, not {short(level)}")
    return {name: float(level) for name, level in levels.items()}


# explore


class live_loss:
    """A loss curve that grows during training: pass one to `train(…, watch=live_loss())` in a notebook.

    The curve is redrawn as often as a tenth of the training time allows, and after the last step of the run.
    Of several models it shows the one that was named first. It appears in the running notebook only; for the
    stored page, show `draw_loss(history)` after training. Outside notebooks it does nothing.

    levels: as in `draw_loss`. Raises TypeError for anything else.
    """

    def __init__(self, levels: Mapping[str, float] | None = None):
        self.levels, self.next_redraw = _read_levels(levels), 0.0
        self.picture = widgets.HTML()
        self.displayed = in_notebook()
        if self.displayed:
            display(self.picture)

    def __call__(self, training: Training) -> None:
        last = training.step == training.until
        if not self.displayed or not (last or perf_counter() >= self.next_redraw):
            return
        start, history = perf_counter(), training.first_learner.history
        alt = f"The loss after {training.step} steps: {history.losses[-1]:.2f}."
        draw_loss(history, self.levels).savefig(png := io.BytesIO(), format="png")
        self.picture.value = image(png.getvalue(), alt, width=650)
        end = perf_counter()
        self.next_redraw = end + max(MIN_PAUSE, (end - start) / MAX_SHARE)
