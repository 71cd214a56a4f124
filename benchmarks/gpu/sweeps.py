"""Tiles other than a kernel's own, each checked before it is timed.

A sweep begins with the kernel's own tile and tries its neighbours, in which one number is halved or doubled
(the stages: one less or one more). It continues with the neighbours of any tile that is faster, until none is
or the time is over. A tile that can't be compiled, doesn't fit on the chip, or gives another result is
recorded, and the next one is tried. The result of a sweep is advice: the constants stay in the code, next to
each launch, until a person changes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.plan import Plan, reason
from course_lib.kernels import (
    flash_attention,
    grouped_matmul,
    linear_cross_entropy,
    prepare_weight,
    quantized_matmul,
)
from course_lib.kernels.chosen_tiles import Tile, use_tiles
from course_lib.kernels.flash_attention import forward_tile
from course_lib.kernels.flash_backward import grad_keys_values_tile, grad_queries_tile
from course_lib.kernels.grouped_matmul import gradient_tile, product_tile
from course_lib.kernels.int8_matmul import many_tokens_tile, one_token_tile
from course_lib.kernels.linear_cross_entropy import CHUNK
from course_lib.model import attend
from course_lib.quantize import Q4_1, Uniform

FASTER = 0.98  # a tile that takes less than this share of the best one's time is better
# The error that is allowed, relative to the largest element of the result.
ERROR = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
RUNS, MOST = 7, 24


@dataclass(frozen=True)
class Lengths:
    """The sizes of what is swept.

    tokens, heads: of attention. width: of the matrices. rows: how many rows are multiplied by them.
    """

    tokens: int = 4_096
    heads: int = 32
    d_heads: tuple[int, ...] = (64, 128)
    width: int = 4_096
    rows: tuple[int, ...] = (1, 16, 4_096)
    experts: int = 8
    vocab: int = 49_152


TINY = Lengths(tokens=40, heads=1, d_heads=(16,), width=64, rows=(1, 4), experts=2, vocab=100)


@dataclass(frozen=True)
class Sweep:
    """The search for one kernel's tile.

    where: the function, or constant, that returns `now`, the kernel's own tile. names: of a tile's numbers.
    run: computes with a tile, and must return `wanted()`, which is computed in 32 bits.
    """

    what: str
    where: str
    names: tuple[str, ...]
    now: tuple[int, ...]
    run: Callable[[tuple[int, ...]], Tensor]
    wanted: Callable[[], Tensor]


def run(part: Callable[[Lengths, Callable, str], list[Sweep]], plan: Plan) -> Iterator[dict]:
    """Yield a result for each sweep of a part: all tiles that were tried, and the best."""
    sweeps = part(TINY if plan.small else Lengths(), plan.randn, "triton" if plan.small else "auto")
    for place, sweep in enumerate(sweeps):
        yield result(sweep, list(climb(sweep, plan.share(len(sweeps) - place), 3 if plan.small else MOST)))


def climb(sweep: Sweep, plan: Plan, most: int) -> Iterator[dict]:
    """Try tiles, the kernel's own first. Yield for each its median seconds and error, or its failure."""
    wanted, clock = sweep.wanted(), plan.clock
    waiting, tried, best = [sweep.now], set(), float("inf")
    while waiting and len(tried) < most and (plan.left() > 0 or not tried):
        tile = waiting.pop(0)
        tried.add(tile)
        found = attempt(sweep, tile, wanted, clock, 1 if plan.small else RUNS)
        yield found
        if found.get("seconds", float("inf")) < FASTER * best or tile == sweep.now:
            best = found.get("seconds", float("inf"))
            near = [other for other in neighbours(sweep.names, tile) if other not in tried]
            waiting = near + [other for other in waiting if other not in near]


def attempt(
    sweep: Sweep, tile: tuple[int, ...], wanted: Tensor, clock: Callable[[Callable], float], runs: int
) -> dict:
    """Return one tile's seconds and error, or its failure."""
    try:
        ours = sweep.run(tile)
        error = ((ours.float() - wanted).abs().max() / wanted.abs().max()).item()
        if not error <= ERROR[ours.dtype]:
            return {"tile": tile, "failure": f"the result is wrong, by {error:.1e} of its largest number"}
        seconds = median(clock(partial(sweep.run, tile)) for _ in range(runs))
        return {"tile": tile, "error": error, "seconds": seconds}
    except Exception as error:  # noqa: BLE001 (the compiler's, the driver's, ours: the next one may do)
        return {"tile": tile, "failure": reason(error)}


def neighbours(names: tuple[str, ...], tile: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the tiles in which one number differs."""
    found = []
    for place, (name, size) in enumerate(zip(names, tile, strict=True)):
        for other in (size - 1, size + 1) if name == "stages" else (size // 2, size * 2):
            if other:
                found.append((*tile[:place], other, *tile[place + 1 :]))
    return found


def result(sweep: Sweep, tried: list[dict]) -> dict:
    """Return the sweep as one record.

    "times as fast": the best tile compared with the kernel's own; None where that one failed.
    """
    right = [one for one in tried if "seconds" in one]
    best = min(right, key=lambda one: one["seconds"], default=None)
    now = next((one["seconds"] for one in right if one["tile"] == sweep.now), None)
    ratio = now / best["seconds"] if now else None
    found = {"what": sweep.what, "where": sweep.where, "names": sweep.names, "now": sweep.now, "tried": tried}
    return found | {"best": best and best["tile"], "times as fast": ratio}


def advice(found: dict) -> str:
    """Return what should be changed in the code, in a line; empty where nothing would be faster."""
    if found["best"] is None:
        return f"{found['what']}: no tile worked"
    if found["best"] == found["now"] or (found["times as fast"] or 0) * FASTER < 1:
        return ""
    numbers = ", ".join(f"{name} {size}" for name, size in zip(found["names"], found["best"], strict=True))
    return f"{found['what']}: {found['times as fast']:.2f} times as fast with {numbers} (in {found['where']})"


def _sweep(what: str, where: str, kernel: str, now: Tile, f: Callable, wanted: Callable) -> Sweep:
    """Return the sweep of a kernel's tile, beginning with `now`. f: computes with the kernel."""

    def run(numbers: tuple[int, ...]) -> Tensor:
        *sizes, warps, stages = numbers
        with use_tiles(**{kernel: Tile(dict(zip(now.sizes, sizes, strict=True)), warps, stages)}):
            return f()

    names, numbers = (*now.sizes, "warps", "stages"), (*now.sizes.values(), now.warps, now.stages)
    return Sweep(what, f"course_lib/kernels/{where}", names, numbers, run, wanted)


def forward(sizes: Lengths, randn: Callable, backend: str) -> list[Sweep]:
    """Return the sweeps of attention, one for each width of a head."""
    sweeps = []
    for d_head in sizes.d_heads:
        q, k, v = (randn(1, sizes.heads, sizes.tokens, d_head) for _ in range(3))
        f = partial(flash_attention, q, k, v, backend=backend)
        wanted = partial(_in_32_bits, attend, q, k, v)
        what, where = f"attention, head {d_head}", "flash_attention.py, forward_tile"
        sweeps.append(_sweep(what, where, "attention_forward", forward_tile(q), f, wanted))
    return sweeps


def backward(sizes: Lengths, randn: Callable, backend: str) -> list[Sweep]:
    """Return the sweeps of both kernels of attention's backward; the other kernel keeps its own tile."""
    sweeps = []
    for d_head in sizes.d_heads:
        q, k, v, grad = (randn(1, sizes.heads, sizes.tokens, d_head) for _ in range(4))
        kernels = {"grad_queries": grad_queries_tile(q), "grad_keys_values": grad_keys_values_tile(q)}
        for place, (kernel, now) in enumerate(kernels.items()):
            f = _gradient(partial(flash_attention, backend=backend), (q, k, v), grad, place)
            wanted = _gradient(attend, (q.float(), k.float(), v.float()), grad.float(), place)
            what = f"attention's way back, head {d_head}: {kernel}"
            where = f"flash_backward.py, {kernel}_tile"
            sweeps.append(_sweep(what, where, kernel, now, f, wanted))
    return sweeps


def quantized(sizes: Lengths, randn: Callable, backend: str) -> list[Sweep]:
    """Return the sweeps of products with weights of 8 and 4 bits, for one token, for a few, and for many."""
    sweeps, matrix = [], randn(sizes.width, sizes.width)
    for bits, format in ((8, Uniform(bits=8)), (4, Q4_1)):
        weight = prepare_weight(format.store(matrix.float().cpu())).to(matrix.device)
        for rows in sizes.rows:
            x = randn(rows, sizes.width)
            kernel = f"int{bits}_{'one_token' if rows == 1 else 'many_tokens'}"
            now, where = _product_tile(x, sizes.width)
            f, wanted = partial(quantized_matmul, x, weight, backend), partial(_product, x, weight)
            what = f"{bits} bits × {rows:,}"
            sweeps.append(_sweep(what, f"int8_matmul.py, {where}", kernel, now, f, wanted))
    return sweeps


def others(sizes: Lengths, randn: Callable, backend: str) -> list[Sweep]:
    """Return the sweeps of a mixture's grouped products, forward and backward, and of the last layer."""
    rows, width = sizes.rows[-1], sizes.width
    x, grad, experts = randn(rows, width), randn(rows, width), randn(sizes.experts, width, width)
    starts = torch.arange(0, rows + 1, rows // sizes.experts, device=x.device)
    f, plain = partial(grouped_matmul, backend=backend), partial(grouped_matmul, backend="torch")
    wide, narrow, in_32 = (x.float(), experts.float()), (x, experts), x.dtype == torch.float32
    product = partial(f, x, experts, starts), partial(plain, *wide, starts)
    gradient = (
        _gradient(partial(f, starts=starts), narrow, grad, 1),
        _gradient(partial(plain, starts=starts), wide, grad.float(), 1),
    )
    where = "grouped_matmul.py, {}_tile"
    what, kernel = "its weights' gradient", "grouped_weight_gradient"
    return [
        _sweep("grouped product", where.format("product"), "grouped_product", product_tile(in_32), *product),
        _sweep(what, where.format("gradient"), kernel, gradient_tile(in_32), *gradient),
        _last_layer(sizes, randn, backend),
    ]


def _last_layer(sizes: Lengths, randn: Callable, backend: str) -> Sweep:
    """Return the sweep of the chunk, the number of tokens whose logits exist at a time."""
    rows, width = sizes.rows[-1], sizes.width
    hidden, weight = randn(rows, width), randn(sizes.vocab, width) * width**-0.5
    targets = torch.randint(sizes.vocab, (rows,), device=hidden.device)
    one = torch.ones((), device=hidden.device)

    def run(tile: tuple[int, ...]) -> Tensor:
        loss = partial(linear_cross_entropy, targets=targets, backend=backend, chunk=tile[0])
        return _gradient(loss, (hidden, weight), one, 0)()  # forward is timed too: it computes the gradients

    whole = partial(linear_cross_entropy, targets=targets, backend="torch")
    wanted = _gradient(whole, (hidden.float(), weight.float()), one, 0)
    where = "course_lib/kernels/linear_cross_entropy.py, CHUNK"
    return Sweep("the last layer's loss, forth and back", where, ("chunk",), (CHUNK,), run, wanted)


def _product_tile(x: Tensor, rows: int) -> tuple[Tile, str]:
    """Return the tile that the kernels of 8 and 4 bits choose for x, and the function that chooses it."""
    if len(x) == 1:
        return one_token_tile(rows, x.shape[1]), "one_token_tile"
    return many_tokens_tile(len(x), rows, x.dtype == torch.float32), "many_tokens_tile"


def _product(x: Tensor, weight) -> Tensor:
    return F.linear(x.float(), weight.weight())


def _in_32_bits(f: Callable, *inputs: Tensor) -> Tensor:
    return f(*(x.float() for x in inputs))


def _gradient(f: Callable, inputs: tuple[Tensor, ...], grad: Tensor, place: int) -> Callable[[], Tensor]:
    """Return a function that computes the gradient of one input, by a graph that is built once and kept."""
    learning = tuple(x.detach().requires_grad_() for x in inputs)
    graph = cache(lambda: f(*learning))
    return lambda: torch.autograd.grad(graph(), learning, grad, retain_graph=True)[place]
