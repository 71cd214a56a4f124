"""NF4, the 4-bit NormalFloat: levels at the quantiles of a normal distribution.

Dettmers et al. (2023), "QLoRA", section 3. Trained weights are approximately normally distributed. NF4 takes
its sixteen levels from the quantiles of the normal distribution (appendix E): they are close together near
zero and far apart at the ends, and one of them is exactly zero.

    scale  = max |weight| of a block of 64 weights
    code   = the index of the level nearest to weight / scale
    weight ≈ scale · levels[code]

Double quantization subtracts the mean from the scales and stores them in 8 bits, with one further scale for
every 256 of them: 4.5 bits a weight become 4.127. The 8-bit levels are those of the "dynamic" data type,
evenly spaced in each power of ten (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization").

The stored values are the same, bit for bit, as those of `bitsandbytes` on a CPU, with one exception:
`bitsandbytes` finds the nearest of the 256 levels in a table of 65,536 entries, so that a scale about halfway
between two levels may get the farther one.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from course_lib.model.checks import require, require_kind
from course_lib.quantize.checks import require_finite_matrix
from course_lib.quantize.layers import Stored

BLOCK_SIZE = 64  # weights that share a scale
SCALES_BLOCK_SIZE = 256  # scales that share a scale, with double quantization
# The probability whose quantile is the highest level: 1 − 1/2 (1/30 + 1/32), with the digits of bitsandbytes.
OUTERMOST = 0.9677083
ON_CPU = {"dtype": torch.float32, "device": "cpu"}  # whatever PyTorch's defaults are


def nf4_levels() -> Tensor:
    """Return the sixteen levels in ascending order, (16,), from −1 to 1.

    They are zero and the normal distribution's quantiles at eight evenly spaced probabilities above one half
    and seven below, divided by the largest.
    """
    return _nf4_levels().clone()  # the tables stay as they are, whatever is done to the copies


@cache
def _nf4_levels() -> Tensor:
    above, below = (
        torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, n, **ON_CPU)[:-1].double()).float() for n in (9, 8)
    )  # (8,) and (7,), both positive
    return torch.cat([-below, torch.zeros(1, **ON_CPU), above]).sort().values / above.max()


def dynamic_levels() -> Tensor:
    """Return the 256 levels of the scales in ascending order, (256,), from −0.993 to 1.

    Each power of ten from 10⁻⁶ to 1 has twice as many levels as the power below it; 0 and 1 are levels too.
    """
    return _dynamic_levels().clone()


@cache
def _dynamic_levels() -> Tensor:
    levels = [torch.tensor([0.0, 1.0], **ON_CPU)]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, **ON_CPU)  # (2ⁱ + 1,)
        middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2  # (2ⁱ,)
        levels += [middles, -middles]
    return torch.cat(levels).sort().values


@dataclass(frozen=True)
class NF4:
    """The NF4 format. Raises ValueError for a setting other than True and False."""

    double_quantization: bool = False  # whether the scales are quantized too

    def __post_init__(self):
        require_kind("double_quantization", self.double_quantization, bool)

    @torch.no_grad()
    def store(self, weight: Tensor) -> "NF4Weight":
        """Return the weight (rows, columns), rounded and packed.

        Raises ValueError for weights that aren't finite or whose number isn't a multiple of 64, and where
        the scales overflow 32 bits.
        """
        return NF4Weight(weight, self.double_quantization)


class NF4Weight(Stored):
    """A matrix in NF4. weight: the matrix to round, (rows, columns). Errors as in `NF4.store`.

    Buffers:
        packed             (weights / 2,) of uint8: two codes a byte, the first in its high half
        scales             (blocks,): in 32 bits, or as 8-bit codes with double quantization
        offset             (), with double quantization: the mean of the scales
        scales_of_scales   (⌈blocks / 256⌉,) in 32 bits, with double quantization
    """

    def __init__(self, weight: Tensor, double_quantization: bool):
        super().__init__()
        require_finite_matrix(weight)
        if weight.numel() % BLOCK_SIZE:
            raise ValueError(f"{weight.numel()} weights don't divide into blocks of {BLOCK_SIZE}")
        self.shape, self.double_quantization = weight.shape, double_quantization
        scales, codes = _quantize(weight.float().flatten(), nf4_levels(), BLOCK_SIZE)  # (blocks,), (weights,)
        self.register_buffer("packed", codes[::2] << 4 | codes[1::2])
        if double_quantization:
            offset = scales.mean()
            scales_of_scales, scales = _quantize(scales - offset, dynamic_levels(), SCALES_BLOCK_SIZE)
            self.register_buffer("offset", offset)
            self.register_buffer("scales_of_scales", scales_of_scales)
        self.register_buffer("scales", scales)
        finite = bool(self.block_scales().isfinite().all())
        require(finite, "the weights are too large for scales of 32 bits (above some 10³⁸)")

    def block_scales(self) -> Tensor:
        """Return each block's scale in 32 bits, (blocks,). Double quantization has rounded it."""
        if not self.double_quantization:
            return self.scales
        scales = _dequantize(self.scales, self.scales_of_scales, dynamic_levels(), SCALES_BLOCK_SIZE)
        return scales + self.offset

    def codes(self) -> Tensor:
        """Return all codes, 0 to 15, in one row, (weights,) of uint8."""
        return torch.stack([self.packed >> 4, self.packed & 15], dim=1).flatten()

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        weights = _dequantize(self.codes(), self.block_scales(), nf4_levels(), BLOCK_SIZE)  # (weights,)
        return weights.view(self.shape).to(dtype)


def _quantize(x: Tensor, levels: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return each block's scale, (blocks,), and the nearest level's index for each x / scale, (n,).

    x: (n,). levels: in ascending order, from −1 to 1. block_size: how many elements share a scale.
    """
    blocks = torch.nn.functional.pad(x, (0, -len(x) % block_size)).view(-1, block_size)
    scales = blocks.abs().amax(dim=1)  # (blocks,)
    relative = blocks * (1 / scales.clamp(min=1e-38)).unsqueeze(1)  # (blocks, block_size)
    relative = relative.flatten()[: len(x)].clamp(-1, 1)  # (n,)
    levels = levels.to(x.device)
    boundaries = (levels[:-1] + levels[1:]) / 2  # (levels − 1,)
    return scales, torch.bucketize(relative, boundaries).to(torch.uint8)


def _dequantize(codes: Tensor, scales: Tensor, levels: Tensor, block_size: int) -> Tensor:
    """Return the level of each code (n,) times its block's scale, (n,)."""
    relative = levels.to(codes.device)[codes.int()]  # (n,)
    return relative * scales.repeat_interleave(block_size)[: len(codes)]
