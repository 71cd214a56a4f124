"""The backward pass of FlashAttention: the weights weren't kept, so they are computed again, tile by tile.

With weights P = softmax(scale · q kᵀ), outputs O = P v, and dO their gradient (Dao 2023, algorithm 2):

    dV = Pᵀ dO        dS = P ⊙ (dO vᵀ − δ)        dQ = scale · dS k        dK = scale · dSᵀ q

where δ = Σ dO ⊙ O is a number for each query, which comes from the normalization in the softmax. P itself
is exp(scale · q kᵀ − lse), with the log-sum-exp of each query that the forward kernel stored.

              keys
            ┌───┬───┬───┬───┐     grad_queries: a program has a row of tiles and visits its keys.
    queries │ → │ → │ → │   │     It also stores δ.
            ├───┼───┼───┼───┤
            │   │ ↓ │   │   │     grad_keys_values: a program has a column of tiles and visits the queries
            ├───┼───┼───┼───┤     that see it, of all heads that share the keys. So each sum is made by one
            │   │ ↓ │   │   │     program, and the result is the same each time, at the price of computing
            └───┴───┴───┴───┘     two products, q kᵀ and dO vᵀ, twice.
"""

import math

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.flash_tiles import (
    FULL_TILES,
    load_bounds,
    part_bounds,
    sees,
    visible_keys,
    visible_queries,
)
from course_lib.kernels.language import hopper, launch, power_of_two, tile_count, tl, triton

# `scale` includes log₂ e, because the kernels use exp2; multiplying by ln 2 removes it from the gradients. A
# kernel can read a global only if it is a constexpr.
LN_2 = tl.constexpr(0.6931471805599453)


def flash_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor | None, grad_out: Tensor,
    causal: bool, window: int, longest: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of q, k and v, each of the same shape as its input.

    out, lse: the results of the forward kernel, (batch, heads, query, d_head) and, to base two, (batch,
        heads, query).
    """
    grad_out = to_kernel_layout(grad_out)
    grad_q, grad_k, grad_v, delta = (torch.empty_like(x) for x in (q, k, v, lse))
    (batch, heads, queries, d_head), (kv_heads, keys) = q.shape, k.shape[1:3]
    sequences = batch if starts is None else len(starts) - 1
    longest = max(queries, keys) if longest is None else min(longest, queries)
    # queries, keys, queries_per_row, group, scale
    sizes = queries, keys, queries, heads // kv_heads, scale * math.log2(math.e)
    options = {"CAUSAL": causal, "WINDOW": window, "D_HEAD": d_head, "WIDTH": max(16, power_of_two(d_head))}
    tile = chosen("grad_queries", grad_queries_tile(q))
    grid = tile_count(longest, tile.sizes["BLOCK_Q"]), heads, sequences
    tensors = q, k, v, out, grad_out, lse, delta, grad_q, starts
    all_strides = strides(q, k, v, out, grad_out, grad_q)
    launch(grad_queries, grid, *tensors, *all_strides, *sizes, tile=tile, **options)
    tile = chosen("grad_keys_values", grad_keys_values_tile(q))
    grid = tile_count(longest, tile.sizes["BLOCK_K"]), kv_heads, sequences
    tensors = q, k, v, grad_out, lse, delta, grad_k, grad_v, starts
    all_strides = strides(q, k, v, grad_out, grad_k, grad_v)
    launch(grad_keys_values, grid, *tensors, *all_strides, *sizes, tile=tile, **options)
    return grad_q, grad_k, grad_v


def strides(*tensors: Tensor) -> list[int]:
    """Return the strides of batch, heads and time of each tensor."""
    return [stride for x in tensors for stride in x.stride()[:3]]


def to_kernel_layout(x: Tensor) -> Tensor:
    """Return x, or a contiguous copy where the kernels can't address it.

    They need the elements of a head side by side, and tokens so near each other that 32 bits hold the
    distance from the first token of a tile to its last.
    """
    return x if x.stride(-1) == 1 and x.stride(2) < 2**23 else x.contiguous()


def grad_queries_tile(q: Tensor) -> Tile:
    """Return the tile of `grad_queries`."""
    own, visited = _block_sizes(q)
    return Tile({"BLOCK_Q": own, "BLOCK_K": visited}, warps=8, stages=2)


def grad_keys_values_tile(q: Tensor) -> Tile:
    """Return the tile of `grad_keys_values`."""
    own, visited = _block_sizes(q)
    return Tile({"BLOCK_K": own, "BLOCK_Q": visited}, warps=8, stages=2)


def _block_sizes(q: Tensor) -> tuple[int, int]:
    """Return the rows of a program's own tile, and of the tiles that it visits one after the other."""
    d_head = q.shape[-1]
    if q.dtype == torch.float32:
        return 32, 16
    if d_head > 128:
        return 32, 32
    if hopper(q):
        return (128, 64) if d_head <= 64 else (128, 32)
    return (128, 32) if d_head <= 64 else (64, 64)


@triton.jit
def grad_queries(
    q_ptr, k_ptr, v_ptr, out_ptr, grad_out_ptr, lse_ptr, delta_ptr, grad_q_ptr, starts_ptr,
    q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time, out_batch, out_head, out_time,
    grad_out_batch, grad_out_head, grad_out_time, grad_q_batch, grad_q_head, grad_q_time,
    queries, keys, queries_per_row, group, scale, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    D_HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK_Q queries of one head, over the keys that they see.

        δ_i = Σ_c dO_ic O_ic                    P_ij = 2^(s_ij − lse_i), with s and lse to base two
        dS_ij = P_ij (dO_i · v_j − δ_i)         dQ_i = scale Σ_j dS_ij k_j

    `scale` includes log₂ e, which LN_2 removes at the end. group: query heads that share a key-value head.
    queries_per_row: queries of a row of the batch, all packed sequences together.
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
    q_ptr += batch * q_batch + head * q_head
    q = tl.load(q_ptr + at * q_time + column, mask=q_mask, other=0.0)  # (BLOCK_Q, WIDTH)
    out_ptr += batch * out_batch + head * out_head
    out = tl.load(out_ptr + at * out_time + column, mask=q_mask, other=0.0)  # (BLOCK_Q, WIDTH)
    grad_out_ptr += batch * grad_out_batch + head * grad_out_head
    grad_out = tl.load(grad_out_ptr + at * grad_out_time + column, mask=q_mask, other=0.0)  # (BLOCK_Q, WIDTH)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), axis=1)  # (BLOCK_Q,)
    lse_at = (batch * tl.num_programs(1) + head) * queries_per_row + sequence_at + row  # (BLOCK_Q,)
    tl.store(delta_ptr + lse_at, delta, mask=row < queries)
    # −∞ if all scores of a query are: its weights, 2^(−∞ + ∞), are nan here as in the forward pass.
    lse = tl.load(lse_ptr + lse_at, mask=row < queries, other=0.0)  # (BLOCK_Q,)

    begin, full_begin, full_end, end = visible_keys(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    step = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    grad_q = tl.zeros((BLOCK_Q, WIDTH), tl.float32)  # (BLOCK_Q, WIDTH)
    for part in tl.static_range(3):  # LEFT_EDGE, FULL_TILES, RIGHT_EDGE
        low, high = part_bounds(part, begin, full_begin, full_end, end)
        for start in range(low, high, BLOCK_K):
            key = start + step  # (BLOCK_K,)
            place = sequence_at + start  # a number: the tile's first token in its row of the batch
            k_mask = (key < keys)[:, None] & (column < D_HEAD)  # (BLOCK_K, WIDTH), as k and v
            k = tl.load(k_ptr + place * k_time + (step[:, None] * k_time + column), mask=k_mask, other=0.0)
            v = tl.load(v_ptr + place * v_time + (step[:, None] * v_time + column), mask=k_mask, other=0.0)
            scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
            weights = tl.exp2(scores - lse[:, None])  # (BLOCK_Q, BLOCK_K)
            if part != FULL_TILES:
                # (BLOCK_Q, BLOCK_K)
                seen = sees(row[:, None] + offset, key[None, :], key[None, :] < keys, CAUSAL, WINDOW)
                weights = tl.where(seen, weights, 0.0)
            grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
            grad_scores = (weights * (grad_weights - delta[:, None])).to(k.dtype)  # (BLOCK_Q, BLOCK_K)
            grad_q = tl.dot(grad_scores, k, grad_q, input_precision="ieee")  # (BLOCK_Q, WIDTH)

    grad_q_ptr += batch * grad_q_batch + head * grad_q_head + at * grad_q_time + column
    tl.store(grad_q_ptr, (grad_q * (scale * LN_2)).to(grad_q_ptr.dtype.element_ty), mask=q_mask)


@triton.jit
def grad_keys_values(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, grad_k_ptr, grad_v_ptr, starts_ptr,
    q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time,
    grad_out_batch, grad_out_head, grad_out_time, grad_k_batch, grad_k_head, grad_k_time,
    grad_v_batch, grad_v_head, grad_v_time, queries, keys, queries_per_row, group, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, D_HEAD: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK_K keys and values of one key-value head, over the queries i that see them.

        P_ij = 2^(s_ij − lse_i), with s and lse to base two        dV_j = Σ_i P_ij dO_i
        dS_ij = P_ij (dO_i · v_j − δ_i)                            dK_j = scale Σ_i dS_ij q_i

    Scores and weights are transposed here, (BLOCK_K, BLOCK_Q). scale, group and queries_per_row are those of
    `grad_queries`.
    """
    kv_head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    batch, sequence_at, queries, keys = load_bounds(starts_ptr, sequence, queries, keys)
    first = tl.program_id(0) * BLOCK_K
    if first >= keys:
        return
    offset = keys - queries
    key = first + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    k_mask = (key < keys)[:, None] & (column < D_HEAD)  # (BLOCK_K, WIDTH), as k and v
    at = (sequence_at + key)[:, None]  # (BLOCK_K, 1)
    k = tl.load(k_ptr + batch * k_batch + kv_head * k_head + at * k_time + column, mask=k_mask, other=0.0)
    v = tl.load(v_ptr + batch * v_batch + kv_head * v_head + at * v_time + column, mask=k_mask, other=0.0)

    begin, full_begin, full_end, end = visible_queries(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    step = tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    grad_k = tl.zeros((BLOCK_K, WIDTH), tl.float32)  # (BLOCK_K, WIDTH)
    grad_v = tl.zeros((BLOCK_K, WIDTH), tl.float32)  # (BLOCK_K, WIDTH)
    q_ptr += batch * q_batch + kv_head * group * q_head
    grad_out_ptr += batch * grad_out_batch + kv_head * group * grad_out_head
    first_lse = (batch * tl.num_programs(1) + kv_head) * group * queries_per_row  # a number
    lse_ptr, delta_ptr = lse_ptr + first_lse, delta_ptr + first_lse
    for part in tl.static_range(3):  # LEFT_EDGE, FULL_TILES, RIGHT_EDGE
        low, high = part_bounds(part, begin, full_begin, full_end, end)
        count = tl.maximum(0, high - low + BLOCK_Q - 1) // BLOCK_Q  # a number: the tiles of this part
        for visit in range(count * group):  # all heads of the group, one after the other
            head, start = visit // count, low + visit % count * BLOCK_Q  # two numbers
            row = start + step  # (BLOCK_Q,)
            place = sequence_at + start  # a number: the tile's first token in its row of the batch
            q_mask = (row < queries)[:, None] & (column < D_HEAD)  # (BLOCK_Q, WIDTH), as q and grad_out
            q_tile = q_ptr + head * q_head + place * q_time
            q = tl.load(q_tile + (step[:, None] * q_time + column), mask=q_mask, other=0.0)
            grad_out_tile = grad_out_ptr + head * grad_out_head + place * grad_out_time
            grad_out_at = step[:, None] * grad_out_time + column  # (BLOCK_Q, WIDTH)
            grad_out = tl.load(grad_out_tile + grad_out_at, mask=q_mask, other=0.0)
            # lse, delta: (BLOCK_Q,)
            lse = tl.load(lse_ptr + head * queries_per_row + place + step, mask=row < queries, other=0.0)
            delta = tl.load(delta_ptr + head * queries_per_row + place + step, mask=row < queries, other=0.0)
            scores = scale * tl.dot(k, tl.trans(q), input_precision="ieee")  # (BLOCK_K, BLOCK_Q)
            weights = tl.exp2(scores - lse[None, :])  # (BLOCK_K, BLOCK_Q)
            if part != FULL_TILES:
                # (BLOCK_K, BLOCK_Q)
                seen = sees(row[None, :] + offset, key[:, None], (row < queries)[None, :], CAUSAL, WINDOW)
                weights = tl.where(seen, weights, 0.0)
            grad_v = tl.dot(weights.to(q.dtype), grad_out, grad_v, input_precision="ieee")  # (BLOCK_K, WIDTH)
            grad_weights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # (BLOCK_K, BLOCK_Q)
            grad_scores = (weights * (grad_weights - delta[None, :])).to(q.dtype)  # (BLOCK_K, BLOCK_Q)
            grad_k = tl.dot(grad_scores, q, grad_k, input_precision="ieee")  # (BLOCK_K, WIDTH)

    grad_k_ptr += batch * grad_k_batch + kv_head * grad_k_head + at * grad_k_time + column
    grad_v_ptr += batch * grad_v_batch + kv_head * grad_v_head + at * grad_v_time + column
    tl.store(grad_k_ptr, (grad_k * (scale * LN_2)).to(grad_k_ptr.dtype.element_ty), mask=k_mask)
    tl.store(grad_v_ptr, grad_v.to(grad_v_ptr.dtype.element_ty), mask=k_mask)
