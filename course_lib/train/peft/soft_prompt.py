"""Learned vectors in front of the text; no weight of the model is changed or added to.

    SoftPrompt     vectors where a prompt's embeddings would stand (Lester et al. 2021, "prompt tuning", section 2)
    Prefix         keys and values in front of every layer's (Li & Liang 2021, "prefix-tuning", section 4)

A soft prompt is written like any prompt: its *virtual tokens* have ids of their own behind the vocabulary's. They count as text: they
have positions, and take room in the context.

    attached = attach(model, prompt := SoftPrompt(tokens=8))
    train(model, in_front(prompt.ids(model), batches), config)
    generate(model, [*prompt.ids(model), *question])

A prefix needs no ids: every query sees it, wherever it stands, and it takes no position. Li and Liang train it through a small network
that is thrown away afterwards (section 4.3); here it is trained itself, and begins as what the model computes for real tokens, which they
found to matter (section 7.4).

Not handled: encoder-decoders; a prefix with ALiBi, whose distances it would shift, or with sliding windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Decoder, Trace
from course_lib.model.attention import KeysAndValues, UpdateCache
from course_lib.model.positions import Rotary
from course_lib.train.data import Batch
from course_lib.train.loss import IGNORE
from course_lib.train.peft.attach import Wrapper, kind_of_numbers

STARTS = ("vocabulary", "random")


@dataclass(frozen=True)
class _InFront:
    """tokens: how many. start: what they begin as, tokens drawn from the "vocabulary" or "random" numbers. Raises ValueError for
    fewer than one token, or another start."""

    tokens: int = 8
    start: str = "vocabulary"

    def __post_init__(self):
        if type(self.tokens) is not int or self.tokens < 1:
            raise ValueError(f"tokens must be a whole number of at least 1, not {self.tokens!r}")
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, not {self.start!r}")

    def _drawn(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Ids of real tokens, (tokens,), all different."""
        if not isinstance(model, Decoder) or model.cross:
            raise ValueError(f"{type(self).__name__} needs a decoder that stands alone")
        if self.tokens >= model.config.context or self.tokens > model.config.vocab_size:
            raise ValueError(
                f"{self.tokens} tokens leave no room for a text: the context holds {model.config.context}, the vocabulary "
                f"{model.config.vocab_size}"
            )
        drawn = torch.randperm(model.config.vocab_size, generator=generator)[: self.tokens]
        return drawn.to(model.embedding.weight.device)


class SoftPrompt(_InFront):
    """Virtual tokens in front of the text, each an embedding that is learned."""

    def ids(self, model: Decoder) -> list[int]:
        """The ids of the virtual tokens: the first ones behind the vocabulary's."""
        return list(range(model.config.vocab_size, model.config.vocab_size + self.tokens))

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        drawn, numbers = self._drawn(model, generator), kind_of_numbers(model)
        table = model.embedding.weight.detach()
        first = table[drawn]
        if self.start == "random":
            first = torch.randn(first.shape, generator=generator).to(first) * table.float().std().to(first)
        return {"embedding": PromptedEmbedding(model.embedding, first.to(**numbers))}


class PromptedEmbedding(Wrapper):
    """An embedding table with learned rows behind its own, (batch, time) of ids → (batch, time, d_model)."""

    def __init__(self, base: nn.Embedding, vectors: Tensor):
        super().__init__(base)
        self.vectors = nn.Parameter(vectors.clone())

    @property
    def weight(self) -> Tensor:
        """The real tokens' table, for whoever asks for the model's precision and place."""
        return self.base.weight

    def forward(self, tokens: Tensor) -> Tensor:
        virtual = tokens >= self.base.num_embeddings
        real = self.base(tokens.masked_fill(virtual, 0))
        learned = F.embedding((tokens - self.base.num_embeddings).clamp(min=0), self.vectors)
        return torch.where(virtual.unsqueeze(-1), learned.to(real.dtype), real)


def in_front(ids: Sequence[int], batches: Callable[[int], Batch]) -> Callable[[int], Batch]:
    """The same batches (tokens, targets) with `ids` in front of every row. What follows there is no target.

    >>> in_front([9], lambda step: (torch.tensor([[5, 6]]), torch.tensor([[6, 7]])))(0)
    (tensor([[9, 5, 6]]), tensor([[-100,    6,    7]]))
    """

    def with_prompt(step: int) -> Batch:
        tokens, targets = batches(step)
        prompt = torch.tensor(ids, dtype=tokens.dtype, device=tokens.device).expand(len(tokens), -1)
        nothing = torch.full_like(prompt, IGNORE, dtype=targets.dtype)
        return torch.cat([prompt, tokens], dim=1), torch.cat([nothing, targets], dim=1)

    return with_prompt


class Prefix(_InFront):
    """Keys and values in front of every layer's own, each learned."""

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        drawn = self._drawn(model, generator)
        if model.config.attention.window is not None:
            raise ValueError("a prefix would leave a sliding window's sight; take a SoftPrompt")
        if model.config.positions == "alibi":
            raise ValueError("a prefix would shift the distances that ALiBi counts; take a SoftPrompt")
        found, numbers = _keys_and_values(model, drawn), kind_of_numbers(model)
        if self.start == "random":
            found = [torch.randn(x.shape, generator=generator).to(x) * x.float().std().to(x) for x in found]
        pairs = zip(found[::2], found[1::2], strict=True)
        return {
            f"blocks.{i}.attention": PrefixAttention(
                model.blocks[i].attention, k.to(**numbers), v.to(**numbers)
            )
            for i, (k, v) in enumerate(pairs)
        }


@torch.no_grad()
def _keys_and_values(model: Decoder, ids: Tensor) -> list[Tensor]:
    """What the model computes for a text, key then value of each layer, (kv_heads, time, d_head) each."""
    trace = Trace(keep=("*.attention.key", "*.attention.value"))
    model(ids.unsqueeze(0), trace=trace)
    layers = range(model.config.n_layers)
    return [trace[f"layers.{i}.attention.{name}"][0] for i in layers for name in ("key", "value")]


class PrefixAttention(Wrapper):
    """Attention whose every query also sees `keys` and `values`, (kv_heads, tokens, d_head), in front of the text's.

    They are put in front of what the cache returns, and are not stored in it themselves.
    """

    def __init__(self, base: nn.Module, keys: Tensor, values: Tensor):
        super().__init__(base)
        self.keys, self.values = (
            nn.Parameter(x.clone(memory_format=torch.contiguous_format)) for x in (keys, values)
        )

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        update_cache: UpdateCache | None = None,
        trace=None,
    ) -> Tensor:
        if mask is not None:  # every token attends to the whole prefix
            mask = F.pad(mask, (self.keys.shape[1], 0), value=True)
        return self.base(x, rotary, mask, partial(self._with_prefix, update_cache), trace)

    def _with_prefix(self, update_cache: UpdateCache | None, keys: Tensor, values: Tensor) -> KeysAndValues:
        """Return the prefix and then the text's keys and values, (batch, kv_heads, tokens + key, d_head) each."""
        if update_cache is not None:
            keys, values = update_cache(keys, values)
        prefix = (x.to(keys.dtype).expand(len(keys), -1, -1, -1) for x in (self.keys, self.values))
        return tuple(torch.cat(pair, dim=2) for pair in zip(prefix, (keys, values), strict=True))
