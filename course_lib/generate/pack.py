"""The same numbers, laid out the way the processor wants to read them.

Writing one token reads every weight once, so the memory's speed is the limit; what keeps an ordinary model away from it is
mostly the work around each of its hundreds of small steps, above all waking and awaiting the other threads. So layers that
read the same input become one (query, key and value; gate and up), 16-bit weights are put into the order of oneDNN, the
library beneath, beforehand instead of at every call, and a 16-bit norm becomes one step. Layers stored in 4 or 8 bits
get PyTorch's kernels that compute with the bits themselves (`quantize.fast`), where there is one.

Not handled: training, saving, copying or converting a packed model; GPUs, where nothing of the kind is needed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Attention, Decoder, RMSNorm, SwiGLU
from course_lib.quantize import QuantizedLinear, fast_linear, require_bare


class JoinedLinear(nn.Module):
    """`nn.Linear`; of several layers' weights, one below the other."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(nn.Module):
    """The same for 16-bit weights, in oneDNN's order: for inference on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.packed, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class PackedNorm(RMSNorm):
    """The same norm for 16-bit models, whose steps PyTorch takes one by one: as layer normalization of (x, −x), whose mean is 0
    and whose variance is therefore the mean square of x, it is a single one."""

    def __init__(self, plain: RMSNorm):
        nn.Module.__init__(self)
        self.weight, self.eps = plain.weight, plain.eps
        self.twice = plain.weight.detach().repeat(2)

    def forward(self, x: Tensor) -> Tensor:
        both = F.layer_norm(torch.cat([x, -x], dim=-1), self.twice.shape, self.twice, None, self.eps)
        return both[..., : x.shape[-1]]


class PackedAttention(Attention):
    """`Attention` to the text itself, its three projections one product."""

    def __init__(self, plain: Attention):
        nn.Module.__init__(self)
        self.d_head, self.causal = plain.d_head, plain.causal
        self.parts = [layer.out_features // plain.d_head for layer in (plain.query, plain.key, plain.value)]
        self.query_key_value = _join(plain.query, plain.key, plain.value)
        self.output = _join(plain.output)

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.heads(self.query_key_value(x)).split(self.parts, dim=1)


class PackedSwiGLU(SwiGLU):
    """`SwiGLU`, or `GeGLU`, whose first two layers are one product."""

    def __init__(self, plain: SwiGLU):
        nn.Module.__init__(self)
        self.activation = plain.activation
        self.gate_and_up, self.down = _join(plain.gate, plain.up), _join(plain.down)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gate_and_up(x).chunk(2, dim=-1)


def pack(model: Decoder) -> Decoder:
    """Replace the model's parts by the ones above, in place, and return it. Outputs agree to rounding.

    What has no packed form (mixtures of experts, ungated feed-forward layers, other norms) stays as it is, and so does a
    model in another precision than float32 and bfloat16 (a quantized one: than bfloat16), or packed before. Raises ValueError,
    changing nothing, for a model with something attached to it (`train.peft`).
    """
    require_bare(model)
    quantized = any(isinstance(part, QuantizedLinear) for part in model.modules())
    precisions = (torch.bfloat16,) if quantized else (torch.float32, torch.bfloat16)
    if not isinstance(model.head, nn.Linear) or model.head.weight.dtype not in precisions:
        return model
    for block in model.blocks:
        block.attention = PackedAttention(block.attention)
        if isinstance(block.feed_forward, SwiGLU):
            block.feed_forward = PackedSwiGLU(block.feed_forward)
        block.attention_norm = _norm(block.attention_norm)
        block.feed_forward_norm = _norm(block.feed_forward_norm)
    model.norm, model.head = _norm(model.norm), _join(model.head)
    return model


def _norm(plain: nn.Module | None) -> nn.Module | None:
    in_16_bits = isinstance(plain, RMSNorm) and plain.weight.dtype == torch.bfloat16
    return PackedNorm(plain) if in_16_bits else plain


def _join(*layers: nn.Linear | QuantizedLinear) -> nn.Module:
    if any(isinstance(layer, QuantizedLinear) for layer in layers):
        return _join_quantized(layers)
    weight = _below_each_other([layer.weight for layer in layers])
    bias = _below_each_other([layer.bias for layer in layers]) if layers[0].bias is not None else None
    in_16_bits = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return PackedLinear(weight, bias) if in_16_bits else JoinedLinear(weight, bias)


class SideBySide(nn.Module):
    """Layers of different kinds that read the same input: their outputs, one after the other."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def _join_quantized(layers: Sequence[nn.Module]) -> nn.Module:
    alike = all(isinstance(layer, QuantizedLinear) for layer in layers)
    fast = fast_linear(layers) if alike else None
    return fast or (layers[0] if len(layers) == 1 else SideBySide(layers))


def _below_each_other(weights: list[Tensor]) -> Tensor:
    """One of them, or all in a new one: a tied weight is not copied."""
    return weights[0].detach() if len(weights) == 1 else torch.cat([weight.detach() for weight in weights])
