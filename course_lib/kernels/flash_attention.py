"""FlashAttention: attention whose scores never leave the chip (Dao et al. 2022; in this form Dao 2023, "FlashAttention-2").

                        keys and values (time, d_head)
                     ┌──────┬──────┬──────┬──────┐        One program has BLOCK_Q queries of a head. It walks over keys and
    queries          │ full │ edge │      │      │        values, BLOCK_K at a time, and keeps for each query the largest
    (time, d_head)   ├──────┼──────┼──────┼──────┤        score so far, the sum of the exponentials, and the sum of the
      program 1 →    │ full │ full │ edge │      │        values that they weigh. When a larger score turns up, both sums
                     ├──────┼──────┼──────┼──────┤        are scaled down to it ("online softmax": Milakov &
      program 2 →    │ full │ full │ full │ edge │        Gimelshein 2018). In the end one divides the other.
                     └──────┴──────┴──────┴──────┘

Causal, tiles above the diagonal are not visited, and only those on it (edge) need a mask; a sliding window makes a second edge,
on the left. Memory: a number for each query beside the output, instead of a score for each pair.

Not handled: dropout, masks of other shapes, biases on the scores.
"""

import math

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.flash_backward import flash_backward, near
from course_lib.kernels.flash_tiles import sees, visible_keys
from course_lib.kernels.language import hopper, launch, power_of_two, tiles, tl, triton, use_triton
from course_lib.model.attention import attend, causal_mask

WIDEST_HEAD = 256


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window: int | None = None, starts: Tensor | None = None,
    longest: int | None = None, blocks: tuple[int, int] | None = None, backend: str = "auto", scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """softmax(q kᵀ / √d_head) v, (batch, heads, query, d_head), as `model.attend` computes it; differentiable.

    q: (batch, heads, query, d_head); k and v: (batch, kv_heads, key, d_head), with heads a multiple of kv_heads, the queries
    standing at the last positions. Any strides. window: each query sees itself and the window − 1 keys before (causal only).

    starts: for sequences of several lengths that are packed one behind the other, with nothing between, into a batch of 1: where
    each starts, and at last where the last one ends, (sequences + 1,) of int32. They don't see each other. longest: the length
    of the longest or more, if you know it; unknown, programs are started for the whole length, and those that find nothing to do
    end. On a GPU what starts and longest say isn't checked, since that would mean waiting for it: queries that they leave out
    get no output.

    blocks: (BLOCK_Q, BLOCK_K), powers of two from 16 on, if you know better than `forward_tile`. scale: the factor on q kᵀ, 1 / √d_head
    unless told otherwise. return_lse: also hand back each query's log-sum-exp of its scores, (batch, heads, query) of 32 bits, in nats, −∞
    where there are no keys: what it takes to merge attention over parts of the keys. It has no gradient.

    Raises ValueError for shapes that don't fit each other and dials outside their range; for others see `use_triton`.
    """
    _check(q, k, v, causal, window, blocks, scale)
    _check_starts(q, k, starts, longest)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    window = None if window is None or window >= k.shape[2] else window
    fits = q.shape[-1] <= WIDEST_HEAD or backend == "triton"
    if not fits or not use_triton(backend, q, k, v, *([] if starts is None else [starts]), products=True):
        out, lse = _reference(q, k, v, causal, window, starts, scale, return_lse)
        return (out, lse) if return_lse else out
    if q.shape[-1] > WIDEST_HEAD:
        raise ValueError(
            f"a head of {q.shape[-1]} doesn't fit on the chip (at most {WIDEST_HEAD}): use backend='torch'"
        )
    starts = None if starts is None else starts.to(torch.int32).contiguous()
    tile = chosen("attention_forward", forward_tile(q))
    if blocks is not None:
        tile = Tile(dict(zip(("BLOCK_Q", "BLOCK_K"), blocks, strict=True)), tile.warps, tile.stages)
    out, lse = _FlashAttention.apply(q, k, v, causal, window or 0, starts, longest, tile, scale)
    return (out, lse * math.log(2)) if return_lse else out


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    starts: Tensor | None,
    scale: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same by PyTorch, one sequence after the other; the log-sum-exps only where they are wanted, for they take all scores."""
    if starts is not None:
        runs = [slice(*run) for run in zip(starts.tolist()[:-1], starts.tolist()[1:], strict=True)]
        parts = [
            _reference(q[:, :, run], k[:, :, run], v[:, :, run], causal, window, None, scale, return_lse)
            for run in runs
        ]
        outs, lses = zip(*parts, strict=True)
        return torch.cat(outs, dim=2), torch.cat(lses, dim=2) if return_lse else None
    lse = _log_sum_exp(q.detach(), k.detach(), causal, window, scale) if return_lse else None
    return attend(q, k, v, None, causal, scale, window), lse


def _log_sum_exp(q: Tensor, k: Tensor, causal: bool, window: int | None, scale: float) -> Tensor:
    """(batch, heads, query), in 32 bits or more."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = scale * (q.to(wide) @ k.to(wide).repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device, window), -math.inf)
    return scores.logsumexp(dim=-1)


def forward_tile(q: Tensor) -> Tile:
    """The tile of `attention_forward`: as large as the chip's registers allow, since each tile of queries reads all keys once."""
    d_head = q.shape[-1]
    if q.dtype == torch.float32:
        block_q, block_k = (32, 32) if d_head <= 64 else (32, 16)
    elif d_head > 128:
        block_q, block_k = 64, 32
    else:
        block_q, block_k = (128, 64) if d_head <= 64 or hopper(q) else (128, 32)
    return Tile({"BLOCK_Q": block_q, "BLOCK_K": block_k}, warps=8, stages=3 if d_head <= 128 else 2)


def attention_cost(
    batch: int, heads: int, queries: int, keys: int, d_head: int, bytes_each: int, causal: bool = True,
    window: int | None = None, blocks: tuple[int, int] = (128, 64),
) -> Cost:  # fmt: skip
    """What the forward kernel moves and multiplies. Each tile of queries reads the keys and values that it visits anew."""
    read, multiplied = 0, 0
    for first in range(0, queries, blocks[0]):
        last = min(first + blocks[0], queries) - 1 + keys - queries
        end = last + 1 if causal else keys
        begin = max(0, first + keys - queries - window + 1) // blocks[1] * blocks[1] if window else 0
        read += min(tiles(end, blocks[1]) * blocks[1], keys) - begin
        multiplied += blocks[0] * (tiles(end, blocks[1]) * blocks[1] - begin)
    numbers = 2 * queries + 2 * read
    inner = max(16, power_of_two(d_head))
    return Cost(
        batch * heads * (bytes_each * numbers * d_head + 4 * queries), batch * heads * 4 * multiplied * inner
    )


def naive_attention_cost(
    batch: int, heads: int, queries: int, keys: int, d_head: int, bytes_each: int
) -> Cost:
    """The three steps one by one: scores = q kᵀ, written; softmax, scores read and weights written; weights read, times v."""
    pairs = queries * keys
    numbers = (2 * queries + 2 * keys) * d_head + 4 * pairs
    return Cost(batch * heads * bytes_each * numbers, batch * heads * 4 * pairs * d_head)


@triton.jit
def attention_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, starts_ptr, q_batch, q_head, q_time, k_batch, k_head, k_time,
    v_batch, v_head, v_time, out_batch, out_head, out_time, queries, keys, total, group, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, D_HEAD: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last queries see most keys: they begin first
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
    there = (row < queries)[:, None] & (column < D_HEAD)
    at = (sequence_at + row)[:, None]
    q = tl.load(q_ptr + batch * q_batch + head * q_head + at * q_time + column, mask=there, other=0.0)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head

    begin, full_begin, full_end, end = visible_keys(first, queries, keys, CAUSAL, WINDOW, BLOCK_Q, BLOCK_K)
    step = tl.arange(0, BLOCK_K)
    largest = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
    total_weight = tl.zeros((BLOCK_Q,), tl.float32)
    out = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for part in tl.static_range(3):  # the left edge, the full tiles, the right edge
        low = begin if part == 0 else full_begin if part == 1 else full_end
        high = tl.minimum(full_begin, end) if part == 0 else full_end if part == 1 else end
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

    divisor = tl.where(
        total_weight == 0, 1.0, total_weight
    )  # of a query that sees nothing the output is 0, and lse −∞
    out /= divisor[:, None]
    out_ptr += batch * out_batch + head * out_head + at * out_time + column
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=there)
    number = (batch * tl.num_programs(1) + head) * total + sequence_at + row
    tl.store(lse_ptr + number, largest + tl.log2(divisor), mask=row < queries)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, window, starts, longest, tile, scale) -> tuple[Tensor, Tensor]:
        """The output, and the log-sum-exps to base two."""
        q, k, v = (near(x) for x in (q, k, v))
        batch, heads, queries, d_head = q.shape
        out, lse = torch.empty_like(q), q.new_empty(batch, heads, queries, dtype=torch.float32)
        sequences = batch if starts is None else len(starts) - 1
        grid = (tiles(queries if longest is None else longest, tile.sizes["BLOCK_Q"]), heads, sequences)
        launch(
            attention_forward, grid, q, k, v, out, lse, starts, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            *out.stride()[:3], queries, k.shape[2], queries, heads // k.shape[1], scale * math.log2(math.e),
            tile=tile, CAUSAL=causal, WINDOW=window, D_HEAD=d_head, WIDTH=max(16, power_of_two(d_head)),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse, starts)
        ctx.dials = causal, window, longest, scale
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor, grad_lse: None) -> tuple:
        return *flash_backward(*ctx.saved_tensors, grad_out, *ctx.dials), None, None, None, None, None, None


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool, window, blocks, scale) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
    if (
        q.dim() != 4
        or k.dim() != 4
        or k.shape != v.shape
        or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3])
    ):
        raise ValueError(
            f"{shapes} must be (batch, heads, query, d_head) and twice (batch, kv_heads, key, d_head)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.shape[3]:
        raise ValueError(f"heads of no numbers have no scores: {shapes}")
    if not q.shape[1] or not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads can't share {k.shape[1]} key-value heads evenly")
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} queries can't be the last of {k.shape[2]} keys: give causal=False, or all keys"
        )
    if window is not None and (not causal or window < 1):
        raise ValueError(f"a window must be causal and at least 1 key wide: causal={causal}, window={window}")
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be above 0, or None for 1 / √d_head; not {scale}")
    if blocks is not None and (
        len(blocks) != 2 or any(block < 16 or block & (block - 1) for block in blocks)
    ):
        raise ValueError(f"blocks must be two powers of two from 16 on, not {tuple(blocks)}")


def _check_starts(q: Tensor, k: Tensor, starts: Tensor | None, longest: int | None) -> None:
    if starts is None and longest is None:
        return
    if starts is None:
        raise ValueError("longest is said of packed sequences: give their starts, or leave it out")
    if q.shape[0] != 1 or q.shape[2] != k.shape[2] or starts.dim() != 1 or len(starts) < 2:
        raise ValueError(
            "packed sequences are a batch of 1, with as many queries as keys and a list of starts, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and starts {tuple(starts.shape)}"
        )
    if starts.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"starts are places, int32 or int64, not {starts.dtype}")
    if starts.device.type == "cpu":
        lengths = starts.diff()
        if starts[0] != 0 or starts[-1] != q.shape[2] or (lengths < 0).any():
            raise ValueError(
                f"starts must rise from 0 to {q.shape[2]}, the number of tokens; not {starts.tolist()}"
            )
        if longest is not None and longest < lengths.max():
            raise ValueError(f"the longest sequence has {lengths.max()} tokens, not longest={longest}")
