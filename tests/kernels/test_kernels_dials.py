"""Options of the kernels: scale, log-sum-exps, reductions of the loss, grids of 4 bits in larger groups."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, PRODUCT_DTYPES, assert_close, assert_same_as_in_64_bits, numbers

from course_lib.kernels import (
    Meter,
    cross_entropy,
    flash_attention,
    linear_cross_entropy,
    paged_attention,
    prepare_weight,
    quantized_matmul,
)
from course_lib.kernels.quantized_matmul import quantized_matmul_cost
from course_lib.model import attend, attention_by_hand
from course_lib.quantize import Uniform

BACKENDS = ("torch", "triton")
SHAPES = [
    {"queries": 33, "keys": 33},
    {"queries": 5, "keys": 40},
    {"queries": 20, "keys": 20, "causal": False},
    {"queries": 30, "keys": 50, "window": 7},
]


def attention_inputs(queries, keys, dtype=torch.float32, grad=True, **dials):
    q = numbers(2, 4, queries, 32, dtype=dtype, seed=1, grad=grad)
    k, v = (numbers(2, 2, keys, 32, dtype=dtype, seed=seed, grad=grad) for seed in (2, 3))
    return (q, k, v), dials


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_another_scale_forth_and_back(case, scale, backend):
    inputs, dials = attention_inputs(**case)

    def reference(q, k, v):
        return attention_by_hand(q, k, v, None, dials.get("causal", True), scale, dials.get("window"))[0]

    assert_same_as_in_64_bits(
        lambda *x: flash_attention(*x, **dials, scale=scale, backend=backend), reference, *inputs, factor=2
    )
    assert_close(attend(*inputs, scale=scale, **dials), reference(*(x.double() for x in inputs)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_log_sum_exps_are_in_nats(case, dtype, backend):
    (q, k, v), dials = attention_inputs(**case, dtype=dtype, grad=False)
    out, lse = flash_attention(q, k, v, **dials, return_lse=True, backend=backend)
    assert out.equal(flash_attention(q, k, v, **dials, backend=backend)) and lse.dtype == torch.float32
    scores = q.double() @ k.double().repeat_interleave(2, dim=1).mT / math.sqrt(32)
    if dials.get("causal", True):
        place = torch.arange(k.shape[2], device=DEVICE)
        here = place[-q.shape[2] :, None]
        scores = scores.masked_fill((place > here) | (place <= here - dials.get("window", 10**6)), -math.inf)
    assert_close(lse, scores.logsumexp(-1), dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_halves_of_the_keys_are_merged_by_their_log_sum_exps(backend):
    """This is what log-sum-exps are for: each half may be on another device."""
    (q, k, v), _ = attention_inputs(20, 64, grad=False)
    parts = [
        flash_attention(q, k[:, :, half], v[:, :, half], False, return_lse=True, backend=backend)
        for half in (slice(0, 40), slice(40, 64))
    ]
    shares = torch.stack([lse for _, lse in parts]).softmax(dim=0).unsqueeze(-1)
    merged = sum(share * out for share, (out, _) in zip(shares, parts, strict=True))
    assert_close(merged, attention_by_hand(q.double(), k.double(), v.double(), causal=False)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_keys_the_log_sum_exp_is_minus_infinity(backend):
    q, k = numbers(1, 2, 3, 16), numbers(1, 2, 0, 16)
    _, lse = flash_attention(q, k, k, causal=False, return_lse=True, backend=backend)
    assert lse.isneginf().all() and lse.shape == (1, 2, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_banned_keys_alone_the_log_sum_exp_is_minus_infinity(backend):
    q, k = numbers(1, 2, 20, 16), numbers(1, 1, 20, 16, seed=1)
    q[..., 0], k[:, :, :3, 0] = 1.0, -math.inf  # the first three queries see nothing else
    _, lse = flash_attention(q, k, numbers(1, 1, 20, 16, seed=2), return_lse=True, backend=backend)
    assert lse[..., :3].isneginf().all() and lse[..., 3:].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences_have_log_sum_exps_too(backend):
    q, k, v = (numbers(1, 2, 30, 16, seed=seed) for seed in range(3))
    starts = torch.tensor([0, 11, 30], dtype=torch.int32, device=DEVICE)
    _, lse = flash_attention(q, k, v, starts=starts, return_lse=True, backend=backend)
    for run in (slice(0, 11), slice(11, 30)):
        wanted = flash_attention(q[:, :, run], k[:, :, run], v[:, :, run], return_lse=True, backend=backend)[
            1
        ]
        assert_close(lse[:, :, run], wanted.double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_log_sum_exp_has_no_gradient_and_the_output_keeps_its_own(backend):
    inputs, _ = attention_inputs(9, 9)
    out, lse = flash_attention(*inputs, return_lse=True, backend=backend)
    assert out.requires_grad and not lse.requires_grad
    plain = flash_attention(*inputs, backend=backend)
    for one, other in zip(
        torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(plain.sum(), inputs), strict=True
    ):
        assert one.equal(other)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_scale_is_refused(scale):
    q = numbers(1, 1, 2, 16)
    with pytest.raises(ValueError, match="scale must be above 0"):
        flash_attention(q, q, q, scale=scale)
    with pytest.raises(ValueError, match="scale must be above 0"):
        paged_attention(
            q[:, :, 0],
            q,
            q,
            torch.zeros(1, 1, dtype=torch.int32),
            torch.ones(1, dtype=torch.int32),
            scale=scale,
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("splits", [1, 2])
def test_paged_attention_with_another_scale(backend, splits):
    q, pages = numbers(2, 4, 32), numbers(6, 2, 16, 32, seed=1)
    table = torch.tensor([[0, 2, 4], [5, 3, 1]], dtype=torch.int32, device=DEVICE)
    lengths = torch.tensor([40, 17], dtype=torch.int32, device=DEVICE)
    out = paged_attention(q, pages, pages, table, lengths, splits=splits, backend=backend, scale=0.6)
    for row, length in enumerate(lengths.tolist()):
        k = pages[table[row].long()].transpose(0, 1).flatten(1, 2)[None, :, :length].double()
        assert_close(
            out[row],
            attention_by_hand(q[row, :, None].double()[None], k, k, causal=False, scale=0.6)[0][0, :, 0],
        )


# Reductions


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [3, 7, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_are_pytorchs(reduction, chunk, backend):
    hidden, weight = numbers(2, 10, 16, grad=True), numbers(40, 16, seed=1, grad=True)
    targets = torch.randint(40, (2, 10), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    targets[0, 3:6] = -100

    def reference(hidden, weight):
        losses = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), reduction=reduction)
        return losses.view(targets.shape) if reduction == "none" else losses

    def ours(hidden, weight):
        return linear_cross_entropy(
            hidden, weight, targets, backend=backend, chunk=chunk, reduction=reduction
        )

    assert_same_as_in_64_bits(ours, reference, hidden, weight, factor=2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_of_logits_are_pytorchs_too(reduction, backend):
    logits, targets = numbers(9, 40, grad=True), torch.arange(9, device=DEVICE)
    targets[3:5] = -100
    reference = partial(F.cross_entropy, target=targets, reduction=reduction)
    ours = partial(cross_entropy, targets=targets, backend=backend, reduction=reduction)
    assert_same_as_in_64_bits(ours, reference, logits, factor=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_gradients_of_losses_one_by_one_are_not_lost_in_16_bits(backend):
    """The weight of each loss is 2⁻²⁰; times a probability, that is below float16's smallest number."""
    hidden, weight = (numbers(*shape, dtype=torch.float16, grad=True) for shape in ((32, 8), (64, 8)))
    targets, small = torch.arange(32, device=DEVICE), 2.0**-20
    losses = linear_cross_entropy(hidden, weight, targets, backend=backend, reduction="none", chunk=10)
    grads = torch.autograd.grad(losses, (hidden, weight), torch.full_like(losses, small))
    wide = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    wanted = torch.autograd.grad(F.cross_entropy(wide[0] @ wide[1].T, targets, reduction="sum"), wide)
    for grad, right in zip(grads, wanted, strict=True):
        step = 2.0**-24  # of float16 near 0, to which the result itself is rounded
        assert (grad.double() - small * right).abs().max() <= step / 2 + 2e-3 * small * right.abs().max()


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_without_a_target_that_counts_the_loss_is_0(reduction):
    hidden, weight = numbers(3, 8, grad=True), numbers(5, 8, grad=True)
    targets = torch.full((3,), -100, device=DEVICE)
    losses = linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    assert (losses == 0).all()
    assert all((grad == 0).all() for grad in torch.autograd.grad(losses.sum(), (hidden, weight)))


def test_frozen_weights_get_no_gradient_from_losses_one_by_one():
    hidden, weight, targets = numbers(6, 8, grad=True), numbers(9, 8), torch.arange(6, device=DEVICE)
    losses = linear_cross_entropy(hidden, weight, targets, reduction="none")
    (losses * torch.arange(6, device=DEVICE)).sum().backward()
    assert hidden.grad[0].abs().max() == 0 < hidden.grad[1].abs().max() and weight.grad is None


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none; not 'average'"):
        cross_entropy(numbers(2, 4), torch.tensor([0, 1], device=DEVICE), reduction="average")
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none; not 'average'"):
        linear_cross_entropy(
            numbers(2, 4), numbers(3, 4), torch.tensor([0, 1], device=DEVICE), reduction="average"
        )


# Four bits in larger groups

GROUPS = [
    Uniform(4, group=128),
    Uniform(4, False, 128),
    Uniform(4, group=32),
    Uniform(4, False, 64),
    Uniform(4),
    Uniform(4, False),
]


@pytest.mark.parametrize("format", GROUPS, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 40])
@pytest.mark.parametrize("rows, columns", [(24, 256), (130, 384)])
def test_grids_in_larger_groups_multiply_as_their_numbers(format, tokens, rows, columns):
    stored = format.store(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)))
    prepared, x = prepare_weight(stored).to(DEVICE), numbers(tokens, columns)
    assert torch.equal(prepared.weight().cpu(), stored.weight())
    assert_close(
        quantized_matmul(x, prepared, backend="triton"),
        F.linear(x.double(), stored.weight(torch.float64).to(DEVICE)),
    )


@pytest.mark.skipif(DEVICE != "cpu", reason="counts in the interpreter")
@pytest.mark.parametrize("format", GROUPS, ids=str)
@pytest.mark.parametrize("tokens", [1, 40])
def test_their_cost_is_what_the_kernel_asks_for(format, tokens):
    prepared, x = prepare_weight(format.store(torch.randn(64, 256))), numbers(tokens, 256)
    with Meter() as meter:
        quantized_matmul(x, prepared, backend="triton")
    assert meter.bytes == quantized_matmul_cost(tokens, prepared, 4).bytes


@pytest.mark.parametrize(
    "format",
    [Uniform(4, group="tensor"), Uniform(4, group=16), Uniform(4, group=48), Uniform(3, group=64)],
    ids=str,
)
def test_what_no_kernel_takes_is_refused(format):
    with pytest.raises(ValueError, match="there is no kernel"):
        prepare_weight(format.store(torch.randn(8, 192)))
