"""What encoder and decoder have in common: embedding, positions, and the blocks one after the other."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.model.block import Block, Memory, ProjectedMemory, activation_names
from course_lib.model.cache import Cache
from course_lib.model.checks import check_cache_and_trace, check_context, check_memory, check_tokens
from course_lib.model.config import ModelConfig
from course_lib.model.norms import make_norm
from course_lib.model.positions import Positions
from course_lib.model.trace import Trace, record, scope


class Stack(nn.Module):
    """Embedding, positions, `n_layers` blocks and a last norm, ids (batch, time) → (batch, time, d_model).

    With post-norm, the last block already ends in a norm, so none follows.
    """

    def __init__(self, config: ModelConfig, causal: bool, cross: bool = False):
        super().__init__()
        self.config, self.causal, self.cross = config, causal, cross
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        # Small enough that, with the table as the head too, the first logits have a spread of 1.
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(Block(config, causal, cross, layer) for layer in range(config.n_layers))
        self.norm = nn.Identity() if config.norm_place == "post" else make_norm(config)

    def activation_names(self) -> list[str]:
        """Return the names of all activations, as a trace sees them, in the order of the run."""
        inner = activation_names(self.config, self.cross)
        layers = [f"blocks.{i}.{name}" for i in range(self.config.n_layers) for name in inner]
        return ["embedding", *layers, "norm"]

    def run_layers(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        real: Tensor | None = None,
        memory: Memory | ProjectedMemory | None = None,
        new_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the states after the last norm, (batch, time, d_model).

        tokens: ids (batch, time). cache: keys and values of the tokens before; each row's new tokens follow
        its own. new_lengths: how many of each row's tokens are real, where the rest is padding at the end.
        real: (batch, time), false at padding. memory: an encoder's output, for blocks with cross-attention.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds,
        and TypeError for tokens that are no tensor.
        """
        start, end = self._check(tokens, cache, trace, memory, new_lengths)
        x = self.positions.add(self._embed(tokens), start)  # (batch, time, d_model)
        x = record(trace, "embedding", x)
        rotary = self.positions.rotary(start, tokens.shape[1], x)
        masks = self.positions.masks(start, tokens.shape[1], end, x, self.causal, real)
        for i, block in enumerate(self.blocks):
            update_cache = None if cache is None else partial(cache.update, i, new_lengths=new_lengths)
            mask = masks[self.config.window_of(i)]
            x = block(x, rotary, mask, update_cache, scope(trace, f"blocks.{i}"), memory)
        return record(trace, "norm", self.norm(x))

    def _check(self, tokens, cache, trace, memory, new_lengths) -> tuple[int | Tensor, int]:
        """Check the arguments of `run_layers`; return where new tokens start and the longest row ends.

        The start is an int where it is the same for all rows, else (batch,).
        """
        check_tokens(tokens, new_lengths)
        batch, time = tokens.shape
        check_memory(self.cross, memory)
        check_cache_and_trace(cache, trace)
        config, dtype, starts = self.config, self.embedding.weight.dtype, [0] * batch
        if memory is not None:
            memory.check(batch, config, dtype)
        if cache is not None:
            cache.check(config.n_layers, config.n_kv_heads, config.d_head, batch, dtype)
            starts = cache.lengths
        end = max(start + new for start, new in zip(starts, new_lengths or [time] * batch, strict=True))
        check_context(end, config.context)
        if isinstance(trace, Trace):
            trace.begin(self.activation_names())
        same = len(set(starts)) == 1
        return starts[0] if same else torch.tensor(starts, device=tokens.device), end

    def _embed(self, tokens: Tensor) -> Tensor:
        """Return the tokens' vectors, (batch, time, d_model)."""
        try:
            x = self.embedding(tokens)
        except IndexError:  # (on a GPU, CUDA's own error)
            raise ValueError(
                f"token ids run from {tokens.min()} to {tokens.max()}, but the vocabulary holds 0 to "
                f"{self.config.vocab_size - 1}: were they made by this model's tokenizer?"
            ) from None
        return x * math.sqrt(self.config.d_model) if self.config.scale_embeddings else x
