"""Attention over pages, against float64 attention over the same cache in one piece."""

import math

import numpy as np
import pytest
import torch
from kernel_checks import DEVICE, PRODUCT_DTYPES, assert_close, numbers

from course_lib.kernels.attention_costs import paged_attention_cost
from course_lib.kernels.language import INTERPRETED
from course_lib.kernels.meter import Meter
from course_lib.kernels.paged_attention import (
    MIN_SPLIT_TOKENS,
    MOST_SPLITS,
    SM_COUNT,
    paged_attention,
    split_count,
)

# heads, kv_heads, d_head, page_size, lengths, window, splits
CASES = [
    (4, 4, 64, 16, [1, 33, 256, 140], None, 1),
    (4, 2, 64, 64, [300, 0, 64], None, 3),
    (6, 2, 128, 16, [70, 17], None, 2),
    (16, 1, 32, 128, [129, 511], None, 4),
    (40, 1, 16, 32, [260, 31], None, 2),  # more query heads than a program has rows
    (3, 3, 80, 16, [100], None, None),
    (2, 1, 20, 16, [5, 131, 0], None, 7),  # more splits than tiles
    (2, 1, 256, 32, [75], None, 1),
    (2, 2, 64, 16, [300, 20, 21, 0], 21, 1),
    (2, 1, 64, 32, [400, 150], 270, 2),
    (2, 1, 128, 16, [90, 1], 1, 3),
    (2, 1, 64, 48, [144, 100], 10_000, 2),
]


def pages_of(cache, lengths, page_size, generator):
    """Return the cache (2, batch, kv_heads, key, d_head) cut into pages in random order, and its block table.

    Everything that must not be read is nan: what lies beyond the lengths, and pages that belong to no
    sequence. Unused entries of the table point to such pages, or to no page at all.
    """
    _, batch, kv_heads, keys, d_head = cache.shape
    most = -(-keys // page_size) + 1
    used = [[-(-length // page_size) > i for i in range(most)] for length in lengths]
    order = iter(torch.randperm(batch * most + 3, generator=generator).tolist())
    pages = cache.new_full((2, batch * most + 3, kv_heads, page_size, d_head), torch.nan)
    nowhere = [next(order), -1, 2**30]
    table = [[next(order) if used[row][i] else nowhere[i % 3] for i in range(most)] for row in range(batch)]
    for row, length in enumerate(lengths):
        for token in range(length):
            pages[:, table[row][token // page_size], :, token % page_size] = cache[:, row, :, token]
    return *pages, torch.tensor(table, dtype=torch.int32, device=cache.device)


def example(heads, kv_heads, d_head, page_size, lengths, dtype=torch.float32, scale=1.0):
    """Queries, cache in one piece, and the arguments of paged_attention."""
    q = numbers(len(lengths), heads, d_head, dtype=dtype, scale=scale)
    cache = numbers(2, len(lengths), kv_heads, max(lengths), d_head, dtype=dtype, seed=1)
    pages = pages_of(cache, lengths, page_size, torch.Generator().manual_seed(2))
    return cache, (q, *pages, torch.tensor(lengths, dtype=torch.int32, device=DEVICE))


def reference(q, cache, lengths, window=None):
    """In float64, sequence by sequence and head by head."""
    out = torch.zeros_like(q, dtype=torch.float64)
    group = q.shape[1] // cache.shape[2]
    for row, length in enumerate(lengths):
        for head in range(q.shape[1]) if length else ():
            start = 0 if window is None else max(0, length - window)
            k, v = cache[:, row, head // group, start:length].double()
            out[row, head] = (k @ q[row, head].double() / math.sqrt(q.shape[-1])).softmax(dim=0) @ v
    return out


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_that_of_float64(case, dtype, backend):
    *sizes, lengths, window, splits = case
    cache, inputs = example(*sizes, lengths, dtype)
    out = paged_attention(*inputs, window, splits, backend=backend)
    assert out.dtype == dtype
    assert_close(out, reference(inputs[0], cache, lengths, window))


@pytest.mark.parametrize("splits", [1, 2, 5, MOST_SPLITS])
def test_splits_whose_scores_lie_far_apart(splits):
    """Scores of some hundreds: a split's output counts by its log-sum-exp, or the sum is wrong altogether."""
    lengths = [330, 200]
    cache, inputs = example(4, 1, 64, 16, lengths, scale=100.0)
    assert_close(
        paged_attention(*inputs, splits=splits, backend="triton"),
        reference(inputs[0], cache, lengths),
        factor=20,
    )


def test_splits_that_weigh_the_same():
    """Values are 1 in the first half and 3 in the second, keys are equal: the mean is 2 with any splits."""
    _, (q, keys, values, table, lengths) = example(2, 1, 64, 16, [256])
    for page, value in zip(table[0].tolist()[:16], [1.0] * 8 + [3.0] * 8, strict=True):
        keys[page], values[page] = 0.5, value
    for splits in (1, 2, 3, 4):
        out = paged_attention(q, keys, values, table, lengths, splits=splits, backend="triton")
        assert_close(out, 2 * torch.ones_like(q).double())


def test_pages_may_lie_anywhere_in_memory():
    lengths = [70, 20]
    cache, (q, keys, values, table, counts) = example(4, 2, 64, 16, lengths)
    wanted = reference(q, cache, lengths)
    in_one_tensor = torch.stack([keys, values], dim=2).unbind(dim=2)
    token_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (keys, values)]
    every_other = torch.stack([table, table + 1], dim=2).long()[:, :, 0]
    for backend in ("triton", "torch"):
        for pages in (in_one_tensor, token_first, (token_first[0], values), (keys, in_one_tensor[1])):
            assert_close(paged_attention(q, *pages, table, counts, backend=backend), wanted)
        assert_close(paged_attention(q, keys, values, every_other, counts.long(), backend=backend), wanted)
        assert_close(paged_attention(q, keys, values, table[:, :5], counts, backend=backend), wanted)
        for turned in (q.transpose(0, 1).contiguous().transpose(0, 1), q.mT.contiguous().mT):
            assert_close(paged_attention(turned, keys, values, table, counts, backend=backend), wanted)


def test_a_cache_of_more_numbers_than_32_bits_count():
    """Only its last page is touched, so that it takes hardly any memory."""
    memory = torch.empty(2**31 + 2**20, dtype=torch.float16, device=DEVICE)
    pages = memory.as_strided((2**11 + 1, 1, 16, 16), (2**20, 256, 16, 1))
    cache = numbers(1, 1, 1, 16, 16, dtype=torch.float16).expand(2, -1, -1, -1, -1)
    pages[2**11] = cache[0, 0]
    q, table = numbers(1, 2, 16, dtype=torch.float16, seed=1), torch.tensor([[2**11]], device=DEVICE)
    out = paged_attention(q, pages, pages, table, torch.tensor([16], device=DEVICE), backend="triton")
    assert_close(out, reference(q, cache, [16]))


@pytest.mark.parametrize("splits", [1, 3])
def test_infinity_and_nan_stay_where_they_belong(splits):
    lengths = [150, 150, 150]
    cache, (q, keys, values, table, counts) = example(4, 2, 64, 16, lengths)
    q[0, :, 5] = 2.0
    for place in (*range(70), 140):  # keys that nobody wants: a whole tile of them, and a whole split
        keys[table[0, place // 16], :, place % 16, 5] = cache[0, 0, :, place, 5] = -torch.inf
    q[1, 3, 0] = torch.nan
    values[table[2, 0], 0, 2, 9] = torch.nan
    out = paged_attention(q, keys, values, table, counts, splits=splits, backend="triton")
    wanted = reference(q, cache, lengths)
    wanted[1, 3], wanted[2, :2, 9] = torch.nan, torch.nan
    assert_close(out, wanted)


def test_small_and_empty_inputs():
    cache, (q, keys, values, table, lengths) = example(4, 2, 64, 16, [0, 0])
    for backend in ("triton", "torch"):
        for splits in (1, 2):
            for these in (
                (q, keys, values, table, lengths),
                (q, keys[:0], values[:0], table, lengths),
                (q, keys, values, table[:, :0], lengths),
                (q[:0], keys, values, table[:0], lengths[:0]),
            ):
                out = paged_attention(*these, splits=splits, backend=backend)
                assert out.equal(torch.zeros_like(these[0]))
    cache, inputs = example(1, 1, 1, 1, [1, 2])
    assert_close(paged_attention(*inputs, backend="triton"), reference(inputs[0], cache, [1, 2]))


def test_few_sequences_are_split_and_many_are_not():
    assert split_count(1, 10**6) == MOST_SPLITS
    assert split_count(8, 10**6) * 8 == 2 * SM_COUNT
    assert split_count(8, 4 * MIN_SPLIT_TOKENS) == 4
    assert split_count(8, 10) == split_count(2 * SM_COUNT + 1, 10**6) == split_count(0, 0) == 1


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_are_as_calculated(case, dtype):
    heads, kv_heads, d_head, _, lengths, window, splits = case
    _, inputs = example(*case[:5], dtype)
    with Meter() as meter:
        paged_attention(*inputs, window, splits, backend="triton")
    cost = paged_attention_cost(lengths, heads, kv_heads, d_head, inputs[0].itemsize, splits or 1, window)
    assert meter.bytes == cost.bytes
    assert meter.flops >= cost.flops


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
def test_operations_are_as_calculated_where_tiles_are_full():
    _, inputs = example(32, 2, 128, 16, [128, 64], torch.float16)
    with Meter() as meter:
        paged_attention(*inputs, backend="triton")
    assert meter.flops == paged_attention_cost([128, 64], 32, 2, 128, 2).flops


def test_the_keys_are_read_once_for_all_heads_that_share_them():
    alone, shared = (paged_attention_cost([1000], 8, kv_heads, 128, 2) for kv_heads in (8, 1))
    assert alone.flops == shared.flops and 7.9 < shared.intensity / alone.intensity < 8


def test_what_does_not_fit_is_refused():
    _, (q, keys, values, table, lengths) = example(4, 2, 64, 16, [20, 3])

    def refused(
        match, q=q, keys=keys, values=values, table=table, lengths=lengths, backend="triton", **dials
    ):
        with pytest.raises(ValueError, match=match):
            paged_attention(q, keys, values, table, lengths, **dials, backend=backend)

    for backend in ("triton", "torch"):
        refused(r"q \(2, 4, 63\).* must be \(batch, heads, d_head\)", q=q[..., 1:], backend=backend)
        refused(r"twice \(pages, kv_heads", values=values[1:], backend=backend)
        refused("one dtype", q=q.half(), backend=backend)
        refused("share key-value heads evenly", q=q[:, :3], backend=backend)
        refused(
            "only batch and pages may be 0", keys=keys[:, :, :0], values=values[:, :, :0], backend=backend
        )
        refused("side by side", keys=keys.mT.contiguous().mT, backend=backend)
        refused(r"block_table \(1, .*for a batch of 2", table=table[:1], backend=backend)
        refused(r"lengths \(1,\)", lengths=lengths[:1], backend=backend)
        refused("int32 or int64", table=table.float(), backend=backend)
        refused("at least 1 token wide", window=0, backend=backend)
        refused("1 to 128 programs, not 0", splits=0, backend=backend)
        refused("not 129", splits=129, backend=backend)
        refused("no gradient", keys=keys.clone().requires_grad_(), backend=backend)
    with torch.no_grad():
        paged_attention(q, keys.clone().requires_grad_(), values, table, lengths, backend="triton")
    refused("32 bits at most", q=q.double(), keys=keys.double(), values=values.double())
    cache, wide = example(1, 1, 300, 16, [20])
    assert_close(paged_attention(*wide), reference(wide[0], cache, [20]))
    with pytest.raises(ValueError, match="head of 300 doesn't fit on the chip"):
        paged_attention(*wide, backend="triton")


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_numbers_of_numpy_are_numbers_in_both_backends(backend):
    _, given = example(4, 2, 64, 16, [20, 3])
    dials = {"window": 3, "splits": 2, "scale": 0.5}
    of_numpy = {"window": np.int64(3), "splits": np.int32(2), "scale": np.float32(0.5)}
    wanted = paged_attention(*given, **dials, backend=backend)
    assert wanted.isfinite().all() and paged_attention(*given, **of_numpy, backend=backend).equal(wanted)
    for scale in (np.float32("nan"), np.float32("inf"), True):
        with pytest.raises(ValueError, match="scale must be above 0"):
            paged_attention(*given, scale=scale, backend=backend)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("place", range(5))
def test_a_list_is_no_tensor(place, backend):
    _, given = example(4, 2, 64, 16, [20, 3])
    given = [x.tolist() if i == place else x for i, x in enumerate(given)]
    name = ("q", "key_pages", "value_pages", "block_table", "lengths")[place]
    with pytest.raises(TypeError, match=f"^{name} must be a tensor"):
        paged_attention(*given, backend=backend)
