"""Numbers of a few bits, packed into bytes without gaps: eight of 3 bits fill three bytes."""

import torch
from torch import Tensor


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers from 0 to 2**bits − 1 → bytes, the first number in the lowest bits of the first byte. Bits that are left
    over in the last byte are 0.

    >>> pack_bits(torch.tensor([1, 2, 3, 0]), bits=2)
    tensor([57], dtype=torch.uint8)

    57 is 00 11 10 01 in binary: read from the right, 1, 2, 3, 0.
    """
    codes = codes.flatten().to(torch.uint8)
    if bits == 8:
        return codes
    single = codes.unsqueeze(1) >> torch.arange(bits, dtype=torch.uint8, device=codes.device) & 1
    single = torch.nn.functional.pad(single.flatten(), (0, -single.numel() % 8)).view(-1, 8)
    return (single << torch.arange(8, dtype=torch.uint8, device=codes.device)).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers that `pack_bits` packed, (count,) of uint8.

    >>> unpack_bits(torch.tensor([57], dtype=torch.uint8), bits=2, count=4)
    tensor([1, 2, 3, 0], dtype=torch.uint8)
    """
    if bits == 8:
        return packed[:count]
    if bits in (2, 4):  # none lies across two bytes
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return (packed.unsqueeze(1) >> shifts & (2**bits - 1)).flatten()[:count]
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    single = (packed.unsqueeze(1) >> places & 1).flatten()[: count * bits].view(count, bits)
    return (single << places[:bits]).sum(dim=1, dtype=torch.uint8)
