"""Each token asks, the tokens before it answer (Vaswani et al. 2017, section 3.2).

    attention_by_hand   the formula, line by line, with the weights handed back
    attend              the same result by PyTorch's fused kernel, which never stores the weights
    Attention           the layer: project, rotate, attend, project back

Grouped queries (Ainslie et al. 2023): several query heads share one key-value head, so that the cache is smaller.

Not handled: padding within a batch, attention that isn't causal, dropout.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.positions import rotate
from course_lib.model.trace import note


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """(queries, keys), true where a query may look: at itself and what came before. The queries are the last of the keys."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d_head) v, causal.

    q: (batch, heads, query, d_head); k and v: (batch, kv_heads, key, d_head), the queries standing at the last positions.
    Returns the heads' outputs (batch, heads, query, d_head) and the weights (batch, heads, query, key): rows of
    probabilities, each summing to 1.
    """
    k, v = (_repeat_heads(x, q.shape[1]) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~causal_mask(q.shape[-2], k.shape[-2], q.device), -math.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The outputs of `attention_by_hand`, same arguments, by PyTorch's fused kernel."""
    batch, heads, queries, d_head = q.shape
    kv_heads, keys = k.shape[1:3]
    if queries == 1:  # nothing to hide from the last token; its query heads become rows that share a key-value head
        return F.scaled_dot_product_attention(q.view(batch, kv_heads, -1, d_head), k, v).view(q.shape)
    k, v = (_repeat_heads(x, heads) for x in (k, v))
    if queries == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(queries, keys, q.device))


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, kv_heads, time, d_head) → (batch, heads, time, d_head): key-value head i serves a run of query heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


class Attention(nn.Module):
    """Causal self-attention with grouped queries and rotary positions, (batch, time, d_model) → the same shape."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.d_head = config.d_head
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=False)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.output = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], remember=None, trace=None) -> Tensor:
        """rotary: the tables of `rotary_tables` for these positions. remember: takes this call's keys and values and hands
        back all of the sequence's so far (a cache). trace: sees, and may change, each named step (`trace.py`)."""
        q, k, v = (self._heads(projected) for projected in self.project(x))
        turned = rotate(torch.cat([q, k], dim=1), *rotary)  # by the same angles, so both at once
        q, k = turned.split([q.shape[1], k.shape[1]], dim=1)
        q, k, v = note(trace, "query", q), note(trace, "key", k), note(trace, "value", v)
        if remember is not None:
            k, v = remember(k, v)
        heads = note(trace, "heads", self._attend(q, k, v, trace))
        return note(trace, "output", self.output(heads.transpose(1, 2).flatten(2)))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """All heads' queries, keys and values, side by side: (batch, time, heads · d_head) each."""
        return self.query(x), self.key(x), self.value(x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, trace) -> Tensor:
        """Only somebody who watches needs the weights; only somebody who changes them gets another result."""
        if trace is None or not trace.wants("weights"):
            return attend(q, k, v)
        _, weights = attention_by_hand(q, k, v)
        weights = trace("weights", weights)
        return weights @ _repeat_heads(v, q.shape[1]) if trace.edited("weights") else attend(q, k, v)
