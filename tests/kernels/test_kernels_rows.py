"""The softmax, SwiGLU and RoPE kernels compared with float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DTYPES, assert_close, assert_same_as_in_64_bits, in_64_bits, numbers

from course_lib.kernels.language import INTERPRETED
from course_lib.kernels.meter import Meter
from course_lib.kernels.rope import LAYOUTS, rope, rope_cost
from course_lib.kernels.softmax import softmax, softmax_cost
from course_lib.kernels.swiglu import swiglu, swiglu_cost
from course_lib.model import rotary_tables, rotate

SHAPES = [(1, 1), (3, 100), (2, 3, 33), (0, 5), (1, 5000), (130, 64), (700, 3), (4,), (2, 0)]
LAID_OUT_OTHERWISE = (lambda y: y.T, lambda y: y.sum(0), lambda y: y.sum(1))  # … their gradients
metered = pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")


def silu_times(gate, up):
    return F.silu(gate) * up


# Softmax


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_is_that_of_float64(shape, dtype):
    x = numbers(*shape, dtype=dtype, scale=3.0, grad=True)
    assert_same_as_in_64_bits(partial(softmax, backend="triton"), partial(torch.softmax, dim=-1), x)


def test_softmax_of_rows_anywhere_in_memory():
    wide = numbers(6, 80)
    for x in (wide[:, 3:40], wide.T[:, ::2], wide[::2, 5:9], wide[:1].expand(4, 80)):
        assert_close(softmax(x, backend="triton"), x.double().softmax(-1))


@pytest.mark.parametrize("change", LAID_OUT_OTHERWISE)
def test_softmax_whose_gradient_is_laid_out_otherwise(change):
    x = numbers(5, 37, grad=True)
    assert_same_as_in_64_bits(
        lambda x: change(softmax(x, backend="triton")), lambda x: change(x.softmax(-1)), x
    )


def test_results_may_be_changed_in_place():
    x, up = numbers(2, 3, 37, grad=True), numbers(2, 3, 37, seed=1, grad=True)
    assert_same_as_in_64_bits(lambda x: softmax(x, backend="triton") + 0, lambda x: x.softmax(-1), x)
    softmax(x.detach().requires_grad_(), backend="triton").mul_(2)
    assert_same_as_in_64_bits(
        lambda *both: swiglu(*both, backend="triton").mul_(2), lambda *both: 2 * silu_times(*both), x, up
    )


def test_softmax_of_infinite_and_missing_numbers():
    x = numbers(6, 40)
    x[0, 3], x[1, 4], x[2], x[3, 5], x[4, 6] = -torch.inf, torch.inf, -torch.inf, torch.nan, 1e30
    assert_close(softmax(x, backend="triton"), x.double().softmax(-1))
    rows = softmax(x[[0, 4, 5]], backend="triton").sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_softmax_of_rows_too_wide():
    with pytest.raises(ValueError, match="don't fit on the chip"):
        softmax(numbers(1, 70_000), backend="triton")
    assert softmax(numbers(1, 70_000)).sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="last dimension"):
        softmax(torch.tensor(1.0))
    for bad in (torch.arange(4), torch.ones(4, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="convert to float32, float16 or bfloat16"):
            softmax(bad, backend="triton")


# SwiGLU


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_swiglu_is_that_of_float64(shape, dtype):
    inputs = [numbers(*shape, dtype=dtype, seed=seed, scale=2.0, grad=True) for seed in (0, 1)]
    assert_same_as_in_64_bits(partial(swiglu, backend="triton"), silu_times, *inputs, factor=2)


def test_swiglu_of_two_halves():
    both = numbers(5, 7, 60, grad=True)

    def halves(f):
        return lambda x: f(*x.chunk(2, dim=-1))

    assert_same_as_in_64_bits(halves(partial(swiglu, backend="triton")), halves(silu_times), both)
    gate, up = numbers(40, 9).T, numbers(9, 40, seed=1)
    assert_close(swiglu(gate, up, backend="triton"), silu_times(gate.double(), up.double()))


@pytest.mark.parametrize("change", LAID_OUT_OTHERWISE)
def test_swiglu_of_tensors_laid_out_otherwise(change):
    gate, up = numbers(5, 80)[:, 3:40].requires_grad_(), numbers(5, 37, seed=1, grad=True)
    for inputs in ((gate, up), (up, gate), (up, numbers(37, seed=2).expand(5, 37).requires_grad_())):
        assert_same_as_in_64_bits(
            lambda *both: change(swiglu(*both, backend="triton")),
            lambda *both: change(silu_times(*both)),
            *inputs,
        )


def test_swiglu_of_extreme_numbers():
    gate = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, -torch.inf, torch.inf, torch.nan]).to(
        numbers(1).device
    )
    ones = torch.ones_like(gate)
    assert_close(swiglu(gate, ones, backend="triton"), F.silu(gate.double()))
    gate, ones = gate[:6].requires_grad_(), ones[:6].requires_grad_()
    assert_same_as_in_64_bits(partial(swiglu, backend="triton"), silu_times, gate, ones)


def test_swiglu_of_shapes_that_differ():
    with pytest.raises(ValueError, match="must be alike"):
        swiglu(numbers(2, 3), numbers(2, 4))
    with pytest.raises(ValueError, match="must be alike"):
        swiglu(numbers(2, 3), numbers(2, 3).half())


# RoPE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 8), (1, 9, 70, 64), (1, 1, 1, 2), (2, 2, 33, 20), (1, 2, 0, 4), (1, 20, 3, 128)]
)
def test_rope_is_that_of_float64(shape, dtype, layout):
    batch, heads, time, d_head = shape
    x = numbers(batch, time, heads, d_head, dtype=dtype).transpose(1, 2).requires_grad_()
    tables = [table[:time] for table in rotary_tables(3, max(1, time), d_head, 100.0, like=x)]
    exact = [table.double() for table in tables]
    kernel = partial(rope, cos=tables[0], sin=tables[1], layout=layout, backend="triton")
    assert_same_as_in_64_bits(kernel, partial(rotate, cos=exact[0], sin=exact[1], layout=layout), x)
    assert kernel(x).stride() == x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rope_of_other_layouts_in_memory(layout):
    tables = [table.T.contiguous().T for table in rotary_tables(0, 6, 8, 100.0, like=numbers(1))]
    exact = in_64_bits(*tables)
    ours, wanted = partial(rope, layout=layout, backend="triton"), partial(rotate, layout=layout)
    for x in (
        numbers(2, 8, 6, 3).transpose(1, 3),
        numbers(2, 3, 6, 16)[..., ::2],
        numbers(1, 1, 6, 8).expand(2, 3, 6, 8),
    ):
        x = x.requires_grad_()
        assert_same_as_in_64_bits(lambda x: ours(x, *tables), lambda x: wanted(x, *exact), x)
        assert_same_as_in_64_bits(
            lambda x: ours(x, *tables).sum((0, 3)), lambda x: wanted(x, *exact).sum((0, 3)), x
        )


def test_rope_of_what_does_not_fit():
    x, tables = numbers(1, 2, 5, 8), rotary_tables(0, 5, 8, 100.0, like=numbers(1))
    for bad in (
        lambda: rope(x[..., :7], *tables),
        lambda: rope(x[:, :, :4], *tables),
        lambda: rope(x[0], *tables),
    ):
        with pytest.raises(ValueError, match="d_head even"):
            bad()
    with pytest.raises(ValueError, match="layout must be one of"):
        rope(x, *tables, layout="split")


# Cost


@metered
@pytest.mark.parametrize("rows, width", [(100, 576), (1, 1), (7, 5000), (3, 1025)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_as_calculated(rows, width, dtype):
    x, up = (numbers(rows, width, dtype=dtype, seed=seed, grad=True) for seed in (0, 1))
    for f, inputs, cost in ((softmax, (x,), softmax_cost), (swiglu, (x, up), swiglu_cost)):
        with Meter() as forward:
            y = f(*inputs, backend="triton")
        with Meter() as backward:
            torch.autograd.grad(y, inputs, torch.ones_like(y))
        assert forward.bytes == cost(rows, width, x.itemsize).bytes
        assert backward.bytes == cost(rows, width, x.itemsize, backward=True).bytes


@metered
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 9, 70, 64), (1, 1, 1, 2)])
def test_bytes_of_rope_are_as_calculated(shape):
    x = numbers(*shape, dtype=torch.float16)
    with Meter() as meter:
        rope(x, *rotary_tables(0, shape[2], shape[3], 100.0, like=x), backend="triton")
    assert meter.bytes == rope_cost(*shape, 2).bytes
