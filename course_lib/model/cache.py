"""What was read need not be read again.

In a causal model the keys and values of a token never change once computed: no later token is seen by it. Kept, each new
token costs one position of work; without them, every token would be read again for each one that is written.

Rows of a batch may have different lengths. Each row's tokens stand at its own positions from 0 on, whatever the others do, so no
row is ever padded on the left; what is read beyond a row's real tokens (`counts`) isn't kept.

Not handled: forgetting what a sliding window doesn't see any more; pages (`kernels.paged_attention`).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What a model asks of a cache. lengths: how many tokens of each row it holds."""

    lengths: list[int]

    def check(self, layers: int, kv_heads: int, d_head: int, batch: int, dtype: torch.dtype) -> None:
        """Raise ValueError unless the cache was made for such a model and so many sequences."""

    def update(
        self, layer: int, keys: Tensor, values: Tensor, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (batch, kv_heads, time, d_head); return all so far. counts: how many of each row's."""

    def advance(self, time: int, counts: Sequence[int] | None = None) -> None:
        """Count `time` more tokens of each row as read, or as many as `counts` says."""


class KVCache:
    """Keys and values of up to `capacity` tokens a row, laid out once: nothing is copied or grown while writing.

    keys, values: (layers, batch, kv_heads, capacity, d_head). lengths: how many positions of each row are filled. Each layer in
    turn calls `update`; the model calls `advance` at the end, so a run that fails midway leaves the lengths as they were.
    `Decoder.new_cache` makes one that fits a model.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        d_head: int,
        capacity: int,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if capacity < 1 or batch < 1:
            raise ValueError(f"a cache holds at least 1 token of 1 row, not {capacity} of {batch}")
        shape = (layers, batch, kv_heads, capacity, d_head)
        # Zeros, so that positions which nobody has filled, and nobody sees, hold numbers.
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.capacity, self.lengths, self._plan = capacity, [0] * batch, None

    @property
    def length(self) -> int:
        """Positions filled, in the longest row."""
        return max(self.lengths)

    @property
    def bytes(self) -> int:
        """Memory held, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    def check(self, layers: int, kv_heads: int, d_head: int, batch: int, dtype: torch.dtype) -> None:
        """Raise ValueError unless the cache was made for such a model and so many sequences."""
        of_layers, for_batch, heads, _, width = self.keys.shape
        made_for = (of_layers, for_batch, heads, width, self.keys.dtype)
        asked_for = (layers, batch, kv_heads, d_head, dtype)
        if made_for != asked_for:
            raise ValueError(
                f"this cache is for (layers, batch, kv_heads, d_head, dtype) = {made_for} and not for {asked_for}: "
                "make one with the model's new_cache, and the batch's size"
            )

    def update(
        self, layer: int, keys: Tensor, values: Tensor, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Store this layer's new keys and values, (batch, kv_heads, time, d_head); return all of them so far, (batch, kv_heads,
        tokens of the longest row, d_head).

        counts: how many of each row are real, the first ones; all of them unless told otherwise. Raises ValueError when they are
        more than there is room for.
        """
        ends = self._ends(keys.shape[2], counts)
        if (end := max(ends)) > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} tokens and {end} were asked of it; make it larger"
            )
        if counts is None and len(set(ends)) == 1:
            self.keys[layer, :, :, self.lengths[0] : end] = keys
            self.values[layer, :, :, self.lengths[0] : end] = values
        else:
            rows, places, columns = self._where(ends)
            self.keys[layer][rows, :, places] = keys[rows, :, columns]
            self.values[layer][rows, :, places] = values[rows, :, columns]
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, time: int, counts: Sequence[int] | None = None) -> None:
        """Count `time` more positions of each row as filled, or as many as `counts` says."""
        self.lengths = self._ends(time, counts)

    def _ends(self, time: int, counts: Sequence[int] | None) -> list[int]:
        """How long each row will be."""
        if counts is None:
            return [length + time for length in self.lengths]
        return [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def _where(self, ends: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Row, place in the cache, and place in this run, of each new token: the same for every layer, so worked out once."""
        if (self._plan or (None,))[0] != (self.lengths, ends):
            runs = [torch.arange(end - start) for start, end in zip(self.lengths, ends, strict=True)]
            rows = torch.arange(len(runs)).repeat_interleave(torch.tensor(list(map(len, runs))))
            columns = torch.cat(runs)
            places = columns + torch.tensor(self.lengths)[rows]
            device = self.keys.device
            self._plan = (list(self.lengths), ends), (rows.to(device), places.to(device), columns.to(device))
        return self._plan[1]

    def rewind(self, lengths: int | Sequence[int]) -> None:
        """Forget what each row holds beyond a length, the same for all or one for each.

        Raises ValueError, changing nothing, for a length below 0 or beyond what is there.
        """
        wanted = [lengths] * len(self.lengths) if isinstance(lengths, int) else list(lengths)
        if len(wanted) != len(self.lengths) or not all(
            0 <= new <= old for new, old in zip(wanted, self.lengths, strict=True)
        ):
            raise ValueError(
                f"rows of {self.lengths} tokens can't be rewound to {lengths}: from 0 to what is there, for each row"
            )
        self.lengths = wanted

    def reset(self) -> None:
        """Forget everything, and keep the memory."""
        self.rewind(0)

    def copy(self) -> "KVCache":
        """Another cache with the same contents."""
        return self.rows(range(len(self.lengths)))

    def rows(self, chosen: Sequence[int], capacity: int | None = None) -> "KVCache":
        """Another cache that holds a copy of the chosen rows, each as often as it is named. capacity: of the new one, the same unless
        told otherwise. Raises ValueError for a row that isn't there, and a capacity too small for what they hold."""
        chosen, capacity = list(chosen), self.capacity if capacity is None else capacity
        if not chosen or not all(0 <= row < len(self.lengths) for row in chosen):
            raise ValueError(
                f"there are rows 0 to {len(self.lengths) - 1}, and at least one must be chosen; not {chosen}"
            )
        lengths = [self.lengths[row] for row in chosen]
        if capacity < max(lengths):
            raise ValueError(f"a capacity of {capacity} doesn't hold rows of up to {max(lengths)} tokens")
        layers, _, kv_heads, _, d_head = self.keys.shape
        new = KVCache(layers, kv_heads, d_head, capacity, len(chosen), self.keys.dtype, self.keys.device)
        filled = max(lengths)
        new.keys[:, :, :, :filled] = self.keys[:, chosen, :, :filled]
        new.values[:, :, :, :filled] = self.values[:, chosen, :, :filled]
        new.lengths = lengths
        return new
