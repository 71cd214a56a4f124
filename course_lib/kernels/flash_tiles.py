"""What the kernels of attention share: which tiles a program visits, and which queries see which keys.

The queries are the last of the keys, so query i stands at position p = i + keys − queries. It sees key j
where

    always      j < keys
    CAUSAL      j ≤ p
    WINDOW > 0  j > p − WINDOW

A program visits tiles from `begin` to `end`. Most of them are full: every query sees every key, and no mask
is needed. So the visits come in three parts, and only the first and the last need a mask:

    begin ── left edge ── full_begin ── full tiles ── full_end ── right edge ── end
"""

from course_lib.kernels.language import tl, triton

# The parts of the visits. A kernel can read a global only if it is a constexpr.
LEFT_EDGE = tl.constexpr(0)
FULL_TILES = tl.constexpr(1)
RIGHT_EDGE = tl.constexpr(2)


@triton.jit
def load_bounds(starts_ptr, sequence, queries, keys):
    """Return four numbers: a sequence's row of the batch, its start in that row, its queries and its keys.

    Without `starts_ptr` each sequence is a row of the batch. With it, all are packed into row 0, one after
    the other.
    """
    if starts_ptr is None:
        batch, sequence_at = sequence, tl.full((), 0, tl.int64)
    else:
        batch, sequence_at = tl.full((), 0, tl.int64), tl.load(starts_ptr + sequence).to(tl.int64)
        queries = (tl.load(starts_ptr + sequence + 1) - sequence_at).to(tl.int32)
        keys = queries
    return batch, sequence_at, queries, keys


@triton.jit
def visible_keys(
    first, queries, keys,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return begin, full_begin, full_end, end of the keys that the tile of queries from `first` on visits."""
    offset = keys - queries
    begin, full_begin, full_end, end = 0, 0, keys // BLOCK_K * BLOCK_K, keys
    if CAUSAL:
        end = tl.minimum(keys, first + BLOCK_Q + offset)
        full_end = tl.minimum(full_end, (first + offset + 1) // BLOCK_K * BLOCK_K)
    if WINDOW:
        begin = tl.maximum(0, first + offset - WINDOW + 1) // BLOCK_K * BLOCK_K
        full_begin = (tl.maximum(0, first + BLOCK_Q + offset - WINDOW) + BLOCK_K - 1) // BLOCK_K * BLOCK_K
        full_end = tl.maximum(full_begin, full_end)
    return begin, full_begin, full_end, end


@triton.jit
def visible_queries(
    first, queries, keys,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return begin, full_begin, full_end, end of the queries that the tile of keys from `first` on visits."""
    offset = keys - queries
    begin, full_begin, full_end, end = 0, 0, queries // BLOCK_Q * BLOCK_Q, queries
    if CAUSAL:
        begin = tl.maximum(0, first - offset) // BLOCK_Q * BLOCK_Q
        full_begin = (tl.maximum(0, first + BLOCK_K - 1 - offset) + BLOCK_Q - 1) // BLOCK_Q * BLOCK_Q
    if WINDOW:
        end = tl.minimum(queries, tl.maximum(0, first + BLOCK_K - 1 + WINDOW - offset))
        full_end = tl.minimum(full_end, tl.maximum(0, first + WINDOW - offset) // BLOCK_Q * BLOCK_Q)
    full_end = tl.maximum(full_begin, full_end)
    return begin, full_begin, full_end, end


@triton.jit
def part_bounds(PART: tl.constexpr, begin, full_begin, full_end, end):
    """Return begin and end of one part of the visits: LEFT_EDGE, FULL_TILES or RIGHT_EDGE."""
    if PART == LEFT_EDGE:
        low, high = begin, tl.minimum(full_begin, end)
    elif PART == FULL_TILES:
        low, high = full_begin, full_end
    else:
        low, high = full_end, end
    return low, high


@triton.jit
def sees(position, key, exists, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Return the mask of a tile on an edge: which queries see which keys.

    position: (BLOCK_Q, 1), of the queries. key: (1, BLOCK_K), of the keys. exists: (1, BLOCK_K), whether the
    keys are within the sequence. The mask is (BLOCK_Q, BLOCK_K). `grad_keys_values` passes all transposed,
    and in `exists` whether the queries are.
    """
    seen = exists
    if CAUSAL:
        seen = seen & (key <= position)
    if WINDOW:
        seen = seen & (key > position - WINDOW)
    return seen
