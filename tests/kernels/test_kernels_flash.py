"""FlashAttention, forward and backward, against float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import (
    DEVICE,
    PRODUCT_DTYPES,
    assert_close,
    assert_same_as_in_64_bits,
    gradients,
    in_64_bits,
    numbers,
)

from course_lib.kernels.attention_costs import attention_backward_cost, attention_cost, naive_attention_cost
from course_lib.kernels.flash_attention import flash_attention, forward_tile
from course_lib.kernels.language import INTERPRETED
from course_lib.kernels.meter import Meter
from course_lib.kernels.plain_flash_attention import plain_flash_attention
from course_lib.model import attend


def by_hand(q, k, v, causal=True, window=None, starts=None):
    """Written from the formula, with one mask for everything: which pairs see each other."""
    queries, keys = q.shape[2], k.shape[2]
    query = torch.arange(keys - queries, keys, device=q.device)[:, None]
    key = torch.arange(keys, device=q.device)[None, :]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    if causal:
        seen &= key <= query
    if window is not None:
        seen &= key > query - window
    if starts is not None:
        sequence = torch.bucketize(torch.arange(keys, device=q.device), starts.to(q.device), right=True)
        seen &= sequence[:, None] == sequence[None, :]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(~seen, -math.inf).softmax(-1) @ v


def qkv(batch, heads, kv_heads, queries, keys, d_head, dtype=torch.float32, scale=1.0):
    """Laid out as in the model: views of (batch, time, heads · d_head)."""
    shapes = (batch, queries, heads, d_head), (batch, keys, kv_heads, d_head), (batch, keys, kv_heads, d_head)
    made = [numbers(*shape, dtype=dtype, seed=seed, scale=scale) for seed, shape in enumerate(shapes)]
    return [x.transpose(1, 2).requires_grad_() for x in made]


SHAPES = [  # batch, heads, kv_heads, queries, keys, d_head
    (1, 1, 1, 1, 1, 16),
    (2, 4, 2, 70, 70, 16),
    (1, 2, 1, 1, 33, 64),
    (1, 2, 2, 37, 100, 24),
    (1, 1, 1, 64, 64, 128),
    (1, 3, 1, 33, 33, 4),
    (2, 2, 2, 0, 5, 16),
]


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_float64(shape, causal, dtype):
    kernel = partial(flash_attention, causal=causal, backend="triton")
    assert_same_as_in_64_bits(kernel, partial(by_hand, causal=causal), *qkv(*shape, dtype=dtype), factor=2)


@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
@pytest.mark.parametrize("blocks", [(16, 32), (32, 16)])
def test_sliding_windows(window, blocks):
    kernel = partial(flash_attention, window=window, blocks=blocks, backend="triton")
    inputs = qkv(1, 2, 1, 60, 83, 16)
    assert_same_as_in_64_bits(kernel, partial(by_hand, window=window), *inputs)
    assert_close(
        flash_attention(*inputs, window=window, backend="torch"), by_hand(*in_64_bits(*inputs), window=window)
    )


@pytest.mark.parametrize(
    "lengths",
    [
        [1, 1, 1],
        [30, 0, 1, 33],
        [0, 0, 16],
        pytest.param([70], marks=pytest.mark.slow),
        pytest.param([16, 48, 5], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_do_not_see_each_other(lengths, window, causal):
    if window and not causal:
        return
    starts = torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
    dials = {"causal": causal, "window": window, "starts": starts}
    inputs = qkv(1, 4, 2, sum(lengths), sum(lengths), 16)
    for longest in (None, max(lengths)):
        kernel = partial(flash_attention, **dials, longest=longest, blocks=(16, 16), backend="triton")
        assert_same_as_in_64_bits(kernel, partial(by_hand, **dials), *inputs)
    assert_close(flash_attention(*inputs, **dials, backend="torch"), by_hand(*in_64_bits(*inputs), **dials))


@pytest.mark.parametrize("blocks", [(16, 16), (16, 64), (64, 16), (128, 128)])
def test_tiles_change_nothing_but_rounding(blocks):
    inputs = qkv(1, 1, 1, 150, 150, 16)
    assert_close(flash_attention(*inputs, blocks=blocks, backend="triton"), by_hand(*in_64_bits(*inputs)))


def test_large_scores_do_not_overflow():
    """With scores of thousands, one key takes all the weight, and the gradients of the scores vanish.

    These gradients are differences of two sums over a head. What remains of them is the rounding of both sums
    in 32 bits, times what they are multiplied by.
    """
    inputs, ones = qkv(1, 1, 1, 40, 40, 16, scale=60.0), torch.ones(1, 1, 40, 16, device=DEVICE)
    y, grads = gradients(partial(flash_attention, backend="triton"), inputs, ones)
    wanted, wanted_grads = gradients(by_hand, in_64_bits(*inputs), ones)
    largest = max(x.abs().max().item() for x in inputs)
    assert_close(y, wanted, factor=10)
    for ours, exact in zip(grads, wanted_grads, strict=True):
        assert (ours - exact).abs().max() < 2**-24 * (16 * largest) * largest


def test_a_banned_key_is_not_seen_and_nan_spreads_only_to_who_sees_it():
    q, k, v = (x.detach() for x in qkv(1, 1, 1, 40, 40, 16))
    q[..., 0], k[:, :, 5, 0], k[:, :, 20] = 1.0, -torch.inf, torch.nan
    y = flash_attention(q, k, v, backend="triton")
    assert_close(y[:, :, :20], by_hand(*in_64_bits(q, k, v))[:, :, :20])
    assert y[:, :, 20:].isnan().all()


@pytest.mark.parametrize("banned", [slice(0, 3), slice(17, 18), slice(20)])
def test_a_query_that_sees_only_banned_keys_is_nan(banned):
    """As by the formula, a softmax of nothing but −∞; so are the gradients of the values that it sees."""
    q, k, v = (x.detach() for x in qkv(1, 1, 1, 20, 20, 16))
    q[..., 0], k[:, :, banned, 0] = 1.0, -torch.inf
    wide_q, wide_k, wide_v = in_64_bits(q, k, v.requires_grad_())
    y, (grad,) = gradients(lambda v: flash_attention(q, k, v, backend="triton"), [v], torch.ones_like(v))
    assert_close(y, by_hand(wide_q, wide_k, wide_v))
    lost = banned.stop if not banned.start else 0  # these queries see nothing else
    assert y[:, :, :lost].isnan().all() and grad[:, :, :lost].isnan().all()
    rest = wide_q[:, :, lost:]
    _, (wanted,) = gradients(lambda v: by_hand(rest, wide_k, v), [wide_v], torch.ones_like(rest))
    assert_close(grad[:, :, lost:], wanted[:, :, lost:])


def test_without_keys_nothing_is_found():
    q, k, v = qkv(1, 2, 1, 20, 0, 16)
    for backend in ("triton", "torch"):
        y, grads = gradients(
            partial(flash_attention, causal=False, backend=backend), (q, k, v), torch.ones_like(q)
        )
        assert not y.any() and not any(grad.any() for grad in grads)


def test_a_sum_whose_gradient_is_one_number_for_all():
    q, k, v = qkv(1, 2, 1, 20, 20, 16)
    ours = torch.autograd.grad(flash_attention(q, k, v, backend="triton").sum(), (q, k, v))
    wide = in_64_bits(q, k, v)
    for grad, wanted in zip(ours, torch.autograd.grad(by_hand(*wide).sum(), wide), strict=True):
        assert_close(grad, wanted)


def test_inputs_laid_out_otherwise():
    inputs = [numbers(1, 2, 16, 30, seed=seed).transpose(2, 3).requires_grad_() for seed in range(3)]
    assert_same_as_in_64_bits(partial(flash_attention, backend="triton"), by_hand, *inputs)


@pytest.mark.parametrize("turn", [torch.Tensor.mT.__get__, lambda y: y.sum(-1), lambda y: y.sum((1, 2))])
def test_each_laid_out_in_its_own_way(turn):
    q, k = numbers(2, 4, 20, 16, grad=True), numbers(2, 2, 20, 48, seed=1)[..., 5:21].requires_grad_()
    v = numbers(20, 2, 2, 16, seed=2).permute(1, 2, 0, 3).requires_grad_()
    for inputs in (
        (q, k, v),
        (q, v, k),
        (q, v[:, :, :1].detach().expand(-1, -1, 20, -1).requires_grad_(), k),
    ):
        ours, wanted = (
            lambda *inputs, f=f: turn(f(*inputs))
            for f in (partial(flash_attention, backend="triton"), by_hand)
        )
        assert_same_as_in_64_bits(ours, wanted, *inputs, factor=4)


@pytest.mark.parametrize("strides", [(1, 1, 2**30), (1, 2**30, 16), (2**30, 16, 16)])
def test_tokens_heads_and_sequences_far_apart(strides):
    """Beyond 2^31 numbers, of which only these are touched."""
    shape = tuple(3 if stride == 2**30 else 1 for stride in strides)
    far = torch.empty(2**31 + 16, dtype=torch.float16, device=DEVICE).as_strided((*shape, 16), (*strides, 1))
    far.copy_(numbers(*shape, 16))
    x = far.detach().float()
    y, (grad,) = gradients(
        lambda q: flash_attention(q, q, q, backend="triton"), [far.requires_grad_()], far.detach()
    )
    wanted, (wanted_grad,) = gradients(
        lambda q: by_hand(q, q, q), in_64_bits(x.requires_grad_()), x.detach().double()
    )
    assert_close(y, wanted)
    assert_close(grad, wanted_grad)


def test_float16_does_not_overflow_where_the_result_does_not():
    """A token that sees itself alone has a weight of 1, though gradients times outputs are beyond 65,504."""
    q, k, v = (
        torch.full((1, 1, 1, 16), 300.0, dtype=torch.float16, device=DEVICE, requires_grad=True)
        for _ in range(3)
    )
    y, grads = gradients(lambda *x: flash_attention(*x, backend="triton"), [q, k, v], v.detach())
    assert y.equal(v) and grads[2].equal(v) and not grads[0].any() and not grads[1].any()


@pytest.mark.parametrize("window", [None, 1, 16, 17])
@pytest.mark.parametrize("more", [0, 1, 14, 15, 16, 17])
def test_edges_of_tiles_anywhere(more, window):
    """Whole tiles of queries, and keys that end just before, on and behind the edge of one."""
    inputs = qkv(1, 1, 1, 32, 32 + more, 16)
    for blocks in ((16, 16), (32, 16)):
        kernel = partial(flash_attention, window=window, blocks=blocks, backend="triton")
        assert_same_as_in_64_bits(kernel, partial(by_hand, window=window), *inputs)


@pytest.mark.parametrize("window", [63, 64, 65])
def test_the_left_edge_with_whole_tiles_beside_it(window):
    inputs = qkv(1, 1, 1, 90, 90, 16)
    kernel = partial(flash_attention, window=window, blocks=(16, 16), backend="triton")
    assert_same_as_in_64_bits(kernel, partial(by_hand, window=window), *inputs)


@pytest.mark.parametrize("window", [20, 2**31 - 1, 2**62])
def test_a_window_wider_than_the_text_is_none(window):
    inputs = qkv(1, 2, 1, 20, 20, 16)
    assert_same_as_in_64_bits(partial(flash_attention, window=window, backend="triton"), by_hand, *inputs)


def test_twice_the_same_to_the_bit():
    inputs = qkv(1, 4, 2, 50, 50, 16)
    runs = [
        gradients(partial(flash_attention, backend="triton"), inputs, torch.ones_like(inputs[0]))
        for _ in range(2)
    ]
    assert all(a.equal(b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("causal, window", [(False, None), (True, None), (True, 20)])
@pytest.mark.parametrize("blocks", [(16, 16), (32, 16), (16, 64)])
@pytest.mark.parametrize("queries, keys", [(64, 64), (64, 65), (50, 70), (1, 33)])
def test_bytes_and_operations_are_as_calculated(causal, window, blocks, queries, keys):
    q, k, v = qkv(1, 2, 1, queries, keys, 16, torch.float16)
    with Meter() as meter:
        flash_attention(q, k, v, causal, window, blocks=blocks, backend="triton")
    cost = attention_cost(1, 2, queries, keys, 16, 2, causal, window, blocks)
    assert (meter.bytes, meter.flops) == (cost.bytes, cost.flops)


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("causal, window", [(False, None), (True, None), (True, 20)])
@pytest.mark.parametrize(
    "queries, keys",
    [
        (64, 65),
        (1, 33),
        pytest.param(64, 64, marks=pytest.mark.slow),
        pytest.param(50, 101, marks=pytest.mark.slow),
    ],
)
def test_bytes_and_operations_of_the_way_back_are_as_calculated(causal, window, queries, keys):
    y = flash_attention(*(inputs := qkv(1, 4, 2, queries, keys, 16)), causal, window, backend="triton")
    with Meter() as meter:
        torch.autograd.grad(y, inputs, torch.ones_like(y))
    cost = attention_backward_cost(1, 4, 2, queries, keys, 16, 4, causal, window, (32, 16))
    assert (meter.bytes, meter.flops) == (cost.bytes, cost.flops)


def test_it_moves_less_than_three_separate_steps():
    naive = naive_attention_cost(1, 1, 4096, 4096, 64, 2)
    tiled = [
        attention_cost(1, 1, 4096, 4096, 64, 2, causal=False, blocks=(block, 64)) for block in (64, 128, 256)
    ]
    assert naive.bytes > tiled[0].bytes > 1.9 * tiled[1].bytes > 3.6 * tiled[2].bytes
    assert {cost.flops for cost in tiled} == {naive.flops}


def test_what_does_not_fit_is_refused():
    q, k, v = (x.detach() for x in qkv(1, 2, 1, 8, 8, 16))
    for bad, message in [
        (lambda: flash_attention(q, k, v[:, :, :4]), "must be .batch"),
        (lambda: flash_attention(q[0], k, v), "must be .batch"),
        (lambda: flash_attention(q, k.half(), v), "one dtype"),
        (lambda: flash_attention(q, *[x.repeat(1, 3, 1, 1) for x in (k, v)]), "can't share 3"),
        (lambda: flash_attention(q, k[:, :, :4], v[:, :, :4]), "can't be the last of 4 keys"),
        (lambda: flash_attention(q, k, v, window=0), "at least 1 key wide"),
        (lambda: flash_attention(q, k, v, causal=False, window=3), "must be causal"),
        (
            lambda: flash_attention(q, k, v, starts=torch.tensor([[0, 8]])),
            "packed sequences are a batch of 1",
        ),
        (lambda: flash_attention(q, k, v, starts=torch.tensor([0])), "packed sequences are a batch of 1"),
        (lambda: flash_attention(q, k, v, starts=torch.tensor([0.0, 8.0])), "starts are positions"),
        (lambda: flash_attention(q, k, v, longest=8), "give their starts"),
        (lambda: flash_attention(q[..., :0], k[..., :0], v[..., :0]), "heads of width 0"),
        (
            lambda: flash_attention(q.long(), k.long(), v.long(), backend="triton"),
            "doesn't compute with torch.int64",
        ),
        (lambda: flash_attention(q, k, v, blocks=(16,)), "two powers of two"),
        (lambda: flash_attention(q, k, v, blocks=(8, 16)), "powers of two"),
        (lambda: flash_attention(q, k, v, blocks=(16, 24)), "powers of two"),
        (
            lambda: flash_attention(*[x.repeat(1, 1, 1, 20) for x in (q, k, v)], backend="triton"),
            "head of 320",
        ),
        (lambda: flash_attention(q, k, v, backend="cuda"), "backend must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()
    if DEVICE == "cpu":
        for starts in ([1, 8], [0, 7], [0, 9], [0, 6, 3, 8], [8, 0]):
            with pytest.raises(ValueError, match="starts must rise from 0 to 8"):
                flash_attention(q, k, v, starts=torch.tensor(starts), backend="triton")
        with pytest.raises(ValueError, match="longest sequence has 5 tokens"):
            flash_attention(q, k, v, starts=torch.tensor([0, 5, 8]), longest=4)
    wide = [x.repeat(1, 1, 1, 20) for x in (q, k, v)]
    assert_close(flash_attention(*wide), by_hand(*in_64_bits(*wide)))


@pytest.mark.skipif(not INTERPRETED, reason="a rule of the interpreter")
def test_the_interpreter_is_not_trusted_with_products_of_bfloat16():
    with pytest.raises(ValueError, match="multiplies bfloat16 wrongly"):
        flash_attention(*[x.bfloat16() for x in qkv(1, 1, 1, 4, 4, 16)], backend="triton")


def test_pytorch_computes_the_same():
    q, k, v = (x.detach() for x in qkv(2, 4, 4, 50, 50, 16))
    assert_close(
        flash_attention(q, k, v, backend="triton"), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    )
    assert forward_tile(q.half()).sizes == {"BLOCK_Q": 128, "BLOCK_K": 64}


# The plain kernel


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 16), (2, 3, 64, 16), (1, 2, 65, 32), (2, 1, 150, 64), (1, 1, 33, 128)]
)
def test_the_plain_kernel_computes_the_same(shape, dtype):
    q, k, v = (numbers(*shape, dtype=dtype, seed=seed) for seed in range(3))
    y = plain_flash_attention(q, k, v)
    assert y.dtype == dtype
    assert_close(y, attend(*in_64_bits(q, k, v)))
    assert_close(y, flash_attention(q, k, v, backend="triton"), factor=2)


def test_the_plain_kernel_takes_large_scores_and_empty_texts():
    q, k, v = (numbers(1, 2, 100, 16, seed=seed, scale=60.0) for seed in range(3))
    assert_close(plain_flash_attention(q, k, v), attend(*in_64_bits(q, k, v)), factor=10)
    assert plain_flash_attention(*[x[:, :, :0].contiguous() for x in (q, k, v)]).shape == (1, 2, 0, 16)


def test_what_the_plain_kernel_does_not_handle_is_refused():
    q, k, v = (numbers(1, 2, 8, 16, seed=seed) for seed in range(3))
    for inputs, message in [
        ((q, k[:, :1], v[:, :1]), "must be .batch, heads, time, d_head."),
        ((q[0], k[0], v[0]), "must be .batch, heads, time, d_head."),
        ([numbers(1, 2, 8, 24)] * 3, "d_head 16, 32, 64 or 128"),
        ((q, k.half(), v), "one dtype"),
        ([x.mT.contiguous().mT for x in (q, k, v)], "must be contiguous"),
        ((q.requires_grad_(), k, v), "has no gradient"),
        ([x.detach().long() for x in (q, k, v)], "doesn't compute with torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            plain_flash_attention(*inputs)
