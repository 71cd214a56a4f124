"""A linear layer over weights that are stored in few bits, in any format.

A *format* has one method, `format.store(weight)`, which returns a `Stored` matrix. `Stored.weight()` returns
the rounded weights. So one layer serves all formats, and a model is quantized by exchanging its linear layers
for such layers. `model.exchange` does this: it puts modules in the place of others and can undo it.

The layer dequantizes its weights at each use: it saves memory but no time (`fast` saves both). Gradients pass
through it to its input, as QLoRA needs; its own weights can't be trained.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import Replacement, exchange, require_composable
from course_lib.quantize.checks import require_bias, require_format


class Stored(nn.Module):
    """A matrix in few bits, all of it in buffers. shape: (rows, columns) of the matrix.

    `weight()` is a method, unlike the parameter `weight` of `nn.Linear`, because it dequantizes.
    """

    shape: torch.Size

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the dequantized matrix, (rows, columns)."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def _apply(self, fn, recurse=True):
        """Move the buffers to another device with the model; keep their dtype when the model's changes."""
        for name, buffer in self.named_buffers():
            device = fn(buffer.new_empty(0)).device
            setattr(self, name, buffer.to(device))
        return self


class Format(Protocol):
    """A way of storing weights in few bits."""

    def store(self, weight: Tensor) -> Stored:
        """Round and pack a weight (rows, columns). Raises ValueError for one that the format can't store."""


class QuantizedLinear(Replacement, nn.Module):
    """`nn.Linear` over stored weights, (…, in_features) → (…, out_features).

    `Replacement` marks a module that replaces another. Its kind decides what else can be done to the
    model: see `model.exchange`. Raises ValueError for a bias, (out_features,), of another shape.
    """

    kind = "quantized"

    def __init__(self, stored: Stored, bias: Tensor | None = None):
        super().__init__()
        require_bias(bias, stored.shape[0])
        self.stored, self.bias = stored, None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = stored.shape

    def forward(self, x: Tensor) -> Tensor:
        y = frozen_product(x, lambda x: F.linear(x, self.stored.weight(x.dtype)), self.stored.weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + (0 if self.bias is None else self.bias.nbytes)


def frozen_product(
    x: Tensor, multiply: Callable[[Tensor], Tensor], dequantize: Callable[[torch.dtype], Tensor]
) -> Tensor:
    """Return `multiply(x)`, which is x Wᵀ for a frozen W, (…, columns) → (…, rows); differentiable in x.

    dequantize: returns W, (rows, columns), in a given dtype. Only the backward pass calls it, so that the
    forward pass keeps no dequantized copy of W for the gradient.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return multiply(x)
    return _FrozenProduct.apply(x, multiply, dequantize)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, multiply, dequantize) -> Tensor:
        ctx.dequantize = dequantize
        return multiply(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.dequantize(grad.dtype), None, None


# Names of layers that are not quantized. The head is mostly tied to the embedding table; a router is
# tiny, and a small error can change which expert it chooses.
NOT_QUANTIZED = ("head", "router")


def quantize_linears(model: nn.Module, format: Format) -> nn.Module:
    """Exchange the model's `nn.Linear` layers for quantized ones, in place, except output layers and routers.

        quantize_linears(model, NF4())

    Returns the model. Raises ValueError where there is no such layer, where the format is none or can't store
    one, and for a model that can't be quantized as it is (packed, or with adapters, for example). The model
    is then unchanged.
    """
    exchange(model, quantized_linears(model, format))
    return model


def quantized_linears(model: nn.Module, format: Format) -> dict[str, QuantizedLinear]:
    """Return the layers that `quantize_linears` puts into the model, by path. `exchange` can undo them."""
    require_format(format)
    require_composable(model, "quantized")
    return {name: _quantized(name, layer, format) for name, layer in linears(model).items()}


def _quantized(name: str, layer: nn.Linear, format: Format) -> QuantizedLinear:
    try:
        stored = format.store(layer.weight.detach())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return QuantizedLinear(stored, None if layer.bias is None else layer.bias.detach())


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that `quantize_linears` exchanges, by path. Raises ValueError where there is none."""
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if type(layer) is nn.Linear and path.rpartition(".")[2] not in NOT_QUANTIZED
    }
    if not layers:
        quantized = any(isinstance(module, QuantizedLinear) for module in model.modules())
        reason = (
            ": they are quantized already" if quantized else f", apart from {' and '.join(NOT_QUANTIZED)}"
        )
        raise ValueError(f"the model has no nn.Linear to round{reason}")
    return layers


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, counting shared ones once.

    Only valid before packing: the matrices that `generate.pack` puts in the place of parameters are plain
    tensors, and are not counted.
    """
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
