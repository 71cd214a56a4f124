"""A model with its own optimizer, configuration and history. `loop` trains one of them, or several."""

import torch
from torch import nn

from course_lib.model import fast_dtype
from course_lib.train.checks import check_precision
from course_lib.train.config import TrainConfig
from course_lib.train.history import History
from course_lib.train.optimizer import make_optimizer, rate_share

AMX_MIN_PARAMETERS = 1_000_000  # from this size on, bfloat16 was measured to be faster on a CPU with AMX


class Learner:
    """A model, its optimizer, its configuration and its history.

    weights: the trainable parameters, in the optimizer's order.
    bf16: whether its configuration and its hardware call for bfloat16 (`uses_bf16`).
    """

    def __init__(self, model: nn.Module, config: TrainConfig):
        self.model, self.config = model, config
        self.optimizer = make_optimizer(model, config)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.bf16 = uses_bf16(config.precision, model)
        self.history = History()

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.config.learning_rate * rate_share(step, self.config)

    def clip_gradient(self) -> torch.Tensor:
        """Scale a gradient that is longer than `config.clip` to that length; return its length before, ()."""
        return nn.utils.clip_grad_norm_(self.weights, self.config.clip)

    def take_step(self, learning_rate: float) -> None:
        """Update the weights by their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()


def uses_bf16(precision: str, model: nn.Module) -> bool:
    """Return whether a run with this precision computes matrix products in bfloat16.

    "auto" does so on a GPU with hardware for it (emulated, bfloat16 is slow), and on a CPU with AMX, Intel's
    matrix unit, for models of a million parameters or more. On a CPU without AMX, bfloat16 was measured to be
    slower than float32.

    Raises ValueError for another precision.
    """
    check_precision(precision)
    if precision != "auto":
        return precision == "bf16"
    weights = list(model.parameters())
    if not weights:
        return False
    device = weights[0].device.type
    if device == "cpu":
        large = sum(weight.numel() for weight in weights) >= AMX_MIN_PARAMETERS
        return large and torch.cpu._is_amx_tile_supported() and fast_dtype(device) == torch.bfloat16
    return device == "cuda" and fast_dtype(device) == torch.bfloat16
