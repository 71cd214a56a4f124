"""Packing codes of a few bits into bytes without gaps: eight codes of 3 bits fill three bytes."""

import torch
from torch import Tensor

from course_lib.model.checks import plain
from course_lib.quantize.checks import require_codes, require_packed


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack codes from 0 to 2**bits − 1, of any shape, into a row of bytes, (⌈codes · bits / 8⌉,) of uint8.

    The first code is in the lowest bits of the first byte. Unused bits of the last byte are 0.

    >>> pack_bits(torch.tensor([1, 2, 3, 0]), bits=2)
    tensor([57], dtype=torch.uint8)

    57 is 00 11 10 01 in binary: read from the right, 1, 2, 3, 0.

    Raises ValueError for bits that aren't a whole number from 1 to 8, and for codes that don't fit into them;
    TypeError for codes that are no tensor.
    """
    bits = plain(bits)
    require_codes(codes, bits)
    codes = codes.flatten().to(torch.uint8)
    if bits == 8:
        return codes
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    single = codes.unsqueeze(1) >> shifts[:bits] & 1  # (codes, bits)
    single = torch.nn.functional.pad(single.flatten(), (0, -single.numel() % 8)).view(-1, 8)  # (bytes, 8)
    return (single << shifts).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes that `pack_bits` packed, (count,) of uint8.

    >>> unpack_bits(torch.tensor([57], dtype=torch.uint8), bits=2, count=4)
    tensor([1, 2, 3, 0], dtype=torch.uint8)

    Raises ValueError where the bytes hold fewer codes, TypeError where they are no tensor.
    """
    bits, count = plain(bits), plain(count)
    require_packed(packed, bits, count)
    if bits == 8:
        return packed[:count]
    if bits in (2, 4):  # a shortcut: no code spans two bytes
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return (packed.unsqueeze(1) >> shifts & (2**bits - 1)).flatten()[:count]
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    single = (packed.unsqueeze(1) >> shifts & 1).flatten()[: count * bits].view(count, bits)  # (codes, bits)
    return (single << shifts[:bits]).sum(dim=1, dtype=torch.uint8)
