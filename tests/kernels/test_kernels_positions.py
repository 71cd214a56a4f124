"""Positions and ids in tensors: a wrong one is refused, instead of reading or writing foreign memory."""

from types import SimpleNamespace

import pytest
import torch
from kernel_checks import DEVICE, assert_close, numbers

from course_lib.kernels import (
    cross_entropy,
    flash_attention,
    group_by_expert,
    grouped_matmul,
    linear_cross_entropy,
    mixture,
    paged_attention,
)
from course_lib.kernels.checks import values_are_checked

BACKENDS = ("triton", "torch")
CHECK = DEVICE == "cuda"  # there the values are looked at only on request


def integers(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def test_values_are_looked_at_on_a_cpu_and_elsewhere_on_request():
    on = {kind: SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in ("cpu", "cuda", "meta")}
    assert values_are_checked(False, on["cpu"]) and values_are_checked(True, on["cpu"])
    assert not values_are_checked(False, on["cuda"]) and values_are_checked(True, on["cuda"])
    assert not values_are_checked(True, on["meta"])


# A cache of 5 pages of 16 tokens: the pages of 2 sequences, their lengths, a window, and the error.
PAGED = {
    "a page far beyond the pool": ([[0, 7_000_000, 2], [3, 4, 0]], [40, 20], None, r"\[0, 1\] is 7000000"),
    "the page after the last": ([[0, 1, 2], [5, 4, 0]], [40, 20], None, r"\[1, 0\] is 5.* the 5 pages are"),
    "a negative page": ([[0, 1, -1], [3, 4, 0]], [40, 20], None, r"block_table\[0, 2\] is -1"),
    "a page that 32 bits would wrap to 2": ([[0, 2**32 + 2, 2], [3, 4, 0]], [40, 20], None, "is 4294967298"),
    "the first page of a window": ([[0, -1, 2], [3, 4, 0]], [40, 20], 9, r"block_table\[0, 1\] is -1"),
    "more tokens than the table holds": ([[0, 1, 2], [3, 4, 0]], [49, 20], None, r"\[0\] is 49.*0 to 48"),
    "fewer than no tokens": ([[0, 1, 2], [3, 4, 0]], [40, -3], None, r"lengths\[1\] is -3"),
    "a length that 32 bits would wrap to 4": ([[0, 1, 2], [3, 4, 0]], [40, 2**32 + 4], None, "is 4294967300"),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", PAGED)
def test_a_page_table_that_leads_nowhere(case, backend):
    table, lengths, window, message = PAGED[case]
    q, pages = numbers(2, 2, 16), numbers(5, 1, 16, 16)
    table, lengths = (integers(*x, dtype=torch.int64) for x in (table, lengths))
    with pytest.raises(ValueError, match=message):
        paged_attention(q, pages, pages, table, lengths, window, backend=backend, check=CHECK)


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_that_are_not_read_may_be_anything(backend):
    """Of 40 tokens a window of 8 begins in page 2; the page of a sequence without tokens is never read."""
    q, pages = numbers(2, 2, 16), numbers(5, 1, 16, 16)
    lengths = integers(40, 0)
    wanted = paged_attention(q, pages, pages, integers([0, 1, 2], [3, 4, 0]), lengths, 8, backend=backend)
    table = integers([-1, 7_000_000, 2], [2**31 - 1, -(2**31), 5])
    assert paged_attention(q, pages, pages, table, lengths, 8, backend=backend, check=CHECK).equal(wanted)
    table = integers([0, 1, 2, 99], [3, 4, 0, -1])
    out = paged_attention(q, pages, pages, table, lengths, backend=backend, check=CHECK)
    scores = (q[0].double() @ pages[:3, 0].double().flatten(0, 1)[:40].T) / 4
    assert_close(out[0], scores.softmax(-1) @ pages[:3, 0].double().flatten(0, 1)[:40])
    assert out[1].equal(torch.zeros_like(out[1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_that_do_not_fit_the_tokens(backend):
    q = numbers(1, 2, 8, 16)
    for starts in ([0, 3, 9], [0, -1, 8], [0, 6, 5, 8], [1, 8], [0, 2**32 + 8]):
        with pytest.raises(ValueError, match="starts must rise from 0 to 8"):
            flash_attention(
                q, q, q, starts=integers(*starts, dtype=torch.int64), backend=backend, check=CHECK
            )
    with pytest.raises(ValueError, match="longest sequence has 5 tokens, not longest=4"):
        flash_attention(q, q, q, starts=integers(0, 3, 8), longest=4, backend=backend, check=CHECK)
    wanted = flash_attention(q, q, q, starts=integers(0, 3, 8), backend=backend)
    assert flash_attention(q, q, q, starts=integers(0, 3, 8), longest=2**40, backend=backend).equal(wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_that_do_not_fit_the_rows(backend):
    x, weight = numbers(4, 3), numbers(2, 5, 3)
    order = integers(1, 3, 0, 2)

    def refused(message, starts=(0, 3, 4), order=order):
        with pytest.raises(ValueError, match=message):
            grouped_matmul(x, weight, integers(*starts), order, backend=backend, check=CHECK)

    for starts in ((0, 3, 5), (0, 3, 3), (1, 3, 4), (0, 5, 4), (0, -1, 4), (0, 7_000_000, 4)):
        refused("starts must rise from 0 to 4, the number of rows", starts)
    for wrong in (4, -1, 7_000_000):
        refused(f"order must hold rows from 0 to 3, not .*{wrong}", order=integers(1, wrong, 0, 2))
    refused("order must hold each row once, but it holds row 1 several times", order=integers(1, 3, 1, 2))
    refused("order must be rows, int32 or int64, not torch.float32", order=order.float())
    with pytest.raises(ValueError, match="starts must be rows, int32 or int64, not torch.uint16"):
        grouped_matmul(x, weight, integers(0, 3, 4).to(torch.uint16), backend=backend)
    y = grouped_matmul(x, weight, integers(0, 3, 4), order.long(), backend=backend, check=CHECK)
    wide = weight.double()[[0, 0, 0, 1]] @ x.double()[[1, 3, 0, 2], :, None]  # (rows, d_out, 1)
    assert_close(y, wide[:, :, 0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [3, -1, 7_000_000])
def test_experts_that_do_not_exist(wrong, backend):
    chosen = integers([0, 1], [wrong, 2])
    with pytest.raises(ValueError, match=f"expert ids go from 0 to 2, not .*{wrong}"):
        group_by_expert(chosen, 3, backend, check=CHECK)
    weights = numbers(3, 16, 8), numbers(3, 16, 8), numbers(3, 8, 16)
    with pytest.raises(ValueError, match=f"expert ids go from 0 to 2, not .*{wrong}"):
        mixture(numbers(2, 8), numbers(2, 2).abs(), chosen, *weights, backend, check=CHECK)


def test_the_weights_of_a_mixture_fit_each_other():
    x, shares, chosen = numbers(2, 8), numbers(2, 2), integers([0, 1], [1, 0])
    gate, down = numbers(2, 16, 8), numbers(2, 8, 16)
    for up, down_ in ((gate[:, :9], down), (gate, down[:1]), (gate, down[..., :9]), (gate[..., :3], down)):
        with pytest.raises(ValueError, match=r"must be twice \(experts, d_ff, 8\) and \(experts, 8, d_ff\)"):
            mixture(x, shares, chosen, gate, up, down_)
    with pytest.raises(ValueError, match="must have one dtype, not .*float32, .*float16"):
        mixture(x, shares, chosen, gate.half(), gate, down)
    with pytest.raises(ValueError, match=r"both must be \(tokens, n_active\)"):
        mixture(x, shares[:, :0], chosen[:, :0], gate, gate, down)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_which_targets_are_ignored(backend, dtype):
    """Only `ignore` is: −1 is then no token, and without it as `ignore` it is refused."""
    logits, hidden, weight = numbers(3, 5), numbers(3, 4), numbers(5, 4)
    for ignore in (-100, -1, 2**40):
        # An `ignore` beyond 32 bits isn't the target 0, which its lower 32 bits are.
        target = 4 if dtype == torch.int32 and ignore == 2**40 else ignore
        targets = integers(0, target, 2, dtype=dtype)
        counted = targets.long() != ignore
        log_probs = logits.double().log_softmax(-1)[counted].gather(1, targets[counted].long()[:, None])
        assert_close(cross_entropy(logits, targets, ignore, backend), -log_probs.mean())
        log_probs = (hidden.double() @ weight.double().T).log_softmax(-1)[counted]
        wanted = -log_probs.gather(1, targets[counted].long()[:, None]).mean()
        assert_close(linear_cross_entropy(hidden, weight, targets, ignore, backend), wanted)
    if DEVICE == "cpu":
        for wrong in (-1, 5, -100 if dtype == torch.int64 else 2**31 - 1):
            targets = integers(0, wrong, 2, dtype=dtype)
            for loss in (
                lambda: cross_entropy(logits, targets, -7, backend),  # noqa: B023
                lambda: linear_cross_entropy(hidden, weight, targets, -7, backend),  # noqa: B023
            ):
                with pytest.raises(ValueError, match=f"target {wrong} is outside the vocabulary of 5"):
                    loss()
    for words in ("uint16", "uint8", "bool"):
        with pytest.raises(ValueError, match=f"int64 or int32; not of torch.{words}"):
            cross_entropy(logits, integers(0, 1, 2).to(getattr(torch, words)), backend=backend)
    with pytest.raises(ValueError, match="ignore must be a whole number, such as -100; not 0.5"):
        cross_entropy(logits, integers(0, 1, 2), 0.5, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_queries_no_tokens(backend):
    """Nothing to compute gives nothing, with the shape that follows, forwards and backwards."""
    q, k = numbers(2, 4, 0, 16, grad=True), numbers(2, 2, 7, 16, grad=True)
    for causal in (True, False):
        out, lse = flash_attention(q, k, k, causal, backend=backend, return_lse=True)
        assert out.shape == (2, 4, 0, 16) and lse.shape == (2, 4, 0)
        out.sum().backward()
        assert not k.grad.any() and q.grad.shape == q.shape
    out = paged_attention(
        numbers(0, 4, 16), numbers(3, 2, 8, 16), numbers(3, 2, 8, 16), integers().view(0, 2), integers(),
        backend=backend,
    )  # fmt: skip
    assert out.shape == (0, 4, 16)
    empty = integers(dtype=torch.int64)
    assert cross_entropy(numbers(0, 5), empty, backend=backend).isnan()  # the mean of nothing
    assert cross_entropy(numbers(0, 5), empty, backend=backend, reduction="sum") == 0
    assert linear_cross_entropy(numbers(0, 4), numbers(5, 4), empty, backend=backend).isnan()
    order, starts = group_by_expert(empty, 2, backend)
    assert order.shape == (0,) and starts.tolist() == [0, 0, 0]
    assert grouped_matmul(numbers(0, 3), numbers(2, 5, 3), starts, backend=backend).shape == (0, 5)
