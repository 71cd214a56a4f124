"""What the public entries of this package refuse, each with a message that says what to do.

`TrainConfig`, the losses and `attach` call these checks, and the functions that they call check nothing
again. Those of a run are in `run_checks`, those of the data in `data_checks`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from operator import index
from reprlib import repr as short
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_lib.generate.request_checks import LARGEST as LARGEST_WHOLE
from course_lib.generate.request_checks import check_whole, is_whole
from course_lib.model import Decoder
from course_lib.model.checks import require

if TYPE_CHECKING:
    from course_lib.train.config import TrainConfig

PRECISIONS = ("fp32", "bf16", "auto")
SCHEDULES, OPTIMIZERS = ("cosine", "linear"), ("adamw", "muon")
SMALLEST, LARGEST = 5e-324, sys.float_info.max  # above 0, and below ∞


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
    check("schedule", config.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
    check("decay", lies("decay", 0, 1), "a number from 0 to 1")
    check("optimizer", config.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
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


def check_share(final: float) -> None:
    """Raise ValueError for a last step's share that `TrainConfig` refuses too."""
    require(is_number(final) and 0 <= final <= 1, f"final must be a number from 0 to 1, not {final!r}")


# Losses


def check_loss_batch(batch: object, model: nn.Module) -> None:
    """Raise ValueError unless a batch is a tuple of inputs and targets that the model takes."""
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
    require(
        type(model) is not Decoder or len(parts) == 2,
        f"a Decoder learns from (tokens, targets), and this batch has {len(parts)} parts: give a loss of "
        "your own that reads them, or let targets that don't count be IGNORE",
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
    targets = targets.long()  # in 8 bits without a sign, −100 is 156
    least, most = (int(x) for x in targets.where(targets != ignore, 0).aminmax())
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
