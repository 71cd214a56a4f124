"""FlashAttention in its plainest form: the forward pass of causal attention, in one short kernel.

Attention in three steps, which store all scores and all weights, (time, time) for each head:

    s = (q @ k.mT / math.sqrt(d_head)).masked_fill(~causal_mask(time, time), -math.inf)
    p = s.softmax(dim=-1)
    out = p @ v

The kernel computes the same, a tile of scores at a time:

    for each tile of queries, of each head, of each sequence        a program each; as many as fit run at once
        for each tile of keys up to the diagonal                    one after the other, in the program
            the scores of this tile, and how they change the softmax and its product with the values

The scores never exist as a whole: a program has BLOCK_Q × BLOCK_K of them at a time, on the chip (Dao et al.
2022; with the query loop outside and the key loop inside Dao 2023, "FlashAttention-2").

Not handled: gradients, fewer queries than keys, attention without a causal mask, fewer key-value heads than
query heads, sliding windows, packed sequences, tensors that aren't contiguous, other widths of heads.
`flash_attention` handles all of these.
"""

import math

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.language import launch, tile_count, tl, triton, use_triton

# A program computes 64 queries, visits 32 keys at a time, and runs on 8 warps, of 32 threads each.
TILE = Tile({"BLOCK_Q": 64, "BLOCK_K": 32}, warps=8)


def plain_flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √d_head) v under a causal mask, (batch, heads, time, d_head).

    q, k, v: (batch, heads, time, d_head), contiguous, of one dtype; d_head is 16, 32, 64 or 128.

    Raises ValueError for other tensors, and where Triton can't run (see `use_triton`).
    """
    _check(q, k, v)
    batch, heads, time, d_head = q.shape
    out = torch.empty_like(q)
    grid = tile_count(time, TILE.sizes["BLOCK_Q"]), heads, batch  # the number of programs along each axis
    # Start all programs of the grid. The kernel is compiled for the tile's sizes and D_HEAD.
    launch(plain_attention_forward, grid, q, k, v, out, time, 1 / math.sqrt(d_head), tile=TILE, D_HEAD=d_head)
    return out


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dim() != 4 or not q.shape == k.shape == v.shape or q.shape[3] not in (16, 32, 64, 128):
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
        raise ValueError(f"{shapes} must be (batch, heads, time, d_head), d_head 16, 32, 64 or 128")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    if not all(x.is_contiguous() for x in (q, k, v)):
        raise ValueError("q, k and v must be contiguous; `flash_attention` takes any strides")
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError("this kernel has no gradient: call it under torch.no_grad(), or use flash_attention")
    # Raises ValueError where Triton can't run. products=True: the kernel multiplies matrices.
    use_triton("triton", q, k, v, products=True)


@triton.jit
def plain_attention_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, time, scale,
    D_HEAD: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_Q queries of one head, with an online softmax (Milakov & Gimelshein 2018).

    For each query, with the scores s_j = scale · q · k_j of the keys j that the program has visited, it keeps

        m = max_j s_j            l = Σ_j exp(s_j − m)            o = Σ_j exp(s_j − m) v_j

    A further tile of keys changes them. Sums relative to the old maximum are scaled down to the new one:

        m' = max(m, max_j s_j)                 where j runs over the keys of the new tile
        shrink = exp(m − m')
        p_j = exp(s_j − m')
        l' = shrink · l + Σ_j p_j
        o' = shrink · o + Σ_j p_j v_j

    After the last tile, o / l is softmax(s) v. Every query sees key 0, so m is finite from the first tile on.
    `tl.dot` multiplies matrices; "ieee" means full float32 for float32 inputs, not TF32, which rounds them.
    """
    first = tl.program_id(0) * BLOCK_Q
    # The index batch · heads + head, of a head among those of all sequences.
    head = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    query_index = first + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    channel = tl.arange(0, D_HEAD)[None, :]  # (1, D_HEAD)
    q_at = head * time * D_HEAD + query_index[:, None] * D_HEAD + channel  # (BLOCK_Q, D_HEAD)
    q = tl.load(q_ptr + q_at, mask=query_index[:, None] < time, other=0.0)  # (BLOCK_Q, D_HEAD)
    m = tl.full((BLOCK_Q,), -float("inf"), tl.float32)  # (BLOCK_Q,)
    l = tl.zeros((BLOCK_Q,), tl.float32)  # (BLOCK_Q,)
    o = tl.zeros((BLOCK_Q, D_HEAD), tl.float32)  # (BLOCK_Q, D_HEAD)

    # The loop stops at the diagonal: no query of this tile sees the keys after first + BLOCK_Q.
    for start in range(0, tl.minimum(first + BLOCK_Q, time), BLOCK_K):
        key_index = start + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
        k_at = head * time * D_HEAD + key_index[:, None] * D_HEAD + channel  # (BLOCK_K, D_HEAD)
        k = tl.load(k_ptr + k_at, mask=key_index[:, None] < time, other=0.0)  # (BLOCK_K, D_HEAD)
        v = tl.load(v_ptr + k_at, mask=key_index[:, None] < time, other=0.0)  # (BLOCK_K, D_HEAD)
        s = scale * tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
        s = tl.where(key_index[None, :] <= query_index[:, None], s, -float("inf"))  # the causal mask
        new_m = tl.maximum(m, tl.max(s, axis=1))  # (BLOCK_Q,)
        p = tl.exp(s - new_m[:, None])  # (BLOCK_Q, BLOCK_K)
        shrink = tl.exp(m - new_m)  # (BLOCK_Q,)
        l = shrink * l + tl.sum(p, axis=1)  # (BLOCK_Q,)
        # o' = shrink · o + p v. p is rounded to v's dtype, because tensor cores multiply two matrices of one.
        o = tl.dot(p.to(v.dtype), v, shrink[:, None] * o, input_precision="ieee")  # (BLOCK_Q, D_HEAD)
        m = new_m

    out = (o / l[:, None]).to(out_ptr.dtype.element_ty)  # (BLOCK_Q, D_HEAD)
    tl.store(out_ptr + q_at, out, mask=query_index[:, None] < time)
