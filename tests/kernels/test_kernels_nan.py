"""nan and ±∞ in attention: what a query sees does not vanish. (Other kernels: in their own files.)"""

import math

import pytest
import torch
from kernel_checks import DEVICE, assert_close, numbers

from course_lib.kernels import flash_attention, paged_attention, plain_flash_attention
from course_lib.model import attention_by_hand
from course_lib.model.attention import causal_mask

DIALS = ({}, {"window": 5}, {"causal": False})
TIME, HERE = 40, 17  # a tile has 16 queries and 16 keys: this place is in the middle


def inputs_with(what, value):
    """Queries, keys and values, one of which holds `value` in one place of head 0."""
    inputs = {name: numbers(1, 2, TIME, 16, seed=i) for i, name in enumerate("qkv")}
    inputs[what][0, 0, HERE, 3] = value
    return inputs.values()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", "qkv")
@pytest.mark.parametrize("dials", DIALS, ids=str)
def test_what_a_query_sees_does_not_vanish(dials, what, value):
    q, k, v = inputs_with(what, value)
    out = flash_attention(q, k, v, **dials, backend="triton", blocks=(16, 16))
    wanted = attention_by_hand(*(x.double() for x in (q, k, v)), **dials)[0]
    # By hand a value of nan spoils the queries that don't see it too: 0 · nan. Here only those in its tiles.
    sees = torch.ones(TIME, dtype=torch.bool, device=DEVICE)
    if what == "v" and dials.get("causal", True):
        sees = causal_mask(TIME, TIME, q.device, dials.get("window"))[:, HERE]
    assert_close(out[:, :, sees], wanted[:, :, sees])
    strange = ~out.isfinite().all(-1)
    assert (strange <= ~wanted.isfinite().all(-1)).all() and (strange.any() or value == -math.inf)
    if not dials:
        assert_close(plain_flash_attention(q, k, v)[:, :, sees], wanted[:, :, sees])


@pytest.mark.skipif(DEVICE == "cuda", reason="there PyTorch's kernel decides (see `attend`)")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", "qkv")
@pytest.mark.parametrize("dials", DIALS, ids=str)
def test_pytorch_gives_what_the_formula_gives(dials, what, value):
    q, k, v = inputs_with(what, value)
    wanted = attention_by_hand(*(x.double() for x in (q, k, v)), **dials)[0]
    assert_close(flash_attention(q, k, v, **dials, backend="torch"), wanted)


@pytest.mark.parametrize("what", "qkv")
def test_gradients_of_what_is_nan_are_nan(what):
    inputs = [x.requires_grad_() for x in inputs_with(what, math.nan)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    ours = torch.autograd.grad(flash_attention(*inputs, backend="triton").sum(), inputs)
    wanted = torch.autograd.grad(attention_by_hand(*wide)[0].sum(), wide)
    for grad, reference in zip(ours, wanted, strict=True):
        assert (grad.isnan().any(-1) <= reference.isnan().any(-1)).all()
        assert grad[0, 0, HERE].isnan().any() == reference[0, 0, HERE].isnan().any()
        assert_close(grad[:, 1], reference[:, 1], terms=1.0)


def test_scores_of_minus_infinity_alone():
    """The softmax of such scores is nan. Without any key, there is nothing to average: 0."""
    q, k, v = torch.ones(1, 1, 5, 16, device=DEVICE), numbers(1, 1, 5, 16), numbers(1, 1, 5, 16, seed=1)
    k[:, :, :3] = -math.inf
    out, lse = flash_attention(q, k, v, backend="triton", return_lse=True)
    wanted = attention_by_hand(*(x.double() for x in (q, k, v)))[0]
    assert wanted[:, :, :3].isnan().all() and wanted[:, :, 3:].isfinite().all()
    assert_close(out, wanted)
    assert lse[0, 0, :3].tolist() == [-math.inf] * 3 and lse[0, 0, 3:].isfinite().all()
    for backend in ("triton", "torch"):
        out, lse = flash_attention(q, k[:, :, :0], v[:, :, :0], False, backend=backend, return_lse=True)
        assert out.equal(torch.zeros_like(q)) and (lse == -math.inf).all()


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_scores_of_minus_infinity_in_pages(splits):
    """Sequences: all scores −∞, those of the first half, none, and no tokens at all."""
    keys, values = numbers(12, 1, 16, 16), numbers(12, 1, 16, 16, seed=1)
    keys[:4] = keys[4:6] = -math.inf
    q = torch.ones(4, 2, 16, device=DEVICE)
    table = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [99, 99, 99, 99]], device=DEVICE)
    lengths = torch.tensor([64, 60, 50, 0], device=DEVICE)
    out = paged_attention(q, keys, values, table, lengths, splits=splits, backend="triton")
    wanted = torch.zeros(4, 2, 16, dtype=torch.float64, device=DEVICE)
    for i, length in enumerate(lengths.tolist()[:3]):
        k, v = (x[4 * i : 4 * i + 4, 0].flatten(0, 1)[:length].double() for x in (keys, values))
        wanted[i] = (q[i].double() @ k.T / 4).softmax(-1) @ v
    assert wanted[0].isnan().all() and wanted[1:].isfinite().all()
    assert_close(out, wanted)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("what", ["q", "keys", "values"])
def test_nan_in_pages(what, backend):
    """It reaches the sequence that sees it, and neither the other nor one whose window ends before it."""
    parts = {"q": numbers(2, 1, 16), "keys": numbers(4, 1, 16, 16), "values": numbers(4, 1, 16, 16, seed=1)}
    parts[what][0, 0, 2] = math.nan
    table, lengths = torch.tensor([[0, 1], [2, 3]], device=DEVICE), torch.tensor([30, 20], device=DEVICE)
    out = paged_attention(*parts.values(), table, lengths, backend=backend)
    assert out[0].isnan().any() and out[1].isfinite().all()
    if what != "q":
        assert paged_attention(*parts.values(), table, lengths, window=9, backend=backend).isfinite().all()
