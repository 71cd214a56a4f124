"""The bytes that attention kernels move and the operations that they compute, without running them.

Matrix products alone are counted as operations, not the softmax. `Meter` counts the same bytes in Triton's
interpreter, and for the kernels of `flash_attention` the same operations, those of whole tiles.
"""

from collections.abc import Sequence

from course_lib.kernels.attention_checks import check_blocks, check_splits, check_visible
from course_lib.kernels.checks import check_bytes, check_counts, check_heads, check_sizes
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import power_of_two, tile_count
from course_lib.kernels.paged_attention import MOST_ROWS
from course_lib.model.checks import plain

MOST_TOKENS = 2**24


def naive_attention_cost(
    batch: int, heads: int, queries: int, keys: int, d_head: int, bytes_each: int
) -> Cost:
    """Return the cost of attention in three separate steps, without a mask; no kernel here computes it so.

    The scores q kᵀ are written; the softmax reads them and writes the weights; the last step reads the
    weights. Operations: 2 · m · n · k of each product (m, k) × (k, n).
    """
    batch, heads, queries, keys, d_head = check_sizes(
        batch=batch, heads=heads, queries=queries, keys=keys, d_head=d_head
    )
    bytes_each = check_bytes(bytes_each)
    pairs = queries * keys
    elements = (2 * queries + 2 * keys) * d_head + 4 * pairs
    return Cost(batch * heads * bytes_each * elements, batch * heads * 4 * pairs * d_head)


def attention_cost(
    batch: int, heads: int, queries: int, keys: int, d_head: int, bytes_each: int, causal: bool = True,
    window: int | None = None, blocks: tuple[int, int] = (128, 64),
) -> Cost:  # fmt: skip
    """Return the cost of the forward kernel: each tile of queries reads all keys and values that it visits.

    bytes_each: of an element of q, k, v and the output. blocks: BLOCK_Q and BLOCK_K.
    Operations: those of whole tiles, with the elements that only fill them.
    """
    batch, heads, queries, keys, d_head = check_sizes(
        batch=batch, heads=heads, queries=queries, keys=keys, d_head=d_head
    )
    bytes_each = check_bytes(bytes_each)
    window, (block_q, block_k) = _check_visits(queries, keys, causal, window, blocks)
    keys_read, scores = 0, 0
    for first in range(0, queries, block_q):
        begin, end = _visited_keys(first, queries, keys, causal, window, block_q, block_k)
        keys_read += min(end, keys) - begin
        scores += block_q * (end - begin)
    bytes_ = bytes_each * (2 * queries + 2 * keys_read) * d_head + 4 * queries  # and each query's log-sum-exp
    return Cost(batch * heads * bytes_, batch * heads * 4 * scores * _width(d_head))


def attention_backward_cost(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, d_head: int, bytes_each: int,
    causal: bool = True, window: int | None = None, blocks: tuple[int, int] = (128, 64),
) -> Cost:  # fmt: skip
    """Return the cost of both backward kernels.

    blocks: rows of a program's own tile, and of the tiles that it visits. Operations: those of whole tiles,
    with the elements that only fill them.
    """
    batch, queries, keys, d_head = check_sizes(batch=batch, queries=queries, keys=keys, d_head=d_head)
    heads, kv_heads = check_heads(heads, kv_heads)
    bytes_each = check_bytes(bytes_each)
    window, (own, visited) = _check_visits(queries, keys, causal, window, blocks)
    keys_read, queries_read, products = 0, 0, 0
    for first in range(0, queries, own):
        begin, end = _visited_keys(first, queries, keys, causal, window, own, visited)
        keys_read += min(end, keys) - begin
        products += 3 * (end - begin)
    for first in range(0, keys, own):
        begin, end = _visiting_queries(first, queries, keys, causal, window, own, visited)
        queries_read += max(0, min(end, queries) - begin)
        products += 4 * (end - begin)
    rows = heads * (4 * queries + 2 * keys_read + 2 * queries_read) + kv_heads * 4 * keys
    scalars = heads * (2 * queries + 2 * queries_read)  # log-sum-exps and δ, 32 bits each
    flops = heads * 2 * products * own * _width(d_head)
    return Cost(batch * (bytes_each * d_head * rows + 4 * scalars), batch * flops)


def paged_attention_cost(
    lengths: Sequence[int], heads: int, kv_heads: int, d_head: int, bytes_each: int, splits: int = 1,
    window: int | None = None,
) -> Cost:  # fmt: skip
    """Return the cost of both kernels of `paged_attention`.

    A program reads a length, its queries, and for each of its tokens a page number, a key and a value. With
    several splits, an output and a log-sum-exp of each split go through memory. The operations that only fill
    tiles are not counted; `Meter` counts them, many where few query heads share a key-value head.
    """
    (d_head,) = check_sizes(d_head=d_head)
    bytes_each = check_bytes(bytes_each)
    heads, kv_heads = check_heads(heads, kv_heads)
    (splits,) = check_sizes(1, splits=splits)
    check_splits(window, splits)
    window = plain(window)
    lengths = check_counts("lengths", lengths)
    tokens = sum(length if window is None else min(length, window) for length in lengths)
    readers = kv_heads * tile_count(heads // kv_heads, MOST_ROWS)
    rows = len(lengths) * heads
    elements = 2 * readers * tokens * d_head + (splits + 1) * rows * d_head
    between = 2 * splits * rows * (d_head + 1) if splits > 1 else 0
    integers = readers * tokens + readers * splits * len(lengths)
    return Cost(bytes_each * elements + 4 * (between + integers), 4 * heads * tokens * d_head)


def _check_visits(
    queries: int, keys: int, causal: bool, window: int | None, blocks: tuple[int, int]
) -> tuple[int | None, list[int]]:
    """Return window and blocks as Python's numbers.

    Raises ValueError for what `flash_attention` refuses too, and for more tokens than can be counted.
    """
    check_visible(queries, keys, causal, window)
    check_blocks(blocks)
    if max(queries, keys) > MOST_TOKENS:
        raise ValueError(f"{max(queries, keys)} tokens take too long to count: at most {MOST_TOKENS}")
    return plain(window), list(map(plain, blocks))


def _width(d_head: int) -> int:
    """Return the columns of a tile that holds the elements of a head."""
    return max(16, power_of_two(d_head))


def _visited_keys(first: int, queries: int, keys: int, causal: bool, window, own: int, visited: int):
    """Return begin and end, in whole tiles, of the keys that the tile of queries from `first` on visits."""
    offset = keys - queries
    begin = max(0, first + offset - window + 1) // visited * visited if window else 0
    end = min(keys, first + own + offset) if causal else keys
    return begin, tile_count(end, visited) * visited


def _visiting_queries(first: int, queries: int, keys: int, causal: bool, window, own: int, visited: int):
    """Return begin and end, in whole tiles, of the queries that visit the tile of keys from `first` on."""
    offset = keys - queries
    begin = max(0, first - offset) // visited * visited if causal else 0
    end = min(queries, max(0, first + own - 1 + window - offset)) if window else queries
    return begin, max(tile_count(end, visited) * visited, begin)
