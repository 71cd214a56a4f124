"""The training loop in full: that of `plain_loop`, for any loss and for one model or several.

A *source* maps a step to its batch, and a *loss* maps a model and a batch to one number to minimize. Nothing
else depends on the data: a source may read a text (`data.Windows`) or let the model itself write
(`rollouts.Rollouts`), and a loss may run a second, frozen model (`frozen`). Several models can be trained in
one step, each with an optimizer of its own:

    Training(model, config, loss)                               loss(model, batch) → number
    Training({"actor": actor, "critic": critic}, config, loss)  loss(models, batch) → a dictionary of numbers

Not handled: gradient accumulation and several processes.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.generate.request_checks import check_callable
from course_lib.interrupts import uninterrupted
from course_lib.train.checks import own_whole
from course_lib.train.config import TrainConfig
from course_lib.train.data import Batch, Source, count_targets, to_device
from course_lib.train.history import History
from course_lib.train.learner import Learner
from course_lib.train.loss import next_token_loss
from course_lib.train.run_checks import (
    check_finite,
    check_gradients,
    check_losses,
    check_metrics,
    check_models,
    check_run,
    split_result,
    to_callbacks,
    to_metric,
)

Models = nn.Module | Mapping[str, nn.Module]
Losses = Tensor | Mapping[str, Tensor]
Loss = Callable[[Models, Batch], Losses | tuple[Losses, Mapping[str, float]]]
Watch = Callable[["Training"], None]
SINGLE = "model"  # the name of a learner that is the only one


class Training:
    """Models in training, with their optimizers and histories: all that `checkpoint` keeps of a run.

    model: one, or several by name.
    config: one for all of them, or one for each by name, with equal `steps` and `precision`.
    loss: (model, batch) → a scalar tensor to minimize; of several models, (models by name, batch) → such a
        scalar for each, of which its own model alone is trained. It may return metrics too, as a pair:
        (loss, {"reward": 0.5}).

    learners: the models by name, each with its optimizer.
    metrics: the loss's metrics by name, with one entry per step.
    until: the number of steps after which the current `run` ends.

    Raises ValueError for what isn't models and configurations, for several models that share trainable
    weights, for configurations that don't fit each other, and for a name that a checkpoint can't store.
    """

    def __init__(
        self, model: Models, config: TrainConfig | Mapping[str, TrainConfig], loss: Loss = next_token_loss
    ):
        models = model if isinstance(model, Mapping) else {SINGLE: model}
        configs = config if isinstance(config, Mapping) else dict.fromkeys(models, config)
        check_models(models, configs)
        check_callable("loss", loss)
        self.learners = {name: Learner(each, configs[name]) for name, each in models.items()}
        self.loss, self.models = loss, model  # one model, or several by name: the loss's first argument
        self.metrics: dict[str, list[float]] = {}
        self.until = self.first_learner.config.steps

    @property
    def only_learner(self) -> Learner:
        """The single learner. Raises ValueError where there are several."""
        if len(self.learners) > 1:
            raise ValueError(
                f"several models learn here: name one, of learners[{'], ['.join(map(repr, self.learners))}]"
            )
        return self.first_learner

    @property
    def model(self) -> nn.Module:
        """The model of the single learner."""
        return self.only_learner.model

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trainable parameters of the single learner."""
        return self.only_learner.weights

    @property
    def config(self) -> TrainConfig:
        """The configuration of the single learner."""
        return self.only_learner.config

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the single learner."""
        return self.only_learner.optimizer

    @property
    def history(self) -> History:
        """The history of the single learner."""
        return self.only_learner.history

    @property
    def first_learner(self) -> Learner:
        """The learner that was named first; all learners take equally many steps, from the same batches."""
        return next(iter(self.learners.values()))

    @property
    def step(self) -> int:
        """The number of steps taken, which is also the number of the next one."""
        return len(self.first_learner.history.losses)

    def run(
        self,
        batches: Source,
        watch: Watch | Iterable[Watch] | None = None,
        until: int | None = None,
        progress: bool = True,
    ) -> History:
        """Train until `until` steps have been taken in all, and return the first learner's history.

        batches: step → batch.
        watch: one callback or several, called after every step with this object.
        until: by default `config.steps`.
        progress: whether to show a bar with loss and speed. Errors as in `learn`.
        """
        check_run(batches, progress)
        callbacks = to_callbacks(() if watch is None else watch)
        self.until = self.first_learner.config.steps if until is None else own_whole("until", until, 0)
        style = {"disable": not progress, "mininterval": 0.25, "unit": "step"}
        with tqdm(total=self.until, initial=self.step, **style) as bar:
            tokens, start = self.first_learner.history.total_tokens, perf_counter()
            while self.step < self.until:
                self.learn(batches(self.step))
                history = self.first_learner.history  # another one where a callback loaded a checkpoint
                speed = (history.total_tokens - tokens) / (perf_counter() - start)
                bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {speed:,.0f} tokens/s", refresh=False)
                bar.update()
                for callback in callbacks:
                    callback(self)
        return self.first_learner.history

    def learn(self, batch: Batch) -> None:
        """Take one step, wholly or not at all: an interrupt that comes while the weights change has to wait.

        Raises ValueError for a loss that isn't a scalar that depends on the weights, and for metrics without
        names; FloatingPointError, leaving the weights unchanged, for a loss or a gradient that isn't finite.
        This check makes the processor wait for a GPU once per step.
        """
        batch = to_device(batch, self.first_learner.weights[0].device)
        losses, metrics = self._compute_losses(batch)
        norms = self._compute_gradients(losses)
        rates = {name: learner.learning_rate(self.step) for name, learner in self.learners.items()}
        steps = {name: (losses[name].item(), norms[name].item(), rates[name]) for name in self.learners}
        for name, (loss, norm, _) in steps.items():
            check_finite(self.step, loss, norm, self.learners[name])
        targets = count_targets(batch)
        with uninterrupted():
            for name, learner in self.learners.items():
                learner.take_step(rates[name])
                learner.history.add(*steps[name], targets)
            for name, value in metrics.items():
                self.metrics.setdefault(name, []).append(value)

    def _compute_losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return each learner's loss, (), by name, and the metrics.

        One loss function computes them all, in bfloat16 only if that suits every learner: under "auto", a
        model that is too small for it keeps a larger one in 32 bits too.
        """
        learners = self.learners.values()
        device = self.first_learner.weights[0].device.type
        for learner in learners:
            learner.model.train()
        with torch.autocast(device, torch.bfloat16, enabled=all(learner.bf16 for learner in learners)):
            result = self.loss(self.models, batch)
        losses, metrics = split_result(result)
        losses = dict(losses) if isinstance(losses, Mapping) else {next(iter(self.learners)): losses}
        check_losses(losses, self.learners)
        check_metrics(metrics, self.metrics if self.step else metrics)
        return losses, {name: to_metric(name, value) for name, value in metrics.items()}

    def _compute_gradients(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute all gradients and clip them; return each one's length before clipping, (), by name.

        Each learner's gradient is that of its own loss alone, also where others depend on its weights.
        """
        several = len(self.learners) > 1
        for name, learner in self.learners.items():
            learner.optimizer.zero_grad()
            trained = [weight for weight in learner.weights if weight.requires_grad]
            if trained:
                losses[name].backward(inputs=trained if several else None, retain_graph=several)
            check_gradients(name, learner)
        with uninterrupted():  # the optimizer's functions switch gradients off, and on again
            return {name: learner.clip_gradient() for name, learner in self.learners.items()}


def frozen(model: nn.Module) -> nn.Module:
    """Return a frozen copy of the model: the reference of preference learning and RL, or a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def train(
    model: Models,
    batches: Source,
    config: TrainConfig | Mapping[str, TrainConfig],
    loss: Loss = next_token_loss,
    watch: Watch | Iterable[Watch] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place, from the first step to the last, and return the history.

    The arguments and errors are those of `Training` and its `run`.
    """
    return Training(model, config, loss).run(batches, watch, progress=progress)
