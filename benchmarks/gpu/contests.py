"""The kernels on a GPU, compared with PyTorch step by step, compiled and fused, and with the machine's limit.

The limit is the least time in which this machine can move the bytes and compute the operations, as measured
by a copy and a matrix product in the same run. A contestant that can't run is left out and named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.plan import Plan, reason
from benchmarks.measure import Times, race
from benchmarks.report import Row, rate
from course_lib.kernels import (
    Cost,
    cross_entropy,
    flash_attention,
    grouped_matmul,
    layer_norm,
    linear_cross_entropy,
    paged_attention,
    prepare_weight,
    quantized_matmul,
    rms_norm,
    rope,
    softmax,
    swiglu,
)
from course_lib.model import rotate
from course_lib.quantize import NF4, Q4_1, Uniform

TABLE = "Kernels on a GPU, 16 bits"
OURS = "course_lib"
ROUNDS = 7


@dataclass(frozen=True)
class Sizes:
    """The sizes of the contests.

    times: the lengths of attention, each with `tokens` in all. copied, square: for measuring the limits, the
    elements of a copy and the rows of two square matrices.
    """

    rows: int = 16_384
    width: int = 4_096
    vocab: int = 128_256
    times: tuple[int, ...] = (2_048, 4_096, 8_192, 16_384)
    heads: int = 16
    d_heads: tuple[int, ...] = (64, 128)
    sequences: int = 32
    experts: int = 8
    tokens: int = 16_384
    copied: int = 2**29
    square: int = 8_192


TINY = Sizes(
    rows=64, width=64, vocab=100, times=(32, 48), heads=4, d_heads=(16, 32), sequences=2, experts=4,
    tokens=48, copied=4_096, square=64,
)  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """A comparison of several implementations of one operation.

    runs: by name, ours first. least: the bytes and operations that any implementation needs. goals: how many
    times as fast as a rival ours should be, or which part of the limit it should reach.
    """

    what: str
    runs: dict[str, Callable[[], Tensor]]
    least: Cost
    goals: dict[str, float]


def run(part: Callable[..., Iterator[Contest]], plan: Plan) -> Iterator[dict]:
    """Yield the machine's limits, and then each contest of a part: the seconds of its runs, limit and goals.

    A contest for which no time is left is yielded as a failure.
    """
    sizes, clock = TINY if plan.small else Sizes(), plan.clock
    bandwidth, speed = limits(sizes, clock, plan.randn)
    yield {"what": "limits", "bytes a second": bandwidth, "operations a second": speed}
    for contest in part(sizes, plan.randn, not plan.small, "triton" if plan.small else "auto"):
        if plan.left() < 0:
            yield {"what": contest.what, "failure": "there was no time left for it"}
            continue
        able, failures = _able(contest.runs)
        yield from ({"what": f"{contest.what}: {name}", "failure": why} for name, why in failures.items())
        if OURS in able:
            times = race({name: partial(clock, f) for name, f in able.items()}, 1 if plan.small else ROUNDS)
            limit = contest.least.seconds(bandwidth, speed)
            yield {"what": contest.what, "seconds": times, "limit": limit, "goals": contest.goals}


def _able(runs: dict[str, Callable]) -> tuple[dict[str, Callable], dict[str, str]]:
    """Return the contestants that can run, and why the others can't. They are compiled here."""
    able, failures = {}, {}
    for name, f in runs.items():
        try:
            f()
            able[name] = f
        except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
            failures[name] = reason(error)
    return able, failures


def layers(sizes: Sizes, randn, compile: bool, triton: str) -> Iterator[Contest]:
    x, up, grad = (randn(sizes.rows, sizes.width) for _ in range(3))
    weight, bytes_ = randn(sizes.width), x.nbytes
    back = {"x": x.clone().requires_grad_(), "weight": weight.clone().requires_grad_()}

    def plain_rms(x, weight):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight

    def plain_layer(x, weight):
        wide = x.float() - x.float().mean(-1, keepdim=True)
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight

    def plain_softmax(x):
        shifted = (x.float() - x.float().amax(-1, keepdim=True)).exp()
        return (shifted / shifted.sum(-1, keepdim=True)).to(x.dtype)

    def plain_swiglu(gate, up):
        return F.silu(gate) * up

    norms = [
        ("RMSNorm", rms_norm, plain_rms, lambda x, w: F.rms_norm(x, w.shape, w, 1e-5)),
        ("LayerNorm", layer_norm, plain_layer, lambda x, w: F.layer_norm(x, w.shape, w)),
    ]
    for name, ours, plain, fused in norms:
        kinds = {OURS: partial(ours, backend=triton), **_eager(plain, compile), "fused": fused}
        runs = {kind: partial(f, x, weight) for kind, f in kinds.items()}
        yield Contest(name, runs, Cost(2 * bytes_, 4 * x.numel()), {"limit": 0.9})
        runs = {kind: _backward(f, tuple(back.values()), grad) for kind, f in kinds.items()}
        yield Contest(f"{name}, backward", runs, Cost(3 * bytes_, 9 * x.numel()), {"limit": 0.9})
    kinds = {OURS: partial(softmax, backend=triton), **_eager(plain_softmax, compile)}
    kinds["fused"] = partial(torch.softmax, dim=-1)
    yield Contest(
        "softmax", {kind: partial(f, x) for kind, f in kinds.items()}, Cost(2 * bytes_, 5 * x.numel()), {}
    )
    kinds = {OURS: partial(swiglu, backend=triton), **_eager(plain_swiglu, compile)}
    runs = {kind: partial(f, x, up) for kind, f in kinds.items()}
    yield Contest("SwiGLU", runs, Cost(3 * bytes_, 5 * x.numel()), {"limit": 0.9})
    gates = x.clone().requires_grad_(), up.clone().requires_grad_()
    runs = {kind: _backward(f, gates, grad) for kind, f in kinds.items()}
    yield Contest("SwiGLU, backward", runs, Cost(5 * bytes_, 12 * x.numel()), {"limit": 0.9})
    d_head, heads = sizes.d_heads[-1], sizes.width // sizes.d_heads[-1]
    rotary_input = x.view(1, sizes.rows, heads, d_head).transpose(1, 2)
    cos, sin = randn(sizes.rows, d_head // 2), randn(sizes.rows, d_head // 2)
    kinds = {OURS: partial(rope, backend=triton), **_eager(rotate, compile)}
    runs = {kind: partial(f, rotary_input, cos, sin) for kind, f in kinds.items()}
    yield Contest("RoPE", runs, Cost(2 * bytes_ + 2 * cos.nbytes, 3 * x.numel()), {"limit": 0.9})


def losses(sizes: Sizes, randn, compile: bool, triton: str) -> Iterator[Contest]:
    tokens = sizes.rows // 4
    logits = randn(tokens, sizes.vocab).requires_grad_()
    targets = torch.randint(sizes.vocab, (tokens,), device=logits.device)

    def plain(logits, targets):
        return F.cross_entropy(logits.float(), targets)

    def both_ways(loss, inputs):
        return torch.autograd.grad(loss(*inputs), inputs)[0]

    kinds = {OURS: lambda x: cross_entropy(x, targets, backend=triton)}
    kinds |= {kind: partial(lambda f, x: f(x, targets), f) for kind, f in _eager(plain, compile).items()}
    runs = {kind: partial(both_ways, f, (logits,)) for kind, f in kinds.items()}
    # The logits are read for the loss, and read and written for the gradient.
    least = Cost(3 * logits.nbytes, 8 * logits.numel())
    yield Contest("cross-entropy, both ways", runs, least, {"limit": 0.9})
    inputs = randn(tokens, sizes.width).requires_grad_(), randn(sizes.vocab, sizes.width).requires_grad_()
    kinds = {OURS: lambda h, w: linear_cross_entropy(h, w, targets, backend=triton)}
    kinds |= {
        kind: partial(lambda f, h, w: f(h @ w.T, targets), f) for kind, f in _eager(plain, compile).items()
    }
    runs = {kind: partial(both_ways, f, inputs) for kind, f in kinds.items()}
    least = Cost(2 * sum(x.nbytes for x in inputs), 6 * logits.numel() * sizes.width)
    yield Contest("last layer with cross-entropy, both ways", runs, least, {})


def attention(sizes: Sizes, randn, compile: bool, triton: str) -> Iterator[Contest]:
    del compile  # the vendors' kernels are the rivals here
    for d_head in sizes.d_heads:
        for time in sizes.times:
            shape = max(1, sizes.tokens // time), sizes.heads, time, d_head
            q, k, v, grad = (randn(*shape).requires_grad_(i < 3) for i in range(4))
            # Two products, over the pairs of a query and a key that it attends to.
            flops = 2 * shape[0] * sizes.heads * time * (time + 1) * d_head
            kinds = {OURS: partial(flash_attention, backend=triton)}
            if q.is_cuda:
                kinds["FlashAttention-2"] = partial(_vendor, SDPBackend.FLASH_ATTENTION)
                kinds["cuDNN"] = partial(_vendor, SDPBackend.CUDNN_ATTENTION)
            else:
                kinds["fused"] = partial(F.scaled_dot_product_attention, is_causal=True)
            what = f"causal attention, {time:,} tokens, head {d_head}"
            forward = {kind: partial(f, q.detach(), k.detach(), v.detach()) for kind, f in kinds.items()}
            yield Contest(what, forward, Cost(4 * q.nbytes, flops), {"FlashAttention-2": 1.0, "cuDNN": 0.75})
            runs = {kind: _backward(f, (q, k, v), grad) for kind, f in kinds.items()}
            yield Contest(
                f"{what}, backward", runs, Cost(8 * q.nbytes, flops * 5 // 2), {"FlashAttention-2": 0.8}
            )


def _vendor(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def decoding(sizes: Sizes, randn, compile: bool, triton: str) -> Iterator[Contest]:
    """Attention of one new token in each sequence to a paged cache; the rival's cache is contiguous."""
    del compile
    batch, time, d_head, page = sizes.sequences, sizes.times[0], sizes.d_heads[-1], 16
    kv_heads = max(1, sizes.heads // 4)
    q = randn(batch, sizes.heads, d_head)
    pages = batch * time // page
    keys, values = randn(pages, kv_heads, page, d_head), randn(pages, kv_heads, page, d_head)
    table = torch.arange(pages, device=q.device, dtype=torch.int32).view(batch, -1)
    lengths = torch.full((batch,), time, device=q.device, dtype=torch.int32)
    whole = [x.view(batch, -1, kv_heads, page, d_head).transpose(1, 2).flatten(2, 3) for x in (keys, values)]
    rows = q.view(batch, kv_heads, sizes.heads // kv_heads, d_head)
    runs = {
        OURS: partial(paged_attention, q, keys, values, table, lengths, backend=triton),
        "fused, in one piece": lambda: F.scaled_dot_product_attention(rows, *whole).view(q.shape),
    }
    least = Cost(keys.nbytes + values.nbytes + 2 * q.nbytes, 4 * batch * sizes.heads * time * d_head)
    yield Contest(f"decoding over {batch} caches of {time:,} tokens", runs, least, {})


def products(sizes: Sizes, randn, compile: bool, triton: str) -> Iterator[Contest]:
    del compile
    weight = randn(sizes.width, sizes.width)
    formats = {"8 bits": (Uniform(bits=8), 1.6), "4 bits (Q4_1)": (Q4_1, 2.5), "4 bits (NF4)": (NF4(), 2.5)}
    for name, (format, goal) in formats.items():
        stored = format.store(weight.float().cpu())
        prepared, exact = prepare_weight(stored).to(weight.device), stored.weight().to(weight)
        for tokens in (1, 16, sizes.rows // 4):
            x = randn(tokens, sizes.width)
            runs = {
                OURS: partial(quantized_matmul, x, prepared, backend=triton),
                "16 bits": partial(F.linear, x, exact),
            }
            least = Cost(prepared.nbytes + x.nbytes * 2, 2 * tokens * weight.numel())
            goals = {"16 bits": goal} if tokens == 1 else {}
            yield Contest(f"{name} × {tokens:,} token{'s' * (tokens > 1)}", runs, least, goals)
    experts, rows = randn(sizes.experts, sizes.width, sizes.width) * sizes.width**-0.5, sizes.rows // 4
    x = randn(rows, sizes.width)
    starts = torch.arange(0, rows + 1, rows // sizes.experts, device=weight.device)
    runs = {
        OURS: partial(grouped_matmul, x, experts, starts, backend=triton),
        "dense, the same work": partial(F.linear, x, experts[0]),
    }
    least = Cost(2 * x.nbytes + experts.nbytes, 2 * rows * weight.numel())
    yield Contest(f"grouped product, {sizes.experts} experts", runs, least, {"dense, the same work": 0.8})


PARTS = (layers, losses, attention, decoding, products)


def _eager(f: Callable, compile: bool) -> dict[str, Callable]:
    return {"step by step": f} | ({"torch.compile": torch.compile(f)} if compile else {})


def _backward(f: Callable, inputs: tuple[Tensor, ...], grad: Tensor) -> Callable[[], Tensor]:
    """Return a function that runs backward alone, through a graph that is built once and kept."""
    graph = cache(lambda: f(*inputs))
    return lambda: torch.autograd.grad(graph(), inputs, grad, retain_graph=True)[0]


def limits(
    sizes: Sizes, clock: Callable[[Callable], float], randn: Callable[..., Tensor]
) -> tuple[float, float]:
    """Return the bytes per second of a copy, and the operations per second of a matrix product."""
    large, a = randn(sizes.copied), randn(sizes.square, sizes.square)
    runs = {"copy": large.clone, "product": lambda: a @ a}
    times = race({name: partial(clock, f) for name, f in runs.items()}, 7)
    return 2 * large.nbytes / times["copy"].median, 2 * sizes.square**3 / times["product"].median


def rows(result: dict) -> Iterator[Row]:
    """Yield a contest's result as lines of the table: one for each goal, and one for the fastest rival."""
    times = {name: Times(seconds) for name, seconds in result["seconds"].items()}
    ours = times.pop(OURS)
    rivals = {name: (rate(rival, None, "s"), rival.median / ours.median) for name, rival in times.items()}
    fastest = min(times, key=lambda name: times[name].median, default="limit")
    rivals["limit"] = (f"{result['limit']:.3g} s", result["limit"] / ours.median)
    for name in [name for name in rivals if name == fastest or name in result["goals"]]:
        theirs, ratio = rivals[name]
        goal = result["goals"].get(name)
        met = "" if goal is None else f"{goal:g}" if ratio >= goal else f"**{goal:g}, missed**"
        yield Row(TABLE, (result["what"], rate(ours, None, "s"), f"{name}: {theirs}", f"{ratio:.2f}", met))
