"""Attention: each token takes in what other tokens have to say to it (Vaswani et al. 2017, section 3.2).

    attention_by_hand   the formula, line by line; it also returns the weights
    attend              the same outputs by PyTorch's fused kernel, which never stores the weights
    Attention           the layer: project, rotate, attend, project back

In causal attention a token attends to itself and to earlier tokens; otherwise to all, as in an encoder. Where
keys and values are made from another text, it is cross-attention. Grouped queries (Ainslie et al. 2023):
several query heads share one key-value head, so that the cache is smaller. Sliding windows (Beltagy et al.
2020; Jiang et al. 2023, "Mistral 7B"): a token attends to the last so many tokens only. Soft caps (Gemma Team
2024, "Gemma 2", section 2): large scores are bent towards a limit.

Not handled: dropout; windows in attention that isn't causal.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.checks import check_attention, check_window, is_a, require, require_kind
from course_lib.model.config import ModelConfig
from course_lib.model.norms import make_norm
from course_lib.model.positions import Rotary, rotate
from course_lib.model.trace import record

KeysAndValues = tuple[Tensor, Tensor]
UpdateCache = Callable[[Tensor, Tensor], KeysAndValues]


def causal_mask(
    queries: int, keys: int, device: torch.device | None = None, window: int | None = None
) -> Tensor:
    """Return a mask (queries, keys), true where a query attends: to itself and to earlier keys.

    The queries are those of the last positions. window: only the last so many keys, the query's
    own included.
    """
    before = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return before if window is None else before.triu(keys - queries - int(window) + 1)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Return cap · tanh(x / cap): about x where x is small, and never beyond the cap. With None, x itself.

    Raises ValueError for a cap that isn't a finite number above 0.
    """
    require(cap is None or is_a(cap, float) and cap > 0, f"a cap is a finite number above 0, not {cap!r}")
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
    """Return softmax(q kᵀ / √d_head) v, and the weights, which are the softmax.

    Outputs: (batch, heads, query, d_head); weights: (batch, heads, query, key).
    q: (batch, heads, query, d_head); k and v: (batch, kv_heads, key, d_head). Query i stands at the position
    of key keys − queries + i. mask: broadcasts to (batch, heads, query, key); true where a query attends, or
    numbers to add to the scores. causal: no query attends to later keys. scale: the factor on q kᵀ, 1 /
    √d_head by default. window: only if causal, a query attends to itself and the window − 1 keys before. cap:
    of the scores (`soft_cap`). The output of a query that may attend to no key is nan. Raises ValueError for
    tensors that don't fit together, and for a window below 1 or in attention that isn't causal.
    """
    check_attention(q, k, v, mask, causal, scale, window)
    k, v = (_repeat_heads(x, q.shape[1]) for x in (k, v))  # (batch, heads, key, d_head)
    scores = q @ k.transpose(-1, -2)  # (batch, heads, query, key)
    scores = soft_cap(scores / math.sqrt(q.shape[-1]) if scale is None else scores * scale, cap)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[-2], k.shape[-2], q.device, window), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.to(q)
    weights = scores.softmax(dim=-1)  # each row sums to 1
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
    """Return the outputs of `attention_by_hand`, by PyTorch's fused kernel (by hand where there is a cap).

    The arguments and errors are the same. PyTorch's kernel for CPUs takes a score of nan for a hidden one, so
    that a broken model would seem sound: where that may have happened, the result is computed by hand. On a
    GPU, where looking at results costs time, the output of a query that may attend to no key is 0 or nan.
    """
    if cap is not None:
        return attention_by_hand(q, k, v, mask, causal, scale, window, cap)[0]
    check_attention(q, k, v, mask, causal, scale, window)
    out = _attend_fused(q, k, v, mask, causal, scale, window)
    if out.device.type == "cpu" and not _is_plausible(out, q):
        return attention_by_hand(q, k, v, mask, causal, scale, window)[0]
    return out


def _is_plausible(out: Tensor, q: Tensor) -> bool:
    """Return whether outputs are finite, and none is all zeros, as where no key counted."""
    shortest, longest = torch.linalg.vector_norm(out.detach(), dim=-1).aminmax()  # both nan if one output is
    hidden = q.itemsize == 2 and not math.isfinite(q.sum().item())  # in 16 bits, even its output may be sound
    return shortest.item() > 0 and longest.item() < math.inf and not hidden


def _attend_fused(q, k, v, mask, causal, scale, window) -> Tensor:
    """Return `attend` by PyTorch's kernel."""
    queries, keys = q.shape[2], k.shape[2]
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(q)
    mask = mask if mask is None or mask.dim() > 1 else mask.expand(1, keys)  # of one number, or of the keys
    window = int(window) if window is not None and window < keys else None
    if queries == 1 and (mask is None or mask.dim() == 4 and mask.shape[1] == 1):
        return _attend_one_query(q, k, v, mask, scale, window)
    k, v = (_repeat_heads(x, q.shape[1]) for x in (k, v))
    if mask is None and window is None and (not causal or queries == keys):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    if causal:
        mask = _and_mask(mask, causal_mask(queries, keys, q.device, window))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _attend_one_query(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, window: int | None
) -> Tensor:
    """Return `attend` for a single query, without repeating keys and values.

    The query heads that share a key-value head are treated as several queries of one head.
    """
    if window is not None:
        k, v = k[:, :, -window:], v[:, :, -window:]
        mask = None if mask is None else mask[..., -window:]
    batch, heads, _, d_head = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, d_head)
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scale)
    return out.reshape(batch, heads, 1, -1)


def _and_mask(mask: Tensor | None, allowed: Tensor) -> Tensor:
    """Return a mask that hides what either of the two hides. allowed: boolean."""
    if mask is None:
        return allowed
    return mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, -math.inf)


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each key-value head for the query heads that share it.

    (batch, kv_heads, time, d_head) → (batch, heads, time, d_head).
    """
    return x.repeat_interleave(heads // x.shape[1], dim=1)


class Attention(nn.Module):
    """The attention layer with grouped queries, (batch, time, d_model) → the same shape.

    window: to how many tokens each attends; None for all. Raises ValueError for one that can't be.
    """

    def __init__(self, config: ModelConfig, causal: bool = True, window: int | None = None):
        super().__init__()
        require_kind("causal", causal, bool)
        check_window(window, causal)
        self.d_head, self.causal, self.window = config.d_head, causal, window
        self.scale, self.cap = config.attention.scale, config.attention.cap
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=config.bias)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.bias)
        self.output = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.bias)
        self.query_norm = make_norm(config, config.d_head) if config.attention.qk_norm else None
        self.key_norm = make_norm(config, config.d_head) if config.attention.qk_norm else None

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        update_cache: UpdateCache | None = None,
        trace=None,
        memory: Tensor | KeysAndValues | None = None,
    ) -> Tensor:
        """Return what each token gathers from those that it attends to, (batch, time, d_model).

        rotary: the tables that queries and keys are rotated by (`Positions.rotary`). mask: as in `attend`; it
        must be complete, hiding later tokens too (`Positions.masks`). Without one, the layer's `causal` and
        `window` decide. update_cache: stores this call's keys and values and returns those of the whole
        sequence (`KVCache.update`). trace: keeps, or edits, each named step (`trace.py`). memory: for
        cross-attention, the encoder's states, (batch, memory time, d_model), or the keys and values made from
        them.
        """
        q, k, v = self.project(x) if memory is None else self._project_across(x, memory)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = self.apply_rotary(q, k, rotary)
        q, k, v = record(trace, "query", q), record(trace, "key", k), record(trace, "value", v)
        if update_cache is not None:
            k, v = update_cache(k, v)  # (batch, kv_heads, key, d_head) each, of the whole sequence
        heads = self.attend_heads(q, k, v, mask, trace)  # (batch, heads, time, d_head)
        heads = record(trace, "heads", heads)
        joined = heads.transpose(1, 2).flatten(2)  # (batch, time, heads · d_head)
        return record(trace, "output", self.output(joined))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the queries, keys and values of all heads, (batch, heads or kv_heads, time, d_head) each."""
        return self.split_heads(self.query(x)), *self.keys_and_values(x)

    def keys_and_values(self, x: Tensor) -> KeysAndValues:
        """Return the keys and values of all heads, (batch, kv_heads, time, d_head) each."""
        return self.split_heads(self.key(x)), self.split_heads(self.value(x))

    def _project_across(self, x: Tensor, memory: Tensor | KeysAndValues) -> tuple[Tensor, ...]:
        """`project` for cross-attention: queries from x, keys and values from the memory."""
        pair = memory if isinstance(memory, tuple) else self.keys_and_values(memory)
        return self.split_heads(self.query(x)), *pair

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads · d_head) → (batch, heads, time, d_head)."""
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def apply_rotary(self, q: Tensor, k: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys to their positions: both at once, since the angles are the same."""
        return rotate(torch.cat([q, k], dim=1), *rotary).split([q.shape[1], k.shape[1]], dim=1)

    def attend_heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, trace=None) -> Tensor:
        """Return the outputs of all heads, (batch, heads, time, d_head).

        The weights are computed only where the trace keeps or edits them: the fused kernel never stores them.
        """
        causal, window = (self.causal, self.window) if mask is None else (False, None)
        if trace is None or not trace.wants("weights"):
            return attend(q, k, v, mask, causal, self.scale, window, self.cap)
        _, weights = attention_by_hand(q, k, v, mask, causal, self.scale, window, self.cap)
        weights = trace("weights", weights)  # (batch, heads, query, key)
        if trace.edited("weights"):
            return weights @ _repeat_heads(v, q.shape[1])
        return attend(q, k, v, mask, causal, self.scale, window, self.cap)
