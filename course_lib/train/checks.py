"""What the public entries of this package refuse, each with a message that says what to do.

`TrainConfig`, `Training` and the losses call these checks, and the functions that they call check nothing
again. Those of the data are in `data_checks`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from reprlib import repr as short
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_lib.generate.request_checks import LARGEST as LARGEST_WHOLE
from course_lib.generate.request_checks import check_callable, check_whole, is_whole
from course_lib.model.checks import require, require_kind

if TYPE_CHECKING:
    from course_lib.train.config import TrainConfig
    from course_lib.train.learner import Learner

PRECISIONS = ("fp32", "bf16", "auto")
SMALLEST, LARGEST = 5e-324, sys.float_info.max  # above 0, and below ∞
METRICS = "metrics"  # the name of a run's metrics in a checkpoint, beside the names of its models


# Configuration


def check_train_config(config: TrainConfig) -> None:
    """Raise ValueError for a setting outside its range, or of another type than Python's own numbers.

    A checkpoint writes the settings as JSON, which holds no others.
    """

    def check(name: str, valid: bool, wanted: str) -> None:
        require(valid, f"{name} must be {wanted}, not {getattr(config, name)!r}")

    def lies(name: str, least: float, most: float) -> bool:
        return is_number(getattr(config, name)) and least <= getattr(config, name) <= most

    betas = config.betas
    two = isinstance(betas, tuple) and len(betas) == 2 and all(map(is_number, betas))
    check("steps", type(config.steps) is int and config.steps >= 1, "a whole number, at least 1")
    check("learning_rate", lies("learning_rate", SMALLEST, LARGEST), "a number above 0")
    whole = type(config.warmup) is int and 0 <= config.warmup <= config.steps
    check("warmup", whole, f"a whole number, 0 to the {config.steps} steps")
    check("final", lies("final", 0, 1), "a number from 0 to 1")
    check("weight_decay", lies("weight_decay", 0, LARGEST), "a number, 0 or more")
    check("betas", two and all(0 <= beta < 1 for beta in betas), "two numbers from 0 to below 1")
    check("clip", lies("clip", SMALLEST, math.inf), "a number above 0")
    check_precision(config.precision)


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that doesn't exist."""
    known = isinstance(precision, str) and precision in PRECISIONS
    require(known, f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


def check_number(name: str, value: object, least: float) -> None:
    """Raise ValueError unless the value is a finite number, `least` or more."""
    require(
        is_number(value) and least <= value <= LARGEST,
        f"{name} must be a number, {least} or more, not {value!r}",
    )


def is_number(value: object) -> bool:
    """Return whether the value is one of Python's own numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def own_whole(name: str, value: object, least: int, most: int = LARGEST_WHOLE) -> int:
    """Return a whole number as Python's own, which JSON holds. Raises ValueError as `check_whole` does."""
    check_whole(name, value, least, most)
    return index(value)


def check_schedule(step: int, steps: int, warmup: int, final: float) -> None:
    """Raise ValueError for a step that no run has, and for settings that `TrainConfig` refuses too."""
    check_whole("step", step, 0)
    check_whole("steps", steps, 1)
    check_whole("warmup", warmup, 0)
    require(is_number(final) and 0 <= final <= 1, f"final must be a number from 0 to 1, not {final!r}")


# Models and their losses


def check_models(models: Mapping[str, nn.Module], configs: Mapping[str, TrainConfig]) -> None:
    """Raise ValueError for names, configurations or models that can't be trained together."""
    require(
        bool(models) and configs.keys() == models.keys(),
        "name at least one model, and a configuration for each: "
        f"there are {list(models)} and {list(configs)}",
    )
    for name in models:
        require(
            name != METRICS and "/" not in name,
            f"a model can't be called {name!r}: a checkpoint calls the run's metrics {METRICS!r}, "
            'and separates names by "/"',
        )
    for setting in ("steps", "precision"):
        require(
            len({getattr(config, setting) for config in configs.values()}) == 1,
            f"models that learn together need the same `{setting}`: give it to each configuration",
        )
    _check_shared_weights(models)


def _check_shared_weights(models: Mapping[str, nn.Module]) -> None:
    trained = [
        id(weight) for model in models.values() for weight in model.parameters() if weight.requires_grad
    ]
    require(
        len(set(trained)) == len(trained),
        "two models share weights that learn, and each would change them: freeze them in one",
    )


def check_run(batches: object, until: object, progress: object) -> None:
    """Raise ValueError for arguments with which no run can begin."""
    check_callable("batches", batches)
    require_kind("progress", progress, bool)
    if until is not None:
        check_whole("until", until, 0)


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


def check_metrics(names: Iterable[str], earlier: Iterable[str]) -> None:
    """Raise ValueError unless a step's metrics have the same names as those of the steps before."""
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
    except (TypeError, ValueError, RuntimeError):
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


def check_loss_batch(batch: object) -> None:
    """Raise ValueError unless a batch is a tuple of inputs and targets: a dictionary has no order."""
    require(
        not isinstance(batch, Mapping),
        "next_token_loss reads a tuple of the model's inputs and then the targets, and this batch is a "
        "dictionary: give a loss of your own that reads it, or a tuple",
    )
    parts = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else []
    require(
        len(parts) >= 2 and isinstance(batch[-1], Tensor),
        "a batch must be a tuple of the model's inputs and then the targets, such as (tokens, targets), not "
        f"{type(batch).__name__} of {', '.join(parts) or 'anything else'}",
    )


def check_targets(targets: Tensor, shape: Sequence[int], vocab_size: int, ignore: int) -> None:
    """Raise ValueError unless targets are ids of the vocabulary, or `ignore`, of this shape.

    On a GPU, whose numbers take a while to arrive, ids outside the vocabulary are CUDA's own error.
    """
    require(
        isinstance(targets, Tensor) and is_whole(targets) and targets.shape == shape,
        f"targets must be whole numbers {tuple(shape)}, one for each position of the logits, not "
        f"{(tuple(targets.shape), targets.dtype) if isinstance(targets, Tensor) else targets!r}",
    )
    if targets.device.type != "cpu" or not targets.numel():
        return
    least, most = (int(x) for x in targets.long().where(targets != ignore, 0).aminmax())
    require(
        0 <= least and most < vocab_size,
        f"targets run from {least} to {most}, but the vocabulary holds 0 to {vocab_size - 1} "
        f"(and {ignore} is a target that doesn't count)",
    )


def check_fused_loss(model: nn.Module, batch: Sequence[Tensor]) -> None:
    """Raise ValueError unless the model's logits are one matrix product, and the batch tokens and targets."""
    head = getattr(model, "head", None)
    capped = getattr(getattr(model, "config", None), "logit_cap", None) is not None
    require(
        type(head) is nn.Linear and head.bias is None and not capped and len(batch) == 2,
        "this loss needs a decoder whose head is an nn.Linear without bias or soft cap, "
        "and batches of tokens and targets: use next_token_loss",
    )


# Fine-tuning


def check_attach(model: object, method: object) -> None:
    """Raise ValueError for no method with its settings, and for a model without an embedding table."""
    require(
        not isinstance(method, type) and callable(getattr(method, "wrap", None)),
        f"give a method with its settings, LoRA(rank=8) for example, not {short(method)}",
    )
    require(
        isinstance(getattr(getattr(model, "encoder", model), "embedding", None), nn.Module),
        f"give a model that has an embedding table, a Decoder for example, not a {type(model).__name__}",
    )
