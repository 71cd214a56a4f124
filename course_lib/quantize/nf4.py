"""Four bits whose sixteen levels lie where weights are: NF4 (Dettmers et al. 2023, "QLoRA", section 3 and appendix E).

Trained weights are spread much like a normal distribution, so levels are taken from its quantiles: close together near zero,
far apart at the ends, with an exact zero. Blocks of 64 weights share a scale, their largest size.

Double quantization stores those scales, less their mean, in 8 bits, with one scale more for 256 of them: 4.5 bits a weight
become 4.127. The 8-bit levels are the "dynamic" ones of Dettmers et al. (2022, "8-bit optimizers via block-wise quantization"): evenly
spaced in each power of ten.

Bit for bit what `bitsandbytes` makes of the same weights on a CPU; only, of the scales' 256 levels it looks up the nearest in a table
of 65,536 places, so that a scale that lies halfway between two may get the farther one there.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from course_lib.quantize.layers import Stored, require_finite

BLOCK, BLOCK_OF_SCALES = 64, 256
OUTERMOST = 0.9677083  # the probability below the highest level's quantile; (1 − it) is half a level's share, averaged over 15 and 16


@cache
def nf4_levels() -> Tensor:
    """(16,), from −1 to 1: the normal distribution's quantiles at eight evenly spaced probabilities above one half and seven
    below, and zero, divided by the largest."""
    above, below = (
        torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, n)[:-1].double()).float() for n in (9, 8)
    )
    return torch.cat([-below, torch.zeros(1), above]).sort().values / above.max()


@cache
def dynamic_levels() -> Tensor:
    """(256,), from −0.993 to 1: for each power of ten from 10⁻⁶ to 1, twice as many levels as for the one below; 0 and 1."""
    levels = [torch.tensor([0.0, 1.0])]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        levels += [middles, -middles]
    return torch.cat(levels).sort().values


@dataclass(frozen=True)
class NF4:
    """A format. double: quantize the scales too."""

    double: bool = False

    @torch.no_grad()
    def store(self, weight: Tensor) -> "NF4Weight":
        """Raises ValueError for weights that aren't finite or whose number isn't a multiple of 64."""
        require_finite(weight)
        if weight.numel() % BLOCK:
            raise ValueError(f"{weight.numel()} weights don't divide into blocks of {BLOCK}")
        return NF4Weight(weight.float(), self.double)


class NF4Weight(Stored):
    """packed: two codes a byte, the first in its high half. scales: (blocks,) in 32 bits, or (double) in 8, with `offset` and
    `scales_of_scales`."""

    def __init__(self, weight: Tensor, double: bool):
        super().__init__()
        self.shape, self.double = weight.shape, double
        scales, codes = _nearest(weight.flatten(), nf4_levels(), BLOCK)
        self.register_buffer("packed", codes[::2] << 4 | codes[1::2])
        if double:
            self.register_buffer("offset", scales.mean())
            self.register_buffer("scales_of_scales", None)
            self.scales_of_scales, scales = _nearest(scales - self.offset, dynamic_levels(), BLOCK_OF_SCALES)
        self.register_buffer("scales", scales)

    def block_scales(self) -> Tensor:
        """(blocks,): the largest size in each block, as far as it is kept."""
        if not self.double:
            return self.scales
        return _numbers(self.scales, self.scales_of_scales, dynamic_levels(), BLOCK_OF_SCALES) + self.offset

    def codes(self) -> Tensor:
        """All codes in a row, 0 to 15."""
        return torch.stack([self.packed >> 4, self.packed & 15], dim=1).flatten()

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return _numbers(self.codes(), self.block_scales(), nf4_levels(), BLOCK).view(self.shape).to(dtype)


def _nearest(x: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Scales (blocks,) and, for each number divided by its block's scale, the nearest level's place."""
    blocks = torch.nn.functional.pad(x, (0, -len(x) % block)).view(-1, block)
    scales = blocks.abs().amax(dim=1)
    relative = (blocks * (1 / scales.clamp(min=1e-38)).unsqueeze(1)).flatten()[: len(x)].clamp(-1, 1)
    levels = levels.to(x.device)
    return scales, torch.bucketize(relative, (levels[:-1] + levels[1:]) / 2).to(torch.uint8)


def _numbers(codes: Tensor, scales: Tensor, levels: Tensor, block: int) -> Tensor:
    relative = levels.to(codes.device)[codes.int()]
    return relative * scales.repeat_interleave(block)[: len(codes)]
