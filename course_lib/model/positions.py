"""Positions: how a model is told where each token stands. Without it, attention sees a bag of words.

    none         nothing; a causal model can still count how many tokens a token sees (Haviv et al. 2022)
    sinusoidal   fixed waves, added to the embeddings (Vaswani et al. 2017, section 3.5)
    learned      a table of trained vectors, added to the embeddings (Gehring et al. 2017, section 3.1)
    rope         queries and keys are rotated by an angle that grows with the position, so that their dot
                 product depends on how far apart two tokens are, not on where they stand (Su et al. 2021,
                 section 3.2)
    alibi        scores fall with the distance, in each head by another slope (Press et al. 2022, section 3)

Sinusoidal and learned positions are used once, where tokens become vectors (`Positions.add`); RoPE
(`Positions.rotary`) and ALiBi (`Positions.masks`) in every layer.

In a batch whose rows have different lengths, each row's new tokens start at a position of its own. `start` is
therefore an int, the same for all rows, or a tensor (batch,).

Not handled: rotating only part of a head, scaling the angles for longer contexts, T5's buckets of distances.
"""

import math

import torch
from torch import Tensor, nn

from course_lib.model.checks import require, require_kind, require_size, require_table
from course_lib.model.config import ModelConfig

# Which channels of a head rotary positions pair (`rotate`).
LAYOUTS = {"rope": "half-split", "rope-interleaved": "interleaved"}

LAST_POSITION = 2**24  # numbers of 32 bits count no further without gaps

Rotary = tuple[Tensor, Tensor, str]  # cosines, sines and layout: the arguments of `rotate` after x


class Positions(nn.Module):
    """The kind of positions that the configuration names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        if config.positions == "learned":
            self.table = nn.Parameter(torch.randn(config.context, config.d_model) * config.d_model**-0.5)

    def add(self, x: Tensor, start: int | Tensor) -> Tensor:
        """Return x with the vectors of positions start, start + 1, … added, if this kind has vectors.

        x: embeddings, (batch, time, d_model).
        """
        time = x.shape[1]
        match self.config.positions:
            case "learned":  # padding at the end of a row may lie beyond the table
                return x + self.table[positions_from(start, time, x.device).clamp(max=len(self.table) - 1)]
            case "sinusoidal":
                return x + sinusoidal_table(start, time, self.config.d_model, like=x)
            case _:
                return x

    def rotary(self, start: int | Tensor, time: int, like: Tensor) -> Rotary | None:
        """Return what `rotate` takes for `time` tokens from position `start` on; None without RoPE.

        The tables are (time, d_head / 2), or (batch, 1, time, d_head / 2) where each row has its own start.
        """
        if self.config.positions not in LAYOUTS:
            return None
        cos, sin = rotary_tables(start, time, self.config.d_head, self.config.rope_base, like)
        if isinstance(start, Tensor):
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # the same for all heads of a row
        return cos, sin, LAYOUTS[self.config.positions]

    def masks(
        self,
        start: int | Tensor,
        time: int,
        n_keys: int,
        like: Tensor,
        causal: bool = True,
        real: Tensor | None = None,
    ) -> dict[int | None, Tensor | None]:
        """Return the masks of attention between queries start … start + time − 1 and keys 0 … n_keys − 1.

        One for each window that a layer can have: window (`ModelConfig.window_of`) → mask, which broadcasts
        to (batch, heads, time, keys). A mask is complete: it also hides later tokens (causal), those before
        the window, and padding (real: (batch, keys), false at padding). It is None where `causal` and
        `window` alone say which keys count. Every query attends to something, padding too: nan in its states
        would spread.
        """
        windows = {None, self.config.attention.window}
        if isinstance(start, int) and self.config.positions != "alibi" and real is None:
            return dict.fromkeys(windows)
        # (time,) or (batch, time); padding at the end of a row counts as the last position
        queries = positions_from(start, time, like.device).clamp(max=n_keys - 1)
        distance = queries[..., None] - torch.arange(n_keys, device=like.device)  # (…, time, keys)
        distance = distance.view(-1, 1, time, n_keys)  # (1 or batch, 1, time, keys)
        return {window: self._mask(distance, window, like, causal, real) for window in windows}

    def _mask(
        self, distance: Tensor, window: int | None, like: Tensor, causal: bool, real: Tensor | None
    ) -> Tensor:
        """Return the mask for one window. distance: from each key to each query, (…, time, keys)."""
        allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        if window is not None:
            allowed = allowed & (distance < window)
        if real is not None:
            seen = real[:, None, None, :]
            allowed = allowed & (seen | (distance == 0) if causal else seen)
        if self.config.positions != "alibi":
            return allowed
        bias = _bias_of_distance(self.config.n_heads, distance, like)  # (…, heads, time, keys)
        return bias.masked_fill(~allowed, -math.inf)


def positions_from(start: int | Tensor, time: int, device: torch.device) -> Tensor:
    """Return start … start + time − 1, (time,); with a start for each row, (batch,): (batch, time)."""
    steps = torch.arange(time, device=device)
    return start.to(device)[:, None] + steps if isinstance(start, Tensor) else steps + start


def _check_positions(
    start: int | Tensor, time: int, width: int, like: Tensor
) -> tuple[int | Tensor, int, int]:
    """Return start, time and width, as Python's own ints.

    Raises ValueError for positions that can't be, a table too large, and a `like` that isn't fractions.
    """
    time, width = require_size("the number of positions", time), require_size("the width", width)
    require_table(time, width)
    if isinstance(start, Tensor):
        whole = start.dtype in (torch.int64, torch.int32) and start.dim() == 1 and len(start) > 0
        require(whole, f"a start for each row is int64 (batch,), not {start.dtype} {tuple(start.shape)}")
        first, last = start.aminmax() if start.device.type == "cpu" else (0, 0)  # (a GPU would have to wait)
    else:
        first = last = start = require_size("start", start, least=0)
    require(
        0 <= first and last <= LAST_POSITION - time,
        f"positions run from 0 to {LAST_POSITION}, not from {first} to {last} + {time}",
    )
    require(like.is_floating_point(), f"`like` gives the dtype of fractions, not {like.dtype}")
    return start, time, width


def sinusoidal_table(start: int | Tensor, time: int, d_model: int, like: Tensor) -> Tensor:
    """Return the vectors of positions start … start + time − 1, (time, d_model).

    Channels 2i and 2i + 1 are sine and cosine of position / 10000^(2i / d_model). Where d_model is odd, there
    is one more sine than cosines. With a start for each row, (batch,): (batch, time, d_model). Raises
    ValueError for positions or sizes that can't be.
    """
    start, time, d_model = _check_positions(start, time, d_model, like)
    channels = torch.arange(0, d_model, 2, device=like.device, dtype=torch.float32)
    positions = positions_from(start, time, like.device).float()[..., None]  # (…, time, 1)
    angles = positions * 10_000 ** (-channels / d_model)  # (…, time, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :d_model].to(like.dtype)


def rotary_tables(
    start: int | Tensor, time: int, d_head: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles, (time, d_head / 2) each, in the dtype of `like`.

    The positions are start … start + time − 1.

    Pair i of a head rotates by base^(−2i / d_head) radians a position: the first pair fastest. The angles are
    computed in 32 bits whatever the model's precision: in bfloat16, position 257 would be rounded to 256.
    With a start for each row, (batch,): (batch, time, d_head / 2). Raises ValueError for positions or sizes
    that can't be, and an odd d_head.
    """
    start, time, d_head = _check_positions(start, time, d_head, like)
    require(d_head % 2 == 0, f"a head is rotated in pairs of channels, so d_head is even; not {d_head}")
    require_kind("base", base, float)
    require(base > 0, f"the base of the angles must be above 0, not {base}")
    pairs = torch.arange(0, d_head, 2, device=like.device, dtype=torch.float32)
    positions = positions_from(start, time, like.device).float()[..., None]  # (…, time, 1)
    angles = positions * base ** (-pairs / d_head)  # (…, time, d_head / 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _check_tables(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> None:
    """Raise ValueError for a layout that doesn't exist, and tables that don't fit x."""
    if layout not in LAYOUTS.values():
        raise ValueError(f"the layout is half-split or interleaved, not {layout!r}")
    fractions = x.is_floating_point() and cos.is_floating_point() and sin.is_floating_point()
    fit = cos.shape == sin.shape and cos.shape[-2:] == (*x.shape[-2:-1], x.shape[-1] / 2)
    if not (fit and cos.shape[:-2] in ((), (1, 1), (x.shape[0], 1)) and fractions):
        raise ValueError(
            "x is (batch, heads, time, d_head), cos and sin are (time, d_head / 2) or (batch, 1, time, "
            f"d_head / 2), all of them fractions; not {tuple(x.shape)} of {x.dtype}, {tuple(cos.shape)} of "
            f"{cos.dtype} and {tuple(sin.shape)} of {sin.dtype}"
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half-split") -> Tensor:
    """Rotate each pair of channels of x, (batch, heads, time, d_head), by its angle.

    cos, sin: as `rotary_tables` returns them. layout: which channels are a pair. "interleaved", the paper's:
    neighbours, (x_2i, x_2i+1). "half-split", as transformers stores Llama's weights: (x_i, x_{i + d_head/2}),
    the same model with its channels in another order. Raises ValueError for another layout, and for tables
    that don't fit x.
    """
    _check_tables(x, cos, sin, layout)
    if layout == "interleaved":
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def alibi_slopes(n_heads: int) -> Tensor:
    """Return the slope of each head, (n_heads,): a geometric sequence from 2^(−8 / n_heads) down to 2^−8.

    Where n_heads is no power of two, these are the slopes of the next smaller power, then every other one of
    the next larger, as in the paper's own code.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]

    Raises ValueError for a number of heads that can't be.
    """
    n_heads = require_size("n_heads", n_heads)
    power = 2 ** (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return torch.tensor((slopes + between)[:n_heads])


def alibi_bias(n_heads: int, queries: int, keys: int, like: Tensor) -> Tensor:
    """Return minus slope times distance, (n_heads, queries, keys), to be added to the scores.

    The queries are the last of the keys. The paper has causal models only; here keys after a query count by
    their distance too. Raises ValueError for sizes that can't be, and more queries than keys.
    """
    queries = require_size("queries", queries)
    _, keys, n_heads = _check_positions(0, keys, n_heads, like)
    require(queries <= keys, f"the queries are the last of the keys: {queries} can't be among {keys}")
    require_table(n_heads, queries, keys)
    positions = torch.arange(keys - queries, keys, device=like.device)
    return _bias_of_distance(n_heads, positions[:, None] - torch.arange(keys, device=like.device), like)


def _bias_of_distance(n_heads: int, distance: Tensor, like: Tensor) -> Tensor:
    """Return minus slope times distance, (…, 1 or none, query, key) → (…, heads, query, key)."""
    return (-alibi_slopes(n_heads).to(like.device)[:, None, None] * distance.abs()).to(like.dtype)
