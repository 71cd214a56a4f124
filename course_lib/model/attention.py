"""Each token asks, the tokens it may look at answer (Vaswani et al. 2017, section 3.2).

    attention_by_hand   the formula, line by line, with the weights handed back
    attend              the same result by PyTorch's fused kernel, which never stores the weights
    Attention           the layer: project, rotate, attend, project back

Causal, a token looks at itself and those before it. Not causal, at all of them, as in an encoder; and when keys and values
come from another text, it is cross-attention. Grouped queries (Ainslie et al. 2023): several query heads share one
key-value head, so that the cache is smaller.

Not handled: dropout, sliding windows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.positions import Place, rotate
from course_lib.model.trace import note

NOWHERE = Place()


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """(queries, keys), true where a query may look: at itself and what came before. The queries are the last of the keys."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attention_by_hand(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d_head) v.

    q: (batch, heads, query, d_head); k and v: (batch, kv_heads, key, d_head), the queries standing at the last positions.
    mask: broadcasts to (batch, heads, query, key); true where a query may look, or numbers added to the scores. causal: no
    query looks at later keys. Returns the heads' outputs (batch, heads, query, d_head) and the weights (batch, heads,
    query, key): rows of probabilities, each summing to 1. A query that may look nowhere gets nan.
    """
    k, v = (_repeat_heads(x, q.shape[1]) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[-2], k.shape[-2], q.device), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = True) -> Tensor:
    """The outputs of `attention_by_hand`, same arguments, by PyTorch's fused kernel."""
    batch, heads, queries, d_head = q.shape
    kv_heads, keys = k.shape[1:3]
    if queries == 1 and mask is None:  # nothing is hidden: query heads become rows that share a key-value head
        rows = q.reshape(batch, kv_heads, heads // kv_heads, d_head)
        return F.scaled_dot_product_attention(rows, k, v).reshape(q.shape)
    k, v = (_repeat_heads(x, heads) for x in (k, v))
    if mask is None and (not causal or queries == keys):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_both(mask, causal, queries, keys, q.device))


def _both(mask: Tensor | None, causal: bool, queries: int, keys: int, device: torch.device) -> Tensor:
    """The mask and the causal one in one."""
    if not causal:
        return mask
    before = causal_mask(queries, keys, device)
    if mask is None:
        return before
    return mask & before if mask.dtype == torch.bool else mask.masked_fill(~before, -math.inf)


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, kv_heads, time, d_head) → (batch, heads, time, d_head): key-value head i serves a run of query heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


class Attention(nn.Module):
    """Attention with grouped queries, (batch, time, d_model) → the same shape."""

    def __init__(self, config: ModelConfig, causal: bool = True):
        super().__init__()
        self.d_head, self.causal = config.d_head, causal
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=config.bias)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.output = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.bias)

    def forward(
        self, x: Tensor, place: Place = NOWHERE, remember=None, trace=None, source: Tensor | None = None
    ) -> Tensor:
        """place: the tokens' rotary tables and mask (`Positions.place`). remember: takes this call's keys and values and
        hands back all of the sequence's so far (a cache). trace: sees, and may change, each named step (`trace.py`).
        source: (batch, time of the source, d_model), where keys and values come from in cross-attention; else from x."""
        q, k, v = self.project(x) if source is None else (self.heads(self.query(x)), *self.keys_and_values(source))
        if place.rotary is not None:
            q, k = self.turn(q, k, place.rotary)
        q, k, v = note(trace, "query", q), note(trace, "key", k), note(trace, "value", v)
        if remember is not None:
            k, v = remember(k, v)
        heads = note(trace, "heads", self._attend(q, k, v, place.mask, trace))
        return note(trace, "output", self.output(heads.transpose(1, 2).flatten(2)))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """All heads' queries, keys and values, (batch, heads, time, d_head) each."""
        return self.heads(self.query(x)), *self.keys_and_values(x)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.key(x)), self.heads(self.value(x))

    def heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads · d_head) → (batch, heads, time, d_head)."""
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def turn(self, q: Tensor, k: Tensor, rotary: tuple) -> tuple[Tensor, Tensor]:
        """Queries and keys turned to their positions, by the same angles, so both at once."""
        return rotate(torch.cat([q, k], dim=1), *rotary).split([q.shape[1], k.shape[1]], dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, trace) -> Tensor:
        """Only somebody who watches needs the weights; only somebody who changes them gets another result."""
        if trace is None or not trace.wants("weights"):
            return attend(q, k, v, mask, self.causal)
        _, weights = attention_by_hand(q, k, v, mask, self.causal)
        weights = trace("weights", weights)
        if trace.edited("weights"):
            return weights @ _repeat_heads(v, q.shape[1])
        return attend(q, k, v, mask, self.causal)
