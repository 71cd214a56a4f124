"""The way back through FlashAttention: the weights weren't kept, so they are computed once more, tile by tile (Dao 2023,
algorithm 2).

With weights P = softmax(s · q kᵀ), where s is the scale of the scores, outputs O = P v, and dO the gradient that arrives:

    dV = Pᵀ dO        dS = P ⊙ (dO vᵀ − δ)        dQ = s · dS k        dK = s · dSᵀ q

where δ = Σ dO ⊙ O is one number a query: what P's normalization takes off. P itself is one exponential of a score less the query's
log-sum-exp, which the way forward left behind.

              keys
            ┌───┬───┬───┬───┐       grad_queries: a program has a row of tiles and walks over its keys; it also leaves δ behind
    queries │ → │ → │ → │   │
            ├───┼───┼───┼───┤       grad_keys_values: a program has a column of tiles and walks down over the queries that see
            │   │ ↓ │   │   │       it, of all heads that share the keys. So no sum is made by several programs: the result is
            ├───┼───┼───┼───┤       the same each time, at the price of two products, q kᵀ and dO vᵀ, done twice.
            │   │ ↓ │   │   │
            └───┴───┴───┴───┘
"""

import math

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.flash_tiles import sees, visible_keys, visible_queries
from course_lib.kernels.language import hopper, launch, power_of_two, tiles, tl, triton

# Scores are to base two, as forward; the gradients are not: their factor is scale · log 2. (Triton takes no plain globals.)
LN_2 = tl.constexpr(0.6931471805599453)


def flash_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor | None, grad_out: Tensor,
    causal: bool, window: int, longest: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients in q, k and v, shaped and strided as these are. out, lse: what the forward kernel returned, lse to base two."""
    grad_out = near(grad_out)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    (batch, heads, queries, d_head), (kv_heads, keys) = q.shape, k.shape[1:3]
    sequences = batch if starts is None else len(starts) - 1
    sizes = (queries, keys, queries, heads // kv_heads, scale * math.log2(math.e))
    constants = {"CAUSAL": causal, "WINDOW": window, "D_HEAD": d_head, "WIDTH": max(16, power_of_two(d_head))}
    strides = [stride for x in (q, k, v, out, grad_out) for stride in x.stride()[:3]]
    longest = max(queries, keys) if longest is None else longest
    tile = chosen("grad_queries", grad_queries_tile(q))
    launch(
        grad_queries, (tiles(longest, tile.sizes["BLOCK_Q"]), heads, sequences), q, k, v, out, grad_out, lse, delta,
        grad_q, starts, *strides, *grad_q.stride()[:3], *sizes, tile=tile, **constants,
    )  # fmt: skip
    tile = chosen("grad_keys_values", grad_keys_values_tile(q))
    launch(
        grad_keys_values, (tiles(longest, tile.sizes["BLOCK_K"]), kv_heads, sequences), q, k, v, grad_out, lse, delta,
        grad_k, grad_v, starts, *strides[:9], *strides[12:], *grad_k.stride()[:3], *grad_v.stride()[:3], *sizes,
        tile=tile, **constants,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def near(x: Tensor) -> Tensor:
    """x, copied if need be: the numbers of a head side by side, and tokens so near each other that 32 bits hold the way from a
    tile's first to its last."""
    return x if x.stride(-1) == 1 and x.stride(2) < 2**23 else x.contiguous()


def grad_queries_tile(q: Tensor) -> Tile:
    """The tile of `grad_queries`."""
    own, visited = _block_sizes(q)
    return Tile({"BLOCK_Q": own, "BLOCK_K": visited}, warps=8, stages=2)


def grad_keys_values_tile(q: Tensor) -> Tile:
    """The tile of `grad_keys_values`."""
    own, visited = _block_sizes(q)
    return Tile({"BLOCK_K": own, "BLOCK_Q": visited}, warps=8, stages=2)


def _block_sizes(q: Tensor) -> tuple[int, int]:
    """Rows of a program's own tile, and rows of the tiles that it visits one after the other."""
    d_head = q.shape[-1]
    if q.dtype == torch.float32:
        return 32, 16
    if d_head > 128:
        return 32, 32
    if hopper(q):
        return (128, 64) if d_head <= 64 else (128, 32)
    return (128, 32) if d_head <= 64 else (64, 64)


def attention_backward_cost(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, d_head: int, bytes_each: int, causal: bool = True,
    window: int | None = None, blocks: tuple[int, int] = (128, 64),
) -> Cost:  # fmt: skip
    """What both kernels move and multiply. blocks: rows of a program's own tile, and of those that it walks over."""
    own, walked = blocks
    offset, read_keys, read_queries, products = keys - queries, 0, 0, 0
    for first in range(0, queries, own):
        begin = max(0, first + offset - window + 1) // walked * walked if window else 0
        end = tiles(min(keys, first + own + offset) if causal else keys, walked) * walked
        read_keys += min(end, keys) - begin
        products += 3 * (end - begin)
    for first in range(0, keys, own):
        begin = max(0, first - offset) // walked * walked if causal else 0
        end = min(queries, max(0, first + own - 1 + window - offset)) if window else queries
        end = max(tiles(end, walked) * walked, begin)
        read_queries += max(0, min(end, queries) - begin)
        products += 4 * (end - begin)
    rows = heads * (4 * queries + 2 * read_keys + 2 * read_queries) + kv_heads * 4 * keys
    numbers = heads * (2 * queries + 2 * read_queries)  # log-sum-exp and δ
    width = max(16, power_of_two(d_head))
    return Cost(
        batch * (bytes_each * d_head * rows + 4 * numbers), batch * heads * 2 * products * own * width
    )


@triton.jit
def grad_queries(
    q_ptr, k_ptr, v_ptr, out_ptr, grad_out_ptr, lse_ptr, delta_ptr, grad_q_ptr, starts_ptr,
    q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time, out_batch, out_head, out_time,
    grad_out_batch, grad_out_head, grad_out_time, grad_q_batch, grad_q_head, grad_q_time,
    queries, keys, total, group, scale, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    D_HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    sequence_at = batch * 0  # where the sequence starts
    if starts_ptr is not None:
        sequence_at = tl.load(starts_ptr + batch).to(tl.int64)
        queries = (tl.load(starts_ptr + batch + 1) - sequence_at).to(tl.int32)
        keys, batch = queries, batch * 0
    first = tile * BLOCK_Q
    if first >= queries:
        return
    offset = keys - queries
    row, column = first + tl.arange(0, BLOCK_Q), tl.arange(0, WIDTH)[None, :]
    real = row < queries
    there = real[:, None] & (column < D_HEAD)
    at = (sequence_at + row)[:, None]
    q = tl.load(q_ptr + batch * q_batch + head * q_head + at * q_time + column, mask=there, other=0.0)
    out = tl.load(
        out_ptr + batch * out_batch + head * out_head + at * out_time + column, mask=there, other=0.0
    )
    grad_out_ptr += batch * grad_out_batch + head * grad_out_head
    grad_out = tl.load(grad_out_ptr + at * grad_out_time + column, mask=there, other=0.0)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), axis=1)
    number = (batch * tl.num_programs(1) + head) * total + sequence_at + row
    tl.store(delta_ptr + number, delta, mask=real)
    lse = tl.load(lse_ptr + number, mask=real, other=0.0)
    lse = tl.where(
        lse == -float("inf"), 0.0, lse
    )  # of a query that sees nothing: exp(−∞ − 0) is 0, exp(−∞ + ∞) isn't

    begin, full_begin, full_end, end = visible_keys(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    step = tl.arange(0, BLOCK_K)
    grad_q = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for part in tl.static_range(3):
        low = begin if part == 0 else full_begin if part == 1 else full_end
        high = tl.minimum(full_begin, end) if part == 0 else full_end if part == 1 else end
        for start in range(low, high, BLOCK_K):
            key, place = start + step, sequence_at + start
            held = (key < keys)[:, None] & (column < D_HEAD)
            k = tl.load(k_ptr + place * k_time + (step[:, None] * k_time + column), mask=held, other=0.0)
            v = tl.load(v_ptr + place * v_time + (step[:, None] * v_time + column), mask=held, other=0.0)
            scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
            weights = tl.exp2(scores - lse[:, None])
            if part != 1:
                seen = sees(row[:, None] + offset, key[None, :], key[None, :] < keys, CAUSAL, WINDOW)
                weights = tl.where(seen, weights, 0.0)
            grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")
            grad_scores = (weights * (grad_weights - delta[:, None])).to(k.dtype)
            grad_q = tl.dot(grad_scores, k, grad_q, input_precision="ieee")

    grad_q_ptr += batch * grad_q_batch + head * grad_q_head + at * grad_q_time + column
    tl.store(grad_q_ptr, (grad_q * (scale * LN_2)).to(grad_q_ptr.dtype.element_ty), mask=there)


@triton.jit
def grad_keys_values(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, lse_ptr, delta_ptr, grad_k_ptr, grad_v_ptr, starts_ptr,
    q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time,
    grad_out_batch, grad_out_head, grad_out_time, grad_k_batch, grad_k_head, grad_k_time,
    grad_v_batch, grad_v_head, grad_v_time, queries, keys, total, group, scale, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, D_HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    kv_head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    sequence_at = batch * 0
    if starts_ptr is not None:
        sequence_at = tl.load(starts_ptr + batch).to(tl.int64)
        queries = (tl.load(starts_ptr + batch + 1) - sequence_at).to(tl.int32)
        keys, batch = queries, batch * 0
    first = tl.program_id(0) * BLOCK_K
    if first >= keys:
        return
    offset = keys - queries
    key, column = first + tl.arange(0, BLOCK_K), tl.arange(0, WIDTH)[None, :]
    held = (key < keys)[:, None] & (column < D_HEAD)
    at = (sequence_at + key)[:, None]
    k = tl.load(k_ptr + batch * k_batch + kv_head * k_head + at * k_time + column, mask=held, other=0.0)
    v = tl.load(v_ptr + batch * v_batch + kv_head * v_head + at * v_time + column, mask=held, other=0.0)

    begin, full_begin, full_end, end = visible_queries(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    step = tl.arange(0, BLOCK_Q)
    grad_k = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    grad_v = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    q_ptr += batch * q_batch + kv_head * group * q_head
    grad_out_ptr += batch * grad_out_batch + kv_head * group * grad_out_head
    number = (batch * tl.num_programs(1) + kv_head) * group * total
    lse_ptr, delta_ptr = lse_ptr + number, delta_ptr + number
    for part in tl.static_range(3):
        low = begin if part == 0 else full_begin if part == 1 else full_end
        high = tl.minimum(full_begin, end) if part == 0 else full_end if part == 1 else end
        count = tl.maximum(0, high - low + BLOCK_Q - 1) // BLOCK_Q
        for turn in range(count * group):  # all heads of the group, one after the other
            head, start = turn // count, low + turn % count * BLOCK_Q
            row, place = start + step, sequence_at + start
            there = (row < queries)[:, None] & (column < D_HEAD)
            q_tile = q_ptr + head * q_head + place * q_time
            q = tl.load(q_tile + (step[:, None] * q_time + column), mask=there, other=0.0)
            grad_out_tile = grad_out_ptr + head * grad_out_head + place * grad_out_time
            grad_out = tl.load(
                grad_out_tile + (step[:, None] * grad_out_time + column), mask=there, other=0.0
            )
            lse = tl.load(lse_ptr + head * total + place + step, mask=row < queries, other=0.0)
            lse = tl.where(lse == -float("inf"), 0.0, lse)
            delta = tl.load(delta_ptr + head * total + place + step, mask=row < queries, other=0.0)
            scores = scale * tl.dot(k, tl.trans(q), input_precision="ieee")
            weights = tl.exp2(scores - lse[None, :])
            if part != 1:
                seen = sees(row[None, :] + offset, key[:, None], (row < queries)[None, :], CAUSAL, WINDOW)
                weights = tl.where(seen, weights, 0.0)
            grad_v = tl.dot(weights.to(q.dtype), grad_out, grad_v, input_precision="ieee")
            grad_weights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")
            grad_scores = (weights * (grad_weights - delta[None, :])).to(q.dtype)
            grad_k = tl.dot(grad_scores, q, grad_k, input_precision="ieee")

    grad_k_ptr += batch * grad_k_batch + kv_head * grad_k_head + at * grad_k_time + column
    grad_v_ptr += batch * grad_v_batch + kv_head * grad_v_head + at * grad_v_time + column
    tl.store(grad_k_ptr, (grad_k * (scale * LN_2)).to(grad_k_ptr.dtype.element_ty), mask=held)
    tl.store(grad_v_ptr, grad_v.to(grad_v_ptr.dtype.element_ty), mask=held)
