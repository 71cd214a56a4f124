"""Linear layers that multiply by 4 or 8 bits without making 32 of them first: PyTorch's kernels for CPUs.

Writing one token reads every weight once, so a quarter of the bytes is up to four times the speed. The kernels turn bits into numbers
in the processor's registers, where that costs little; for a long prompt, whose many tokens share each weight, they are slower
than 16-bit products.

    Int4Linear   weights in blocks of 32 that share a scale and a minimum: the file's own Q4_1 and Q4_0
    Int8Linear   weights that share a scale in each row: `Uniform(bits=8)`

Inputs in bfloat16. Gradients reach the input, through weights that are made anew, slowly. Not handled: GPUs, whose kernels want other
layouts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.model.exchange import Exchanged
from course_lib.quantize.blocks import SIZE, BlockWeight
from course_lib.quantize.layers import QuantizedLinear, Stored, frozen_product
from course_lib.quantize.uniform import Uniform, UniformWeight

ROWS = 16  # the int4 kernel takes them by so many
COLUMNS = 32  # the int8 kernel reads up to so many at a time, past the end of a row of fewer


class FastLinear(Exchanged, nn.Module):
    """What both have in common. `multiply` is theirs."""

    kind = "packed"
    in_features: int
    out_features: int
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y = frozen_product(x, self._multiply_rows, self.weight)
        return y if self.bias is None else y + self.bias

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers, (out_features, in_features): what the kernel makes of the identity."""
        rows = torch.eye(self.in_features, dtype=torch.bfloat16)
        return self.multiply(rows).T.to(dtype)

    def multiply(self, rows: Tensor) -> Tensor:
        """(rows, in_features) → (rows, out_features), by the kernel."""
        raise NotImplementedError

    def _multiply_rows(self, x: Tensor) -> Tensor:
        return self.multiply(x.reshape(-1, self.in_features).contiguous()).view(
            *x.shape[:-1], self.out_features
        )


class Int4Linear(FastLinear):
    """(…, in_features) → (…, out_features) of bfloat16. stored: one below the other.

    The kernel has weight = scale · (code − 8) + zero, so its zero is minimum + 8 · scale. It keeps both in bfloat16, whose 8 bits of
    precision round the file's 11: that is the whole difference from the file's weights.
    """

    def __init__(self, stored: Sequence[BlockWeight], bias: Tensor | None = None):
        super().__init__()
        codes, scale, minimum = (
            torch.cat(parts) for parts in zip(*(each.affine() for each in stored), strict=True)
        )
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        scales_and_zeros = torch.stack([scale, minimum + 8 * scale], dim=-1).transpose(0, 1)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros.bfloat16().contiguous())
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = codes.shape

    def multiply(self, rows: Tensor) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, SIZE, self.scales_and_zeros)


class Int8Linear(FastLinear):
    """(…, in_features) → (…, out_features) of bfloat16. stored: one below the other."""

    def __init__(self, stored: Sequence[UniformWeight], bias: Tensor | None = None):
        super().__init__()
        self.register_buffer("codes", torch.cat([_signed(each) for each in stored]))
        self.register_buffer("scales", torch.cat([each.scale.flatten() for each in stored]).bfloat16())
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = self.codes.shape

    def multiply(self, rows: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.scales)


def fast_linear(layers: Sequence[QuantizedLinear]) -> nn.Module | None:
    """The kernel's layer for layers that read the same input, as one; None where there is no kernel for what they store."""
    stored = [layer.stored for layer in layers]
    if len({layer.bias is None for layer in layers}) > 1:
        return None
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers]).bfloat16()
    if all(map(_fits_int4, stored)) and sum(each.shape[0] for each in stored) % ROWS == 0:
        return Int4Linear(stored, bias)
    if all(map(_fits_int8, stored)):
        return Int8Linear(stored, bias)
    return None


def _fits_int4(stored: Stored) -> bool:
    return isinstance(stored, BlockWeight) and stored.format.affine is not None


def _fits_int8(stored: Stored) -> bool:
    return (
        isinstance(stored, UniformWeight)
        and stored.format == Uniform(bits=8)
        and stored.shape[1] % COLUMNS == 0
    )


def _signed(stored: UniformWeight) -> Tensor:
    """Codes from −127 to 127, where the stored ones run from 0 to 254."""
    return (stored.codes().short() - 127).to(torch.int8)
