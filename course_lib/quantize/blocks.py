"""The block formats of llama.cpp's GGUF files (`ggml-quants.c`): 32 weights of a row share a scale.

    Q8_0   34 bytes   scale (16 bits), 32 codes of 8 bits                      weight = scale · code
    Q4_0   18 bytes   scale (16 bits), 32 codes of 4 bits                      weight = scale · (code − 8)
    Q4_1   20 bytes   scale and minimum (16 bits each), 32 codes of 4 bits     weight = scale · code + minimum

So a weight takes 8.5, 4.5 or 5 bits. In the 4-bit formats, byte i of the codes holds weight i in its low half
and weight i+16 in its high half. The bytes are the same as those that llama.cpp's own `gguf` package makes of
the same weights. For this, the codes are computed as llama.cpp does: by multiplying by 1 / scale instead of
dividing, and in 4 bits by adding one half and truncating instead of rounding. One thing differs: llama.cpp
turns a matrix of very small weights (below about 4e-6 in Q8_0) into zeros, because 16 bits can't hold its
scales. `store` refuses it.

Not handled: the newer "K" formats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.model.checks import require
from course_lib.quantize.checks import require_finite_matrix, require_scales
from course_lib.quantize.layers import Stored

BLOCK_SIZE = 32


@dataclass(frozen=True)
class BlockFormat:
    """A block format, as its functions on blocks."""

    name: str
    bytes: int  # of a block
    encode: Callable[[Tensor], Tensor]  # weights (blocks, 32) → (blocks, bytes) of uint8
    decode: Callable[[Tensor], Tensor]  # (blocks, bytes) → weights (blocks, 32)
    # (blocks, bytes) → codes (blocks, 32), scale and minimum (blocks, 1): weight = scale · code + minimum.
    # None for codes of more than 4 bits.
    int4_parts: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None

    @torch.no_grad()
    def store(self, weight: Tensor) -> "BlockWeight":
        """Return the weight (rows, columns), rounded, as bytes.

        Raises ValueError for weights that aren't finite, or are too large or too small for 16-bit scales, and
        for rows that don't divide into blocks.
        """
        require_finite_matrix(weight)
        if weight.shape[1] % BLOCK_SIZE:
            raise ValueError(f"rows of {weight.shape[1]} weights don't divide into blocks of {BLOCK_SIZE}")
        blocks = weight.float().reshape(-1, BLOCK_SIZE)  # (blocks, 32)
        raw = self.encode(blocks)  # (blocks, bytes)
        require_scales(blocks, scale=_read_half(raw, 0), minimum=self.decode(raw))
        return BlockWeight(self, raw.view(len(weight), -1))


class BlockWeight(Stored):
    """A matrix in blocks. raw: (rows, bytes of a row), as in the file.

    Raises ValueError for rows that aren't whole blocks.
    """

    def __init__(self, format: BlockFormat, raw: Tensor):
        super().__init__()
        if raw.dtype != torch.uint8 or raw.dim() != 2 or not raw.numel() or raw.shape[1] % format.bytes:
            raise ValueError(
                f"rows in {format.name} are whole blocks of {format.bytes} bytes (uint8), not "
                f"{tuple(raw.shape)} of {raw.dtype}"
            )
        self.format = format
        self.shape = torch.Size((len(raw), raw.shape[1] // format.bytes * BLOCK_SIZE))
        self.register_buffer("raw", raw.contiguous())

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.format.decode(self.raw.view(-1, self.format.bytes)).view(self.shape).to(dtype)

    def int4_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return 4-bit codes (rows, columns), and scale and minimum of each block (rows, blocks).

        Raises ValueError for a format with codes of more bits.
        """
        require(self.format.int4_parts is not None, f"{self.format.name} has no codes of 4 bits")
        parts = self.format.int4_parts(self.raw.view(-1, self.format.bytes))
        return tuple(part.reshape(len(self.raw), -1) for part in parts)


def encode_q8_0(x: Tensor) -> Tensor:
    """Absmax rounding: the weight of largest magnitude gets the code ±127."""
    scale = x.abs().amax(dim=1, keepdim=True) / 127  # (blocks, 1)
    codes = _round_half_away(x * _reciprocal(scale))  # (blocks, 32)
    return torch.cat([_half_bytes(scale), codes.to(torch.int8).view(torch.uint8)], dim=1)  # (blocks, 34)


def decode_q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float() * _read_half(raw, 0)


def encode_q4_0(x: Tensor) -> Tensor:
    """Give the weight of largest magnitude the code 0, which stands for −8 scales.

    That end of the grid is exact, and the other end reaches only 7/8 as far. The scale is negative where that
    weight is positive.
    """
    largest = x.gather(1, x.abs().argmax(dim=1, keepdim=True))  # (blocks, 1), with its sign
    scale = largest / -8
    codes = (x * _reciprocal(scale) + 8.5).trunc().clamp(0, 15)  # (blocks, 32)
    return torch.cat([_half_bytes(scale), _pack_nibbles(codes)], dim=1)  # (blocks, 18)


def decode_q4_0(raw: Tensor) -> Tensor:
    return (_unpack_nibbles(raw[:, 2:]) - 8) * _read_half(raw, 0)


def int4_parts_q4_0(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = _read_half(raw, 0)
    return _unpack_nibbles(raw[:, 2:]), scale, -8 * scale


def encode_q4_1(x: Tensor) -> Tensor:
    """Spread the 16 levels from the smallest weight of a block to its largest."""
    minimum, maximum = x.aminmax(dim=1, keepdim=True)  # (blocks, 1) each
    scale = (maximum - minimum) / 15
    codes = ((x - minimum) * _reciprocal(scale) + 0.5).trunc().clamp(0, 15)  # (blocks, 32)
    return torch.cat([_half_bytes(scale), _half_bytes(minimum), _pack_nibbles(codes)], dim=1)  # (blocks, 20)


def decode_q4_1(raw: Tensor) -> Tensor:
    codes, scale, minimum = int4_parts_q4_1(raw)
    return codes * scale + minimum


def int4_parts_q4_1(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _unpack_nibbles(raw[:, 4:]), _read_half(raw, 0), _read_half(raw, 2)


def _read_half(raw: Tensor, offset: int) -> Tensor:
    """Return the 16-bit float at a byte offset of each block, (blocks, 1) in 32 bits."""
    return raw[:, offset : offset + 2].contiguous().view(torch.float16).float()


def _half_bytes(x: Tensor) -> Tensor:
    """Return 16-bit floats as bytes, (blocks, 1) → (blocks, 2)."""
    return x.half().view(torch.uint8)


def _unpack_nibbles(packed: Tensor) -> Tensor:
    """Return two codes from 0 to 15 for each byte, (blocks, 16) of uint8 → (blocks, 32) of float32."""
    return torch.cat([packed & 15, packed >> 4], dim=1).float()


def _pack_nibbles(codes: Tensor) -> Tensor:
    """Return two codes from 0 to 15 in each byte, (blocks, 32) → (blocks, 16) of uint8."""
    codes = codes.to(torch.uint8)
    return codes[:, :16] | codes[:, 16:] << 4


def _reciprocal(scale: Tensor) -> Tensor:
    """Return 1 / scale, and 0 for a scale of 0, as llama.cpp does."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def _round_half_away(x: Tensor) -> Tensor:
    """Round halves away from zero, 2.5 → 3, as C's `roundf` does; `torch.round` would give 2."""
    whole = x.abs().floor()
    return x.sign() * (whole + (2 * (x.abs() - whole)).floor())


Q8_0 = BlockFormat("Q8_0", 34, encode_q8_0, decode_q8_0)
Q4_0 = BlockFormat("Q4_0", 18, encode_q4_0, decode_q4_0, int4_parts_q4_0)
Q4_1 = BlockFormat("Q4_1", 20, encode_q4_1, decode_q4_1, int4_parts_q4_1)
