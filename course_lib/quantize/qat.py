"""Quantization-aware training: round on the way forward, learn as if nothing had been rounded.

Rounding is a staircase: its slope is 0 almost everywhere, so no gradient would reach the weights. The straight-through estimator
(Bengio, Léonard & Courville 2013, the fourth of their approaches; for weights: Jacob et al. 2018, section 3) takes its slope for 1. The weights
stay in 32 bits and collect small steps until one carries them over to the next level.
"""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib.quantize.layers import linears, quantize_linears
from course_lib.quantize.uniform import Uniform


class StraightThrough(nn.Module):
    """weight → its nearest numbers on the format's grid, (rows, columns) → the same; its gradient passes unchanged."""

    def __init__(self, format: Uniform):
        super().__init__()
        self.format = format

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.format.round(weight.detach()) - weight.detach())


def start_qat(model: nn.Module, format: Uniform) -> nn.Module:
    """From now on the linear layers that `quantize_linears` would exchange compute with rounded weights; in place, and returned.

    Raises ValueError where there is none, or one that the format can't store.
    """
    layers = linears(model)
    for layer in layers.values():
        format.store(layer.weight)  # or an error, before anything is changed
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", StraightThrough(format))
    return model


def finish_qat(model: nn.Module) -> nn.Module:
    """Store what was trained in the format's bits (`quantize_linears`), in place; but for rounding of the last digits, the outputs
    stay what they were in training.

    Raises ValueError, changing nothing, for a model that `start_qat` didn't begin or whose training went wrong (NaN).
    """
    rounded = {name: layer for name, layer in model.named_modules() if parametrize.is_parametrized(layer, "weight")}
    if not rounded:
        raise ValueError("nothing here is trained with rounding: begin with start_qat")
    for layer in rounded.values():
        (rounding,) = layer.parametrizations.weight
        rounding.format.store(layer.parametrizations.weight.original)
    for layer in rounded.values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return quantize_linears(model, rounding.format)
