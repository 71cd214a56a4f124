"""One layer of a Transformer: attention, then a feed-forward layer, each added to the residual stream.

    pre        x + layer(norm x)                                GPT-2, Llama (why: Xiong et al. 2020)
    post       norm(x + layer(x))                               the first Transformer, BERT
    parallel   x + attention(norm x) + feed_forward(norm x)     GPT-J, PaLM (Chowdhery et al. 2022, section 2)

`ModelConfig.norm_place` chooses. In an encoder-decoder's decoder, cross-attention follows attention, as a
sub-layer of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.model.attention import Attention, KeysAndValues, UpdateCache
from course_lib.model.checks import require, require_kind, require_size, whole_numbers
from course_lib.model.config import ModelConfig
from course_lib.model.experts import Experts
from course_lib.model.feed_forward import make_feed_forward
from course_lib.model.norms import make_norm
from course_lib.model.positions import Rotary
from course_lib.model.trace import record, scope


class Memory(NamedTuple):
    """An encoder's output: the states of a text, and which of its tokens are real.

    states: (batch, time, d_model). mask: (batch, 1, 1, time), true at real tokens; None where all are.
    """

    states: Tensor
    mask: Tensor | None = None

    def of_layer(self, layer: int) -> Tensor:
        """Return what a layer's cross-attention makes its keys and values from."""
        return self.states

    def check(self, batch: int, config: ModelConfig, dtype: torch.dtype) -> None:
        """Raise ValueError unless this is of so many sequences, for a decoder of this configuration."""
        _check_states(
            "a memory's states", self.states, dtype, {"batch": batch, "time": None, "d_model": config.d_model}
        )
        _check_mask(self.mask, batch, self.states.shape[1])


class ProjectedMemory(NamedTuple):
    """An encoder's output as the keys and values of each layer's cross-attention (`Decoder.project_memory`).

    pairs: keys and values of each layer, (batch, kv_heads, time, d_head) each. mask: as in `Memory`.
    """

    pairs: tuple[KeysAndValues, ...]
    mask: Tensor | None = None

    def of_layer(self, layer: int) -> KeysAndValues:
        """Return a layer's keys and values."""
        return self.pairs[layer]

    def check(self, batch: int, config: ModelConfig, dtype: torch.dtype) -> None:
        """Raise ValueError unless this is of so many sequences, for a decoder of this configuration."""
        n_layers = len(self.pairs)
        require(
            n_layers == config.n_layers, f"a memory for {n_layers} layers can't go with {config.n_layers}"
        )
        shape = {"batch": batch, "kv_heads": config.n_kv_heads, "time": None, "d_head": config.d_head}
        for tensor in (tensor for pair in self.pairs for tensor in pair):
            _check_states("a memory's keys and values", tensor, dtype, shape)
        _check_mask(self.mask, batch, self.pairs[0][0].shape[2])

    def select(self, rows: Sequence[int]) -> "ProjectedMemory":
        """Return the memory of these rows of the batch. Raises ValueError for rows that there aren't."""
        rows, batch = whole_numbers("rows", rows), len(self.pairs[0][0])
        require(
            bool(rows) and 0 <= min(rows) and max(rows) < batch,
            f"there are rows 0 to {batch - 1}, and at least one must be chosen; not {rows}",
        )
        pairs = tuple((keys[rows], values[rows]) for keys, values in self.pairs)
        return ProjectedMemory(pairs, None if self.mask is None else self.mask[rows])


def _check_states(name: str, tensor: object, dtype: torch.dtype, shape: dict[str, int | None]) -> None:
    """Raise ValueError unless this is a tensor of this dtype and shape. None: any size but 0."""
    fits = isinstance(tensor, Tensor) and tensor.dim() == len(shape) and tensor.numel() > 0
    fits = fits and (tensor.dtype == dtype or torch.is_autocast_enabled(tensor.device.type))
    if not (fits and all(b in (a, None) for a, b in zip(tensor.shape, shape.values(), strict=True))):
        got = f"{tuple(tensor.shape)} of {tensor.dtype}" if isinstance(tensor, Tensor) else repr(tensor)[:80]
        wanted = ", ".join(axis if size is None else f"{axis} = {size}" for axis, size in shape.items())
        raise ValueError(f"{name} are ({wanted}) of {dtype} here, not {got}")


def _check_mask(mask: object, batch: int, time: int) -> None:
    """Raise ValueError unless a memory's mask is None, or true and false for each of its tokens."""
    boolean = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if mask is None or boolean and mask.shape == (batch, 1, 1, time):
        return
    got = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else repr(mask)[:80]
    raise ValueError(f"a memory's mask is true or false, ({batch}, 1, 1, {time}) here, or None; not {got}")


class Block(nn.Module):
    """Attention, cross-attention (if `cross`), and a feed-forward layer or a mixture of experts.

    (batch, time, d_model) → the same shape. layer: the block's number in the stack, counted from 0. Raises
    ValueError for a number that can't be.
    """

    def __init__(self, config: ModelConfig, causal: bool = True, cross: bool = False, layer: int = 0):
        super().__init__()
        require_size("layer", layer, least=0)
        require_kind("cross", cross, bool)
        self.layer, self.norm_place, self.residual = layer, config.norm_place, config.residual
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, causal, config.window_of(layer))
        self.cross_norm = make_norm(config) if cross else None
        self.cross_attention = Attention(config, causal=False) if cross else None
        self.feed_forward_norm = make_norm(config) if self.norm_place != "parallel" else None
        self.feed_forward = Experts(config) if config.experts else make_feed_forward(config)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        update_cache: UpdateCache | None = None,
        trace=None,
        memory: Memory | ProjectedMemory | None = None,
    ) -> Tensor:
        """rotary, mask, update_cache, trace: as in `Attention`. memory: what cross-attention attends to."""
        x = record(trace, "input", x)
        attention_input = self._before(self.attention_norm, x)
        output = self.attention(attention_input, rotary, mask, update_cache, scope(trace, "attention"))
        x = self._add(x, output, self.attention_norm)
        if self.cross_attention is not None:
            x = self._add(x, self._attend_to(memory, x, trace), self.cross_norm)
        x = record(trace, "middle", x)
        if self.norm_place == "parallel":  # both sub-layers read the same normalized input
            feed_forward_input = attention_input
        else:
            feed_forward_input = self._before(self.feed_forward_norm, x)
        output = self.feed_forward(feed_forward_input, scope(trace, "feed_forward"))
        x = self._add(x, output, self.feed_forward_norm)
        return record(trace, "output", x)

    def _attend_to(self, memory: Memory | ProjectedMemory, x: Tensor, trace) -> Tensor:
        """Return the output of cross-attention, (batch, time, d_model)."""
        trace = scope(trace, "cross_attention")
        queries_from = self._before(self.cross_norm, x)
        return self.cross_attention(
            queries_from, mask=memory.mask, trace=trace, memory=memory.of_layer(self.layer)
        )

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Return a sub-layer's input: the stream, normalized unless the norm comes after the sub-layer."""
        return x if self.norm_place == "post" else norm(x)

    def _add(self, x: Tensor, output: Tensor, norm: nn.Module | None) -> Tensor:
        """Return the stream with a sub-layer's output added, normalized if the norm comes after it."""
        x = x + output if self.residual else output
        return norm(x) if self.norm_place == "post" else x


def activation_names(config: ModelConfig, cross: bool = False) -> list[str]:
    """Return the names of a block's activations, as a trace sees them, in the order of the run."""
    attention = ("query", "key", "value", "weights", "heads", "output")
    names = ["input", *(f"attention.{name}" for name in attention)]
    names += [f"cross_attention.{name}" for name in attention if cross]
    inner = "router" if config.experts else "hidden"
    return [*names, "middle", f"feed_forward.{inner}", "feed_forward.output", "output"]
