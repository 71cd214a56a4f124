"""A linear layer whose weights are kept in few bits, whatever the way.

Every way is a *format*: `format.store(weight)` gives a `Stored`, which knows its bytes and gives the weights back, rounded. So
one layer serves all of them, and a model changes its format by having its layers exchanged.

The layer turns its bits into numbers at each use: it saves memory, not time (`fast` saves both). It can be trained through, as
QLoRA needs, but not trained itself.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import Exchanged, exchange, require_composable


class Stored(nn.Module):
    """A matrix in few bits, all of it in buffers. shape: (rows, columns) of the weights that it stands for."""

    shape: torch.Size

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights as numbers again, (rows, columns)."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def _apply(self, fn, recurse=True):
        """Moves to another device with the model, but keeps its precision when the model changes its own."""
        for name, buffer in self.named_buffers():
            where = fn(buffer.new_empty(0)).device
            setattr(self, name, buffer.to(where))
        return self


class Format(Protocol):
    """A way of keeping weights in few bits."""

    def store(self, weight: Tensor) -> Stored:
        """weight: (rows, columns). Raises ValueError for weights that have no place in the format."""


class QuantizedLinear(Exchanged, nn.Module):
    """`nn.Linear` over stored weights, (…, in_features) → (…, out_features)."""

    kind = "quantized"

    def __init__(self, stored: Stored, bias: Tensor | None = None):
        super().__init__()
        self.stored, self.bias = stored, None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = stored.shape

    def forward(self, x: Tensor) -> Tensor:
        y = frozen_product(x, lambda x: F.linear(x, self.stored.weight(x.dtype)), self.stored.weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + (0 if self.bias is None else self.bias.nbytes)


def frozen_product(
    x: Tensor, multiply: Callable[[Tensor], Tensor], weight: Callable[[torch.dtype], Tensor]
) -> Tensor:
    """x Wᵀ by `multiply`, for a W that is stored in its own way and isn't trained; differentiable in x.

    weight: dtype → W as numbers, (rows, columns). It is asked for on the way back only, and kept nowhere.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return multiply(x)
    return _FrozenProduct.apply(x, multiply, weight)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, multiply, weight) -> Tensor:
        ctx.weight = weight
        return multiply(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.weight(grad.dtype), None, None


LEFT_ALONE = (
    "head",
    "router",
)  # the head is mostly the embedding table; a router is tiny, and its choices jump


def quantize_linears(model: nn.Module, format: Format) -> nn.Module:
    """Exchange each `nn.Linear` of the model, but for output layer and routers, for a `QuantizedLinear`, in place; return it.

        quantize_linears(model, NF4())

    Raises ValueError where there is none, or one that the format can't store; the model is then as it was.
    """
    exchange(model, quantized_linears(model, format))
    return model


def quantized_linears(model: nn.Module, format: Format) -> dict[str, QuantizedLinear]:
    """What `quantize_linears` puts into the model, by path; for an `exchange` that can be undone."""
    require_composable(model, "quantized")
    return {name: _quantized(name, layer, format) for name, layer in linears(model).items()}


def _quantized(name: str, layer: nn.Linear, format: Format) -> QuantizedLinear:
    try:
        stored = format.store(layer.weight.detach())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return QuantizedLinear(stored, None if layer.bias is None else layer.bias.detach())


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantized, by their names. Raises ValueError where there is none."""
    found = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and name.rpartition(".")[2] not in LEFT_ALONE
    }
    if not found:
        raise ValueError("the model has no nn.Linear to round: they are quantized already")
    return found


def model_bytes(model: nn.Module) -> int:
    """Bytes that all parameters and buffers take, shared ones once. (Not counted: what `pack` laid out anew in 16 or 32 bits.)"""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def require_finite(weight: Tensor) -> None:
    """Raise ValueError for a weight that no scale could hold."""
    if weight.dim() != 2 or not weight.numel():
        raise ValueError(f"only matrices are quantized, not a tensor of shape {tuple(weight.shape)}")
    if weight.is_meta:
        raise ValueError("the weights are on the meta device, where nothing has a value: load them first")
    if not weight.isfinite().all():
        raise ValueError(
            "the weights hold NaN or ∞, which have no place on a grid: look for what went wrong in training"
        )
