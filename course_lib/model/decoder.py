"""Reading left to right and guessing what comes next: a stack that sees no later token, and a score for every token of the
vocabulary."""

from collections.abc import Sequence

from torch import Tensor, nn

from course_lib.model.attention import soft_cap
from course_lib.model.block import Memory, ProjectedMemory
from course_lib.model.cache import Cache, KVCache
from course_lib.model.config import ModelConfig
from course_lib.model.stack import Stack
from course_lib.model.trace import Trace, note


class Decoder(Stack):
    """A decoder-only Transformer; with the default dials one of Llama's kind (Touvron et al. 2023, section 2.2).

    cross=True: the decoder of an encoder-decoder, whose blocks also look at the encoder's states.

    >>> import torch
    >>> config = ModelConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, d_ff=32, context=8)
    >>> Decoder(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 50])
    """

    def __init__(self, config: ModelConfig, cross: bool = False):
        super().__init__(config, causal=True, cross=cross)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        self.tie()

    def tie(self) -> None:
        """Make the head's weights the embedding table itself, where the configuration says so (Press & Wolf 2017)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        memory: Memory | ProjectedMemory | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab_size): at each position, a score for every token that could come next.

        tokens: ids (batch, time). cache: the keys and values of what was read before (`new_cache`), extended by this
        call; each row's tokens then stand behind what it holds of that row. trace: sees, and may change, each named activation. memory: the
        encoder's states, for a decoder with cross-attention. counts: where rows have different lengths, how many of each row's tokens are
        real. What stands behind them is padding: any ids, kept nowhere, whose own results mean nothing.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds.
        """
        logits = note(trace, "logits", self.logits(self._listen(tokens, cache, trace, memory, counts)))
        return self._remembered(logits, cache, counts)

    def hidden(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        memory: Memory | ProjectedMemory | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """What the head reads, (batch, time, d_model). Arguments and errors as in `forward`."""
        return self._remembered(self._listen(tokens, cache, trace, memory, counts), cache, counts)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d_model) → (…, vocab_size): the head, and the soft cap where the configuration has one."""
        return soft_cap(self.head(hidden), self.config.logit_cap)

    def new_cache(self, capacity: int | None = None, batch: int = 1) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` tokens each, the whole context unless told otherwise.

        Raises ValueError for a capacity beyond the context.
        """
        config, weight = self.config, self.embedding.weight
        capacity = config.context if capacity is None else capacity
        if not 1 <= capacity <= config.context:
            raise ValueError(
                f"a cache holds 1 to {config.context} tokens (the model's context), not {capacity}"
            )
        return KVCache(
            config.n_layers, config.n_kv_heads, config.d_head, capacity, batch, weight.dtype, weight.device
        )

    def project(self, memory: Memory) -> ProjectedMemory:
        """The keys and values of each layer's cross-attention, worked out once for all the tokens that are written."""
        pairs = (block.cross_attention.keys_and_values(memory.states) for block in self.blocks)
        return ProjectedMemory(tuple(pairs), memory.mask)

    def activation_names(self) -> list[str]:
        return [*super().activation_names(), "logits"]

    def _listen(
        self, tokens: Tensor, cache: Cache | None, trace: Trace | None, memory, counts: Sequence[int] | None
    ) -> Tensor:
        if self.cross != (memory is not None):
            raise ValueError(
                "a decoder with cross-attention, and only such a one, needs an encoder's `memory`"
            )
        if memory is not None and memory.batch != len(tokens):
            raise ValueError(f"a memory of {memory.batch} sequences can't go with {len(tokens)} of tokens")
        return self.read(tokens, cache, trace, memory=memory, counts=counts)

    def _remembered(self, result: Tensor, cache: Cache | None, counts: Sequence[int] | None) -> Tensor:
        """Only now that nothing can fail any more does the cache count the tokens as read."""
        if cache is not None:
            cache.advance(result.shape[1], counts)
        return result
