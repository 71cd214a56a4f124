"""Products with weights of 4 and 8 bits compared with float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, DTYPES, PRODUCT_DTYPES, assert_close, numbers
from torch import nn

from course_lib.kernels.int8_matmul import SM_COUNT, many_tokens_tile, one_token_tile
from course_lib.kernels.language import INTERPRETED, tile_count
from course_lib.kernels.meter import Meter
from course_lib.kernels.quantized_matmul import (
    KernelLinear,
    prepare_weight,
    quantized_matmul,
    quantized_matmul_cost,
)
from course_lib.kernels.use import kernel_parts
from course_lib.model.exchange import exchange, twin
from course_lib.quantize import NF4, Q4_0, Q4_1, Q8_0, QuantizedLinear, Uniform

FORMATS = {"int8": Uniform(bits=8), "Q4_1": Q4_1, "Q4_0": Q4_0, "NF4": NF4(), "NF4, double": NF4(True)}
KERNELS = ["int8", "Q4_1", "NF4"]  # the other formats go through the same kernels, with other numbers
# Rows, columns: one tile and several in each direction, the last one whole or partial.
# The tiles for one token are larger.
SHAPES = [(1, 64), (24, 32), (65, 288), (130, 96)]
ONE_TOKEN_SHAPES = [(1, 64), (24, 32), (9, 96), (3, 8288), (1061, 1120)]


def stored(format, rows, columns):
    if isinstance(format, NF4) and rows * columns % 64:
        rows += 1
    return format.store(numbers(rows, columns, seed=3).cpu()).to(DEVICE)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows, columns", SHAPES)
def test_prepared_weights_are_the_stored_ones(format, rows, columns):
    weight = stored(FORMATS[format], rows, columns)
    assert prepare_weight(weight).weight().equal(weight.weight())


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("format", KERNELS)
@pytest.mark.parametrize("rows, columns", SHAPES)
@pytest.mark.parametrize("tokens", [2, 20, 150])
def test_products_are_those_of_float64(format, rows, columns, tokens, dtype):
    weight = stored(FORMATS[format], rows, columns)
    x = numbers(tokens, columns, dtype=dtype)
    wanted = x.double() @ weight.weight(torch.float32).double().T
    # The weights are rounded to x's dtype, once each, before they are multiplied.
    assert_close(quantized_matmul(x, prepare_weight(weight), backend="triton"), wanted, factor=2)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows, columns", ONE_TOKEN_SHAPES)
def test_one_token(format, rows, columns):
    weight = stored(FORMATS[format], rows, columns)
    prepared = prepare_weight(weight)
    for dtype in DTYPES if rows < 1000 else (torch.float16,):
        x = numbers(1, columns, dtype=dtype)
        wanted = x.double() @ weight.weight(torch.float32).double().T
        assert_close(quantized_matmul(x, prepared, backend="triton"), wanted)


@pytest.mark.parametrize("rows", [200, 576, 2048, 49_152])
def test_there_is_work_for_every_processor(rows):
    assert tile_count(rows, one_token_tile(rows, 2048).sizes["BLOCK_N"]) >= SM_COUNT
    assert tile_count(rows, many_tokens_tile(4, rows, False).sizes["BLOCK_N"]) >= min(SM_COUNT, rows // 16)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(64,), (0, 64), (2, 3, 64), (1, 1, 64)])
def test_any_number_of_dimensions(format, shape):
    weight = stored(FORMATS[format], 10, 64)
    x = numbers(*shape)
    y = quantized_matmul(x, prepare_weight(weight), backend="triton")
    assert_close(y, F.linear(x.double(), weight.weight().double()))


@pytest.mark.parametrize("format", KERNELS)
def test_inputs_laid_out_otherwise(format):
    weight = prepare_weight(stored(FORMATS[format], 10, 64))
    one = numbers(1, 128)[:, ::2]
    for x in (
        numbers(64, 9).T,
        numbers(9, 128)[:, ::2],
        numbers(9, 80)[:, 3:67],
        numbers(1, 64).expand(5, 64),
        one,
    ):
        assert_close(quantized_matmul(x, weight, backend="triton"), x.double() @ weight.weight().double().T)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_infinity_and_nan_stay_in_their_row(format, tokens):
    weight = prepare_weight(stored(FORMATS[format], 24, 96))
    for value in (torch.inf, -torch.inf, torch.nan):
        x = numbers(tokens, 96)
        x[0, 40] = value
        assert_close(quantized_matmul(x, weight, backend="triton"), x.double() @ weight.weight().double().T)


@pytest.mark.parametrize("format", KERNELS)
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e15])
def test_very_small_and_large_numbers(format, size):
    weight = prepare_weight(stored(FORMATS[format], 24, 96))
    for tokens in (1, 5):
        y = quantized_matmul(numbers(tokens, 96, scale=size), weight, backend="triton")
        wanted = numbers(tokens, 96, scale=size).double() @ weight.weight().double().T
        assert_close(y / size, wanted / size)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_gradient_of_the_input(format, tokens):
    weight = prepare_weight(stored(FORMATS[format], 24, 64))
    x, grad = numbers(tokens, 64, grad=True), numbers(tokens, 24, seed=5)
    (got,) = torch.autograd.grad(quantized_matmul(x, weight, backend="triton"), x, grad)
    assert_close(got, grad.double() @ weight.weight().double())


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("format", KERNELS)
@pytest.mark.parametrize("tokens", [1, 20, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_are_as_calculated(format, tokens, dtype):
    weight, x = prepare_weight(stored(FORMATS[format], 70, 96)), numbers(tokens, 96, dtype=dtype)
    with Meter() as meter:
        quantized_matmul(x, weight, backend="triton")
    assert meter.bytes == quantized_matmul_cost(tokens, weight, x.itemsize).bytes


def test_one_token_reads_each_weight_once():
    weight = prepare_weight(stored(Q4_1, 64, 4096))
    assert weight.nbytes == 64 * 4096 * 5 // 8 and quantized_matmul_cost(1, weight, 2).flops == 2 * 64 * 4096


def test_what_has_no_kernel_or_does_not_fit_is_refused():
    for format, rows, columns in (
        (Q8_0, 4, 32),
        (Uniform(bits=3), 4, 32),
        (Uniform(bits=8, group="tensor"), 4, 32),
        (NF4(), 16, 20),
    ):
        with pytest.raises(ValueError, match="there is no kernel for"):
            prepare_weight(format.store(torch.randn(rows, columns)))
    with pytest.raises(ValueError, match="64 are wanted"):
        quantized_matmul(numbers(2, 32), prepare_weight(stored(Q4_1, 10, 64)))
    for tokens in (0, 2):
        with pytest.raises(ValueError, match="backend must be one of"):
            quantized_matmul(numbers(tokens, 64), prepare_weight(stored(Q4_1, 10, 64)), backend="cuda")


def kernel_layer(plain, backend="triton"):
    return twin(copy.deepcopy(plain), KernelLinear, backend=backend)


@pytest.mark.parametrize("format", [*FORMATS.values(), Q8_0, Uniform(bits=3)])
def test_a_layer_that_computes_by_the_kernel(format):
    plain = QuantizedLinear(stored(format, 24, 64), bias=numbers(24, seed=6))
    layer = kernel_layer(plain)
    for tokens in (1, 5):
        x = numbers(tokens, 64, grad=True)
        y, wanted = layer(x), plain(x)
        assert_close(y, wanted.double())
        (got,), (right,) = (torch.autograd.grad(out.sum(), x) for out in (y, wanted))
        assert_close(got, right.double())
    assert copy.deepcopy(layer)(x).equal(y)
    assert layer.state_dict().keys() == plain.state_dict().keys()


def test_a_layer_with_pytorch_prepares_nothing():
    plain = QuantizedLinear(stored(Q4_1, 24, 64))
    for backend in ("torch", *(["auto"] if DEVICE == "cpu" else [])):
        layer, x = kernel_layer(plain, backend), numbers(3, 64)
        assert layer(x).equal(plain(x)) and "prepared" not in vars(layer)


def test_a_layer_that_gets_other_weights_computes_with_them():
    first, second = (
        QuantizedLinear(Q4_1.store(numbers(24, 64, seed=seed).cpu()).to(DEVICE)) for seed in (1, 2)
    )
    layer, x = kernel_layer(first), numbers(5, 64)
    assert_close(layer(x), first(x).double())
    layer.load_state_dict(second.state_dict())
    assert_close(layer(x), second(x).double())
    layer.stored = first.stored
    assert_close(layer(x), first(x).double())


def test_weights_that_are_loaded_around_the_layer_are_computed_with():
    """While the kernels are off, and where only what is stored is loaded."""
    first, second = (
        nn.Sequential(QuantizedLinear(Q4_1.store(numbers(24, 64, seed=seed).cpu()).to(DEVICE)))
        for seed in (1, 2)
    )
    weights, x = {name: x.clone() for name, x in first.state_dict().items()}, numbers(5, 64)
    wanted = [model(x).double() for model in (first, second)]
    change = exchange(first, kernel_parts(first, "triton"))
    assert_close(first(x), wanted[0])
    with change.undone():
        first.load_state_dict(second.state_dict())
    assert_close(first(x), wanted[1])
    first[0].stored.raw.copy_(weights["0.stored.raw"])
    assert_close(first(x), wanted[0])
    first[0].stored.load_state_dict(second[0].stored.state_dict(), assign=True)
    assert_close(first(x), wanted[1])
