"""Uniform quantization: rounding to a grid of evenly spaced levels.

    asymmetric   weight ≈ scale · code + minimum     codes 0 … 2ᵇ − 1, over the weights' range
    symmetric    weight ≈ scale · code               codes −q … q with q = 2ᵇ⁻¹ − 1: zero stays zero

The symmetric grid leaves one code unused; `absmax` is its plain version.

A *group* of weights shares a scale: the whole tensor, one output channel (a row), or some consecutive columns
of a row, which `blocks` and `nf4` call a block, as llama.cpp and QLoRA do. Smaller groups limit the harm that
an outlier does, and cost more bytes for scales (Nagel et al. 2021, "A white paper on neural network
quantization", section 2.2). Scales and minima are stored in 16 bits, which hold very small values with
few digits. A scale below about 3e-8 becomes 0, and with it its group; `check` refuses that, unless the group
is next to nothing beside the rest of the matrix.

Not handled: activations; asymmetric grids with an integer zero point. There the minimum is a multiple of the
scale, so that the weight 0 is exact; here it may be rounded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.model.checks import is_whole, plain, require, require_kind
from course_lib.quantize.bits import pack_bits, unpack_bits
from course_lib.quantize.checks import (
    TOO_LARGE,
    require_bits,
    require_finite_matrix,
    require_scales,
    require_two_dims,
)
from course_lib.quantize.layers import Stored


@dataclass(frozen=True)
class Uniform:
    """A uniform format. Raises ValueError for a setting out of range.

    >>> Uniform(bits=4).round(torch.tensor([[0.5, -1.3, 1.75, 0.6]]))  # seven steps of 0.25 on each side of 0
    tensor([[ 0.5000, -1.2500,  1.7500,  0.5000]])
    """

    bits: int = 8  # of a code, 2 to 8
    symmetric: bool = True  # whether the grid is centred on zero, without a minimum
    group: int | str = "channel"  # how many columns share a scale, or "channel" (a row), or "tensor"

    def __post_init__(self):
        require_bits(self.bits, least=2)
        require_kind("symmetric", self.symmetric, bool)
        if self.group not in ("channel", "tensor") and not is_whole(self.group, 1):
            raise ValueError(f'group must be "channel", "tensor" or a number of columns, not {self.group!r}')
        for name in ("bits", "group"):  # numbers of NumPy become Python's own
            object.__setattr__(self, name, plain(getattr(self, name)))

    @property
    def max_code(self) -> int:
        """The largest code. The smallest is 0, so that codes can be packed: symmetric codes are shifted."""
        return 2**self.bits - 1 - self.symmetric

    @property
    def zero_code(self) -> int:
        """The code of the weight 0 on a symmetric grid; 0 on an asymmetric one."""
        return self.max_code // 2 if self.symmetric else 0

    def grid(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and minimum of each group of a weight (rows, columns), (groups, 1) each.

        Raises ValueError where the columns don't divide into groups.
        """
        require_two_dims(weight)
        groups = weight.reshape(-1, self.group_size(weight.shape))  # (groups, group_size)
        if self.symmetric:
            scale = _round_to_half(groups.abs().amax(dim=1, keepdim=True) / self.zero_code)
            return scale, -self.zero_code * scale
        minimum, largest = groups.aminmax(dim=1, keepdim=True)  # (groups, 1) each
        minimum = _round_to_half(minimum)
        return _round_to_half((largest - minimum) / self.max_code), minimum

    def nearest(self, weight: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
        """Return the code of the level nearest to each weight, in the shape of the weight.

        weight: of any shape, to which scale and minimum broadcast: groups (groups, group_size) with the
        (groups, 1) of `grid`, or a column (rows,) with a scale and a minimum for each row.
        """
        offset = weight if self.symmetric else weight - minimum
        # A scale is 0 where the weights of a group are all 0 (symmetric) or all equal (asymmetric), as far as
        # 16 bits can tell. Their code is then that of 0, or that of the minimum.
        steps = torch.where(scale > 0, offset / scale, 0.0)
        return (steps.round() + self.zero_code).clamp(0, self.max_code)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes of a weight (rows, columns) and its grid: weight ≈ scale · code + minimum.

        Codes from 0 to `max_code` are (groups, group_size); scale and minimum are (groups, 1). Raises
        ValueError where the columns don't divide into groups.
        """
        scale, minimum = self.grid(weight)
        return self.nearest(weight.reshape(len(scale), -1), scale, minimum), scale, minimum

    def round(self, weight: Tensor) -> Tensor:
        """Return the nearest level for each weight, (rows, columns), in the weight's dtype.

        A NaN makes its whole group NaN, since the scale is computed from it. Raises ValueError for what isn't
        (rows, columns), and for weights that are too large for scales of 16 bits.
        """
        require_two_dims(weight)
        codes, scale, minimum = self.codes(weight.float())
        require(not scale.isinf().any(), TOO_LARGE)
        return (codes * scale + minimum).view(weight.shape).to(weight.dtype)

    @torch.no_grad()
    def check(self, weight: Tensor) -> None:
        """Raise ValueError for a weight (rows, columns) that `store` can't store.

        Its values must be finite, and neither too large nor too small for 16-bit scales, and the rows must
        divide into groups.
        """
        require_finite_matrix(weight)
        scale, minimum = self.grid(weight.float())  # (groups, 1) each
        require_scales(weight.float().reshape(len(scale), -1), scale, minimum)

    @torch.no_grad()
    def store(self, weight: Tensor) -> "UniformWeight":
        """Return the weight (rows, columns), rounded and packed. Raises ValueError as `check` does."""
        self.check(weight)
        return UniformWeight(self, weight.shape, *self.codes(weight.float()))

    def group_size(self, shape: tuple[int, int]) -> int:
        """Return how many weights of a matrix (rows, columns) share a scale.

        Raises ValueError where the columns don't divide into groups.
        """
        rows, columns = shape
        if self.group == "tensor":
            return rows * columns
        size = columns if self.group == "channel" else self.group
        if columns % size:
            raise ValueError(f"rows of {columns} weights don't divide into groups of {size}")
        return size


def require_uniform(format: object) -> None:
    """Raise ValueError for a format other than `Uniform`, which alone can round to a grid that is given."""
    require(isinstance(format, Uniform), f"give a Uniform format, such as Uniform(bits=4), not {format!r}")


class UniformWeight(Stored):
    """A matrix on a uniform grid.

    Buffers: `packed`, (bytes,), as from `pack_bits`; `scale`, (groups, 1) in 16 bits; for asymmetric formats
    also `minimum`, (groups, 1) in 16 bits.

    format: the grid's format. shape: of the matrix. codes: (groups, group_size). scale, minimum: (groups, 1),
    as from `Uniform.codes`.

    Raises ValueError for codes that the format doesn't have or that don't make a matrix of this shape, and
    for a scale or a minimum that can't be right.
    """

    def __init__(self, format: Uniform, shape: torch.Size, codes: Tensor, scale: Tensor, minimum: Tensor):
        super().__init__()
        self.format, self.shape = format, torch.Size(shape)
        _check_grid(format, self.shape, codes, scale, minimum)
        self.register_buffer("packed", pack_bits(codes, format.bits))
        self.register_buffer("scale", scale.half())
        self.register_buffer("minimum", None if format.symmetric else minimum.half())

    def codes(self) -> Tensor:
        """Return the codes from 0 to `format.max_code`, (groups, group_size) of uint8."""
        return unpack_bits(self.packed, self.format.bits, self.shape.numel()).view(len(self.scale), -1)

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        scale = self.scale.float()  # (groups, 1)
        minimum = -self.format.zero_code * scale if self.minimum is None else self.minimum.float()
        return (self.codes().float() * scale + minimum).view(self.shape).to(dtype)


def _check_grid(format: Uniform, shape: torch.Size, codes: Tensor, scale: Tensor, minimum: Tensor) -> None:
    """Raise ValueError for parts of a `UniformWeight` that don't fit the format or each other."""
    fit = len(shape) == codes.dim() == 2 and codes.numel() == shape.numel() > 0
    fit = fit and codes.shape[1] == format.group_size(shape)
    require(
        fit and scale.shape == minimum.shape == (len(codes), 1),
        f"codes {tuple(codes.shape)}, scale {tuple(scale.shape)} and minimum {tuple(minimum.shape)} "
        f"don't make a matrix {tuple(shape)} in {format}",
    )
    require(bool((codes <= format.max_code).all()), f"the codes of {format} go to {format.max_code} at most")
    require(bool((scale.half().isfinite() & minimum.half().isfinite()).all()), TOO_LARGE)
    if format.symmetric:
        centred = torch.allclose(minimum.float(), -format.zero_code * scale.float(), rtol=0.01)
        require(centred, f"a symmetric grid begins at −{format.zero_code} · scale: its minimum must be that")


def _round_to_half(x: Tensor) -> Tensor:
    """Round to the nearest value that 16 bits can hold, and return it in 32."""
    return x.half().float()
