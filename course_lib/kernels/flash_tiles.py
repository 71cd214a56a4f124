"""Which tiles a program of attention visits, and which pairs see each other: the same for the way forth and the way back.

A query at position p (the queries are the last of the keys, so query i stands at i + keys − queries) sees key j where

    always      j < keys
    CAUSAL      j ≤ p
    WINDOW > 0  j > p − WINDOW

Of the tiles that a program visits, most are full: every query sees every key, and no mask is needed. Both functions give four places,
begin ≤ full_begin ≤ full_end, and end: a left edge up to full_begin, full tiles, a right edge from full_end on.
"""

from course_lib.kernels.language import tl, triton


@triton.jit
def visible_keys(
    first,
    queries,
    keys,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """For the tile of queries that begins at `first`: of which keys they see any, and of which all see all."""
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
    first,
    queries,
    keys,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """For the tile of keys that begins at `first`: which queries see any of them, and which see all."""
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
def sees(place, key, real, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The mask of an edge. place: the queries' positions; key: the keys'; real: which of them there are. They broadcast."""
    seen = real
    if CAUSAL:
        seen = seen & (key <= place)
    if WINDOW:
        seen = seen & (key > place - WINDOW)
    return seen
