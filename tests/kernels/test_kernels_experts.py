"""Sorting by expert, grouped products and whole mixtures, compared with PyTorch and float64."""

import copy
from functools import partial

import pytest
import torch
from kernel_checks import (
    DEVICE,
    PRODUCT_DTYPES,
    assert_close,
    assert_same_as_in_64_bits,
    in_64_bits,
    numbers,
)

from course_lib.kernels.experts import mixture, stack_experts
from course_lib.kernels.grouped_matmul import grouped_matmul, grouped_matmul_cost
from course_lib.kernels.language import INTERPRETED
from course_lib.kernels.meter import Meter
from course_lib.kernels.permute import group_by_expert, group_by_expert_cost
from course_lib.kernels.use import use_kernels
from course_lib.model import Experts, ExpertsConfig, ModelConfig, route

metered = pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
COUNTS = [[5], [0], [3, 0, 40], [0, 0, 7], [33, 1, 32, 0], [1] * 9, [70, 2]]


def config(n_experts, n_active=2, normalize_shares=True, n_shared=0, **changes):
    """Return the configuration of a small model, whose experts are tested."""
    sizes = {
        "vocab_size": 61,
        "d_model": 24,
        "n_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "d_head": 12,
        "d_ff": 40,
    }
    experts = ExpertsConfig(n_experts, n_active, n_shared, normalize_shares)
    return ModelConfig(**sizes | {"context": 48} | changes, experts=experts)


def choices(counts, seed=0):
    """Return expert ids, `counts` of each, shuffled."""
    numbers = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))].to(DEVICE)


def starts_of(counts):
    return torch.tensor([0, *counts], device=DEVICE).cumsum(0).int()


# Sorting


@pytest.mark.parametrize("counts", [*COUNTS, [900, 0, 1500, 200], [40] * 65])
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_sorted_stably_by_expert(counts, backend):
    chosen = choices(counts)
    order, starts = group_by_expert(chosen, len(counts), backend)
    assert order.tolist() == chosen.argsort(stable=True).tolist()
    assert starts.tolist() == starts_of(counts).tolist()
    assert order.dtype == starts.dtype == torch.int32


def test_choices_of_many_a_token_and_of_nobody():
    chosen = choices([10, 30, 20]).view(3, 20).T
    order, _ = group_by_expert(chosen, 3, "triton")
    assert order.tolist() == chosen.flatten().argsort(stable=True).tolist()
    with pytest.raises(ValueError, match="from 0 to 2, not 0 to 3"):
        group_by_expert(torch.tensor([0, 3]), 3, "triton")
    with pytest.raises(ValueError, match="int32 or int64"):
        group_by_expert(torch.tensor([0.0]), 3)
    with pytest.raises(ValueError, match="n_experts must be 1 or more, not 0"):
        group_by_expert(torch.zeros(4, dtype=torch.int64), 0)


def test_more_experts_than_fit_on_the_chip():
    chosen = choices([1, 0, 2] * 400)
    order, starts = group_by_expert(chosen, 1200)
    assert (
        order.tolist() == chosen.argsort(stable=True).tolist()
        and starts.tolist() == starts_of([1, 0, 2] * 400).tolist()
    )
    with pytest.raises(ValueError, match="1200 experts doesn't fit on the chip"):
        group_by_expert(chosen, 1200, "triton")


def test_an_unknown_backend_is_refused_for_nothing_as_well():
    with pytest.raises(ValueError, match="backend must be one of"):
        group_by_expert(choices([0]), 1, "cuda")
    with pytest.raises(ValueError, match="backend must be one of"):
        grouped_matmul(numbers(0, 4), numbers(1, 3, 4), starts_of([0]), backend="cuda")


@metered
@pytest.mark.parametrize("counts", [[5], [900, 0, 1500, 200]])
def test_bytes_of_sorting_are_as_calculated(counts):
    with Meter() as meter:
        group_by_expert(choices(counts), len(counts), "triton")
    assert meter.bytes == group_by_expert_cost(sum(counts), len(counts)).bytes


# Products


def by_hand(x, weight, starts, order=None, n_active=1):
    """Return the grouped product, row by row with each row's own matrix."""
    source = torch.arange(len(x), device=x.device) if order is None else order.long() // n_active
    expert = torch.bucketize(torch.arange(len(source), device=x.device), starts[1:].long(), right=True)
    return torch.einsum("ri,roi->ro", x[source], weight[expert])


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("d_in, d_out", [(16, 24), (1, 5), (70, 33)])
def test_grouped_products_are_those_of_float64(counts, d_in, d_out, dtype):
    starts = starts_of(counts)
    x = numbers(sum(counts), d_in, dtype=dtype, grad=True)
    weight = numbers(len(counts), d_out, d_in, dtype=dtype, seed=1, grad=True)
    kernel = partial(grouped_matmul, starts=starts, backend="triton")
    assert_same_as_in_64_bits(kernel, partial(by_hand, starts=starts), x, weight)
    assert_close(grouped_matmul(x, weight, starts, backend="torch"), by_hand(*in_64_bits(x, weight), starts))


@pytest.mark.parametrize("n_active", [1, 2, 3])
def test_rows_are_read_where_they_lie(n_active):
    counts = [30, 0, 41, 19]
    order, starts = group_by_expert(choices(counts), len(counts), "triton")
    x, weight = numbers(90 // n_active, 20, grad=True), numbers(4, 24, 20, seed=1, grad=True)
    dials = {"starts": starts, "order": order, "n_active": n_active}
    assert_same_as_in_64_bits(
        partial(grouped_matmul, backend="triton", **dials), partial(by_hand, **dials), x, weight
    )
    assert_close(
        grouped_matmul(x, weight, backend="torch", **dials), by_hand(*in_64_bits(x, weight), **dials)
    )


def test_products_of_other_layouts_and_frozen_parts():
    starts = starts_of([20, 30])
    x, weight = numbers(16, 50).T, numbers(2, 16, 24, seed=1).transpose(1, 2)
    assert_close(grouped_matmul(x, weight, starts, backend="triton"), by_hand(*in_64_bits(x, weight), starts))
    assert_close(grouped_matmul(x[:, ::2], weight[..., ::2], starts, backend="triton"),
                 by_hand(*in_64_bits(x[:, ::2], weight[..., ::2]), starts))  # fmt: skip
    frozen, wanted = weight.clone().requires_grad_(), in_64_bits(x, weight)
    frozen_grad = torch.autograd.grad(grouped_matmul(x, frozen, starts, backend="triton").sum(), frozen)[0]
    wanted[1].requires_grad_()
    assert_close(frozen_grad, torch.autograd.grad(by_hand(*wanted, starts).sum(), wanted[1])[0])


def test_products_that_do_not_fit_are_refused():
    x, weight, starts = numbers(8, 4), numbers(2, 6, 4), starts_of([5, 3])
    for bad, message in [
        (lambda: grouped_matmul(x[:, :3], weight, starts), "must be .rows, d_in"),
        (lambda: grouped_matmul(x, weight, starts[1:]), "must be .rows, d_in"),
        (lambda: grouped_matmul(x, weight.half(), starts), "one dtype"),
        (lambda: grouped_matmul(x, weight, starts, n_active=2), "an order of 8 · 2 rows"),
        (lambda: grouped_matmul(x, weight, starts, order=torch.arange(9)), "an order of 8 · 1 rows"),
        (lambda: grouped_matmul(x, weight, starts, n_active=0), "n_active must be 1 or more, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


@metered
@pytest.mark.parametrize("counts", [[5], [3, 0, 40], [33, 1, 32, 0], [1] * 9, [130, 0, 7]])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_and_operations_are_as_calculated(counts, ordered, dtype):
    order, starts = group_by_expert(choices(counts), len(counts), "torch")
    x, weight = numbers(sum(counts), 70, dtype=dtype), numbers(len(counts), 130, 70, dtype=dtype)
    with Meter() as meter:
        grouped_matmul(x, weight, starts, order if ordered else None, backend="triton")
    cost = grouped_matmul_cost(counts, 130, 70, dtype.itemsize, ordered)
    assert (meter.bytes, meter.flops) == (cost.bytes, cost.flops)


# Mixtures


@pytest.mark.parametrize("n_experts, n_active", [(4, 2), (5, 1), (3, 3)])
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_mixture_is_the_models(n_experts, n_active, backend):
    torch.manual_seed(0)
    plain = Experts(config(n_experts=n_experts, n_active=n_active, normalize_shares=n_active > 1)).to(DEVICE)
    x = numbers(37, plain.router.in_features, grad=True)
    weights = [x, *plain.parameters()]

    def ours(x):
        shares, chosen = route(plain.router(x), n_active, plain.config.normalize_shares)
        return mixture(x, shares, chosen, *stack_experts(plain), backend=backend)

    y, wanted, grad = ours(x), plain(x), numbers(37, plain.router.in_features, seed=5)
    assert_close(y, wanted.double(), factor=2)
    ours_grads, wanted_grads = (torch.autograd.grad(result, weights, grad) for result in (y, wanted))
    for got, right in zip(ours_grads, wanted_grads, strict=True):
        assert_close(got, right.double(), factor=4)
    again = torch.autograd.grad(ours(x), weights, grad)
    assert all(a.equal(b) for a, b in zip(ours_grads, again, strict=True))


def layer_and_tokens(n_tokens=37, **dials):
    torch.manual_seed(0)
    plain = Experts(config(**{"n_experts": 4, "n_active": 2} | dials)).to(DEVICE)
    return plain, numbers(n_tokens, plain.router.in_features)


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_a_mixture_is_that_of_float64(dtype):
    plain, x = layer_and_tokens()
    shares, chosen = route(plain.router(x), 2, True)
    inputs = [x, shares, *stack_experts(plain)]
    inputs = [each.detach().to(dtype).requires_grad_() for each in inputs]

    def by_definition(x, shares, gate, up, down):
        gate, up = (torch.einsum("td,tafd->taf", x, w[chosen]) for w in (gate, up))
        done = torch.einsum("taf,tadf->tad", torch.nn.functional.silu(gate) * up, down[chosen])
        return (done * shares.unsqueeze(-1)).sum(1)

    kernel = lambda x, shares, *weights: mixture(x, shares, chosen, *weights, backend="triton")
    assert_same_as_in_64_bits(kernel, by_definition, *inputs, factor=2)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_mixture_of_no_tokens(backend):
    plain, x = layer_and_tokens(0)
    shares, chosen = route(plain.router(x), 2, True)
    y = mixture(x, shares, chosen, *stack_experts(plain), backend=backend)
    assert y.shape == x.shape
    assert all(not grad.any() for grad in torch.autograd.grad(y.sum(), list(plain.experts.parameters())))


def test_mixtures_that_do_not_fit_are_refused():
    plain, x = layer_and_tokens(5)
    shares, chosen = route(plain.router(x), 2, True)
    for bad in [(shares[:, :1], chosen), (shares[:, 0], chosen[:, 0]), (shares[:4], chosen[:4])]:
        with pytest.raises(ValueError, match="both must be .tokens, n_active"):
            mixture(x, *bad, *stack_experts(plain))


@pytest.mark.parametrize(
    "backend, dtype", [("triton", torch.float16), ("torch", torch.float16), ("torch", torch.bfloat16)]
)
def test_under_autocast_a_mixture_multiplies_in_16_bits_as_the_model_does(backend, dtype):
    plain, x = layer_and_tokens()
    fast, weights = use_kernels(copy.deepcopy(plain), backend), list(plain.parameters())
    with torch.autocast(DEVICE, dtype):
        y, wanted = fast(x), plain(x)
    assert y.dtype == wanted.dtype == dtype
    assert_close(y, wanted.double(), factor=2)
    grads = torch.autograd.grad(y.float().sum(), list(fast.parameters()))
    for got, right in zip(grads, torch.autograd.grad(wanted.float().sum(), weights), strict=True):
        assert got.dtype == torch.float32
        assert_close(got, right.double(), dtype, factor=4)


@pytest.mark.parametrize("dials", [{"feed_forward": "gelu"}, {"feed_forward": "geglu"}, {"bias": True}])
def test_other_experts_are_refused(dials):
    with pytest.raises(ValueError, match="only SwiGLU experts without biases"):
        stack_experts(Experts(config(n_experts=2, **dials)))


def test_tables_of_any_strides_are_read_as_they_are():
    chosen = choices([5, 3, 4])
    strided = torch.stack([chosen, chosen.flip(0)], dim=1)[:, 0]
    order, starts = group_by_expert(chosen, 3, "triton")
    assert all(map(torch.equal, group_by_expert(strided, 3, "triton"), (order, starts)))
    x, weight = numbers(12, 16), numbers(3, 8, 16)
    strided = torch.stack([order, order.flip(0)], dim=1)[:, 0]
    wanted = grouped_matmul(x, weight, starts, order, backend="triton")
    assert torch.equal(grouped_matmul(x, weight, starts, strided, backend="triton"), wanted)
