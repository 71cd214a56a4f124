"""NumPy's whole numbers count as Python's: they neither overflow nor stop Triton."""

import numpy as np
import pytest
import torch
from kernel_checks import numbers

from course_lib.kernels import (
    Cost,
    attention_backward_cost,
    attention_cost,
    cross_entropy,
    flash_attention,
    group_by_expert,
    group_by_expert_cost,
    grouped_matmul,
    grouped_matmul_cost,
    layer_norm,
    linear_cross_entropy,
    linear_cross_entropy_cost,
    naive_attention_cost,
    paged_attention,
    paged_attention_cost,
    prepare_weight,
    quantized_matmul_cost,
    rms_norm,
    rms_norm_cost,
    rope_cost,
    softmax_cost,
    swiglu_cost,
)
from course_lib.quantize import Uniform

small = np.uint8
BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])
COSTS = {
    "softmax": lambda n: softmax_cost(n(200), n(200), n(4)),
    "swiglu": lambda n: swiglu_cost(n(200), n(200), n(4)),
    "rms_norm": lambda n: rms_norm_cost(n(200), n(200), n(4), backward=True),
    "rope": lambda n: rope_cost(n(8), n(8), n(200), n(64), n(4)),
    "naive attention": lambda n: naive_attention_cost(n(8), n(8), n(200), n(200), n(64), n(2)),
    "attention": lambda n: attention_cost(
        n(8), n(8), n(200), n(200), n(64), n(2), window=n(150), blocks=(n(128), n(64))
    ),
    "attention, backward": lambda n: attention_backward_cost(
        n(8), n(8), n(2), n(200), n(200), n(64), n(2), window=n(150), blocks=(n(128), n(64))
    ),
    "paged attention": lambda n: paged_attention_cost(
        [n(200), n(250)], n(8), n(2), n(64), n(2), splits=n(3), window=n(150)
    ),
    "grouped": lambda n: grouped_matmul_cost([n(200), n(200)], n(200), n(200), n(2), order=True),
    "group by expert": lambda n: group_by_expert_cost(n(200), n(200), n(8)),
    "linear cross entropy": lambda n: linear_cross_entropy_cost(
        n(200), n(200), n(200), n(2), chunk=n(64), ignored=n(20)
    ),
    "quantized": lambda n: quantized_matmul_cost(
        n(200), prepare_weight(Uniform().store(numbers(64, 64))), n(2)
    ),
    "sum": lambda n: Cost(n(200), n(200)) + Cost(n(200), n(200)),
}


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_costs_do_not_overflow(cost):
    assert cost(small) == cost(int)
    assert type(cost(small).bytes) is type(cost(small).flops) is int


@BACKENDS
def test_attention_with_a_window_and_packed_sequences(backend):
    q, k, v = (numbers(1, heads, 200, 16) for heads in (2, 1, 1))
    starts = torch.tensor([0, 180, 200])
    for make in (small, np.int64):
        got = flash_attention(q, k, v, window=make(150), blocks=(make(128), make(32)), backend=backend)
        assert torch.equal(got, flash_attention(q, k, v, window=150, blocks=(128, 32), backend=backend))
        got = flash_attention(q, k, v, starts=starts, longest=make(180), backend=backend)
        assert torch.equal(got, flash_attention(q, k, v, starts=starts, longest=180, backend=backend))
    got = flash_attention(q, k, v, scale=np.float32(0.5), backend=backend)
    assert torch.equal(got, flash_attention(q, k, v, scale=0.5, backend=backend))


@BACKENDS
def test_attention_over_pages(backend):
    q, pages = numbers(1, 2, 16), numbers(13, 1, 16, 16)
    rest = pages, pages, torch.arange(13)[None], torch.tensor([200])
    got = paged_attention(q, *rest, window=small(150), splits=small(3), backend=backend)
    assert torch.equal(got, paged_attention(q, *rest, window=150, splits=3, backend=backend))


@BACKENDS
def test_experts(backend):
    x, weight = numbers(100, 16), numbers(3, 8, 16)
    chosen = torch.arange(200).view(100, 2) % 3
    order, starts = group_by_expert(chosen, 3, backend)
    assert all(map(torch.equal, group_by_expert(chosen, np.int8(3), backend), (order, starts)))
    wanted = grouped_matmul(x, weight, starts, order, 2, backend)
    for make in (np.int8, np.int64):
        assert torch.equal(grouped_matmul(x, weight, starts, order, make(2), backend), wanted)


@BACKENDS
def test_norms_and_losses(backend):
    x, weight, targets = numbers(4, 6), numbers(6), torch.tensor([1, -100, 2, 3])
    small_number = float(np.float32(1e-5))
    for norm in (rms_norm, layer_norm):
        got = norm(x, weight, eps=np.float32(1e-5), backend=backend)
        assert torch.equal(got, norm(x, weight, eps=small_number, backend=backend))
        with pytest.raises(ValueError, match="eps must be a small number"):
            norm(x, weight, eps=10**400, backend=backend)
    got = cross_entropy(x, targets, np.int8(-100), backend)
    assert torch.equal(got, cross_entropy(x, targets, -100, backend))
    got = linear_cross_entropy(x, numbers(8, 6), targets, np.int8(-100), backend, chunk=small(3))
    assert torch.equal(got, linear_cross_entropy(x, numbers(8, 6), targets, -100, backend, chunk=3))
