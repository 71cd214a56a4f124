"""The decoder: it reads from left to right and scores every token of the vocabulary as the next one."""

from collections.abc import Sequence

from torch import Tensor, nn

from course_lib.model.attention import soft_cap
from course_lib.model.block import Memory, ProjectedMemory
from course_lib.model.cache import Cache, KVCache
from course_lib.model.checks import is_whole, require
from course_lib.model.config import ModelConfig
from course_lib.model.stack import Stack
from course_lib.model.trace import Trace, record


class Decoder(Stack):
    """A decoder-only Transformer, by default like Llama (Touvron et al. 2023, section 2.2).

    cross: whether it is the decoder of an encoder-decoder, whose blocks also attend to the encoder's states.

    >>> import torch
    >>> sizes = dict(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, d_ff=32)
    >>> config = ModelConfig(**sizes, context=8)
    >>> Decoder(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 50])
    """

    def __init__(self, config: ModelConfig, cross: bool = False):
        super().__init__(config, causal=True, cross=cross)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        self.tie()

    def tie(self) -> None:
        """Use the embedding table as the head's weights, if the configuration says so (Press & Wolf 2017)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        memory: Memory | ProjectedMemory | None = None,
        new_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return logits, (batch, time, vocab_size): the score of every token as the next one.

        tokens: ids (batch, time). cache: keys and values of the tokens before (`new_cache`), extended by this
        call; each row's new tokens follow those that it holds of that row. trace: keeps, and may edit, each
        named activation. memory: the encoder's states, for a decoder with cross-attention. new_lengths: where
        rows have different lengths, how many of each row's tokens are real. The rest is padding at the end of
        the row: any ids, which the cache doesn't keep and whose own logits mean nothing.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds.
        """
        # States: (batch, time, d_model); logits: (batch, time, vocab_size).
        states = self.run_layers(tokens, cache, trace, memory=memory, new_lengths=new_lengths)
        logits = record(trace, "logits", self.logits(states))
        if cache is not None:  # last, so that a run that fails leaves the cache as it was
            cache.advance(tokens.shape[1], new_lengths)
        return logits

    def last_hidden_state(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        trace: Trace | None = None,
        memory: Memory | ProjectedMemory | None = None,
        new_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the head's input, (batch, time, d_model). Arguments and errors as in `forward`."""
        states = self.run_layers(tokens, cache, trace, memory=memory, new_lengths=new_lengths)
        if cache is not None:
            cache.advance(tokens.shape[1], new_lengths)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(…, d_model) → (…, vocab_size): the head, and the soft cap where the configuration has one."""
        return soft_cap(self.head(states), self.config.logit_cap)

    def new_cache(self, capacity: int | None = None, batch: int = 1) -> KVCache:
        """Return an empty cache for `batch` rows of up to `capacity` tokens, by default the context.

        Raises ValueError for a capacity beyond the context.
        """
        config, weight = self.config, self.embedding.weight
        capacity = config.context if capacity is None else capacity
        if not is_whole(capacity, 1, config.context):
            raise ValueError(
                f"a cache holds 1 to {config.context} tokens (the model's context), not {capacity!r}"
            )
        return KVCache(
            config.n_layers, config.n_kv_heads, config.d_head, capacity, batch, weight.dtype, weight.device
        )

    def project_memory(self, memory: Memory) -> ProjectedMemory:
        """Return the keys and values of all layers' cross-attention, computed once for all new tokens.

        Raises ValueError for a decoder without cross-attention, and a memory that isn't for this decoder.
        """
        require(self.cross, "a memory is for decoders with cross-attention, and this one has none")
        require(
            isinstance(memory, Memory), f"a memory is what an encoder returns, not {type(memory).__name__}"
        )
        memory.check(len(memory.states), self.config, self.embedding.weight.dtype)
        pairs = (block.cross_attention.keys_and_values(memory.states) for block in self.blocks)
        return ProjectedMemory(tuple(pairs), memory.mask)

    def activation_names(self) -> list[str]:
        return [*super().activation_names(), "logits"]
