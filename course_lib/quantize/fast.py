"""Linear layers that multiply by 4-bit or 8-bit weights directly, with PyTorch's kernels for CPUs.

To write one token, every weight is read once, so a quarter of the bytes gives up to four times the speed. The
kernels dequantize in the processor's registers, where that costs little. For a long prompt, whose many tokens
share each weight, they are slower than 16-bit products.

    Int4Linear   weights in blocks of 32 that share a scale and a minimum: Q4_1 and Q4_0
    Int8Linear   weights that share a scale in each row: `Uniform(bits=8)`

`QuantizedLinear` is the plain version of both. Inputs are in bfloat16. Gradients reach the input: the
backward pass recovers the weights from the kernel, which is slow.

Not handled: GPUs, whose kernels need other layouts. `course_lib.kernels` has layers for them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.model.checks import require
from course_lib.model.exchange import Replacement
from course_lib.quantize.blocks import BLOCK_SIZE, BlockWeight
from course_lib.quantize.checks import require_bias
from course_lib.quantize.layers import QuantizedLinear, Stored, frozen_product
from course_lib.quantize.uniform import Uniform, UniformWeight

INT4_ROWS = 16  # the int4 kernel needs a multiple of this many rows
# The int8 kernel reads this many columns at a time, beyond the row's end where it isn't a multiple of them.
INT8_COLUMNS = 32


class FastLinear(Replacement, nn.Module):
    """The base class of both layers, which define `multiply`.

    (…, in_features) → (…, out_features), both of bfloat16; raises ValueError for other inputs.
    """

    kind = "packed"
    in_features: int
    out_features: int
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16 or not x.dim() or x.shape[-1] != self.in_features:
            raise ValueError(
                f"this layer takes (…, {self.in_features}) of bfloat16, not {tuple(x.shape)} of {x.dtype}"
            )
        y = frozen_product(x, self._multiply_rows, self.dequantize)
        return y if self.bias is None else y + self.bias

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weights, (out_features, in_features): the kernel's product with the identity matrix."""
        identity = torch.eye(self.in_features, dtype=torch.bfloat16)
        return self.multiply(identity).T.to(dtype)

    def multiply(self, rows: Tensor) -> Tensor:
        """Multiply rows (rows, in_features) by the weights with the kernel; return (rows, out_features)."""
        raise NotImplementedError

    def _multiply_rows(self, x: Tensor) -> Tensor:
        y = self.multiply(x.reshape(-1, self.in_features).contiguous())
        return y.view(*x.shape[:-1], self.out_features)


class Int4Linear(FastLinear):
    """A layer over 4-bit blocks. stored: one matrix or several with the same columns, concatenated row-wise.

    The kernel computes weight = scale · (code − 8) + zero, so zero is minimum + 8 · scale. It keeps both in
    bfloat16, whose 8 bits of precision round the 11 bits of float16: this is the whole difference from the
    stored weights.

    Raises ValueError for matrices that the kernel can't read, and for a bias of another shape than
    (out_features,).
    """

    def __init__(self, stored: Sequence[BlockWeight], bias: Tensor | None = None):
        super().__init__()
        require(
            _are_int4(stored), f"give matrices in Q4_0 or Q4_1, with a multiple of {INT4_ROWS} rows in all"
        )
        parts = zip(*(matrix.int4_parts() for matrix in stored), strict=True)
        codes, scale, minimum = map(torch.cat, parts)  # (rows, columns), (rows, blocks), (rows, blocks)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)  # (rows, columns / 2)
        scales_and_zeros = torch.stack([scale.T, minimum.T + 8 * scale.T], dim=-1)  # (blocks, rows, 2)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros.bfloat16().contiguous())
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = codes.shape
        require_bias(bias, self.out_features)

    def multiply(self, rows: Tensor) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.packed, BLOCK_SIZE, self.scales_and_zeros
        )


class Int8Linear(FastLinear):
    """A layer over 8-bit rows. stored: one matrix or several with the same columns, concatenated row-wise.

    The kernel takes the scales in bfloat16, which rounds those of float16 by up to 0.2%: this is the whole
    difference from the stored weights.

    Raises ValueError for matrices that the kernel can't read, and for a bias of another shape than
    (out_features,).
    """

    def __init__(self, stored: Sequence[UniformWeight], bias: Tensor | None = None):
        super().__init__()
        require(
            _are_int8(stored), f"give matrices in Uniform(bits=8), of a multiple of {INT8_COLUMNS} columns"
        )
        self.register_buffer("codes", torch.cat([_signed_codes(matrix) for matrix in stored]))
        scales = torch.cat([matrix.scale.flatten() for matrix in stored])  # (rows,)
        self.register_buffer("scales", scales.bfloat16())
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = self.codes.shape
        require_bias(bias, self.out_features)

    def multiply(self, rows: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.scales)


def fast_linear(layers: Sequence[QuantizedLinear]) -> nn.Module | None:
    """Return one kernel layer that stands for several layers with the same input, their outputs concatenated.

    Returns None where no kernel fits what they store. Raises ValueError for layers that aren't quantized.
    """
    layers = list(layers)
    require(all(isinstance(layer, QuantizedLinear) for layer in layers), "give layers that are quantized")
    if not layers or len({layer.bias is None for layer in layers}) > 1:
        return None
    stored = [layer.stored for layer in layers]
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers]).bfloat16()
    if _are_int4(stored):
        return Int4Linear(stored, bias)
    if _are_int8(stored):
        return Int8Linear(stored, bias)
    return None


def _are_int4(stored: Sequence[Stored]) -> bool:
    """Return whether the int4 kernel reads these matrices, as one."""
    blocks = all(isinstance(each, BlockWeight) and each.format.int4_parts is not None for each in stored)
    return blocks and _join(stored) and sum(each.shape[0] for each in stored) % INT4_ROWS == 0


def _are_int8(stored: Sequence[Stored]) -> bool:
    """Return whether the int8 kernel reads these matrices, as one."""
    per_row = all(isinstance(each, UniformWeight) and each.format == Uniform(bits=8) for each in stored)
    return per_row and _join(stored) and stored[0].shape[1] % INT8_COLUMNS == 0


def _join(stored: Sequence[Stored]) -> bool:
    """Return whether there are matrices, all with the same columns."""
    return len({each.shape[1] for each in stored}) == 1


def _signed_codes(stored: UniformWeight) -> Tensor:
    """Return the codes from −127 to 127 instead of 0 to 254, (rows, columns) of int8."""
    return (stored.codes().short() - 127).to(torch.int8)
