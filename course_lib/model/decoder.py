"""Reading left to right and guessing what comes next: a stack that sees no later token, and a score for every token of the
vocabulary."""

from torch import Tensor, nn

from course_lib.model.block import Memory
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
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the head's weights the embedding table itself, where the configuration says so (Press & Wolf 2017)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Tensor, cache=None, trace: Trace | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Logits (batch, time, vocab_size): at each position, a score for every token that could come next.

        tokens: ids (batch, time). cache: the keys and values of what was read before (`generate.KVCache`), extended by this
        call; these tokens then stand behind it. trace: sees, and may change, each named activation. memory: the encoder's
        states, for a decoder with cross-attention.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds.
        """
        logits = note(trace, "logits", self.head(self._listen(tokens, cache, trace, memory)))
        return self._remembered(logits, cache)

    def hidden(
        self, tokens: Tensor, cache=None, trace: Trace | None = None, memory: Memory | None = None
    ) -> Tensor:
        """What the head reads, (batch, time, d_model). Arguments and errors as in `forward`."""
        return self._remembered(self._listen(tokens, cache, trace, memory), cache)

    def activation_names(self) -> list[str]:
        return [*super().activation_names(), "logits"]

    def _listen(self, tokens: Tensor, cache, trace: Trace | None, memory: Memory | None) -> Tensor:
        if self.cross != (memory is not None):
            raise ValueError("a decoder with cross-attention, and only such a one, needs an encoder's `memory`")
        if memory is not None and len(memory.states) != len(tokens):
            raise ValueError(f"a memory of {len(memory.states)} sequences can't go with {len(tokens)} of tokens")
        return self.read(tokens, cache, trace, memory=memory)

    def _remembered(self, result: Tensor, cache) -> Tensor:
        """Only now that nothing can fail any more does the cache count the tokens as read."""
        if cache is not None:
            cache.advance(result.shape[1])
        return result
