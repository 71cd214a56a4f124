"""What a run refuses, its models, losses and metrics, each with a message that says what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_lib.arguments import short
from course_lib.generate.request_checks import check_callable
from course_lib.model.checks import require, require_kind
from course_lib.train.config import TrainConfig

if TYPE_CHECKING:
    from course_lib.train.learner import Learner

METRICS = "metrics"  # the name of a run's metrics in a checkpoint, beside the names of its models


def check_models(models: Mapping[str, nn.Module], configs: Mapping[str, TrainConfig]) -> None:
    """Raise ValueError for names, configurations or models that can't be trained together."""
    require(
        bool(models) and configs.keys() == models.keys(),
        "name at least one model, and a configuration for each: "
        f"there are {list(models)} and {list(configs)}",
    )
    for name, model in models.items():
        require(
            is_storable(name) and name != METRICS and "/" not in name,
            f"a model can't be called {name!r}: a name is text, and in a checkpoint {METRICS!r} stands for "
            'the run\'s metrics and "/" separates names',
        )
        require(
            isinstance(model, nn.Module) and isinstance(configs[name], TrainConfig),
            "give a model, or several by name, and a TrainConfig for it: not "
            f"{type(model).__name__} and {short(configs[name])}",
        )
    for setting in ("steps", "precision"):
        require(
            len({getattr(config, setting) for config in configs.values()}) == 1,
            f"models that learn together need the same `{setting}`: give it to each configuration",
        )
    _check_shared_weights(models)


def is_storable(name: object) -> bool:
    """Return whether a name is text that a file can hold: not half a character of UTF-16, for example."""
    return isinstance(name, str) and name == name.encode(errors="ignore").decode()


def _check_shared_weights(models: Mapping[str, nn.Module]) -> None:
    trained = [
        id(weight) for model in models.values() for weight in model.parameters() if weight.requires_grad
    ]
    require(
        len(set(trained)) == len(trained),
        "two models share weights that learn, and each would change them: freeze them in one",
    )


def check_run(batches: object, progress: object) -> None:
    """Raise ValueError for arguments with which no run can begin."""
    check_callable("batches", batches)
    require_kind("progress", progress, bool)


def to_callbacks(watch: object) -> list:
    """Return the callbacks as a list. Raises ValueError for what is neither a function nor several."""
    callbacks = [watch] if callable(watch) or not isinstance(watch, Iterable) else list(watch)
    for callback in callbacks:
        check_callable("watch", callback)
    return callbacks


def split_result(result: object) -> tuple[object, Mapping[str, float]]:
    """Return what a loss function returned as losses and metrics. Raises ValueError for any other tuple."""
    if not isinstance(result, tuple):
        return result, {}
    require(
        len(result) == 2 and isinstance(result[1], Mapping),
        'a loss function returns the loss, or the loss and metrics by name, (loss, {"reward": 0.5}), not '
        f"({', '.join(type(part).__name__ for part in result)})",
    )
    return result


def check_losses(losses: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise ValueError unless there is a loss for each name: a scalar that depends on weights."""
    names = list(names)
    require(
        losses.keys() == set(names),
        f"the loss must give one number for each of {', '.join(names)}, and gave {', '.join(losses)}",
    )
    for loss in losses.values():
        require(
            isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad,
            "the loss must be one number, as a tensor that depends on the model's weights",
        )


def check_gradients(name: str, learner: Learner) -> None:
    """Raise ValueError if no trained weight has a gradient: the run would train nothing."""
    require(
        any(weight.grad is not None for weight in learner.weights),
        f"no weight of {name!r} got a gradient. Its loss must be computed with this model, and with what is "
        "trained in it since Training was made: make it anew after attaching, detaching or freezing",
    )


def check_metrics(names: Iterable[str], earlier: Iterable[str]) -> None:
    """Raise ValueError unless metrics have names, the same as those of the steps before."""
    names = list(names)
    require(all(map(is_storable, names)), f"metrics have names, words in quotes, not {names}")
    names, earlier = sorted(names), sorted(earlier)
    require(
        names == earlier,
        f"the loss returned the metrics {names} now, and {earlier} in the steps before: "
        "return the same ones in every step",
    )


def to_metric(name: str, value: object) -> float:
    """Return a metric as Python's number. Raises ValueError for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"the metric {name} must be a number, not {value!r}") from None


def check_finite(step: int, loss: float, grad_norm: float, learner: Learner) -> None:
    """Raise FloatingPointError for a loss or a gradient that isn't finite."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    broken = [name for name, weight in learner.model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"before step {step} the model's weights hold NaN or ∞ already, in {broken[0]}: load it anew"
        )
    raise FloatingPointError(
        f"at step {step} the loss is {loss} and its gradient's length {grad_norm}; the weights are as "
        f"they were before. Try a learning rate below {learner.learning_rate(step):.2g}, a longer warm-up or "
        "a smaller clip, and look at this batch: has it a target that counts?"
    )
