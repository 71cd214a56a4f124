"""The RMSNorm and LayerNorm kernels compared with float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, DTYPES, assert_close, assert_same_as_in_64_bits, numbers

from course_lib.kernels.language import INTERPRETED
from course_lib.kernels.meter import Meter
from course_lib.kernels.norms import TILE_ELEMENTS, layer_norm, rms_norm, rms_norm_cost

SHAPES = [(1, 1), (3, 576), (2, 5, 33), (0, 8), (1, 4097), (TILE_ELEMENTS // 64 + 1, 64), (700, 16)]


def rms_reference(x, weight):
    return F.rms_norm(x, weight.shape, weight, 1e-5)


def layer_reference(x, weight, bias=None):
    return F.layer_norm(x, weight.shape, weight, bias, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_those_of_float64(shape, dtype):
    x = numbers(*shape, dtype=dtype, grad=True)
    weight, bias = (numbers(shape[-1], dtype=dtype, seed=seed, grad=True) for seed in (1, 2))
    # A weight's gradient is a sum over all rows, of numbers rounded to 16 bits.
    assert_same_as_in_64_bits(partial(rms_norm, backend="triton"), rms_reference, x, weight, factor=4)
    assert_same_as_in_64_bits(
        partial(layer_norm, backend="triton"), layer_reference, x, weight, bias, factor=4
    )
    assert_same_as_in_64_bits(partial(layer_norm, backend="triton"), layer_reference, x, weight, factor=4)


def test_rows_may_lie_anywhere_in_memory():
    wide = numbers(6, 80)
    for x in (wide[:, 3:40], wide.T[:, ::2], wide[::2, 5:9], wide[:1].expand(4, 80)):
        weight = numbers(x.shape[-1], seed=1)
        assert_close(rms_norm(x, weight, backend="triton"), rms_reference(x.double(), weight.double()))
        assert_close(layer_norm(x, weight, backend="triton"), layer_reference(x.double(), weight.double()))


def test_rows_weights_and_gradients_laid_out_otherwise():
    for x in (numbers(6, 80)[:, 3:40], numbers(37, 80).T, numbers(6, 37)[:1].expand(4, 37)):
        x, width = x.requires_grad_(), x.shape[-1]
        weight = numbers(width, 2, seed=1)[:, 0].requires_grad_()
        bias = numbers(1, seed=2).expand(width).requires_grad_()
        kernels = [partial(f, backend="triton") for f in (rms_norm, layer_norm)]
        references, rests = (rms_reference, layer_reference), ([weight], [weight, bias])
        for change in (lambda y: y.T, lambda y: y.sum(0), lambda y: y.sum(1)):
            for kernel, reference, rest in zip(kernels, references, rests, strict=True):
                both = [lambda *x, f=f, change=change: change(f(*x)) for f in (kernel, reference)]
                assert_same_as_in_64_bits(*both, x, *rest, factor=4)


@pytest.mark.parametrize("programs", [1, 2, 3])
def test_a_program_of_the_way_back_has_several_tiles(programs, monkeypatch):
    monkeypatch.setattr("course_lib.kernels.norms.PROGRAMS", programs)
    x, weight = numbers(TILE_ELEMENTS // 64 * 4 + 5, 64, grad=True), numbers(64, seed=1, grad=True)
    assert_same_as_in_64_bits(partial(rms_norm, backend="triton"), rms_reference, x, weight, factor=4)
    assert_same_as_in_64_bits(partial(layer_norm, backend="triton"), layer_reference, x, weight, factor=4)


def test_the_result_is_an_ordinary_tensor():
    """It may be changed in place, which PyTorch refuses for a view that an autograd function returns."""
    x, weight = numbers(2, 3, 8, grad=True), numbers(8, seed=1, grad=True)
    assert_same_as_in_64_bits(
        lambda *inputs: rms_norm(*inputs, backend="triton").mul_(2),
        lambda *inputs: 2 * rms_reference(*inputs),
        x,
        weight,
    )


def test_it_has_no_second_derivative():
    x, weight = numbers(2, 8, grad=True), numbers(8, seed=1, grad=True)
    (grad,) = torch.autograd.grad(rms_norm(x, weight, backend="triton").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e4, 1e15])
def test_very_small_and_large_numbers(size):
    x, weight = numbers(4, 100, scale=size), numbers(100, seed=1)
    assert_close(rms_norm(x, weight, backend="triton"), rms_reference(x.double(), weight.double()))


def test_infinity_and_nan_stay_in_their_row():
    x, weight = numbers(4, 100), numbers(100, seed=1)
    x[1, 7], x[2, 3] = torch.inf, torch.nan
    y = rms_norm(x, weight, backend="triton")
    assert y[1:3].isnan().any(dim=1).all()
    assert_close(y[[0, 3]], rms_reference(x.double(), weight.double())[[0, 3]])


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("rows, width", [(100, 576), (101, 576), (1, 1), (7, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_as_calculated(rows, width, dtype):
    x, weight = numbers(rows, width, dtype=dtype, grad=True), numbers(width, dtype=dtype, grad=True)
    with Meter() as forward:
        y = rms_norm(x, weight, backend="triton")
    with Meter() as backward:
        y.sum().backward()
    assert forward.bytes == rms_norm_cost(rows, width, x.itemsize).bytes
    assert backward.bytes == rms_norm_cost(rows, width, x.itemsize, backward=True).bytes


def test_what_does_not_fit_is_refused():
    x = numbers(2, 8)
    with pytest.raises(ValueError, match="don't fit vectors of 8"):
        rms_norm(x, numbers(1, 8), backend="triton")
    with pytest.raises(ValueError, match=r"weights of shape \(7,\) don't fit vectors of 8"):
        layer_norm(x, numbers(8), numbers(7), backend="triton")
    with pytest.raises(ValueError, match="a single number has none"):
        rms_norm(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match="doesn't compute with torch.int64"):
        rms_norm(x.long(), numbers(8), backend="triton")
    assert rms_norm(numbers(3, 0), numbers(0), backend="triton").shape == (3, 0)
    with pytest.raises(ValueError, match="don't fit on the chip"):
        rms_norm(numbers(1, 20_000), numbers(20_000), backend="triton")
    assert rms_norm(numbers(1, 20_000), numbers(20_000)).shape == (1, 20_000)
    with pytest.raises(ValueError, match="32 bits at most"):
        rms_norm(x.double(), numbers(8).double(), backend="triton")
    assert DEVICE == "cuda" or rms_norm(x, numbers(8)).equal(F.rms_norm(x, (8,), numbers(8), 1e-5))
