"""Quantization-aware training: the forward pass rounds the weights, the backward pass ignores the rounding.

Rounding is a step function. Its slope is 0 almost everywhere, so no gradient would reach the weights. The
straight-through estimator replaces that slope by 1 (Bengio, Léonard & Courville 2013, the fourth of their
approaches; for weights: Jacob et al. 2018, section 3). The weights stay in 32 bits and accumulate small steps
until they round to another level.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import Replacement, exchange, require_composable, twin
from course_lib.quantize.checks import require_matrix
from course_lib.quantize.layers import linears, quantize_linears
from course_lib.quantize.uniform import Uniform, require_uniform


def straight_through(weight: Tensor, format: Uniform) -> Tensor:
    """Round each weight to its nearest level, (rows, columns); the gradient passes unchanged.

    Raises ValueError for what isn't a matrix of floating-point numbers, and for another format.
    """
    require_uniform(format)
    require_matrix(weight)
    return weight + (format.round(weight.detach()) - weight.detach())


class FakeQuantizedLinear(Replacement, nn.Linear):
    """`nn.Linear` that computes with its weights rounded to `format` and trains the unrounded weights.

    (…, in_features) → (…, out_features).
    """

    kind = "qat"
    format: Uniform

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, straight_through(self.weight, self.format), self.bias)


def start_qat(model: nn.Module, format: Uniform) -> nn.Module:
    """Let the layers that `quantize_linears` exchanges compute with rounded weights; return the model.

    Each layer is exchanged for its `twin`: an object of another class that shares its parameters, so that
    optimizers and files are unaffected.

    Raises ValueError, changing nothing, where there is no such layer or the format can't store one, and where
    the model is in a state that can't be trained so (quantized, packed, or with adapters, for example).
    """
    require_uniform(format)
    require_composable(model, "qat")
    layers = linears(model)
    for layer in layers.values():
        format.check(layer.weight)
    exchange(model, {name: twin(layer, FakeQuantizedLinear, format=format) for name, layer in layers.items()})
    return model


def finish_qat(model: nn.Module) -> nn.Module:
    """Store the trained weights in the format's bits with `quantize_linears`, in place; return the model.

    The outputs stay as they were in training, up to the rounding of floating-point sums.

    Raises ValueError, changing nothing, for a model that `start_qat` hasn't prepared, whose training went
    wrong (NaN), or with another layer by now that the format can't store.
    """
    trained = {name: layer for name, layer in model.named_modules() if isinstance(layer, FakeQuantizedLinear)}
    if not trained:
        raise ValueError("nothing here is in quantization-aware training: begin with start_qat")
    format = next(iter(trained.values())).format
    for layer in trained.values():
        format.check(layer.weight)
    change = exchange(model, {name: twin(layer, nn.Linear) for name, layer in trained.items()})
    try:
        return quantize_linears(model, format)
    except BaseException:  # another layer can't be stored, or an interrupt
        change.undo()
        raise
