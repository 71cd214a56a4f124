"""The KV cache: keys and values of tokens that were read, so that they need not be computed again.

In a causal model the keys and values of a token never change, since it attends to no later token. With a
cache each new token costs one position of work; without one, the whole text would be computed again for each
token that is written.

Rows of a batch may have different lengths. Each row's tokens stand at positions 0, 1, 2, … of the row, so
that no row is padded on the left; padding at the end of a row (`new_lengths`) isn't kept.

Not handled: gradients; dropping what is outside a sliding window; pages (`kernels.paged_attention`).
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from course_lib.model.checks import (
    is_whole,
    require,
    require_kind,
    require_size,
    require_table,
    whole_numbers,
)


class Cache(Protocol):
    """What a model needs of a cache. lengths: how many tokens of each row it holds."""

    lengths: list[int]

    def check(self, layers: int, kv_heads: int, d_head: int, batch: int, dtype: torch.dtype) -> None:
        """Raise ValueError unless the cache was made for such a model and so many sequences."""

    def update(
        self, layer: int, keys: Tensor, values: Tensor, new_lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, (batch, kv_heads, time, d_head), and return all so far.

        new_lengths: how many tokens of each row are real.
        """

    def advance(self, time: int, new_lengths: Sequence[int] | None = None) -> None:
        """Add `time` to the length of each row, or what `new_lengths` has for it."""


class KVCache:
    """Keys and values of up to `capacity` tokens a row, in memory that is allocated once.

    keys, values: (layers, batch, kv_heads, capacity, d_head). lengths: how many positions of each row are
    filled. In a run, each layer calls `update`, and at the end the model calls `advance`: a run that fails
    midway leaves the lengths as they were. `Decoder.new_cache` makes one that fits a model. Raises ValueError
    for sizes that can't be.
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
        sizes = {
            "layers": layers,
            "batch": batch,
            "kv_heads": kv_heads,
            "capacity": capacity,
            "d_head": d_head,
        }
        shape = tuple(require_size(f"a cache's {name}", size) for name, size in sizes.items())
        require_table(*shape)
        require_kind("a cache's dtype", dtype, torch.dtype)
        require(dtype.is_floating_point, f"a cache holds fractions, not {dtype}")
        # Zeros: positions that aren't filled are masked, and must not hold nan. Tensors that are made in
        # inference mode can only be changed there, and a cache may outlast it.
        with torch.inference_mode(False):
            self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.capacity, self.lengths = shape[3], [0] * shape[1]
        self._indices_key, self._new_indices = None, None
        self._written: dict[int, list[int]] = {}  # layer → how long each row will be, since the last advance

    @property
    def length(self) -> int:
        """How many positions of the longest row are filled."""
        return max(self.lengths)

    @property
    def bytes(self) -> int:
        """Memory allocated, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    def check(self, layers: int, kv_heads: int, d_head: int, batch: int, dtype: torch.dtype) -> None:
        """Raise ValueError unless the cache was made for such a model and so many sequences."""
        of_layers, for_batch, heads, _, width = self.keys.shape
        made_for = (of_layers, for_batch, heads, width, self.keys.dtype)
        asked_for = (layers, batch, kv_heads, d_head, dtype)
        if made_for != asked_for:
            raise ValueError(
                f"this cache is for (layers, batch, kv_heads, d_head, dtype) = {made_for} "
                f"and not for {asked_for}: make one with the model's new_cache, and the batch's size"
            )

    def update(
        self, layer: int, keys: Tensor, values: Tensor, new_lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, and return all so far.

        Returned are keys and values (batch, kv_heads, length of the longest row, d_head).

        keys, values: (batch, kv_heads, time, d_head). new_lengths: how many tokens of each row are real,
        counted from its first new one; all by default. Raises ValueError for a layer that doesn't exist, for
        another shape or dtype, and where they don't fit the capacity.
        """
        self._check_new(layer, keys, values)
        ends = self._ends(keys.shape[2], new_lengths)
        if (end := max(ends)) > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} tokens and {end} were asked of it; make it larger"
            )
        if new_lengths is None and len(set(ends)) == 1:
            self.keys[layer, :, :, self.lengths[0] : end] = keys
            self.values[layer, :, :, self.lengths[0] : end] = values
        else:
            rows, positions, columns = self._indices(ends)
            # Indexing with two tensors puts the new tokens first: (new tokens, kv_heads, d_head).
            self.keys[layer][rows, :, positions] = keys[rows, :, columns].to(self.keys.dtype)
            self.values[layer][rows, :, positions] = values[rows, :, columns].to(self.values.dtype)
        self._written[layer] = ends
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def _check_new(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Raise ValueError for a layer that doesn't exist, and keys and values that aren't for this cache."""
        layers, batch, kv_heads, _, d_head = self.keys.shape
        if not is_whole(layer, 0, layers - 1):
            raise ValueError(f"this cache has layers 0 to {layers - 1}, not {layer!r}")
        same = keys.dtype == values.dtype == self.keys.dtype or torch.is_autocast_enabled(keys.device.type)
        time = keys.shape[2] if keys.dim() == 4 else 0
        if not (same and time and keys.shape == values.shape == (batch, kv_heads, time, d_head)):
            raise ValueError(
                f"keys and values are ({batch}, {kv_heads}, time, {d_head}) of {self.keys.dtype} here, "
                f"(batch, kv_heads, time, d_head); not {tuple(keys.shape)} of {keys.dtype} and "
                f"{tuple(values.shape)} of {values.dtype}"
            )

    def advance(self, time: int, new_lengths: Sequence[int] | None = None) -> None:
        """Add `time` to the length of each row, or what `new_lengths` has for it.

        Raises ValueError, changing nothing, unless every layer's `update` has stored so many since the last
        call.
        """
        require_size("the number of new tokens", time)
        ends = self._ends(time, new_lengths)
        unwritten = [layer for layer in range(len(self.keys)) if self._written.get(layer) != ends]
        if unwritten:
            raise ValueError(
                f"rows of {self.lengths} tokens can't become {ends} long before `update` has stored the new "
                f"tokens in every layer; it hasn't in {unwritten}"
            )
        self.lengths, self._written = ends, {}

    def _ends(self, time: int, new_lengths: Sequence[int] | None) -> list[int]:
        """Return how long each row will be. Raises ValueError for numbers of tokens that can't be."""
        if new_lengths is None:
            return [length + int(time) for length in self.lengths]
        counts = whole_numbers("new_lengths", new_lengths)
        require(
            len(counts) == len(self.lengths) and 0 <= min(counts) and max(counts) <= time,
            f"new_lengths must say for each of {len(self.lengths)} rows how many of its {time} tokens are "
            f"real, not {counts}",
        )
        return [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def _indices(self, ends: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return each new token's row, position in the cache and column in this run, (new tokens,) each.

        They are the same for every layer, so they are computed for the first one only.
        """
        key = (list(self.lengths), ends)
        if self._indices_key != key:
            with torch.inference_mode(False):  # as for the keys and values
                runs = [torch.arange(end - start) for start, end in zip(self.lengths, ends, strict=True)]
                rows = torch.arange(len(runs)).repeat_interleave(torch.tensor(list(map(len, runs))))
                columns = torch.cat(runs)
                positions = columns + torch.tensor(self.lengths)[rows]
                indices = (each.to(self.keys.device) for each in (rows, positions, columns))
                self._indices_key, self._new_indices = key, tuple(indices)
        return self._new_indices

    def rewind(self, lengths: int | Sequence[int]) -> None:
        """Drop what each row holds beyond a length. lengths: one for all rows, or one for each.

        Raises ValueError, changing nothing, for a length below 0 or above a row's own.
        """
        same = isinstance(lengths, Integral)
        wanted = whole_numbers("lengths", [lengths] * len(self.lengths) if same else lengths)
        if len(wanted) != len(self.lengths) or not all(
            0 <= new <= old for new, old in zip(wanted, self.lengths, strict=True)
        ):
            raise ValueError(
                f"rows of {self.lengths} tokens can't be rewound to {lengths}: "
                "from 0 to what is there, for each row"
            )
        self.lengths, self._written = wanted, {}

    def reset(self) -> None:
        """Empty the cache. Its memory stays allocated."""
        self.rewind(0)

    def copy(self) -> "KVCache":
        """Return another cache with the same contents."""
        return self.select(range(len(self.lengths)))

    def select(self, rows: Sequence[int], capacity: int | None = None) -> "KVCache":
        """Return another cache that holds copies of these rows, each as often as it is named.

        capacity: of the new cache, by default the same. Raises ValueError for a row that doesn't exist, and
        for a capacity too small for what the rows hold.
        """
        rows, capacity = whole_numbers("rows", rows), self.capacity if capacity is None else capacity
        require_size("the capacity", capacity)
        if not rows or not all(0 <= row < len(self.lengths) for row in rows):
            raise ValueError(
                f"there are rows 0 to {len(self.lengths) - 1}, and at least one must be chosen; not {rows}"
            )
        lengths = [self.lengths[row] for row in rows]
        if (filled := max(lengths)) > capacity:
            raise ValueError(f"a capacity of {capacity} doesn't hold rows of up to {filled} tokens")
        layers, _, kv_heads, _, d_head = self.keys.shape
        new = KVCache(layers, kv_heads, d_head, capacity, len(rows), self.keys.dtype, self.keys.device)
        new.keys[:, :, :, :filled] = self.keys[:, rows, :, :filled]
        new.values[:, :, :, :filled] = self.values[:, rows, :, :filled]
        new.lengths = lengths
        return new
