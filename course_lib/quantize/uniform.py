"""Rounding to a grid of evenly spaced numbers.

    asymmetric   weight ≈ scale · code + minimum       codes 0 … 2ᵇ − 1, spread from the smallest weight to the largest
    symmetric    weight ≈ scale · code                 codes −q … q with q = 2ᵇ⁻¹ − 1: zero stays zero, one code is unused

A scale serves the whole tensor, one output channel (a row), or a group of columns in a row: the smaller the group, the less an
outlier harms, and the more bytes go into scales (Nagel et al. 2021, "A white paper on neural network quantization", section 2.2).
Scales and minima are kept in 16 bits.

Not handled: activations, integer zero points (a minimum that isn't a multiple of the scale makes zero inexact).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.quantize.bits import pack_bits, unpack_bits
from course_lib.quantize.layers import Stored, require_finite


@dataclass(frozen=True)
class Uniform:
    """A format. bits: 2 to 8. group: how many columns share a scale, or "channel" (a row), or "tensor" (all).

    >>> Uniform(bits=4).round(torch.tensor([[0.5, -1.3, 1.75, 0.6]]))  # seven steps of 0.25 on either side of zero
    tensor([[ 0.5000, -1.2500,  1.7500,  0.5000]])

    Raises ValueError for dials out of range.
    """

    bits: int = 8
    symmetric: bool = True
    group: int | str = "channel"

    def __post_init__(self):
        if not (isinstance(self.bits, int) and 2 <= self.bits <= 8):
            raise ValueError(f"bits must be a whole number from 2 to 8, not {self.bits!r}")
        if self.group not in ("channel", "tensor") and not (isinstance(self.group, int) and self.group >= 1):
            raise ValueError(f'group must be "channel", "tensor" or a number of columns, not {self.group!r}')

    @property
    def top(self) -> int:
        """The highest code."""
        return 2**self.bits - 1 - self.symmetric

    @property
    def zero(self) -> int:
        """The code that a symmetric grid has for 0; where counting begins, 0, for an asymmetric one."""
        return self.top // 2 if self.symmetric else 0

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, columns) → codes (groups, group) from 0 on, scale and minimum (groups, 1): weight ≈ scale · code + minimum."""
        groups = self._split(weight)
        if self.symmetric:
            scale = _in_16_bits(groups.abs().amax(dim=1, keepdim=True) / self.zero)
            minimum = -self.zero * scale
        else:
            minimum, largest = groups.aminmax(dim=1, keepdim=True)
            minimum = _in_16_bits(minimum)
            scale = _in_16_bits((largest - minimum) / self.top)
        return self.nearest(groups, scale, minimum), scale, minimum

    def nearest(self, weight: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
        """The code of the level nearest to each weight, same shape. scale and minimum broadcast to it."""
        from_start = weight if self.symmetric else weight - minimum
        steps = torch.where(
            scale > 0, from_start / scale, 0.0
        )  # none where the scale is 0, for then all are alike
        return (steps.round() + self.zero).clamp(0, self.top)

    def round(self, weight: Tensor) -> Tensor:
        """Each weight replaced by the nearest on its grid, same shape and precision. NaN stays NaN."""
        codes, scale, minimum = self.codes(weight.float())
        return (codes * scale + minimum).view(weight.shape).to(weight.dtype)

    @torch.no_grad()
    def store(self, weight: Tensor) -> "UniformWeight":
        """Raises ValueError for weights that aren't finite, are too large for 16-bit scales, or don't divide into groups."""
        require_finite(weight)
        return UniformWeight(self, weight.shape, *self.codes(weight.float()))

    def _split(self, weight: Tensor) -> Tensor:
        if self.group == "tensor":
            return weight.reshape(1, -1)
        size = weight.shape[1] if self.group == "channel" else self.group
        if weight.shape[1] % size:
            raise ValueError(f"rows of {weight.shape[1]} weights don't divide into groups of {size}")
        return weight.reshape(-1, size)


class UniformWeight(Stored):
    """codes: packed; scale and (asymmetric only) minimum: (groups, 1) in 16 bits."""

    def __init__(self, format: Uniform, shape: torch.Size, codes: Tensor, scale: Tensor, minimum: Tensor):
        super().__init__()
        self.format, self.shape = format, shape
        if not (scale.isfinite().all() and minimum.isfinite().all()):
            raise ValueError("the weights are too large for scales of 16 bits (above 65,504)")
        self.register_buffer("packed", pack_bits(codes, format.bits))
        self.register_buffer("scale", scale.half())
        self.register_buffer("minimum", None if format.symmetric else minimum.half())

    def codes(self) -> Tensor:
        """(groups, group) of uint8."""
        return unpack_bits(self.packed, self.format.bits, self.shape.numel()).view(len(self.scale), -1)

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        scale = self.scale.float()
        minimum = -self.format.zero * scale if self.minimum is None else self.minimum.float()
        return (self.codes().float() * scale + minimum).view(self.shape).to(dtype)


def _in_16_bits(x: Tensor) -> Tensor:
    return x.half().float()
