"""FlashAttention: attention whose scores never leave the chip.

                        keys and values (time, d_head)
                     ┌──────┬──────┬──────┬──────┐     One program has BLOCK_Q queries of a head. It visits
    queries          │ full │ edge │      │      │     keys and values, BLOCK_K at a time, and keeps for each
    (time, d_head)   ├──────┼──────┼──────┼──────┤     query the largest score so far, the sum of the
      program 1 →    │ full │ full │ edge │      │     exponentials, and the sum of the values that they
                     ├──────┼──────┼──────┼──────┤     weigh. At a larger score, both sums are scaled down
      program 2 →    │ full │ full │ full │ edge │     to it ("online softmax": Milakov & Gimelshein 2018).
                     └──────┴──────┴──────┴──────┘     In the end one divides the other.

Dao et al. (2022); with the query loop outside and the key loop inside Dao (2023), "FlashAttention-2". Read
`plain_flash_attention` first: it is the same algorithm without strides, packing, windows and gradients. Its
m, l, o, p are `largest`, `total_weight`, `out`, `weights` here. `base` is m, or 0 where m is −∞; exponentials
are to base two, not e. Under a causal mask, tiles above the diagonal are not visited, and only those on it
(edge) need a mask; a sliding window makes a second edge, on the left. Memory: one log-sum-exp for each query
beside the output, instead of a score for each pair.

The log-sum-exp of each query's scores, in nats, is −∞ where it sees no keys; with it, attention over parts of
the keys can be merged. On a GPU the values of `starts` and `longest` are not checked, unless `check` asks for
it, since that means waiting for the GPU. The outputs of queries that they leave out are uninitialized memory.

A query that sees a nan, in its own numbers, a key or a value, gets nan. So does one whose scores are all −∞,
but one that sees no keys, because there are none, gets 0. Where a value that is nan or ±∞ shares a tile with
keys that a query sees, the query gets nan even if the mask hides this value from it, since 0 · nan is nan.

Not handled: dropout, masks of other shapes, biases on the scores.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from course_lib.kernels.attention_checks import check_attention, check_packing, use_attention_kernel
from course_lib.kernels.checks import check_flags
from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.flash_backward import flash_backward, strides, to_kernel_layout
from course_lib.kernels.flash_tiles import load_bounds, part_bounds, sees, visible_keys
from course_lib.kernels.language import hopper, launch, power_of_two, tile_count, tl, triton
from course_lib.model.attention import attend, causal_mask
from course_lib.model.checks import plain


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window: int | None = None,
    starts: Tensor | None = None, longest: int | None = None, blocks: tuple[int, int] | None = None,
    backend: str = "auto", scale: float | None = None, return_lse: bool = False, check: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Return softmax(scale · q kᵀ) v, (batch, heads, query, d_head), as `model.attend` does; differentiable.

    q: (batch, heads, query, d_head), any strides. The queries stand at the last positions of the keys.
    k, v: (batch, kv_heads, key, d_head), any strides; heads is a multiple of kv_heads.
    window: each query sees itself and the window − 1 keys before it (causal only).
    starts: start offsets of sequences that are packed, without gaps, into a batch of 1 (elsewhere called
        cu_seqlens), then the total length, (sequences + 1,) of integers. The sequences don't see each other.
    longest: the length of the longest packed sequence, or a larger number. It limits the programs started.
    blocks: (BLOCK_Q, BLOCK_K), powers of two from 16 on; by default `forward_tile`'s.
    scale: by default 1 / √d_head.
    return_lse: return also each query's log-sum-exp, (batch, heads, query) of 32 bits; it has no gradient.
    check: on a GPU too, check the values of starts and longest; on a CPU they always are.

    Raises ValueError for arguments that don't fit each other; see also `use_triton`.
    """
    check_attention(q, k, v, causal, window, blocks, scale)
    check_packing(q, k, starts, longest, check)
    check_flags(return_lse=return_lse)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else plain(scale)
    window = None if window is None or window >= k.shape[2] else plain(window)
    if use_attention_kernel(backend, q.shape[-1], q, k, v, *([] if starts is None else [starts])):
        out, lse = _run_kernel(q, k, v, causal, window, starts, longest, blocks, scale, return_lse)
    else:
        out, lse = _reference(q, k, v, causal, window, starts, scale, return_lse)
    return (out, lse) if return_lse else out


def _run_kernel(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, starts: Tensor | None,
    longest: int | None, blocks: tuple[int, int] | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return the output and the log-sum-exps, by Triton."""
    tile = chosen("attention_forward", forward_tile(q))
    if blocks is not None:
        tile = Tile({"BLOCK_Q": plain(blocks[0]), "BLOCK_K": plain(blocks[1])}, tile.warps, tile.stages)
    starts = None if starts is None else starts.to(torch.int32).contiguous()
    out, lse = _FlashAttention.apply(q, k, v, causal, window or 0, starts, plain(longest), tile, scale)
    return out, lse * math.log(2) if return_lse else None


def _reference(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, starts: Tensor | None, scale: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return the output and the log-sum-exps, by PyTorch, one packed sequence after the other.

    The log-sum-exps are computed only on request, because they need all scores in memory.
    """
    if starts is not None:
        runs = [slice(*bounds) for bounds in pairwise(starts.tolist())]
        rest = causal, window, None, scale, return_lse
        parts = [_reference(*(x[:, :, run] for x in (q, k, v)), *rest) for run in runs]
        outs, lses = zip(*parts, strict=True)
        return torch.cat(outs, dim=2), torch.cat(lses, dim=2) if return_lse else None
    lse = _log_sum_exp(q.detach(), k.detach(), causal, window, scale) if return_lse else None
    if 0 in (q.numel(), k.numel()):  # `attend` wants one of each
        out = (q @ _repeat_heads(k, q.shape[1]).mT) @ _repeat_heads(v, q.shape[1])  # no sums have any terms
        return out, lse
    return attend(q, k, v, None, causal, scale, window), lse


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each key-value head for the query heads that share it, (batch, heads, key, d_head)."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def _log_sum_exp(q: Tensor, k: Tensor, causal: bool, window: int | None, scale: float) -> Tensor:
    """Return the log-sum-exp of each query's scores, (batch, heads, query), in 32 bits or more."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = scale * (q.to(wide) @ _repeat_heads(k, q.shape[1]).to(wide).mT)  # (batch, heads, query, key)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device, window), -math.inf)
    return scores.logsumexp(dim=-1)


def forward_tile(q: Tensor) -> Tile:
    """Return the tile of `attention_forward`.

    It is as large as the chip's registers allow, since each tile of queries reads all keys once.
    """
    d_head = q.shape[-1]
    if q.dtype == torch.float32:
        block_q, block_k = (32, 32) if d_head <= 64 else (32, 16)
    elif d_head > 128:
        block_q, block_k = 64, 32
    else:
        block_q, block_k = (128, 64) if d_head <= 64 or hopper(q) else (128, 32)
    return Tile({"BLOCK_Q": block_q, "BLOCK_K": block_k}, warps=8, stages=3 if d_head <= 128 else 2)


@triton.jit
def attention_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, starts_ptr, q_batch, q_head, q_time, k_batch, k_head, k_time,
    v_batch, v_head, v_time, out_batch, out_head, out_time, queries, keys, queries_per_row, group, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, D_HEAD: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_Q queries of one head.

    `scale` includes log₂ e, so that exp2 takes the place of exp. With s_ij the scaled scores of query i for
    the keys j that were visited, the program keeps

        largest_i = max_j s_ij
        total_weight_i = Σ_j 2^(s_ij − largest_i)
        out_i = Σ_j 2^(s_ij − largest_i) v_j

    A tile that raises largest_i to new_largest_i multiplies both sums by

        shrink_i = 2^(largest_i − new_largest_i)

    At the end, out_i / total_weight_i is the output, and largest_i + log₂ total_weight_i the log-sum-exp to
    base two.

    group: query heads that share a key-value head. queries, keys: of a sequence; for packed sequences they
    are read from `starts`. queries_per_row: queries of a row of the batch, all packed sequences together.
    """
    tile_index = tl.num_programs(0) - 1 - tl.program_id(0)  # the last queries see most keys: they begin first
    head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    batch, sequence_at, queries, keys = load_bounds(starts_ptr, sequence, queries, keys)
    first = tile_index * BLOCK_Q
    if first >= queries:
        return
    offset = keys - queries
    row = first + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    q_mask = (row < queries)[:, None] & (column < D_HEAD)  # (BLOCK_Q, WIDTH)
    at = (sequence_at + row)[:, None]  # (BLOCK_Q, 1)
    q = tl.load(q_ptr + batch * q_batch + head * q_head + at * q_time + column, mask=q_mask, other=0.0)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head

    begin, full_begin, full_end, end = visible_keys(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    step = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    largest = tl.full((BLOCK_Q,), -float("inf"), tl.float32)  # (BLOCK_Q,)
    total_weight = tl.zeros((BLOCK_Q,), tl.float32)  # (BLOCK_Q,)
    out = tl.zeros((BLOCK_Q, WIDTH), tl.float32)  # (BLOCK_Q, WIDTH)
    # Shapes in the loop over the keys' tiles:
    #     key: (BLOCK_K,), the positions of the keys       place: a number, the tile's first token in its row
    #     k, v and `held`, their mask: (BLOCK_K, WIDTH)    scores, seen, weights: (BLOCK_Q, BLOCK_K)
    #     new_largest, base, shrink: (BLOCK_Q,)            base is finite even before a query has seen a key
    for part in tl.static_range(3):  # LEFT_EDGE, FULL_TILES, RIGHT_EDGE of flash_tiles
        low, high = part_bounds(part, begin, full_begin, full_end, end)
        for start in range(low, high, BLOCK_K):
            key, place = start + step, sequence_at + start
            held = (key < keys)[:, None] & (column < D_HEAD)
            k = tl.load(k_ptr + place * k_time + (step[:, None] * k_time + column), mask=held, other=0.0)
            scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
            if part != 1:
                seen = sees(row[:, None] + offset, key[None, :], key[None, :] < keys, CAUSAL, WINDOW)
                scores = tl.where(seen, scores, -float("inf"))
            new_largest = tl.maximum(largest, tl.max(scores, axis=1))
            base = tl.where(new_largest == -float("inf"), 0.0, new_largest)
            weights = tl.exp2(scores - base[:, None])
            shrink = tl.exp2(largest - base)
            total_weight = total_weight * shrink + tl.sum(weights, axis=1)
            v = tl.load(v_ptr + place * v_time + (step[:, None] * v_time + column), mask=held, other=0.0)
            out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
            largest = new_largest

    # Without keys, outputs are 0 and log-sum-exps −∞. A query whose scores are all −∞ gets 0 / 0, so nan.
    divisor = tl.where(keys == 0, 1.0, total_weight)  # (BLOCK_Q,)
    out /= divisor[:, None]  # (BLOCK_Q, WIDTH)
    out_ptr += batch * out_batch + head * out_head + at * out_time + column
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=q_mask)
    lse_at = (batch * tl.num_programs(1) + head) * queries_per_row + sequence_at + row  # (BLOCK_Q,)
    tl.store(lse_ptr + lse_at, largest + tl.log2(divisor), mask=row < queries)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, window, starts, longest, tile, scale) -> tuple[Tensor, Tensor]:
        """Return the output, and the log-sum-exps to base two."""
        q, k, v = (to_kernel_layout(x) for x in (q, k, v))
        batch, heads, queries, d_head = q.shape
        out, lse = torch.empty_like(q), q.new_empty(batch, heads, queries, dtype=torch.float32)
        sequences = batch if starts is None else len(starts) - 1
        most = queries if longest is None else min(longest, queries)
        grid = (tile_count(most, tile.sizes["BLOCK_Q"]), heads, sequences)
        # queries, keys, queries_per_row, group, scale
        sizes = queries, k.shape[2], queries, heads // k.shape[1], scale * math.log2(math.e)
        launch(
            attention_forward, grid, q, k, v, out, lse, starts, *strides(q, k, v, out), *sizes, tile=tile,
            CAUSAL=causal, WINDOW=window, D_HEAD=d_head, WIDTH=max(16, power_of_two(d_head)),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse, starts)
        ctx.options = causal, window, longest, scale
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor, grad_lse: None) -> tuple:
        grads = flash_backward(*ctx.saved_tensors, grad_out, *ctx.options)
        return *grads, None, None, None, None, None, None
