"""The interpreter rounds and is silent as a GPU is."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from kernel_checks import numbers

from course_lib.kernels import (
    cross_entropy,
    flash_attention,
    group_by_expert,
    grouped_matmul,
    layer_norm,
    linear_cross_entropy,
    paged_attention,
    plain_flash_attention,
    prepare_weight,
    quantized_matmul,
    rms_norm,
    rope,
    softmax,
    swiglu,
)
from course_lib.kernels.interpreted import as_on_a_gpu, round_to_bfloat16
from course_lib.kernels.language import INTERPRETED
from course_lib.quantize import NF4, Q4_1, Uniform

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
MIDDLES = (1.00390625, 1.01171875, -1.00390625, 1.9999999, 3.4e38, 1e-40, -0.0, float("inf"), float("-inf"))


def test_numbers_are_rounded_to_the_nearest_bfloat16_and_ties_to_the_even_one():
    assert [torch.tensor(x).bfloat16().item() for x in MIDDLES[:2]] == [1.0, 1.015625]
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0))
    x = torch.cat([bits.int().view(torch.float32), torch.tensor(MIDDLES)])
    ours = torch.from_numpy(round_to_bfloat16(x.numpy()).view(np.int16))
    number = ~x.isnan()
    assert ours[number].equal(x.bfloat16().view(torch.int16)[number])
    assert ours.view(torch.bfloat16)[~number].isnan().all()


def test_strided_and_repeated_tiles_are_rounded():
    x = np.broadcast_to(np.float32(1.01171875), (3, 4))
    assert (round_to_bfloat16(x) == 0x3F82).all() and round_to_bfloat16(x.T[::2]).shape == (2, 3)


ROWS = {
    "softmax": (softmax, [(6, 50)]),
    "rms_norm": (rms_norm, [(6, 50), (50,)]),
    "layer_norm": (layer_norm, [(6, 50), (50,), (50,)]),
    "swiglu": (swiglu, [(6, 50), (6, 50)]),
    "rope": (
        lambda x, backend: rope(x, *numbers(2, 3, 4, seed=7).bfloat16().to(x.dtype), backend=backend),
        [(2, 2, 3, 8)],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_kernels_round_bfloat16_as_pytorch_does(name):
    """Bit for bit what PyTorch makes of the kernel's result in 32 bits, forwards and backwards."""
    kernel, shapes = ROWS[name]
    inputs = [numbers(*shape, dtype=torch.bfloat16, seed=i) for i, shape in enumerate(shapes)]
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        x = [part.to(dtype, copy=True).requires_grad_() for part in inputs]
        y = kernel(*x, backend="triton")
        results.append([y, *torch.autograd.grad(y, x[:1], torch.ones_like(y) * 0.75)])
    # softmax keeps its result for the way back, rounded: there only the way forward is the same.
    for ours, wide in list(zip(*results, strict=True))[: 1 if name == "softmax" else None]:
        assert ours.equal(wide.bfloat16())


def test_subnormal_bfloat16_numbers_are_kept():
    tiny = torch.full((2, 4), 1e-39).bfloat16()
    ones = torch.full((2, 4), 100.0).bfloat16()  # silu(100) is 100
    assert swiglu(ones, tiny, backend="triton").equal((100 * tiny.float()).bfloat16())


def every_kernel(x):
    """Ordinary calls, with sizes that don't fill tiles; x makes the numbers."""
    q, k = x(1, 2, 20, 16), x(1, 1, 20, 16)
    starts, targets = torch.tensor([0, 3, 7], dtype=torch.int32), torch.tensor([1, -100, 3])
    table, lengths = torch.tensor([[1, 0], [2, 2]]), torch.tensor([12, 0])
    linear = prepare_weight(Uniform(bits=8).store(numbers(8, 64)))
    yield softmax(x(3, 5), "triton")
    yield softmax(torch.tensor([0.0, -torch.inf, 1.0], requires_grad=True), "triton")
    yield rms_norm(x(3, 5), x(5), backend="triton")
    yield layer_norm(x(3, 5), x(5), x(5), backend="triton")
    yield swiglu(200 * x(3, 5), x(3, 5), "triton")
    yield rope(x(1, 3, 5, 6), numbers(5, 3), numbers(5, 3), backend="triton")
    yield cross_entropy(x(3, 5), targets, backend="triton")
    yield cross_entropy(
        torch.tensor([[0.0, -torch.inf]], requires_grad=True), targets[:1] * 0, backend="triton"
    )
    yield linear_cross_entropy(x(3, 4), x(5, 4), targets, backend="triton")
    for dials in ({}, {"window": 3}, {"causal": False}):
        yield flash_attention(q, k, k, backend="triton", blocks=(16, 16), **dials)
    yield flash_attention(*(x(1, 1, 7, 16) for _ in range(3)), starts=starts, backend="triton")
    yield grouped_matmul(x(7, 3), x(2, 5, 3), starts, backend="triton")
    yield quantized_matmul(x(3, 64), linear, "triton")
    with torch.no_grad():
        yield plain_flash_attention(*(x(1, 1, 70, 16) for _ in range(3)))
        for splits in (1, 3):
            pages = numbers(3, 1, 8, 16), numbers(3, 1, 8, 16)
            yield paged_attention(x(2, 2, 16), *pages, table, lengths, splits=splits, backend="triton")
        for format in (Q4_1, NF4()):
            for tokens in (1, 3):
                weight = prepare_weight(format.store(numbers(8, 64)))
                yield quantized_matmul(x(tokens, 64), weight, "triton")
        yield group_by_expert(torch.tensor([1, 0, 1]), 2, "triton")[0]


def test_ordinary_input_brings_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result in every_kernel(lambda *shape: numbers(*shape, grad=True)):
            if result.requires_grad:
                result.sum().backward()


def test_nan_and_infinity_bring_no_warnings_either():
    x = torch.tensor([[torch.nan, torch.nan], [torch.inf, 1.0]], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        softmax(x, "triton").sum().backward()
        cross_entropy(x, torch.tensor([0, 1]), backend="triton").backward()


def test_triton_and_numpy_are_left_as_they_were():
    """Kernels of others are interpreted as before, also after an error."""
    from triton.runtime.interpreter import interpreter_builder

    before = np.geterr(), list(warnings.filters)
    softmax(numbers(2, 3).bfloat16(), "triton")
    with contextlib.suppress(KeyError), as_on_a_gpu():
        raise KeyError
    assert "cast_impl" not in vars(interpreter_builder)
    assert (np.geterr(), list(warnings.filters)) == before
