"""Cross entropy, and cross entropy of a linear layer in chunks, compared with float64."""

import gc
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, DTYPES, assert_close, gradients, in_64_bits, numbers
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.kernels.cross_entropy import cross_entropy, cross_entropy_cost, losses_in_place, token_losses
from course_lib.kernels.language import INTERPRETED, launch
from course_lib.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_cost
from course_lib.kernels.meter import Meter

BACKENDS = ("torch", "triton")
# Several tiles of columns, the last one partial; several tiles of rows; tiles of one row, of many, of all.
SHAPES = [(1, 1), (3, 100), (2, 5, 33), (0, 8), (2, 4097), (1, 9000), (130, 64), (700, 7)]
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def some_targets(shape, vocab, ignore=-100):
    """Return random targets, every fourth of them ignored, with the vocabulary's last and first tokens."""
    targets = torch.randint(vocab, shape, generator=torch.Generator().manual_seed(5)).flatten()
    targets[:1], targets[1:2], targets[3::4] = vocab - 1, 0, ignore
    return targets.view(shape).to(DEVICE)


def full_cross_entropy(logits, targets, ignore=-100, reduction="mean"):
    rows = logits.reshape(targets.numel(), logits.shape[-1])
    losses = F.cross_entropy(rows, targets.flatten(), ignore_index=ignore, reduction=reduction)
    return losses if reduction == "mean" else losses.view(targets.shape)


def full_linear_cross_entropy(hidden, weight, targets, ignore=-100):
    return full_cross_entropy(hidden @ weight.T, targets, ignore)


def assert_rounded(ours, reference):
    """Assert that each element of ours is the reference's, rounded to ours' dtype; small ones as well."""
    wanted = reference.detach().double()
    torch.testing.assert_close(
        ours.detach().double(), wanted, rtol=ROUNDING[ours.dtype], atol=5e-7, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_are_those_of_float64(shape, dtype):
    logits, targets = numbers(*shape, dtype=dtype, scale=3, grad=True), some_targets(shape[:-1], shape[-1])
    grad_losses = numbers(*shape[:-1], seed=9)
    wide = in_64_bits(logits)
    reference = partial(full_cross_entropy, targets=targets, reduction="none")
    wanted, wanted_grad = gradients(reference, wide, grad_losses.double())
    for backend in BACKENDS:
        losses, grad = gradients(
            partial(token_losses, targets=targets, backend=backend), [logits], grad_losses
        )
        assert losses.dtype == torch.float32 and grad[0].dtype == dtype
        assert_close(losses, wanted)
        assert_rounded(grad[0], wanted_grad[0])
        mean, grad = gradients(
            partial(cross_entropy, targets=targets, backend=backend), [logits], torch.tensor(2.0)
        )
        wanted_mean, wanted_mean_grad = gradients(
            partial(full_cross_entropy, targets=targets), wide, torch.tensor(2.0)
        )
        assert_close(mean, wanted_mean)
        assert_rounded(grad[0], wanted_mean_grad[0])


def test_logits_may_lie_anywhere_in_memory_and_are_left_as_they_were():
    wide = numbers(6, 180, 2)
    for x in (wide[:, 3:140, 0], wide[..., 1].T[:, ::2], wide[::2, 5:9], wide[:1, :, 1].expand(4, 180)):
        x = x.detach().requires_grad_()
        before, targets = x.detach().clone(), some_targets(x.shape[:-1], x.shape[-1])
        loss = cross_entropy(x, targets, backend="triton")
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        (again,) = torch.autograd.grad(loss, x)
        (wide_x,) = in_64_bits(x)
        wanted, (wanted_grad,) = gradients(
            partial(full_cross_entropy, targets=targets), [wide_x], torch.tensor(1.0)
        )
        assert_close(loss, wanted)
        assert_rounded(first, wanted_grad)
        assert first.equal(again) and x.equal(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_may_be_changed_in_place(backend):
    logits, targets = numbers(2, 5, 33, grad=True), some_targets((2, 5), 33)
    grad, wanted = (
        torch.autograd.grad(change(token_losses(logits, targets, backend=backend)).sum(), logits)[0]
        for change in (lambda losses: losses.mul_(3), lambda losses: losses * 3)
    )
    assert grad.equal(wanted)


def test_rows_far_apart():
    """The rows span more than 2^31 elements, of which only these are read or written."""
    logits = torch.empty(2**31 + 50, dtype=torch.float16, device=DEVICE).as_strided((3, 50), (2**30, 1))
    logits.copy_(numbers(3, 50)).requires_grad_()
    targets, ones = some_targets((3,), 50), torch.ones(3, device=DEVICE)
    losses, (grad,) = gradients(partial(token_losses, targets=targets, backend="triton"), [logits], ones)
    near = [logits.detach().double().contiguous().requires_grad_()]
    wanted, (wanted_grad,) = gradients(
        partial(full_cross_entropy, targets=targets, reduction="none"), near, ones
    )
    assert_close(losses, wanted)
    assert_rounded(grad, wanted_grad)


@pytest.mark.parametrize("size", [1e-20, 1e4, 1e30])
def test_very_small_and_large_logits(size):
    logits, targets = numbers(8, 5000, scale=size, grad=True), some_targets((8,), 5000)
    run = partial(token_losses, targets=targets, backend="triton")
    reference = partial(full_cross_entropy, targets=targets, reduction="none")
    ones = torch.ones(8, device=DEVICE)
    losses, (grad,) = gradients(run, [logits], ones)
    wanted, (wanted_grad,) = gradients(reference, in_64_bits(logits), ones)
    assert_close(losses, wanted)
    # The log-sum-exp is as exact as its 24 bits.
    assert_close(grad, wanted_grad, factor=1 + 1e-2 * min(size, 1e4))


def test_infinite_logits_and_nan_stay_in_their_row():
    logits = numbers(9, 4100)
    logits[0, 10:] = -torch.inf  # banned tokens
    logits[1, :4098] = -torch.inf  # a whole tile of them first
    logits[2, 5] = -torch.inf  # a banned target
    logits[3] = -torch.inf
    logits[4, 4099] = torch.inf
    logits[5, 4099], logits[6, 0], logits[7] = torch.nan, torch.nan, torch.nan
    targets = torch.tensor([3, 4098, 5, 0, 0, 0, 1, 2, 7], device=DEVICE)
    logits.requires_grad_()
    reference = partial(full_cross_entropy, targets=targets, reduction="none")
    wanted, (wanted_grad,) = gradients(reference, in_64_bits(logits), torch.ones(9, device=DEVICE))
    assert wanted.isnan().tolist() == 3 * [False] + 5 * [True] + [False] and wanted[2] == torch.inf
    for backend in BACKENDS:
        run = partial(token_losses, targets=targets, backend=backend)
        losses, (grad,) = gradients(run, [logits], torch.ones(9, device=DEVICE))
        assert_close(losses, wanted)
        assert_close(grad, wanted_grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ignore", [-100, 0, 1, 2**40])
def test_what_does_not_count_is_not_counted(backend, ignore):
    logits, targets = numbers(2, 9, 20, grad=True), some_targets((2, 9), 20, ignore)
    targets[0, 1] = 0 if ignore else ignore
    reference = partial(full_cross_entropy, targets=targets, ignore=ignore)
    wanted, (grad,) = gradients(reference, in_64_bits(logits), torch.tensor(1.0))
    run = partial(cross_entropy, targets=targets, ignore=ignore, backend=backend)
    loss, (ours,) = gradients(run, [logits], torch.tensor(1.0))
    assert_close(loss, wanted)
    assert_rounded(ours, grad)
    assert (ours[targets == ignore] == 0).all() and (ours[targets != ignore] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_when_no_target_counts_the_loss_is_nan_and_the_gradient_zero(backend):
    hidden, weight = numbers(5, 4, grad=True), numbers(30, 4, grad=True)
    targets = torch.full((5,), -100, device=DEVICE)
    logits = (hidden @ weight.T).detach().requires_grad_()
    wanted, wanted_grad = gradients(partial(full_cross_entropy, targets=targets), [logits], torch.tensor(1.0))
    assert wanted.isnan() and (wanted_grad[0] == 0).all()
    loss, grad = gradients(
        partial(cross_entropy, targets=targets, backend=backend), [logits], torch.tensor(1.0)
    )
    assert loss.isnan() and (grad[0] == 0).all()
    run = partial(linear_cross_entropy, targets=targets, backend=backend, chunk=2)
    loss, grads = gradients(run, [hidden, weight], torch.tensor(1.0))
    assert loss.isnan() and all((grad == 0).all() for grad in grads)


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("outside", [7, 2**31, -1, -101])
def test_a_target_outside_the_vocabulary_is_not_read_and_gives_nan(outside):
    logits, targets = numbers(3, 7), torch.tensor([0, outside, 6])
    wanted = full_cross_entropy(logits.double(), targets.clamp(0, 6), reduction="none")
    with Meter() as meter:
        losses = losses_in_place(logits, targets, -100, gradient=True, kernel=True)
    assert losses.isnan().tolist() == [False, True, False]
    assert logits.isnan().all(dim=1).tolist() == [False, True, False]
    assert_close(losses[::2], wanted[::2])
    both = [cross_entropy_cost(3, 7, 4, backward) for backward in (False, True)]
    assert meter.bytes == sum(cost.bytes for cost in both) - 4
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=f"target {outside} is outside the vocabulary of 7"):
            cross_entropy(numbers(3, 7), targets, backend=backend)
        with pytest.raises(ValueError, match=f"target {outside} is outside the vocabulary of 7"):
            linear_cross_entropy(numbers(3, 2), numbers(7, 2), targets, backend=backend)


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
@pytest.mark.parametrize("rows, vocab, ignored", [(100, 65, 25), (1, 1, 0), (7, 5000, 1), (3, 4096, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_as_calculated(rows, vocab, ignored, dtype):
    logits, targets = numbers(rows, vocab, dtype=dtype, grad=True), torch.zeros(rows, dtype=torch.int64)
    targets[:ignored] = -100
    with Meter() as forward:
        loss = cross_entropy(logits, targets, backend="triton")
    with Meter() as backward:
        loss.backward()
    size = logits.itemsize
    assert forward.bytes == cross_entropy_cost(rows, vocab, size, ignored=ignored).bytes
    assert backward.bytes == cross_entropy_cost(rows, vocab, size, backward=True, ignored=ignored).bytes


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_targets(backend):
    logits, targets = numbers(4, 9), some_targets((4,), 9)
    wanted = full_cross_entropy(logits.double(), targets)
    assert_close(cross_entropy(logits, targets.int(), backend=backend), wanted)
    assert_close(cross_entropy(logits, targets.repeat_interleave(2)[::2], backend=backend), wanted)
    assert_close(
        token_losses(logits[0], targets[0], backend=backend), F.cross_entropy(logits[0].double(), targets[0])
    )
    for wrong in (targets[:3], targets[:, None], targets[0]):
        with pytest.raises(ValueError, match=r"don't fit logits \(4, 9\)"):
            cross_entropy(logits, wrong, backend=backend)
    with pytest.raises(ValueError, match="int64 or int32; not of torch.float32"):
        cross_entropy(logits, targets.float(), backend=backend)


def test_who_computes():
    logits, targets = numbers(4, 9).double(), some_targets((4,), 9)
    torch.testing.assert_close(
        cross_entropy(logits, targets), full_cross_entropy(logits, targets), rtol=1e-14, atol=0
    )
    with pytest.raises(ValueError, match="32 bits at most"):
        cross_entropy(logits, targets, backend="triton")
    logits = logits.float().requires_grad_()
    losses = [linear_cross_entropy(logits, numbers(9, 9), targets, backend=backend) for backend in BACKENDS]
    for loss in (*losses, cross_entropy(logits, targets, backend="triton")):
        with pytest.raises(RuntimeError, match="once_differentiable"):
            torch.autograd.grad(loss**2, logits, create_graph=True)[0].sum().backward()


# A linear layer and cross entropy, in chunks of tokens


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "tokens, d, vocab, chunk",
    [
        ((1,), 1, 1, 1), ((2, 5), 7, 33, 4), ((10,), 16, 65, 1), ((3, 3), 8, 40, 3), ((9,), 8, 40, 2048),
        ((3,), 4, 4100, 2), ((0,), 3, 4, 2),
    ],
)  # fmt: skip
def test_linear_losses_and_gradients_are_those_of_float64(tokens, d, vocab, chunk, dtype, backend):
    hidden = numbers(*tokens, d, dtype=dtype, grad=True)
    weight = numbers(vocab, d, dtype=dtype, seed=1, grad=True)
    targets = some_targets(tokens, vocab)
    # The mean times this is the sum, whose gradients aren't small.
    count = torch.tensor(float((targets != -100).sum()))
    run = partial(linear_cross_entropy, targets=targets, chunk=chunk, backend=backend)
    loss, grads = gradients(run, [hidden, weight], count)
    reference = partial(full_linear_cross_entropy, targets=targets)
    wanted, wanted_grads = gradients(reference, in_64_bits(hidden, weight), count)
    assert loss.dtype == torch.float32 and all(grad.dtype == dtype for grad in grads)
    assert_close(loss, wanted, dtype)  # 16-bit products are rounded to 16 bits
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        assert_close(grad, wanted_grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_gradients_go_on_as_any_others(backend):
    """The loss is part of a larger one, and its inputs are results with any strides."""
    x, weight = numbers(8, 6, grad=True), numbers(8, 50, seed=1, grad=True)
    targets = some_targets((6,), 50).repeat_interleave(2)[::2]

    def total(loss, x, weight):
        return 3 * loss(2 * x.T, weight.T, targets) ** 2 + x.sum() + weight.square().sum()

    run = partial(linear_cross_entropy, chunk=4, backend=backend)
    ours = gradients(partial(total, run), [x, weight], torch.tensor(1.0))
    wanted = gradients(partial(total, full_linear_cross_entropy), in_64_bits(x, weight), torch.tensor(1.0))
    assert_close(ours[0], wanted[0])
    for grad, wanted_grad in zip(ours[1], wanted[1], strict=True):
        assert_close(grad, wanted_grad)


def test_linear_backward_can_be_repeated():
    hidden, weight, targets = numbers(5, 4, grad=True), numbers(30, 4, grad=True), some_targets((5,), 30)
    loss = linear_cross_entropy(hidden, weight, targets, chunk=2)
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    again = torch.autograd.grad(3 * loss, [hidden, weight])
    for a, b in zip(first, again, strict=True):
        assert_close(b, 3 * a.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_chunks_are_as_good_as_one(dtype):
    hidden, weight = numbers(600, 4, dtype=dtype), numbers(16, 4, dtype=dtype, seed=1, grad=True)
    hidden += 2  # all contributions have one sign: added up in 16 bits, the last ones would be lost
    targets = torch.zeros(600, dtype=torch.int64, device=DEVICE)
    grads = [
        torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, chunk=chunk), weight)[0]
        for chunk in (600, 2)
    ]
    torch.testing.assert_close(*grads, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_small_float16_gradients_are_not_lost():
    """With many targets, each has a gradient below float16's smallest number; scaling the loss must help."""
    hidden = numbers(4096, 2, dtype=torch.float16, grad=True)
    weight = numbers(64, 2, dtype=torch.float16, scale=1e-3)
    targets, scale = some_targets((4096,), 64), torch.tensor(2.0**16)
    (ours,) = gradients(
        partial(linear_cross_entropy, weight=weight, targets=targets, chunk=1024), [hidden], scale
    )[1]
    reference = partial(full_linear_cross_entropy, weight=weight.double(), targets=targets)
    (wanted,) = gradients(reference, in_64_bits(hidden), scale)[1]
    assert_close(ours / wanted.abs().max(), wanted / wanted.abs().max(), torch.float16)
    assert (wanted / scale).abs().max() < 2e-6  # float16 goes in steps of 6e-8 there


class Products(TorchDispatchMode):
    """Counts matrix products, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._schema.name in ("aten::mm", "aten::addmm_"):
            self.count += 1
            self.bytes += sum(x.nbytes for x in (*args, result))
        return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "hidden_learns, weight_learns", [(True, True), (True, False), (False, True), (False, False)]
)
def test_no_product_without_need(hidden_learns, weight_learns, backend):
    hidden, weight = numbers(10, 6, grad=hidden_learns), numbers(4100, 6, seed=1, grad=weight_learns)
    targets = some_targets((10,), 4100)
    ignored = int((targets == -100).sum())
    run = partial(linear_cross_entropy, hidden, weight, targets, backend=backend, chunk=4)
    with Meter() if INTERPRETED else Products() as kernels, Products() as products:
        loss = run()
    assert products.count == 3 * (1 + hidden_learns + weight_learns)
    if INTERPRETED and backend == "triton":
        cost = linear_cross_entropy_cost(10, 6, 4100, 4, 4, ignored, hidden_learns, weight_learns)
        assert kernels.bytes + products.bytes == cost.bytes
        assert cost.flops > products.count * 2 * 3 * 6 * 4100
    wide = in_64_bits(hidden, weight)
    wanted = full_linear_cross_entropy(*wide, targets)
    assert_close(loss, wanted)
    learning = [pair for pair in zip((hidden, weight), wide, strict=True) if pair[0].requires_grad]
    assert loss.requires_grad == bool(learning)
    if learning:
        loss.backward(), wanted.backward()
    for ours, reference in learning:
        assert_close(ours.grad, reference.grad)
    with torch.no_grad(), Products() as products:
        assert run().equal(loss.detach())
    assert products.count == 3


def peak_bytes(function):
    """Return the most memory that PyTorch held at any time while the function ran."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.cumsum(0).max())


@pytest.fixture
def quick_garbage_collection():
    """Restrict garbage collection to objects that are created from here on."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.skipif(DEVICE != "cpu", reason="counts the CPU's memory")
@pytest.mark.usefixtures("quick_garbage_collection")
@pytest.mark.parametrize("chunk", [64, 16])
# PyTorch holds the log-probabilities as well.
@pytest.mark.parametrize("backend, logits_at_once", [("triton", 1), ("torch", 2)])
def test_memory_is_that_of_a_chunk(backend, logits_at_once, chunk, monkeypatch):
    # The interpreter keeps a kernel's tensors in a cycle of references.
    def launch_and_let_go(*arguments, **options):
        launch(*arguments, **options)
        gc.collect()

    monkeypatch.setattr(import_module("course_lib.kernels.cross_entropy"), "launch", launch_and_let_go)
    hidden, weight = numbers(64, 4, grad=True), numbers(3000, 4, grad=True)
    targets, little = some_targets((64,), 3000), 8_000
    run = partial(linear_cross_entropy, hidden, weight, targets, backend=backend, chunk=chunk)
    allowed = logits_at_once * chunk * 3000 * 4
    grads = hidden.nbytes + weight.nbytes
    assert 0 <= peak_bytes(lambda: torch.autograd.grad(run(), [hidden, weight])) - allowed - grads < little
    with torch.no_grad():
        assert 0 <= peak_bytes(run) - allowed < little
    weight.requires_grad_(False)
    assert 0 <= peak_bytes(lambda: torch.autograd.grad(run(), hidden)) - allowed - hidden.nbytes < little
    full = peak_bytes(lambda: torch.autograd.grad(full_linear_cross_entropy(hidden, weight, targets), hidden))
    assert full > 2.9 * 64 * 3000 * 4  # the logits, the log-probabilities, and their gradient


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_autocast(hidden_dtype, backend):
    """Products are in 16 bits; the loss and the gradient of 32-bit weights are in 32."""
    hidden, weight = numbers(6, 8, dtype=hidden_dtype, grad=True), numbers(40, 8, seed=1, grad=True)
    targets = some_targets((6,), 40)
    run = partial(linear_cross_entropy, targets=targets, backend=backend, chunk=4)
    if hidden_dtype != weight.dtype:
        with pytest.raises(ValueError, match="convert one, or use torch.autocast"):
            run(hidden, weight)
    with torch.autocast(DEVICE, torch.bfloat16), Products() as products:
        loss = run(hidden, weight)
    grads = torch.autograd.grad(loss, [hidden, weight])
    assert products.count == 6 and loss.dtype == torch.float32
    narrow = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    same, narrow_grads = gradients(run, narrow, torch.tensor(1.0))
    assert loss.equal(same)
    for grad, narrow_grad, x in zip(grads, narrow_grads, (hidden, weight), strict=True):
        assert grad.dtype == x.dtype and grad.to(torch.bfloat16).equal(narrow_grad)
    assert not grads[1].equal(grads[1].bfloat16().float())  # not rounded on the way
    with torch.autocast(DEVICE, torch.bfloat16):
        wide = linear_cross_entropy(hidden.double(), weight.double(), targets, backend="torch")
    assert wide.equal(linear_cross_entropy(hidden.double(), weight.double(), targets, backend="torch"))


def test_what_does_not_fit_a_linear_layer_is_refused():
    hidden, weight, targets = numbers(5, 4), numbers(30, 4), some_targets((5,), 30)
    for wrong in (weight.T, weight[0], weight[None]):
        with pytest.raises(ValueError, match=r"hidden \(5, 4\) and weight .* don't fit"):
            linear_cross_entropy(hidden, wrong, targets)
    with pytest.raises(ValueError, match=r"targets \(4,\) don't fit logits \(5, 30\)"):
        linear_cross_entropy(hidden, weight, targets[:4])
    with pytest.raises(ValueError, match="at least 1 token, not 0"):
        linear_cross_entropy(hidden, weight, targets, chunk=0)
    with pytest.raises(ValueError, match="32 bits at most"):
        linear_cross_entropy(hidden.double(), weight.double(), targets, backend="triton")
    assert linear_cross_entropy(hidden.double(), weight.double(), targets).dtype == torch.float64
