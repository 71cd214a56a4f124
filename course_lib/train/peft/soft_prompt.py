"""Learned vectors before the text. No weight of the model is changed.

    SoftPrompt     prompt tuning: the embeddings of virtual tokens (Lester et al. 2021, section 2)
    Prefix         prefix tuning: each layer's keys and values before the text's (Li & Liang 2021, section 4)

A soft prompt is written like any prompt. Its *virtual tokens* have ids of their own, which follow the
vocabulary's. They count as text: they have positions and take room in the context.

    prompt = SoftPrompt(tokens=8)
    attached = attach(model, prompt)
    train(model, in_front(prompt.ids(model), batches), config)
    generate(model, [*prompt.ids(model), *question])

A prefix needs no ids. Every query attends to it, at any distance, and the text's positions begin at 0 as
without it. Li and Liang train it through a small network that is discarded afterwards (section 4.3). Here it
is trained directly, and initialized with the keys and values of n real tokens, which they found to matter
(section 7.4). With rotary embeddings these keys are rotated already, at positions 0 to n − 1; they are then
trained as they are, and not rotated again.

Not handled: encoder-decoders; a prefix with ALiBi, whose distances it would shift, or with sliding windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.generate.request_checks import check_callable, to_ids
from course_lib.model import Decoder, Trace
from course_lib.model.attention import KeysAndValues, UpdateCache
from course_lib.model.positions import Rotary
from course_lib.train.checks import own_whole
from course_lib.train.data import Batch
from course_lib.train.data_checks import checked_pair
from course_lib.train.loss import IGNORE
from course_lib.train.peft.attach import Wrapper, factory_kwargs

STARTS = ("vocabulary", "random")


@dataclass(frozen=True)
class _VirtualTokens:
    """The settings of both methods.

    tokens: how many virtual tokens.
    start: the initial values: those of real tokens, drawn from the "vocabulary", or "random" ones.

    Raises ValueError for fewer than one token and for an unknown start.
    """

    tokens: int = 8
    start: str = "vocabulary"

    def __post_init__(self):
        object.__setattr__(self, "tokens", own_whole("tokens", self.tokens, 1))
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, not {self.start!r}")

    def _draw_ids(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Return the ids of real tokens, (tokens,), all different.

        Raises ValueError for a model that isn't a decoder on its own, or has no room for a text after so many
        tokens.
        """
        if not isinstance(model, Decoder) or model.cross:
            raise ValueError(f"{type(self).__name__} needs a decoder that stands alone")
        context, vocab_size = model.config.context, model.config.vocab_size
        if self.tokens >= context or self.tokens > vocab_size:
            raise ValueError(
                f"{self.tokens} tokens leave no room for a text: the context holds {context}, "
                f"the vocabulary {vocab_size}"
            )
        ids = torch.randperm(vocab_size, generator=generator)[: self.tokens]
        return ids.to(model.embedding.weight.device)


class SoftPrompt(_VirtualTokens):
    """Prompt tuning: virtual tokens before the text, whose embeddings are trained."""

    def ids(self, model: Decoder) -> list[int]:
        """Return the ids of the virtual tokens: the first ones after the vocabulary's."""
        return list(range(model.config.vocab_size, model.config.vocab_size + self.tokens))

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        ids = self._draw_ids(model, generator)
        table = model.embedding.weight.detach()  # (vocab_size, d_model)
        initial = table[ids]  # (tokens, d_model)
        if self.start == "random":
            std = table.float().std().to(initial)
            initial = torch.randn(initial.shape, generator=generator).to(initial) * std
        return {"embedding": PromptedEmbedding(model.embedding, initial.to(**factory_kwargs(model)))}


class PromptedEmbedding(Wrapper):
    """An embedding table with trained rows after its own, ids (batch, time) → (batch, time, d_model).

    vectors: the initial values of the trained rows, (tokens, d_model).
    """

    def __init__(self, base: nn.Embedding, vectors: Tensor):
        super().__init__(base)
        self.vectors = nn.Parameter(vectors.clone())

    @property
    def weight(self) -> Tensor:
        """The real tokens' table, (vocab_size, d_model): the model's dtype and device are read from it."""
        return self.base.weight

    def forward(self, tokens: Tensor) -> Tensor:
        virtual = tokens >= self.base.num_embeddings  # (batch, time)
        real = self.base(tokens.masked_fill(virtual, 0))  # (batch, time, d_model)
        rows = (tokens - self.base.num_embeddings).clamp(min=0)  # (batch, time), of `vectors`
        learned = F.embedding(rows, self.vectors)  # (batch, time, d_model)
        return torch.where(virtual.unsqueeze(-1), learned.to(real.dtype), real)  # (batch, time, d_model)


def in_front(ids: Sequence[int], batches: Callable[[int], Batch]) -> Callable[[int], Batch]:
    """Return the same batches (tokens, targets) with `ids` before each row, which are not trained as targets.

    Both are of 64 bits, which hold IGNORE too. Raises ValueError for ids that aren't ids and, when it is
    called, for batches that aren't such pairs.

    >>> in_front([9], lambda step: (torch.tensor([[5, 6]]), torch.tensor([[6, 7]])))(0)
    (tensor([[9, 5, 6]]), tensor([[-100,    6,    7]]))
    """
    ids = to_ids("the ids in front", ids)
    check_callable("batches", batches)

    def with_prompt(step: int) -> Batch:
        tokens, targets = (part.long() for part in checked_pair(batches(step)))  # (batch, time) each
        prompt = torch.tensor(ids, dtype=torch.long, device=tokens.device)  # (ids,), also where there is none
        prompt = prompt.expand(len(tokens), -1)  # (batch, ids)
        ignored = torch.full_like(prompt, IGNORE)  # (batch, ids)
        return torch.cat([prompt, tokens], dim=1), torch.cat([ignored, targets], dim=1)

    return with_prompt


class Prefix(_VirtualTokens):
    """Prefix tuning: trained keys and values before the text's, in every layer."""

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        ids = self._draw_ids(model, generator)
        if model.config.attention.window is not None:
            raise ValueError("a prefix would leave a sliding window's sight; take a SoftPrompt")
        if model.config.positions == "alibi":
            raise ValueError("a prefix would shift the distances that ALiBi counts; take a SoftPrompt")
        wrappers, kwargs = {}, factory_kwargs(model)
        for i, (key, value) in enumerate(_compute_keys_and_values(model, ids)):
            if self.start == "random":
                key, value = _randomize(key, generator), _randomize(value, generator)
            base = model.blocks[i].attention
            wrappers[f"blocks.{i}.attention"] = PrefixAttention(base, key.to(**kwargs), value.to(**kwargs))
        return wrappers


@torch.no_grad()
def _compute_keys_and_values(model: Decoder, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's (keys, values) for a text (time,), both (kv_heads, time, d_head)."""
    trace = Trace(keep=("*.attention.key", "*.attention.value"))
    model(ids.unsqueeze(0), trace=trace)
    paths = [f"blocks.{i}.attention" for i in range(model.config.n_layers)]
    return [(trace[f"{path}.key"][0], trace[f"{path}.value"][0]) for path in paths]


def _randomize(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return normally distributed values with the shape and the standard deviation of `x`."""
    return torch.randn(x.shape, generator=generator).to(x) * x.float().std().to(x)


class PrefixAttention(Wrapper):
    """Attention with trained keys and values, (kv_heads, tokens, d_head), before those of the text.

    They are added to what the cache returns, and are not stored in it themselves.
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
        if mask is not None:  # every token attends to the whole prefix: True, or 0 added to its scores
            visible = True if mask.dtype == torch.bool else 0.0
            mask = F.pad(mask, (self.keys.shape[1], 0), value=visible)  # (…, query, prefix + keys)
        return self.base(x, rotary, mask, partial(self._with_prefix, update_cache), trace)

    def _with_prefix(self, update_cache: UpdateCache | None, keys: Tensor, values: Tensor) -> KeysAndValues:
        """Return keys and values with the prefix first, (batch, kv_heads, prefix + keys, d_head) each."""
        if update_cache is not None:
            keys, values = update_cache(keys, values)
        prefix = (x.to(keys.dtype).expand(len(keys), -1, -1, -1) for x in (self.keys, self.values))
        return tuple(torch.cat(pair, dim=2) for pair in zip(prefix, (keys, values), strict=True))
