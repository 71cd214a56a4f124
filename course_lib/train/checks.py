"""What the public entries of this package refuse, each with a message that says what to do.

`TrainConfig`, `Training`, the sources of batches, the losses and `chat_examples` call these checks. The
functions that they call check nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_lib.model import LanguageModel
from course_lib.model.checks import require

if TYPE_CHECKING:
    from course_lib.train.config import TrainConfig

PRECISIONS = ("fp32", "bf16", "auto")
METRICS = "metrics"  # the name of a run's metrics in a checkpoint, beside the names of its models


# Configuration and data


def check_train_config(config: TrainConfig) -> None:
    """Raise ValueError for a setting outside its range."""

    def check(name: str, valid: bool, wanted: str) -> None:
        require(valid, f"{name} must be {wanted}, not {getattr(config, name)!r}")

    betas_valid = len(config.betas) == 2 and all(0 <= beta < 1 for beta in config.betas)
    check("steps", isinstance(config.steps, int) and config.steps >= 1, "a whole number, at least 1")
    check("learning_rate", 0 < config.learning_rate < math.inf, "above 0")
    check("warmup", 0 <= config.warmup <= config.steps, f"0 to the {config.steps} steps")
    check("final", 0 <= config.final <= 1, "0 to 1")
    check("weight_decay", 0 <= config.weight_decay < math.inf, "0 or more")
    check("betas", betas_valid, "two numbers from 0 to below 1")
    check("clip", config.clip > 0, "above 0")
    check("precision", config.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError for a size below 1."""
    for name, size in sizes.items():
        require(size >= 1, f"{name} must be at least 1, not {size}")


def check_windows(ids: Tensor, time: int, batch: int) -> None:
    """Raise ValueError unless ids, (length,), are enough for a window of `time` tokens and their targets."""
    check_positive(time=time, batch=batch)
    require(
        ids.dim() == 1 and len(ids) > time,
        f"windows of {time} tokens need one sequence of at least {time + 1} ids, not {tuple(ids.shape)}",
    )


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


def check_finite(step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
    """Raise FloatingPointError for a loss or a gradient that isn't finite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"at step {step} the loss is {loss} and its gradient's length {grad_norm}; the weights are as "
            f"they were before. Try a learning rate below {learning_rate:.2g}, a longer warm-up or a smaller "
            "clip, and look at this batch: has it a target that counts?"
        )


def check_tuple(batch: object) -> None:
    """Raise ValueError for a batch whose parts are named in a dictionary and have no order."""
    require(
        not isinstance(batch, Mapping),
        "next_token_loss reads a tuple of the model's inputs and then the targets, and this batch is a "
        "dictionary: give a loss of your own that reads it, or a tuple",
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


# Conversations


def check_conversations(lm: LanguageModel, pairs: Iterable[tuple[object, object]]) -> None:
    """Raise ValueError for a model without a chat template, and for a response that is empty or no text."""
    require(lm.chat is not None, f"{lm.name} has no chat template, and can't be taught by conversations")
    for prompt, response in pairs:
        require(
            isinstance(response, str) and bool(response.strip()),
            f"the response to {prompt!r} is empty or no text ({response!r}): "
            "there is nothing to learn from it",
        )


def check_prompt(prompt: object, prompt_ids: Sequence[int], conversation: Sequence[int]) -> None:
    """Raise ValueError unless the conversation's ids begin with those of its prompt."""
    require(
        conversation[: len(prompt_ids)] == prompt_ids,
        f"under this chat template the conversation doesn't begin with its prompt: {prompt!r}",
    )


def check_turn(response: str, text: str, ended: bool) -> None:
    """Raise ValueError unless the assistant's turn, whose text is `text`, ends, and holds the response."""
    require(ended, "this chat template leaves the assistant's turn open: the model would never learn to stop")
    require(
        response.strip() in text,
        f"under this chat template the turn that is learned doesn't hold its response: {response!r}. Does it "
        "open the assistant's turn under add_generation_prompt, and write each content unchanged?",
    )
