"""PagedAttention (Kwon et al. 2023): attention of one new token a sequence, over a cache in pages.

    block_table             pages of keys, and of values     A cache in one piece must be as long as the
    sequence 0 │ 4 │ 1 │    ┌───┬───┬───┬───┬───┬───┐        longest text that may come. In pages, a sequence
    sequence 1 │ 0 │ 3 │    │ 0 │ 1 │ 2 │ 3 │ 4 │ 5 │        takes one more when its last is full, wherever
                            └───┴───┴───┴───┴───┴───┘        one is free, and only the rest of its last page
                                                             is wasted.

    sequence 0, one key-value head:      page 4           page 1
                                     ┌──────┬───────┬──────┬──────┐   A program has a split: a slice of the
    all query heads that share it →  │ tile │ tile  │ tile │ tile │   tokens. It visits tile after tile, as
                                     └──────┴───────┴──────┴──────┘   in flash_attention, looking up the page
                                         split 0         split 1      of each token. Its rows are the query
                                            ↓             ↓           heads (up to 32) of a key-value head, so
                                       (out, lse)    (out, lse)       that keys and values are read once for
                                            └── merged ───┘           all of them.

Reading the cache is nearly all the work there is, and few sequences with one program each would leave most of
the GPU's streaming multiprocessors (SMs) idle: hence the splits (Flash-Decoding: Dao et al. 2023, a blog
post). Each stores its output and the log-sum-exp of its scores, which gives its weight in the average of all
splits' outputs. A second kernel computes that average.

Entries of the table after a sequence's pages, or before the window, and tokens of its last page after its
length, are never read and may be anything. On a GPU the other entries and the lengths aren't checked, unless
`check` asks for it: it means waiting for the GPU. A wrong one reads foreign memory.

Not handled: several new tokens a sequence, caches of 8 bits, gradients.
"""

import math

import torch
from torch import Tensor

from course_lib.kernels.attention_checks import MOST_SPLITS, check_paged_attention, use_attention_kernel
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.language import SM_COUNT, launch, power_of_two, tile_count, tl, triton
from course_lib.model import attend

MIN_SPLIT_TOKENS = 256
MOST_ROWS = 32  # query heads of a program, at least 16 for the tensor cores: the rest of the rows is zeros
TILE_BYTES = 16_384  # of the keys that a program loads at a time, and of the values


def paged_attention(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor,
    window: int | None = None, splits: int | None = None, backend: str = "auto", scale: float | None = None,
    check: bool = False,
) -> Tensor:  # fmt: skip
    """Return softmax(scale · q kᵀ) v, (batch, heads, d_head), over each sequence's tokens so far.

    q: (batch, heads, d_head), of the newest token; any strides.
    key_pages, value_pages: (pages, kv_heads, page_size, d_head); heads is a multiple of kv_heads. Any strides
        but the last, which must be 1 (pages kept as (pages, page_size, kv_heads, d_head) can be passed
        transposed).
    block_table: the page of a sequence's first page_size tokens, of the next, and so on, (batch, most pages).
    lengths: tokens of each sequence so far, with the newest, (batch,). A sequence of length 0 gets zeros.
    window: the number of last tokens that are seen, by default all.
    splits: programs that share a sequence, by default `split_count`.
    scale: the factor on q kᵀ, by default 1 / √d_head.
    check: on a GPU too, check that the pages exist and that the lengths fit the table; on a CPU they always
        are.

    A nan among what a sequence attends to gives nan, as do scores that are all −∞. Raises TypeError for
    what is no tensor, ValueError for what doesn't fit or wants a gradient; see also `use_triton`.
    """
    check_paged_attention(q, key_pages, value_pages, block_table, lengths, window, splits, scale, check)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    inputs = q, key_pages, value_pages, block_table, lengths
    longest = block_table.shape[1] * key_pages.shape[2]  # tokens, by the table
    window = longest if window is None else min(int(window), longest)
    if use_attention_kernel(backend, q.shape[-1], *inputs):
        return _run_kernels(*inputs, window, splits, scale)
    return _reference(*inputs, window, scale)


def _reference(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor,
    window: int, scale: float,
) -> Tensor:  # fmt: skip
    """Return the attention output, by PyTorch: gather the pages, then attend."""
    if 0 in (len(q), len(key_pages), block_table.shape[1]):
        return torch.zeros_like(q)
    page_size, length = key_pages.shape[2], lengths[:, None]  # (batch, 1)
    token = torch.arange(block_table.shape[1] * page_size, device=q.device)  # (key,)
    seen = (token < length) & (token >= length - window)  # (batch, key)
    page = block_table.repeat_interleave(page_size, dim=1).where(seen, 0)  # (batch, key)
    k = key_pages.transpose(1, 2)[page, token % page_size].transpose(1, 2)  # (batch, kv_heads, key, d_head)
    v = value_pages.transpose(1, 2)[page, token % page_size].transpose(1, 2)
    # Hidden keys and values are cleared, since nan stays nan even with a weight of 0.
    hidden = ~seen[:, None, :, None]  # (batch, 1, key, 1)
    k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    out = attend(q[:, :, None], k, v, ~hidden.mT, causal=False, scale=scale)  # (batch, heads, 1, d_head)
    return out[:, :, 0].masked_fill(length[:, None] == 0, 0)


def _run_kernels(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor,
    window: int, splits: int | None, scale: float,
) -> Tensor:  # fmt: skip
    """Return the attention output, by Triton: one kernel attends to splits, and a second one merges them."""
    q, block_table = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, block_table.to(torch.int32)))
    (batch, heads, d_head), (kv_heads, page_size) = q.shape, key_pages.shape[1:3]
    group = heads // kv_heads
    tile = _split_tile(group, d_head, q.itemsize)
    programs = kv_heads * tile_count(group, tile.sizes["ROWS"])
    splits = int(splits or split_count(batch * programs, window))
    out, split_out, lse = q.new_empty(q.shape), None, None
    if splits > 1:
        split_out = q.new_empty(batch, heads, splits, d_head, dtype=torch.float32)
        lse = q.new_empty(batch, heads, splits, dtype=torch.float32)
    launch(
        attend_to_split, (batch, programs, splits), q, key_pages, value_pages, block_table,
        lengths.to(torch.int32).contiguous(), out if splits == 1 else split_out, lse, *q.stride()[:2],
        *key_pages.stride()[:3], *value_pages.stride()[:3], block_table.stride(0), heads, group, window,
        scale * math.log2(math.e), tile=tile, PAGE=page_size, D_HEAD=d_head,
    )  # fmt: skip
    if splits > 1:
        sizes = {"SPLITS": power_of_two(splits), "WIDTH": tile.sizes["WIDTH"]}
        tile = Tile(sizes, warps=8 if splits > 64 else 4)
        launch(merge_splits, (batch * heads,), split_out, lse, out, splits, tile=tile, D_HEAD=d_head)
    return out


def _split_tile(group: int, d_head: int, bytes_each: int) -> Tile:
    """Return the tile of `attend_to_split`: query heads, their width, and the tokens of one visit.

    It has 5 stages because page numbers must arrive before the keys that they lead to, of which two tiles are
    then on their way.
    """
    rows, width = min(MOST_ROWS, max(16, power_of_two(group))), max(16, power_of_two(d_head))
    tokens = max(16, min(128, TILE_BYTES // (width * bytes_each)))
    warps = 4 if rows == 16 and bytes_each == 2 else 8
    return Tile({"ROWS": rows, "WIDTH": width, "TOKENS": tokens}, warps, stages=5)


def split_count(programs: int, tokens: int) -> int:
    """Return how many splits a sequence has.

    They give each SM two programs, but no split is so short that merging takes long beside reading.

    programs: with one split. tokens: the most that a sequence may have, by its table and the window, since
    the actual lengths are known only on the GPU.
    """
    return max(1, min(2 * SM_COUNT // max(1, programs), tokens // MIN_SPLIT_TOKENS, MOST_SPLITS))


@triton.jit
def attend_to_split(
    q_ptr, key_ptr, value_ptr, table_ptr, length_ptr, out_ptr, lse_ptr, q_batch, q_head, key_page, key_head,
    key_slot, value_page, value_head, value_slot, table_batch, heads, group, window, scale,
    PAGE: tl.constexpr, D_HEAD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Attention of ROWS query heads over one split of a sequence: the online softmax of `attention_forward`.

        out_i = Σ_j 2^s_ij v_j / Σ_j 2^s_ij            lse_i = log₂ Σ_j 2^s_ij

    The sums run over the tokens j of the split. s_ij is the score of query head i times `scale`, which
    includes log₂ e. group: query heads that share a key-value head. lse_ptr: None where there is one split.
    """
    batch, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    blocks = tl.cdiv(group, ROWS)
    kv_head, block = tl.program_id(1).to(tl.int64) // blocks, tl.program_id(1) % blocks
    length = tl.load(length_ptr + batch)
    tokens = tl.minimum(length, window)
    split_tokens = tl.cdiv(tl.cdiv(tokens, TOKENS), splits) * TOKENS
    begin = length - tokens + split * split_tokens
    end = tl.minimum(begin + split_tokens, length)

    row = block * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    head = kv_head * group + row  # (ROWS, 1)
    q_mask = (row < group) & (column < D_HEAD)  # (ROWS, WIDTH)
    q = tl.load(q_ptr + batch * q_batch + head * q_head + column, mask=q_mask, other=0.0)  # (ROWS, WIDTH)
    key_ptr, value_ptr = key_ptr + kv_head * key_head, value_ptr + kv_head * value_head
    table_ptr += batch * table_batch
    largest = tl.full((ROWS,), -float("inf"), tl.float32)  # (ROWS,)
    total_weight = tl.zeros((ROWS,), tl.float32)  # (ROWS,)
    out = tl.zeros((ROWS, WIDTH), tl.float32)  # (ROWS, WIDTH)

    for first in range(begin, end, TOKENS):
        token = first + tl.arange(0, TOKENS)  # (TOKENS,)
        in_split = token < end  # (TOKENS,)
        page = tl.load(table_ptr + token // PAGE, mask=in_split, other=0)  # (TOKENS,)
        page = page.to(tl.int64)[:, None]  # (TOKENS, 1)
        slot = (token % PAGE)[:, None]  # (TOKENS, 1)
        k_mask = in_split[:, None] & (column < D_HEAD)  # (TOKENS, WIDTH), as k and v
        k = tl.load(key_ptr + page * key_page + slot * key_slot + column, mask=k_mask, other=0.0)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, TOKENS)
        scores = tl.where(in_split[None, :], scores, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))  # (ROWS,)
        base = tl.where(new_largest == -float("inf"), 0.0, new_largest)  # (ROWS,)
        weights = tl.exp2(scores - base[:, None])  # (ROWS, TOKENS)
        shrink = tl.exp2(largest - base)  # (ROWS,)
        total_weight = total_weight * shrink + tl.sum(weights, axis=1)  # (ROWS,)
        v = tl.load(value_ptr + page * value_page + slot * value_slot + column, mask=k_mask, other=0.0)
        # (ROWS, WIDTH)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
        largest = new_largest

    # A sequence without tokens gets zeros; where all scores are −∞, 0 / 0 is nan. One of several splits gets
    # zeros in both cases, and a log-sum-exp of −∞, which is a weight of 0.
    nothing = length == 0 if lse_ptr is None else total_weight == 0
    total_weight = tl.where(nothing, 1.0, total_weight)  # (ROWS,)
    out /= total_weight[:, None]  # (ROWS, WIDTH)
    split_at = (batch * heads + head) * splits + split  # (ROWS, 1)
    tl.store(out_ptr + split_at * D_HEAD + column, out.to(out_ptr.dtype.element_ty), mask=q_mask)
    if lse_ptr is not None:
        lse = tl.where(length == 0, 0.0, largest + tl.log2(total_weight))  # (ROWS,)
        tl.store(lse_ptr + split_at, lse[:, None], mask=row < group)


@triton.jit
def merge_splits(
    split_out_ptr, lse_ptr, out_ptr, splits, D_HEAD: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr
):
    """Average one query head's outputs over its splits s.

        w_s = 2^(lse_s − max_t lse_t)            out = Σ_s w_s out_s / Σ_s w_s

    The log-sum-exps are to base two. Where all are −∞, the average is 0 / 0, which is nan.
    """
    row = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, WIDTH)  # (SPLITS,), (WIDTH,)
    split_at, exists = row * splits + split, split < splits  # (SPLITS,)
    lse = tl.load(lse_ptr + split_at, mask=exists, other=-float("inf"))  # (SPLITS,)
    largest = tl.max(lse, axis=0)  # a number, as total_weight
    weights = tl.exp2(lse - tl.where(largest == -float("inf"), 0.0, largest))  # (SPLITS,)
    total_weight = tl.sum(weights, axis=0)
    mask = exists[:, None] & (column < D_HEAD)[None, :]  # (SPLITS, WIDTH)
    # (SPLITS, WIDTH)
    out = tl.load(split_out_ptr + split_at[:, None] * D_HEAD + column[None, :], mask=mask, other=0.0)
    out = tl.sum(weights[:, None] * out, axis=0) / total_weight  # (WIDTH,)
    tl.store(out_ptr + row * D_HEAD + column, out.to(out_ptr.dtype.element_ty), mask=column < D_HEAD)
