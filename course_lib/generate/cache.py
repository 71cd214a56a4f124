"""What was read need not be read again.

In a causal model the keys and values of a token never change once computed: no later token is seen by it. Kept, each new
token costs one position of work; without them, every token would be read again for each one that is written.
"""

import torch
from torch import Tensor

from course_lib.model import ModelConfig


class KVCache:
    """Keys and values of up to `capacity` tokens, laid out once: nothing is copied or grown while writing.

    keys, values: (layers, batch, kv_heads, capacity, d_head). length: how many positions are filled. Each layer in turn
    calls `update`; the model calls `advance` at the end, so a run that fails midway leaves the length as it was.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if not 1 <= capacity <= config.context:
            raise ValueError(f"a cache holds 1 to {config.context} tokens (the model's context), not {capacity}")
        shape = (config.n_layers, batch, config.n_kv_heads, capacity, config.d_head)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity, self.length = capacity, 0

    @property
    def bytes(self) -> int:
        """Memory held, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    def check(self, config: ModelConfig, batch: int, dtype: torch.dtype) -> None:
        """Raise ValueError unless the cache was made for such a model and so many sequences."""
        layers, for_batch, kv_heads, _, d_head = self.keys.shape
        made_for = (layers, for_batch, kv_heads, d_head, self.keys.dtype)
        asked_for = (config.n_layers, batch, config.n_kv_heads, config.d_head, dtype)
        if made_for != asked_for:
            raise ValueError(
                f"this cache is for (layers, batch, kv_heads, d_head, dtype) = {made_for} and not for {asked_for}: "
                "make one with the model's own config and dtype, and the batch's size"
            )

    def advance(self, time: int) -> None:
        """Count `time` more positions as filled."""
        self.length += time

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store this layer's new keys and values, (batch, kv_heads, time, d_head); return all of them so far.

        Raises ValueError when they are more than there is room for.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens and {end} were asked of it; make it larger")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
