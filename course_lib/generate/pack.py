"""The same numbers, laid out the way the processor wants to read them.

Writing one token reads every weight once, so the memory's speed is the limit; what keeps an ordinary model away from it is
mostly the work around each of its hundreds of small matrix products, above all waking and awaiting the other threads.
So layers that read the same input become one (query, key and value; gate and up), and 16-bit weights are put into the order
of oneDNN, the library beneath, beforehand instead of at every call.

Not handled: training, saving, copying or converting a packed model; GPUs, where nothing of the kind is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Attention, Decoder, SwiGLU


class JoinedLinear(nn.Module):
    """`nn.Linear` without bias; of several layers' weights, one below the other."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class PackedLinear(nn.Module):
    """The same for 16-bit weights, in oneDNN's order: for inference on a CPU."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class PackedAttention(Attention):
    """`Attention` whose three projections are one product."""

    def __init__(self, plain: Attention):
        nn.Module.__init__(self)
        self.d_head = plain.d_head
        self.widths = [layer.out_features for layer in (plain.query, plain.key, plain.value)]
        self.query_key_value = _join(plain.query, plain.key, plain.value)
        self.output = _join(plain.output)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.query_key_value(x).split(self.widths, dim=-1)


class PackedSwiGLU(SwiGLU):
    """`SwiGLU` whose first two layers are one product."""

    def __init__(self, plain: SwiGLU):
        nn.Module.__init__(self)
        self.gate_and_up, self.down = _join(plain.gate, plain.up), _join(plain.down)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gate_and_up(x).chunk(2, dim=-1)


def pack(model: Decoder) -> Decoder:
    """Replace the model's linear layers by joined and packed ones, in place, and return it. Outputs agree to rounding.

    A model in another precision than float32 and bfloat16, or packed before, is left as it is.
    """
    if isinstance(model.head, nn.Linear) and model.head.weight.dtype in (torch.float32, torch.bfloat16):
        for block in model.blocks:
            block.attention, block.feed_forward = PackedAttention(block.attention), PackedSwiGLU(block.feed_forward)
        model.head = _join(model.head)
    return model


def _join(*layers: nn.Linear) -> nn.Module:
    weights = [layer.weight.detach() for layer in layers]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    in_16_bits = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return PackedLinear(weight) if in_16_bits else JoinedLinear(weight)
