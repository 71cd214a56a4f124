"""Packing: the same weights, laid out as a CPU reads them fastest.

Writing one token reads every weight once, so the limit is the speed of memory. An ordinary model stays below
it mostly because of the overhead of its hundreds of small steps, above all of waking other threads and
waiting for them. A packed model has fewer steps:

- Layers that read the same input are one product: query, key and value; gate and up.
- 16-bit weights are put into the order of oneDNN, PyTorch's library for CPUs, once and not at every call.
- A 16-bit norm is one step.
- Layers stored in 4 or 8 bits use PyTorch's kernels that compute with these bits (`quantize.fast`), where
  there is one.

Not handled: training the weights (adapters beside them can be trained); saving, copying or converting a
packed model; GPUs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.generate.request_checks import check_decoder
from course_lib.model import Attention, Decoder, RMSNorm, SwiGLU
from course_lib.model.exchange import Replacement, exchange, replacement_kinds, require_composable, twin
from course_lib.quantize import QuantizedLinear, fast_linear, frozen_product


class Packed(Replacement):
    """A mixin for every class that `pack` puts into a model."""

    kind = "packed"


class JoinedLinear(Packed, nn.Module):
    """One linear layer for several that read the same input: their weights are concatenated row-wise."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight, bias
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(Packed, nn.Module):
    """`JoinedLinear` with 16-bit weights in oneDNN's order, for inference on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.packed, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight), bias
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return frozen_product(x, self._multiply, lambda dtype: self.packed.to_dense(dtype))

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class PackedNorm(Packed, RMSNorm):
    """`RMSNorm` in one step, for 16-bit models.

    PyTorch computes a 16-bit RMSNorm in several steps, and a layer norm in one. The layer norm of (x, −x),
    whose mean is 0 and whose variance is the mean square of x, is the RMSNorm of x and of −x. twice: the
    norm's weight, repeated.
    """

    twice: Tensor

    def forward(self, x: Tensor) -> Tensor:
        both = F.layer_norm(torch.cat([x, -x], dim=-1), self.twice.shape, self.twice, None, self.eps)
        return both[..., : x.shape[-1]]


class PackedAttention(Packed, Attention):
    """`Attention` whose projections are one product. head_counts: of queries, keys and values."""

    head_counts: list[int]

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.split_heads(self.query_key_value(x)).split(self.head_counts, dim=1)


class PackedSwiGLU(Packed, SwiGLU):
    """`SwiGLU` or `GeGLU` whose first two layers are one product, `gate_and_up`."""

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gate_and_up(x).chunk(2, dim=-1)


def pack(model: Decoder) -> Decoder:
    """Replace the model's parts by packed ones, in place, and return it. Outputs agree to rounding.

    Parts without a packed form stay as they are: mixtures of experts, ungated feed-forward layers, other
    norms. So do models that are packed already, and those in another precision than float32 and bfloat16
    (quantized ones: than bfloat16). Raises ValueError, changing nothing, for a model with something attached
    to it (`train.peft`), one in quantization-aware training, and what is no decoder.
    """
    exchange(model, packed_parts(model))
    return model


def packed_parts(model: Decoder) -> dict[str, nn.Module]:
    """Return path → what `pack` puts there; for an `exchange` that can be undone."""
    check_decoder(model)
    require_composable(model, "packed")
    if not _can_be_packed(model):
        return {}
    parts = {"norm": _norm(model.norm), "head": _join(model.head)}
    for i, block in enumerate(model.blocks):
        parts |= {f"blocks.{i}.{name}": part for name, part in _parts_of_block(block).items()}
    return {path: part for path, part in parts.items() if part is not None}


def _can_be_packed(model: Decoder) -> bool:
    """Return whether the model is in a precision that can be packed, and isn't packed already."""
    kinds = replacement_kinds(model).values()
    precisions = (torch.bfloat16,) if "quantized" in kinds else (torch.float32, torch.bfloat16)
    return (
        "packed" not in kinds and isinstance(model.head, nn.Linear) and model.head.weight.dtype in precisions
    )


def _parts_of_block(block: nn.Module) -> dict[str, nn.Module | None]:
    gated = isinstance(block.feed_forward, SwiGLU)
    return {
        "attention": _attention(block.attention),
        "feed_forward": _swiglu(block.feed_forward) if gated else None,
        "attention_norm": _norm(block.attention_norm),
        "feed_forward_norm": _norm(block.feed_forward_norm),
    }


def _attention(plain: Attention) -> PackedAttention:
    projections = plain.query, plain.key, plain.value
    children = vars(plain)["_modules"] | {
        "query_key_value": _join(*projections),
        "output": _join(plain.output),
    }
    children = {name: part for name, part in children.items() if part not in projections}
    return twin(
        plain,
        PackedAttention,
        children,
        head_counts=[layer.out_features // plain.d_head for layer in projections],
    )


def _swiglu(plain: SwiGLU) -> PackedSwiGLU:
    children = {"gate_and_up": _join(plain.gate, plain.up), "down": _join(plain.down)}
    return twin(plain, PackedSwiGLU, children, activation=plain.activation)


def _norm(plain: nn.Module | None) -> PackedNorm | None:
    """Return the packed norm; None if the norm stays as it is."""
    in_16_bits = isinstance(plain, RMSNorm) and plain.weight.dtype == torch.bfloat16
    return twin(plain, PackedNorm, twice=plain.weight.detach().repeat(2)) if in_16_bits else None


def _join(*layers: nn.Linear | QuantizedLinear) -> nn.Module:
    """Return one layer that computes the outputs of all these, one after the other."""
    if any(isinstance(layer, QuantizedLinear) for layer in layers):
        return _join_quantized(layers)
    weight = _concatenate([layer.weight for layer in layers])
    bias = _concatenate([layer.bias for layer in layers]) if layers[0].bias is not None else None
    in_16_bits = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return PackedLinear(weight, bias) if in_16_bits else JoinedLinear(weight, bias)


class SideBySide(Packed, nn.Module):
    """Layers of different kinds that read the same input, as one: their outputs, one after the other."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.in_features = layers[0].in_features
        self.out_features = sum(layer.out_features for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def _join_quantized(layers: Sequence[nn.Module]) -> nn.Module:
    alike = all(isinstance(layer, QuantizedLinear) for layer in layers)
    fast = fast_linear(layers) if alike else None
    return fast or (layers[0] if len(layers) == 1 else SideBySide(layers))


def _concatenate(weights: list[Tensor]) -> Tensor:
    """Concatenate the weights row-wise. A single one is returned as it is: it may be tied."""
    return weights[0].detach() if len(weights) == 1 else torch.cat([weight.detach() for weight in weights])
