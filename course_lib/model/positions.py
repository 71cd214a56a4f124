"""Telling a model where each token stands.

RoPE, rotary position embedding (Su et al. 2021, section 3.2): queries and keys are turned by an angle that grows with the
position, so that their dot product depends on how far apart two tokens are, not on where they stand.
"""

import torch
from torch import Tensor


def rotary_tables(start: int, time: int, d_head: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions start … start + time − 1, each (time, d_head / 2), in the dtype of `like`.

    Pair i of a head turns by base^(−2i / d_head) radians a position: the first pair fastest. The angles are computed in
    32 bits whatever the model's precision: in bfloat16, position 257 would be rounded to 256.
    """
    pairs = torch.arange(0, d_head, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(start, start + time, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, base ** (-pairs / d_head))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d_head/2}) of (batch, heads, time, d_head) by its angle.

    The two halves of a head are the two coordinates (the layout of Llama's published weights, "half-split"); the paper pairs
    neighbours instead, which is the same model with its channels in another order.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
