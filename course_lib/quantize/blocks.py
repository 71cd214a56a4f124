"""Blocks of 32 weights, as the files of llama.cpp hold them (GGUF; `ggml-quants.c`).

    Q8_0   34 bytes   scale (16 bits), 32 codes of 8 bits                      weight = scale · code
    Q4_0   18 bytes   scale (16 bits), 32 codes of 4 bits                      weight = scale · (code − 8)
    Q4_1   20 bytes   scale and minimum (16 bits each), 32 codes of 4 bits     weight = scale · code + minimum

In four bits, byte i holds weight i in its low half and weight i + 16 in its high half. So a weight takes 8.5, 4.5 and 5 bits.
Bit for bit what llama.cpp's own `gguf` package makes of the same weights. Not handled: the newer "K" formats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.quantize.layers import Stored, require_finite

SIZE = 32


@dataclass(frozen=True)
class BlockFormat:
    """encode: (blocks, 32) numbers → (blocks, bytes) of uint8; decode: back. affine: (blocks, bytes) → codes (blocks, 32), scale
    and minimum (blocks, 1) such that weight = scale · code + minimum; None for codes of more than 4 bits."""

    name: str
    bytes: int
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    affine: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None

    @torch.no_grad()
    def store(self, weight: Tensor) -> "BlockWeight":
        """Raises ValueError for weights that aren't finite, are too large for 16-bit scales, or rows that aren't whole blocks."""
        require_finite(weight)
        if weight.shape[1] % SIZE:
            raise ValueError(f"rows of {weight.shape[1]} weights don't divide into blocks of {SIZE}")
        raw = self.encode(weight.float().reshape(-1, SIZE)).view(len(weight), -1)
        stored = BlockWeight(self, raw)
        if not stored.weight().isfinite().all():
            raise ValueError("the weights are too large for scales of 16 bits (above 65,504)")
        return stored


class BlockWeight(Stored):
    """raw: (rows, bytes of a row), as in the file."""

    def __init__(self, format: BlockFormat, raw: Tensor):
        super().__init__()
        self.format = format
        self.shape = torch.Size((len(raw), raw.shape[1] // format.bytes * SIZE))
        self.register_buffer("raw", raw)

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.format.decode(self.raw.view(-1, self.format.bytes)).view(self.shape).to(dtype)

    def affine(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (rows, columns) from 0 to 15; scale and minimum (rows, blocks of a row). weight = scale · code + minimum."""
        parts = self.format.affine(self.raw.view(-1, self.format.bytes))
        return tuple(part.reshape(len(self.raw), -1) for part in parts)


def encode_q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    codes = _round_half_away(x * _inverse(scale))
    return torch.cat([_bytes(scale), codes.to(torch.int8).view(torch.uint8)], dim=1)


def decode_q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float().mul_(_number(raw, 0))


def encode_q4_0(x: Tensor) -> Tensor:
    """The weight of largest size gets code 0, so its end of the grid is exact and the other reaches only 7/8 as far."""
    farthest = x.gather(1, x.abs().argmax(dim=1, keepdim=True))
    scale = farthest / -8
    codes = (x * _inverse(scale) + 8.5).trunc().clamp(0, 15)
    return torch.cat([_bytes(scale), _nibbles(codes)], dim=1)


def decode_q4_0(raw: Tensor) -> Tensor:
    return _halves(raw[:, 2:]).sub_(8).mul_(_number(raw, 0))


def affine_q4_0(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = _number(raw, 0)
    return _halves(raw[:, 2:]), scale, -8 * scale


def encode_q4_1(x: Tensor) -> Tensor:
    minimum, largest = x.aminmax(dim=1, keepdim=True)
    scale = (largest - minimum) / 15
    codes = ((x - minimum) * _inverse(scale) + 0.5).trunc().clamp(0, 15)
    return torch.cat([_bytes(scale), _bytes(minimum), _nibbles(codes)], dim=1)


def decode_q4_1(raw: Tensor) -> Tensor:
    codes, scale, minimum = affine_q4_1(raw)
    return codes.mul_(scale).add_(minimum)


def affine_q4_1(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _halves(raw[:, 4:]), _number(raw, 0), _number(raw, 2)


def _number(raw: Tensor, at: int) -> Tensor:
    """The 16-bit number at a byte of each block, (blocks, 1) in 32 bits."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def _bytes(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def _halves(nibbles: Tensor) -> Tensor:
    """(blocks, 16) bytes → (blocks, 32) numbers from 0 to 15."""
    codes = torch.empty(len(nibbles), SIZE, device=nibbles.device)
    codes[:, :16], codes[:, 16:] = nibbles & 15, nibbles >> 4
    return codes


def _nibbles(codes: Tensor) -> Tensor:
    codes = codes.to(torch.uint8)
    return codes[:, :16] | codes[:, 16:] << 4


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _round_half_away(x: Tensor) -> Tensor:
    """2.5 → 3, as C rounds; `torch.round` would give 2."""
    whole = x.abs().floor()
    return x.sign() * (whole + (2 * (x.abs() - whole)).floor())


Q8_0 = BlockFormat("Q8_0", 34, encode_q8_0, decode_q8_0)
Q4_0 = BlockFormat("Q4_0", 18, encode_q4_0, decode_q4_0, affine_q4_0)
Q4_1 = BlockFormat("Q4_1", 20, encode_q4_1, decode_q4_1, affine_q4_1)
