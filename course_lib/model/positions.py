"""Telling a model where each token stands. Without it, attention sees a bag of words.

    None of it   a causal model can still count how many tokens a token sees (Haviv et al. 2022)
    Sinusoidal   fixed waves, added to the embeddings (Vaswani et al. 2017, section 3.5)
    Learned      a table of trained vectors, added to the embeddings (Gehring et al. 2017, section 3.1)
    RoPE         queries and keys are turned by an angle that grows with the position, so that their dot product depends on
                 how far apart two tokens are, not on where they stand (Su et al. 2021, section 3.2)
    ALiBi        scores fall with the distance, in each head by another slope (Press et al. 2022, section 3)

Sinusoidal and learned positions act once, where tokens become vectors (`Positions.add`); RoPE and ALiBi in every layer
(`Positions.place`).

Not handled: rotating only part of a head, scaling the angles for longer contexts, T5's buckets of distances.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.model.config import ModelConfig

# How rotary positions pair the channels of a head (`rotate`).
LAYOUTS = {"rope": "half-split", "rope-interleaved": "interleaved"}


class Place(NamedTuple):
    """What attention must know about a run, the same in every layer.

    rotary: the arguments after `x` of `rotate`. mask: which scores count, or numbers added to them (`attend`). near: only where rows
    have positions of their own: the mask for layers with a sliding window. Both then hide what comes later, too.
    """

    rotary: tuple | None = None
    mask: Tensor | None = None
    near: Tensor | None = None


class Positions(nn.Module):
    """The kind of positions that the configuration names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        if config.positions == "learned":
            self.table = nn.Parameter(torch.randn(config.context, config.d_model) * config.d_model**-0.5)

    def add(self, x: Tensor, start: int | Tensor) -> Tensor:
        """Embeddings (batch, time, d_model) of the tokens from position `start` on, with what is added to them. start: of all rows,
        or of each, (batch,)."""
        time = x.shape[1]
        match self.config.positions:
            case "learned":  # (what stands behind a row's end, as padding, may lie beyond the table)
                return x + self.table[positions_from(start, time, x.device).clamp(max=len(self.table) - 1)]
            case "sinusoidal":
                return x + sinusoidal_table(start, time, self.config.d_model, like=x)
            case _:
                return x

    def place(self, start: int | Tensor, time: int, like: Tensor, keys: int | None = None) -> Place:
        """What each layer needs for `time` tokens from position `start` on that look at themselves and those before. start: of all
        rows, or of each, (batch,). keys: how many there are to look at, start + time unless told otherwise."""
        config, rotary = self.config, None
        if config.positions in LAYOUTS:
            tables = rotary_tables(start, time, config.d_head, config.rope_base, like)
            rotary = (
                *(table if table.dim() == 2 else table.unsqueeze(1) for table in tables),
                LAYOUTS[config.positions],
            )
        if isinstance(start, Tensor):
            return Place(rotary, *self._masks_of_rows(start, time, like, keys or int(start.max()) + time))
        alibi = config.positions == "alibi"
        return Place(rotary, alibi_bias(config.n_heads, time, start + time, like) if alibi else None)

    def _masks_of_rows(self, start: Tensor, time: int, like: Tensor, keys: int) -> tuple[Tensor, Tensor]:
        """(batch, 1 or heads, time, keys): what each token of rows of different lengths sees, and sees within the window."""
        here = positions_from(start, time, like.device)[:, None, :, None]
        keys = torch.arange(keys, device=like.device)
        window = self.config.window or len(keys)
        seen, near = keys <= here, (keys <= here) & (keys > here - window)
        if self.config.positions != "alibi":
            return seen, near
        bias = -alibi_slopes(self.config.n_heads).to(like.device)[:, None, None] * (here - keys).abs()
        return tuple(bias.to(like.dtype).masked_fill(~mask, -math.inf) for mask in (seen, near))


def positions_from(start: int | Tensor, time: int, device: torch.device) -> Tensor:
    """start … start + time − 1, (time,); where each row has its own start (batch,), (batch, time)."""
    steps = torch.arange(time, device=device)
    return start + steps if isinstance(start, int) else start.to(device)[:, None] + steps


def sinusoidal_table(start: int | Tensor, time: int, d_model: int, like: Tensor) -> Tensor:
    """Positions start … start + time − 1 as (time, d_model): channels 2i and 2i + 1 are sine and cosine of
    position / 10000^(2i / d_model). One channel more of sines than of cosines where d_model is odd. With a start for each row, (batch,):
    (batch, time, d_model)."""
    channels = torch.arange(0, d_model, 2, device=like.device, dtype=torch.float32)
    angles = positions_from(start, time, like.device).float()[..., None] * 10_000 ** (-channels / d_model)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :d_model].to(like.dtype)


def rotary_tables(
    start: int | Tensor, time: int, d_head: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions start … start + time − 1, each (time, d_head / 2), in the dtype of `like`. With a start for each
    row, (batch,): (batch, time, d_head / 2).

    Pair i of a head turns by base^(−2i / d_head) radians a position: the first pair fastest. The angles are computed in
    32 bits whatever the model's precision: in bfloat16, position 257 would be rounded to 256.
    """
    pairs = torch.arange(0, d_head, 2, device=like.device, dtype=torch.float32)
    angles = positions_from(start, time, like.device).float()[..., None] * base ** (-pairs / d_head)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half-split") -> Tensor:
    """Turn each pair of coordinates of (batch, heads, time, d_head) by its angle.

    layout: which coordinates are a pair. "interleaved", the paper's: neighbours, (x_2i, x_2i+1). "half-split", that of
    Llama's weights as transformers stores them: (x_i, x_{i + d_head/2}), the same model with its channels in another order.
    """
    if layout == "interleaved":
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def alibi_slopes(n_heads: int) -> Tensor:
    """(n_heads,), a geometric sequence from 2^(−8 / n_heads) down to 2^−8. Where n_heads is no power of two, the slopes
    of the next smaller power, then every other one of the next larger, as the paper's own code has it.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return torch.tensor((slopes + between)[:n_heads])


def alibi_bias(n_heads: int, queries: int, keys: int, like: Tensor) -> Tensor:
    """(n_heads, queries, keys): minus slope times distance, to be added to the scores. The queries are the last of the
    keys. The paper has causal models only; here keys behind a query count by their distance too."""
    here = torch.arange(keys - queries, keys, device=like.device)
    distance = (here[:, None] - torch.arange(keys, device=like.device)).abs()
    return (-alibi_slopes(n_heads).to(like.device)[:, None, None] * distance).to(like.dtype)
