"""Attention of one new token a sequence, over a cache that lies in pages anywhere in memory (PagedAttention: Kwon et al. 2023).

    block_table             pages of keys, and of values              A cache in one piece must be as long as the longest text
    sequence 0 │ 4 │ 1 │    ┌───┬───┬───┬───┬───┬───┐                 that may come. In pages, a sequence takes one more when
    sequence 1 │ 0 │ 3 │    │ 0 │ 1 │ 2 │ 3 │ 4 │ 5 │                 its last is full, wherever one is free, and what is lost
                            └───┴───┴───┴───┴───┴───┘                 is the rest of its last page.

    sequence 0, one key-value head:      page 4           page 1
                                     ┌──────┬───────┬──────┬──────┐   A program has a split: a share of the tokens. It walks
    all query heads that share it →  │ tile │ tile  │ tile │ tile │   over them tile by tile, as in flash_attention, looking up
                                     └──────┴───────┴──────┴──────┘   each token's page. Its rows are the query heads (up to 32)
                                         split 0         split 1      of a key-value head, so that keys and values are read
                                            ↓             ↓           once for all of them.
                                       (out, lse)    (out, lse)
                                            └── merged ───┘

Reading the cache is nearly all the work there is, and few sequences with a program each would leave most of the GPU's processors
idle: hence the splits (Flash-Decoding: Dao et al. 2023, a blog post). Each leaves its output behind, and the log-sum-exp of its
scores, which says how much that output weighs beside the others. A second kernel averages them.

Not handled: several new tokens a sequence, caches of 8 bits, gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton
from course_lib.model import attend

WIDEST_HEAD = 256
PROCESSORS = 132  # of an H100
LEAST_SHARE = 256  # tokens
MOST_SPLITS = 128  # their outputs must fit on the chip together, to be merged
MOST_ROWS = 32  # query heads of a program, at least 16 for the tensor cores: the rest of the rows is zeros
TILE_BYTES = 16_384  # of the keys that a program loads at a time, and of the values


def paged_attention(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor, window: int | None = None,
    splits: int | None = None, backend: str = "auto", scale: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q kᵀ / √d_head) v, (batch, heads, d_head), over each sequence's tokens so far.

    q: (batch, heads, d_head), of the newest token; any strides. key_pages, value_pages: (pages, kv_heads, page_size, d_head),
    so that a page is a short cache, with heads a multiple of kv_heads; any strides but the last, which must be 1 (pages that
    are kept as (pages, page_size, kv_heads, d_head) can be passed transposed).

    block_table: (batch, most pages of a sequence) of integers: which page holds the sequence's first page_size tokens, which
    one the next, and so on. lengths: (batch,) of integers: its tokens so far, the newest among them. What the table says beyond
    a sequence's pages, and what its last page holds beyond its length, is never read. A sequence of length 0 gets zeros.

    window: only the last so many tokens count. splits: programs that share a sequence, if you know better than `split_count`. scale: the
    factor on q kᵀ, 1 / √d_head unless told otherwise.

    Raises ValueError for shapes that don't fit each other, dials outside their range, and where a gradient is wanted; for
    others see `use_triton`. What block_table and lengths say isn't checked, since that would mean waiting for the GPU.
    """
    _check(q, key_pages, value_pages, block_table, lengths, window, splits)
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be above 0, or None for 1 / √d_head; not {scale}")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    fits = q.shape[-1] <= WIDEST_HEAD or backend == "triton"
    if not fits or not use_triton(backend, q, key_pages, value_pages, block_table, lengths, products=True):
        return _reference(q, key_pages, value_pages, block_table, lengths, window, scale)
    if q.shape[-1] > WIDEST_HEAD:
        raise ValueError(
            f"a head of {q.shape[-1]} doesn't fit on the chip (at most {WIDEST_HEAD}): use backend='torch'"
        )
    return _run(q, key_pages, value_pages, block_table, lengths, window, splits, scale)


def _reference(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    """The same by PyTorch: gather the pages, then attend."""
    if not len(key_pages) or not block_table.shape[1]:
        return torch.zeros_like(q)
    page_size = key_pages.shape[2]
    token, length = torch.arange(block_table.shape[1] * page_size, device=q.device), lengths[:, None]
    seen = token < length
    if window is not None:
        seen &= token >= length - window
    page = block_table.repeat_interleave(page_size, dim=1).where(seen, 0)
    k, v = (
        pages.transpose(1, 2)[page, token % page_size].transpose(1, 2) for pages in (key_pages, value_pages)
    )
    hidden = ~seen[:, None, :, None]  # cleared, since what is nan stays nan even with a weight of 0
    out = attend(
        q[:, :, None],
        k.masked_fill(hidden, 0),
        v.masked_fill(hidden, 0),
        ~hidden.mT,
        causal=False,
        scale=scale,
    )
    return out[:, :, 0].masked_fill(length[:, None] == 0, 0)


def split_count(programs: int, tokens: int) -> int:
    """As many splits as give each processor two programs, but none so short that merging is no longer little beside reading.

    programs: with one split. tokens: the most that a sequence may have, by its table and the window, since only the GPU knows
    how many it has.
    """
    return max(1, min(2 * PROCESSORS // max(1, programs), tokens // LEAST_SHARE, MOST_SPLITS))


def paged_attention_cost(
    lengths: Sequence[int], heads: int, kv_heads: int, d_head: int, bytes_each: int, splits: int = 1,
    window: int | None = None,
) -> Cost:  # fmt: skip
    """What both kernels move. A program reads a length, its queries, and for each of its tokens a page number, a key and a value;
    with splits, an output and a log-sum-exp of each go through memory. Operations: without those that only fill tiles."""
    tokens = sum(length if window is None else min(length, window) for length in lengths)
    readers = kv_heads * tiles(heads // kv_heads, MOST_ROWS)
    rows = len(lengths) * heads
    numbers = 2 * readers * tokens * d_head + (splits + 1) * rows * d_head
    between = 2 * splits * rows * (d_head + 1) if splits > 1 else 0
    small = readers * tokens + readers * splits * len(lengths)
    return Cost(bytes_each * numbers + 4 * (between + small), 4 * heads * tokens * d_head)


@triton.jit
def attend_to_split(
    q_ptr, key_ptr, value_ptr, table_ptr, length_ptr, out_ptr, lse_ptr, q_batch, q_head, key_page, key_head, key_place,
    value_page, value_head, value_place, table_batch, heads, group, window, scale,
    PAGE: tl.constexpr, D_HEAD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    batch, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    blocks = tl.cdiv(group, ROWS)
    kv_head, block = tl.program_id(1).to(tl.int64) // blocks, tl.program_id(1) % blocks
    length = tl.load(length_ptr + batch)
    tokens = tl.minimum(length, window)
    share = tl.cdiv(tl.cdiv(tokens, TILE), splits) * TILE
    begin = length - tokens + split * share
    end = tl.minimum(begin + share, length)

    row, column = block * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    there, head = (row < group) & (column < D_HEAD), kv_head * group + row
    q = tl.load(q_ptr + batch * q_batch + head * q_head + column, mask=there, other=0.0)
    key_ptr, value_ptr = key_ptr + kv_head * key_head, value_ptr + kv_head * value_head
    table_ptr += batch * table_batch
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total_weight = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, WIDTH), tl.float32)
    for at in range(begin, end, TILE):
        token = at + tl.arange(0, TILE)
        real = token < end
        page = tl.load(table_ptr + token // PAGE, mask=real, other=0).to(tl.int64)[:, None]
        place, held = (token % PAGE)[:, None], real[:, None] & (column < D_HEAD)
        k = tl.load(key_ptr + page * key_page + place * key_place + column, mask=held, other=0.0)
        scores = scale * tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(real[None, :], scores, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        base = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        total_weight = total_weight * shrink + tl.sum(weights, axis=1)
        v = tl.load(value_ptr + page * value_page + place * value_place + column, mask=held, other=0.0)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
        largest = new_largest

    total_weight = tl.where(
        total_weight == 0, 1.0, total_weight
    )  # a split without tokens: zeros, and a weight of 0
    out /= total_weight[:, None]
    number = (batch * heads + head) * splits + split
    tl.store(out_ptr + number * D_HEAD + column, out.to(out_ptr.dtype.element_ty), mask=there)
    if lse_ptr is not None:
        tl.store(lse_ptr + number, (largest + tl.log2(total_weight))[:, None], mask=row < group)


@triton.jit
def merge_splits(
    split_out_ptr, lse_ptr, out_ptr, splits, D_HEAD: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr
):
    row, split, column = tl.program_id(0).to(tl.int64), tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    number, real = row * splits + split, split < splits
    lse = tl.load(lse_ptr + number, mask=real, other=-float("inf"))
    largest = tl.max(lse, axis=0)
    weights = tl.exp2(lse - tl.where(largest == -float("inf"), 0.0, largest))
    total_weight = tl.sum(weights, axis=0)
    held = real[:, None] & (column < D_HEAD)[None, :]
    out = tl.load(split_out_ptr + number[:, None] * D_HEAD + column[None, :], mask=held, other=0.0)
    out = tl.sum(weights[:, None] * out, axis=0) / tl.where(total_weight == 0, 1.0, total_weight)
    tl.store(out_ptr + row * D_HEAD + column, out.to(out_ptr.dtype.element_ty), mask=column < D_HEAD)


def _run(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor, window: int | None,
    splits: int | None, scale: float,
) -> Tensor:  # fmt: skip
    q, block_table = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, block_table.to(torch.int32)))
    (batch, heads, d_head), (kv_heads, page_size) = q.shape, key_pages.shape[1:3]
    longest = block_table.shape[1] * page_size
    window, group = longest if window is None else min(window, longest), heads // kv_heads
    rows, width = min(MOST_ROWS, max(16, power_of_two(group))), max(16, power_of_two(d_head))
    programs = kv_heads * tiles(group, rows)
    splits = splits or split_count(batch * programs, window)
    out = split_out = q.new_empty(q.shape)
    lse = None
    if splits > 1:
        split_out, lse = (q.new_empty(batch, heads, splits, n, dtype=torch.float32) for n in (d_head, 1))
    # 5 stages: page numbers must arrive before the keys they lead to, of which two tiles are then on their way.
    sizes = {"ROWS": rows, "WIDTH": width, "TILE": max(16, min(128, TILE_BYTES // (width * q.itemsize)))}
    tile = Tile(sizes, warps=4 if rows == 16 and q.itemsize == 2 else 8, stages=5)
    launch(
        attend_to_split, (batch, programs, splits), q, key_pages, value_pages, block_table,
        lengths.to(torch.int32).contiguous(), split_out, lse, *q.stride()[:2], *key_pages.stride()[:3],
        *value_pages.stride()[:3], block_table.stride(0), heads, group, window, scale * math.log2(math.e),
        tile=tile, PAGE=page_size, D_HEAD=d_head,
    )  # fmt: skip
    if splits > 1:
        tile = Tile({"SPLITS": power_of_two(splits), "WIDTH": width}, warps=8 if splits > 64 else 4)
        launch(merge_splits, (batch * heads,), split_out, lse, out, splits, tile=tile, D_HEAD=d_head)
    return out


def _check(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor, window, splits
) -> None:
    shapes = (
        f"q {tuple(q.shape)}, key_pages {tuple(key_pages.shape)} and value_pages {tuple(value_pages.shape)}"
    )
    if (
        q.dim() != 3
        or key_pages.dim() != 4
        or key_pages.shape != value_pages.shape
        or q.shape[2] != key_pages.shape[3]
    ):
        raise ValueError(
            f"{shapes} must be (batch, heads, d_head) and twice (pages, kv_heads, page_size, d_head)"
        )
    if not q.dtype == key_pages.dtype == value_pages.dtype:
        raise ValueError(
            f"q and pages must have one dtype, not {q.dtype}, {key_pages.dtype} and {value_pages.dtype}"
        )
    if 0 in (*q.shape[1:], *key_pages.shape[1:]) or q.shape[1] % key_pages.shape[1]:
        raise ValueError(
            f"{shapes}: query heads must share key-value heads evenly, and only batch and pages may be 0"
        )
    if key_pages.stride(3) != 1 or value_pages.stride(3) != 1:
        raise ValueError(
            "the numbers of a key or value must lie side by side: to copy all pages would take too long"
        )
    if block_table.dim() != 2 or lengths.shape != q.shape[:1] or len(block_table) != len(q):
        raise ValueError(
            f"block_table {tuple(block_table.shape)} and lengths {tuple(lengths.shape)} must be (batch, most pages of a "
            f"sequence) and (batch,), for a batch of {len(q)}"
        )
    if any(x.dtype not in (torch.int32, torch.int64) for x in (block_table, lengths)):
        raise ValueError(
            f"block_table and lengths must be int32 or int64, not {block_table.dtype} and {lengths.dtype}"
        )
    if window is not None and window < 1:
        raise ValueError(f"a window must be at least 1 token wide, not {window}")
    if splits is not None and not 1 <= splits <= MOST_SPLITS:
        raise ValueError(f"a sequence can be split among 1 to {MOST_SPLITS} programs, not {splits}")
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, key_pages, value_pages)):
        raise ValueError(
            "paged attention has no gradient: call it under torch.no_grad(), or train with flash_attention"
        )
