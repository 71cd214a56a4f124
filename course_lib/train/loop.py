"""The loop that learns: predict, measure, see which way is down, take a step.

What it learns from is a *source*, step → batch, and what it makes smaller is a *loss*, (model, batch) → one number. Nothing else
depends on the data: a source may read a text (`data.Windows`) or let the model itself write (`rollouts.Rollouts`), and a loss may ask
a second, frozen model (`frozen`). Several models can learn in one step, each with an optimizer of its own:

    Training(model, config, loss)
    Training({"policy": policy, "value": value}, config, loss)     loss(models, batch) → {"policy": …, "value": …}
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.train.config import TrainConfig, uses_bf16
from course_lib.train.data import Batch, Source
from course_lib.train.loss import next_token_loss
from course_lib.train.optimizer import adamw, warmup_cosine

Models = nn.Module | Mapping[str, nn.Module]
Losses = Tensor | Mapping[str, Tensor]
Loss = Callable[[Models, Batch], Losses | tuple[Losses, Mapping[str, float]]]
Watch = Callable[["Training"], None]
ONLY = "model"  # what the model is called where there is one


@dataclass
class History:
    """What happened, an entry a step. grad_norms: lengths of the gradient before clipping. tokens: targets seen so far in all,
    padding included."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Targets so far in all."""
        return self.tokens[-1] if self.tokens else 0

    def add(self, loss: float, grad_norm: float, learning_rate: float, targets: int) -> None:
        """Note one more step."""
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.learning_rates.append(learning_rate)
        self.tokens.append(self.seen + targets)


class Learner:
    """A model that learns, with its optimizer, its dials and its history."""

    def __init__(self, model: nn.Module, config: TrainConfig):
        self.model, self.config = model, config
        self.optimizer = adamw(model, config)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.bf16 = uses_bf16(config.precision, model)
        self.history = History()

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        config = self.config
        return config.learning_rate * warmup_cosine(step, config.steps, config.warmup, config.final)

    def take_step(self, rate: float) -> None:
        """Change the weights by the gradients that they have."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()


class Training:
    """Models, their optimizers, and how far they have come: all that has to be kept to go on later (`checkpoint`).

    model: one, or several by name. config: for all of them, or one for each by name, of equally many steps. loss: (model, batch) →
    one number to make smaller, as a tensor; of several models, (models by name, batch) → such a number for each. It may add numbers
    to be noted, as a pair: (loss, {"reward": 0.5}). learners: the models by name, each with its optimizer. metrics: what the loss
    noted, by name, an entry a step.

    Raises ValueError for several models of which one learns the other's weights, and configurations that don't fit each other.
    """

    def __init__(
        self, model: Models, config: TrainConfig | Mapping[str, TrainConfig], loss: Loss = next_token_loss
    ):
        models = model if isinstance(model, Mapping) else {ONLY: model}
        configs = config if isinstance(config, Mapping) else dict.fromkeys(models, config)
        _check_together(models, configs)
        self.learners = {name: Learner(each, configs[name]) for name, each in models.items()}
        self.given, self.loss = model, loss
        self.metrics: dict[str, list[float]] = {}

    @property
    def only(self) -> Learner:
        """The one learner. Raises ValueError where there are several."""
        if len(self.learners) > 1:
            raise ValueError(
                f"several models learn here: name one, of learners[{'], ['.join(map(repr, self.learners))}]"
            )
        return next(iter(self.learners.values()))

    @property
    def model(self) -> nn.Module:
        """The model, where one learns."""
        return self.only.model

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those of its weights that learn."""
        return self.only.weights

    @property
    def config(self) -> TrainConfig:
        """Its dials."""
        return self.only.config

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimizer."""
        return self.only.optimizer

    @property
    def history(self) -> History:
        """Its history."""
        return self.only.history

    @property
    def first(self) -> Learner:
        """The learner that was named first: the others take as many steps, from the same batches."""
        return next(iter(self.learners.values()))

    @property
    def step(self) -> int:
        """Steps taken, which is also the number of the next one."""
        return len(self.first.history.losses)

    def run(
        self,
        batches: Source,
        watch: Watch | Iterable[Watch] | None = None,
        until: int | None = None,
        progress: bool = True,
    ) -> History:
        """Go on until `until` steps have been taken in all (`config.steps` unless told otherwise); the first learner's history.

        batches: step → batch. watch: called after every step with this object, one or several. progress: show a bar with loss and
        speed.
        """
        until, history = self.first.config.steps if until is None else until, self.first.history
        watchers = [watch] if callable(watch) else list(watch or ())
        with tqdm(total=until, initial=self.step, disable=not progress, mininterval=0.25, unit="step") as bar:
            before, start = history.seen, perf_counter()
            while self.step < until:
                self.learn(batches(self.step))
                speed = (history.seen - before) / (perf_counter() - start)
                bar.set_postfix_str(f"loss {history.losses[-1]:.3f}, {speed:,.0f} tokens/s", refresh=False)
                bar.update()
                for each in watchers:
                    each(self)
        return history

    def learn(self, batch: Batch) -> None:
        """One step. Raises ValueError for a loss that isn't one number, and FloatingPointError, the weights left as they were,
        when loss or gradient isn't finite.

        Looking at these two numbers makes the processor wait for a GPU once a step.
        """
        device = self.first.weights[0].device
        batch = to_device(batch, device)
        for learner in self.learners.values():
            learner.model.train()
        with torch.autocast(
            device.type, torch.bfloat16, enabled=all(each.bf16 for each in self.learners.values())
        ):
            losses, noted = self._losses(batch)
        for learner in self.learners.values():
            learner.optimizer.zero_grad()
        sum(losses.values()).backward()
        norms = {
            name: nn.utils.clip_grad_norm_(each.weights, each.config.clip)
            for name, each in self.learners.items()
        }
        rates = {name: each.rate(self.step) for name, each in self.learners.items()}
        for name in self.learners:
            self._require_finite(losses[name].item(), norms[name].item(), rates[name])
        targets = count_targets(batch)
        for name, learner in self.learners.items():
            learner.take_step(rates[name])
            learner.history.add(losses[name].item(), norms[name].item(), rates[name], targets)
        for name, value in noted.items():
            self.metrics.setdefault(name, []).append(float(value))

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        """What to make smaller for each learner, and what was noted besides."""
        result = self.loss(self.given, batch)
        losses, noted = result if isinstance(result, tuple) else (result, {})
        losses = dict(losses) if isinstance(losses, Mapping) else {next(iter(self.learners)): losses}
        if losses.keys() != self.learners.keys():
            raise ValueError(
                f"the loss must give one number for each of {', '.join(self.learners)}, and gave {', '.join(losses)}"
            )
        for loss in losses.values():
            if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
                raise ValueError(
                    "the loss must be one number, as a tensor that depends on the model's weights"
                )
        if self.step and noted.keys() != self.metrics.keys():
            raise ValueError(
                f"the loss noted {sorted(noted)} now, and {sorted(self.metrics)} in the steps before: always the same, please"
            )
        return losses, noted

    def _require_finite(self, loss: float, norm: float, rate: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"at step {self.step} the loss is {loss} and its gradient's length {norm}; the weights are as they were before. "
                f"Try a learning rate below {rate:.2g}, a longer warm-up or a smaller clip, and look at this batch: has it a "
                "target that counts?"
            )


def _check_together(models: Mapping[str, nn.Module], configs: Mapping[str, TrainConfig]) -> None:
    if not models or configs.keys() != models.keys():
        raise ValueError(
            f"name at least one model, and a configuration for each: there are {list(models)} and {list(configs)}"
        )
    if len({config.steps for config in configs.values()}) > 1:
        raise ValueError(
            "models that learn together take equally many steps: give their configurations the same `steps`"
        )
    weights = [
        id(weight) for model in models.values() for weight in model.parameters() if weight.requires_grad
    ]
    if len(set(weights)) < len(weights):
        raise ValueError(
            "two models share weights that learn, and each would change them: freeze them in one"
        )


def frozen(model: nn.Module) -> nn.Module:
    """A copy that stays as the model is now: the reference of preference learning and RL, or a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch whose tensors are on a device: a tensor, or a tuple (named or not) or dictionary of them; what else there is stays."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple):
        parts = [to_device(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def count_targets(batch: Batch) -> int:
    """How many targets a batch has: those of its last part, or of the one called so."""
    if isinstance(batch, Mapping):
        batch = batch.get("targets", list(batch.values())[-1])
    batch = getattr(batch, "targets", batch)
    last = batch[-1] if isinstance(batch, tuple) else batch
    return last.numel() if isinstance(last, Tensor) else 0


def train(
    model: Models,
    batches: Source,
    config: TrainConfig | Mapping[str, TrainConfig],
    loss: Loss = next_token_loss,
    watch: Watch | Iterable[Watch] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place, from the first step to the last. Arguments and errors as in `Training`."""
    return Training(model, config, loss).run(batches, watch, progress=progress)
