"""Each token asks, the tokens it may look at answer (Vaswani et al. 2017, section 3.2).

    attention_by_hand   the formula, line by line, with the weights handed back
    attend              the same result by PyTorch's fused kernel, which never stores the weights
    Attention           the layer: project, rotate, attend, project back

Causal, a token looks at itself and those before it. Not causal, at all of them, as in an encoder; and when keys and values
come from another text, it is cross-attention. Grouped queries (Ainslie et al. 2023): several query heads share one
key-value head, so that the cache is smaller. Sliding windows (Beltagy et al. 2020; Jiang et al. 2023, "Mistral 7B"): a token sees
only the last so many. Soft caps (Gemma Team 2024, "Gemma 2", section 2): large scores are bent towards a limit.

Not handled: dropout; windows that look both ways.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.norms import norm
from course_lib.model.positions import Place, rotate
from course_lib.model.trace import note

NOWHERE = Place()
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def causal_mask(
    queries: int, keys: int, device: torch.device | None = None, window: int | None = None
) -> Tensor:
    """(queries, keys), true where a query may look: at itself and what came before, of all that the last `window`. The queries are the
    last of the keys."""
    before = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return before if window is None else before.triu(keys - queries - window + 1)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(x / cap): about x where x is small, never beyond the cap. None: x itself."""
    return x if cap is None else cap * torch.tanh(x / cap)


def attention_by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d_head) v.

    q: (batch, heads, query, d_head); k and v: (batch, kv_heads, key, d_head), the queries standing at the last positions.
    mask: broadcasts to (batch, heads, query, key); true where a query may look, or numbers added to the scores. causal: no
    query looks at later keys. scale: the factor on q kᵀ, 1 / √d_head unless told otherwise. window: causal only, a query looks at itself and
    the window − 1 keys before. cap: `soft_cap` of the scores. Returns the heads' outputs (batch, heads, query, d_head) and the weights (batch, heads,
    query, key): rows of probabilities, each summing to 1. A query that may look nowhere gets nan.
    """
    k, v = (_repeat_heads(x, q.shape[1]) for x in (k, v))
    scores = q @ k.transpose(-1, -2)
    scores = soft_cap(scores / math.sqrt(q.shape[-1]) if scale is None else scores * scale, cap)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[-2], k.shape[-2], q.device, window), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    cap: float | None = None,
) -> Tensor:
    """The outputs of `attention_by_hand`, same arguments, by PyTorch's fused kernel (which knows no soft cap: that is by hand)."""
    if window is not None and (not causal or window < 1):
        raise ValueError(
            f"a window is for causal attention, and at least 1 key wide: causal={causal}, window={window}"
        )
    if cap is not None:
        return attention_by_hand(q, k, v, mask, causal, scale, window, cap)[0]
    batch, heads, queries, d_head = q.shape
    kv_heads, keys = k.shape[1:3]
    window = window if window is not None and window < keys else None
    if queries == 1 and (mask is None or mask.dim() == 4 and mask.shape[1] == 1):
        if window is not None:
            k, v, mask = k[:, :, -window:], v[:, :, -window:], None if mask is None else mask[..., -window:]
        rows = q.reshape(
            batch, kv_heads, heads // kv_heads, d_head
        )  # query heads become rows that share a key-value head
        return F.scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale).reshape(q.shape)
    k, v = (_repeat_heads(x, heads) for x in (k, v))
    if mask is None and window is None and (not causal or queries == keys):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    mask = _both(mask, causal, queries, keys, q.device, window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _both(
    mask: Tensor | None, causal: bool, queries: int, keys: int, device: torch.device, window: int | None
) -> Tensor | None:
    """The mask and the causal one in one."""
    if not causal:
        return mask
    before = causal_mask(queries, keys, device, window)
    if mask is None:
        return before
    return mask & before if mask.dtype == torch.bool else mask.masked_fill(~before, -math.inf)


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, kv_heads, time, d_head) → (batch, heads, time, d_head): key-value head i serves a run of query heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


class Attention(nn.Module):
    """Attention with grouped queries, (batch, time, d_model) → the same shape. window: how many tokens each sees; None for all."""

    def __init__(self, config: ModelConfig, causal: bool = True, window: int | None = None):
        super().__init__()
        if window is not None and not causal:
            raise ValueError("a sliding window is for causal attention: an encoder sees all of its text")
        self.d_head, self.causal, self.window = config.d_head, causal, window
        self.scale, self.cap = config.attention_scale, config.attention_cap
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=config.bias)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.output = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.bias)
        self.query_norm = norm(config, config.d_head) if config.qk_norm else None
        self.key_norm = norm(config, config.d_head) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        place: Place = NOWHERE,
        remember: Remember | None = None,
        trace=None,
        source: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """place: the tokens' rotary tables and masks (`Positions.place`). remember: takes this call's keys and values and
        hands back all of the sequence's so far (`KVCache.update`). trace: sees, and may change, each named step (`trace.py`).
        source: in cross-attention, what keys and values are made of, (batch, time of the source, d_model), or `keys_and_values` of it."""
        q, k, v = self.project(x) if source is None else self._project_across(x, source)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if place.rotary is not None:
            q, k = self.turn(q, k, place.rotary)
        q, k, v = note(trace, "query", q), note(trace, "key", k), note(trace, "value", v)
        if remember is not None:
            k, v = remember(k, v)
        heads = note(trace, "heads", self._attend(q, k, v, place, trace))
        return note(trace, "output", self.output(heads.transpose(1, 2).flatten(2)))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """All heads' queries, keys and values, (batch, heads, time, d_head) each."""
        return self.heads(self.query(x)), *self.keys_and_values(x)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, kv_heads, time, d_head) each."""
        return self.heads(self.key(x)), self.heads(self.value(x))

    def _project_across(self, x: Tensor, source: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return self.heads(self.query(x)), *(
            source if isinstance(source, tuple) else self.keys_and_values(source)
        )

    def heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads · d_head) → (batch, heads, time, d_head)."""
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def turn(self, q: Tensor, k: Tensor, rotary: tuple) -> tuple[Tensor, Tensor]:
        """Queries and keys turned to their positions, by the same angles, so both at once."""
        return rotate(torch.cat([q, k], dim=1), *rotary).split([q.shape[1], k.shape[1]], dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, place: Place, trace) -> Tensor:
        """Only somebody who watches needs the weights; only somebody who changes them gets another result."""
        mask, causal, window = self._sees(place)
        dials = mask, causal, self.scale, window, self.cap
        if trace is None or not trace.wants("weights"):
            return attend(q, k, v, *dials)
        _, weights = attention_by_hand(q, k, v, *dials)
        weights = trace("weights", weights)
        if trace.edited("weights"):
            return weights @ _repeat_heads(v, q.shape[1])
        return attend(q, k, v, *dials)

    def _sees(self, place: Place) -> tuple[Tensor | None, bool, int | None]:
        """Mask, causal, window. Where rows have positions of their own, the masks have all three in them."""
        if place.near is None:
            return place.mask, self.causal, self.window
        return place.mask if self.window is None else place.near, False, None
