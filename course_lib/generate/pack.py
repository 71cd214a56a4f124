"""The same numbers, laid out the way the processor wants to read them.

Writing one token reads every weight once, so its speed is the memory's. PyTorch's ordinary linear layer reaches only part of
it; oneDNN, the library beneath, comes closer when a layer's weights are put in its own order beforehand.

Not handled: training, tracing weights, saving; GPUs, where nothing of the kind is needed.
"""

import torch
from torch import Tensor, nn

from course_lib.model import Decoder


class PackedLinear(nn.Module):
    """`nn.Linear` without bias, its 16-bit weights in oneDNN's order: for inference on a CPU."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class TransposedLinear(nn.Module):
    """`nn.Linear` without bias, its 32-bit weights stored (in, out): the faster order for one token at a time."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.transposed = linear.weight.detach().t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.transposed


def pack(model: Decoder) -> Decoder:
    """Replace the model's linear layers by packed ones, in place, and return it. Outputs agree to rounding.

    For 32-bit floats and bfloat16; any other model is left as it is, and so is a 16-bit one where this processor has no
    16-bit arithmetic in oneDNN.
    """
    layout = {torch.bfloat16: PackedLinear, torch.float32: TransposedLinear}.get(model.embedding.weight.dtype)
    if layout is None or layout is PackedLinear and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model
    for part in [*(p for block in model.blocks for p in (block.attention, block.feed_forward)), model]:
        for name, linear in list(part.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(part, name, layout(linear))
    return model
