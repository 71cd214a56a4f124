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

from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.model.config import ModelConfig


class Place(NamedTuple):
    """What attention must know about a run, the same in every layer.

    rotary: the arguments after `x` of `rotate`. mask: which scores count, or numbers added to them (`attend`).
    """

    rotary: tuple | None = None
    mask: Tensor | None = None


class Positions(nn.Module):
    """The kind of positions that the configuration names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        if config.positions == "learned":
            self.table = nn.Parameter(torch.randn(config.context, config.d_model) * config.d_model**-0.5)

    def add(self, x: Tensor, start: int) -> Tensor:
        """Embeddings (batch, time, d_model) of the tokens from position `start` on, with what is added to them."""
        time = x.shape[1]
        match self.config.positions:
            case "learned":
                return x + self.table[start : start + time]
            case "sinusoidal":
                return x + sinusoidal_table(start, time, self.config.d_model, like=x)
            case _:
                return x

    def place(self, start: int, time: int, like: Tensor) -> Place:
        """What each layer needs for `time` tokens from position `start` on that look at themselves and those before."""
        match self.config.positions:
            case "rope":
                return Place(
                    (
                        *rotary_tables(start, time, self.config.d_head, self.config.rope_base, like),
                        "half-split",
                    )
                )
            case "rope-interleaved":
                return Place(
                    (
                        *rotary_tables(start, time, self.config.d_head, self.config.rope_base, like),
                        "interleaved",
                    )
                )
            case "alibi":
                return Place(mask=alibi_bias(self.config.n_heads, time, start + time, like))
            case _:
                return Place()


def sinusoidal_table(start: int, time: int, d_model: int, like: Tensor) -> Tensor:
    """Positions start … start + time − 1 as (time, d_model): channels 2i and 2i + 1 are sine and cosine of
    position / 10000^(2i / d_model). One channel more of sines than of cosines where d_model is odd."""
    channels = torch.arange(0, d_model, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(start, start + time, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, 10_000 ** (-channels / d_model))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :d_model].to(like.dtype)


def rotary_tables(start: int, time: int, d_head: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions start … start + time − 1, each (time, d_head / 2), in the dtype of `like`.

    Pair i of a head turns by base^(−2i / d_head) radians a position: the first pair fastest. The angles are computed in
    32 bits whatever the model's precision: in bfloat16, position 257 would be rounded to 256.
    """
    pairs = torch.arange(0, d_head, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(start, start + time, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, base ** (-pairs / d_head))
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
