"""The whole model: embed, a stack of blocks, a last norm, and a score for every token of the vocabulary."""

from functools import partial

from torch import Tensor, nn

from course_lib.model.block import Block
from course_lib.model.config import ModelConfig
from course_lib.model.norms import RMSNorm
from course_lib.model.positions import rotary_tables
from course_lib.model.trace import Trace, at, note

BLOCK_ACTIVATIONS = (
    "input",
    *(f"attention.{name}" for name in ("query", "key", "value", "weights", "heads", "output")),
    "middle",
    *(f"feed_forward.{name}" for name in ("hidden", "output")),
    "output",
)


class Decoder(nn.Module):
    """A decoder-only Transformer of Llama's kind (Touvron et al. 2023, section 2.2), every size from its `ModelConfig`.

    >>> import torch
    >>> config = ModelConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, d_ff=32, context=8)
    >>> Decoder(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 50])
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the head's weights the embedding table itself, where the configuration says so (Press & Wolf 2017)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, cache=None, trace: Trace | None = None) -> Tensor:
        """Logits (batch, time, vocab_size): at each position, a score for every token that could come next.

        tokens: ids (batch, time). cache: the keys and values of what was read before (`generate.KVCache`), extended by this
        call; these tokens then stand behind it. trace: sees, and may change, each named activation.

        Raises ValueError for token ids outside the vocabulary, no tokens, or more than the context holds.
        """
        logits = note(trace, "logits", self.head(self._read(tokens, cache, trace)))
        return self._remembered(logits, cache)

    def hidden(self, tokens: Tensor, cache=None, trace: Trace | None = None) -> Tensor:
        """What the head reads, (batch, time, d_model). Arguments and errors as in `forward`."""
        return self._remembered(self._read(tokens, cache, trace), cache)

    def _read(self, tokens: Tensor, cache, trace: Trace | None) -> Tensor:
        start = cache.length if cache is not None else 0
        self._check(tokens, start)
        if cache is not None:
            cache.check(self.config, len(tokens), self.embedding.weight.dtype)
        if trace is not None:
            trace.expect(self.activation_names())
        x = note(trace, "embedding", self._embed(tokens))
        rotary = rotary_tables(start, tokens.shape[1], self.config.d_head, self.config.rope_base, like=x)
        for i, block in enumerate(self.blocks):
            remember = partial(cache.update, i) if cache is not None else None
            x = block(x, rotary, remember, at(trace, f"layers.{i}"))
        return note(trace, "norm", self.norm(x))

    def _remembered(self, result: Tensor, cache) -> Tensor:
        """Only now that nothing can fail any more does the cache count the tokens as read."""
        if cache is not None:
            cache.advance(result.shape[1])
        return result

    def activation_names(self) -> list[str]:
        """What a trace can see, in the order of the run."""
        layers = [f"layers.{i}.{name}" for i in range(self.config.n_layers) for name in BLOCK_ACTIVATIONS]
        return ["embedding", *layers, "norm", "logits"]

    def _check(self, tokens: Tensor, start: int) -> None:
        if tokens.is_floating_point() or tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(
                f"tokens must be whole numbers, (batch, time) with at least one token, not {tuple(tokens.shape)} of "
                f"{tokens.dtype}"
            )
        if start + tokens.shape[1] > self.config.context:
            raise ValueError(
                f"{start + tokens.shape[1]} tokens are more than the {self.config.context} that this model's context "
                "holds; shorten the text, or keep only its end"
            )

    def _embed(self, tokens: Tensor) -> Tensor:
        try:
            return self.embedding(tokens)
        except IndexError:
            raise ValueError(
                f"token ids run from {tokens.min()} to {tokens.max()}, but the vocabulary holds 0 to "
                f"{self.config.vocab_size - 1}: were they made by this model's tokenizer?"
            ) from None
