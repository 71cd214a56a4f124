"""What encoder and decoder have in common: embed the tokens, say where they stand, read them in layer after layer."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.model.block import Block, Memory, ProjectedMemory, activation_names
from course_lib.model.cache import Cache
from course_lib.model.config import ModelConfig
from course_lib.model.norms import norm
from course_lib.model.positions import Place, Positions
from course_lib.model.trace import Trace, at, note


class Stack(nn.Module):
    """Embedding, positions, `n_layers` blocks and a last norm, (batch, time) of ids → (batch, time, d_model).

    Where the norm comes after each part ("post"), the last block ends in one already, and there is none behind it.
    """

    def __init__(self, config: ModelConfig, causal: bool, cross: bool = False):
        super().__init__()
        self.config, self.cross = config, cross
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        # Small enough that, as a tied head, its first scores spread by 1.
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(Block(config, causal, cross, layer) for layer in range(config.n_layers))
        self.norm = nn.Identity() if config.norm_place == "post" else norm(config)

    def activation_names(self) -> list[str]:
        """What a trace can see, in the order of the run."""
        inner = activation_names(self.config, self.cross)
        layers = [f"layers.{i}.{name}" for i in range(self.config.n_layers) for name in inner]
        return ["embedding", *layers, "norm"]

    def read(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        mask: Tensor | None = None,
        memory: Memory | ProjectedMemory | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """tokens: ids (batch, time). cache: keys and values of what was read before; each row's tokens stand behind its own. counts: how
        many of each row's tokens are real, where there is padding behind. mask: (batch, 1, 1, time), true at tokens that may be looked
        at. memory: an encoder's states, for blocks with cross-attention.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds.
        """
        batch, time = self._check_tokens(tokens, counts)
        starts = cache.lengths if cache is not None else [0] * batch
        if cache is not None:
            config, dtype = self.config, self.embedding.weight.dtype
            cache.check(config.n_layers, config.n_kv_heads, config.d_head, batch, dtype)
        end = max(map(sum, zip(starts, counts or [time] * batch, strict=True)))
        self._check_room(end)
        if isinstance(trace, Trace):
            trace.expect(self.activation_names())
        start = starts[0] if len(set(starts)) == 1 else torch.tensor(starts, device=tokens.device)
        x = note(trace, "embedding", self.positions.add(self._embed(tokens), start))
        place = _hide(self.positions.place(start, time, x, end), mask)
        for i, block in enumerate(self.blocks):
            remember = partial(cache.update, i, counts=counts) if cache is not None else None
            x = block(x, place, remember, at(trace, f"layers.{i}"), memory)
        return note(trace, "norm", self.norm(x))

    def _check_tokens(self, tokens: Tensor, counts: Sequence[int] | None) -> torch.Size:
        if tokens.dtype not in (torch.int64, torch.int32) or tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(
                f"tokens must be whole numbers, (batch, time) with at least one token, not {tuple(tokens.shape)} of "
                f"{tokens.dtype}"
            )
        batch, time = tokens.shape
        if counts is not None and (len(counts) != batch or min(counts) < 0 or max(counts) != time):
            raise ValueError(
                f"counts must say for each of {batch} rows how many of its {time} tokens are real, {time} in the longest; not {counts}"
            )
        return tokens.shape

    def _check_room(self, end: int) -> None:
        if end > self.config.context:
            raise ValueError(
                f"{end} tokens are more than the {self.config.context} that this model's context "
                "holds; shorten the text, or keep only its end"
            )

    def _embed(self, tokens: Tensor) -> Tensor:
        try:
            x = self.embedding(tokens)
        except IndexError:
            raise ValueError(
                f"token ids run from {tokens.min()} to {tokens.max()}, but the vocabulary holds 0 to "
                f"{self.config.vocab_size - 1}: were they made by this model's tokenizer?"
            ) from None
        return x * math.sqrt(self.config.d_model) if self.config.scale_embeddings else x


def _hide(place: Place, mask: Tensor | None) -> Place:
    """The same place, with what `mask` hides hidden too."""
    if mask is None:
        return place
    return place._replace(mask=mask if place.mask is None else place.mask.masked_fill(~mask, -math.inf))
