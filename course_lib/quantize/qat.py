"""Quantization-aware training: round on the way forward, learn as if nothing had been rounded.

Rounding is a staircase: its slope is 0 almost everywhere, so no gradient would reach the weights. The straight-through estimator
(Bengio, Léonard & Courville 2013, the fourth of their approaches; for weights: Jacob et al. 2018, section 3) takes its slope for 1. The weights
stay in 32 bits and collect small steps until one carries them over to the next level.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import Exchanged, exchange, require_composable, twin
from course_lib.quantize.layers import linears, quantize_linears
from course_lib.quantize.uniform import Uniform


def straight_through(weight: Tensor, format: Uniform) -> Tensor:
    """The nearest numbers on the format's grid, (rows, columns) → the same; the gradient passes unchanged."""
    return weight + (format.round(weight.detach()) - weight.detach())


class RoundedLinear(Exchanged, nn.Linear):
    """`nn.Linear` that computes with its weights rounded to `format`, and trains them as they are."""

    kind = "rounding"
    format: Uniform

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, straight_through(self.weight, self.format), self.bias)


def start_qat(model: nn.Module, format: Uniform) -> nn.Module:
    """From now on the linear layers that `quantize_linears` would exchange compute with rounded weights; in place, and returned.

    Raises ValueError where there is none, or one that the format can't store.
    """
    require_composable(model, "rounding")
    layers = linears(model)
    for layer in layers.values():
        format.store(layer.weight)  # or an error, before anything is changed
    exchange(model, {name: twin(layer, RoundedLinear, format=format) for name, layer in layers.items()})
    return model


def finish_qat(model: nn.Module) -> nn.Module:
    """Store what was trained in the format's bits (`quantize_linears`), in place; but for rounding of the last digits, the outputs
    stay what they were in training.

    Raises ValueError, changing nothing, for a model that `start_qat` didn't begin or whose training went wrong (NaN).
    """
    rounded = {name: layer for name, layer in model.named_modules() if isinstance(layer, RoundedLinear)}
    if not rounded:
        raise ValueError("nothing here is trained with rounding: begin with start_qat")
    for layer in rounded.values():
        layer.format.store(layer.weight)
    exchange(model, {name: twin(layer, nn.Linear) for name, layer in rounded.items()})
    return quantize_linears(model, layer.format)
