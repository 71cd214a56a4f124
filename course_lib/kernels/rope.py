"""Rotary positions in one trip through memory (Su et al. 2021, section 3.2).

    x (batch, heads, time, d_head)            a program takes TIMES positions of HEADS heads of a sequence
              ┌── d_head ──┐
    time      │ first│second│   half-split: a pair is (i, i + d_head/2), and the two halves of a tile are loaded one by one;
    0 … TIMES │  ×   │  ×   │   interleaved: a pair is (2i, 2i + 1), and a tile is loaded whole, then taken apart.
              └──────┴──────┘
    cos, sin  (time, d_head/2) are loaded once for all HEADS heads.

Turning back is turning by the angle's opposite, so the way back is the same kernel, with the sines' sign changed.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton
from course_lib.model import rotate

TILE = 2_048  # pairs that a program turns
LAYOUTS = ("half-split", "interleaved")


def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half-split", backend: str = "auto") -> Tensor:
    """`model.rotate`: each pair of coordinates turned by its angle, (batch, heads, time, d_head) → the same shape.

    cos, sin: (time, d_head / 2), as `model.rotary_tables` makes them. layout: which coordinates are a pair. Any strides; the
    result is laid out as x is. Computed in 32 bits. Differentiable in x alone.

    Raises ValueError for shapes that don't fit each other; for other errors see `use_triton`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; not {layout!r}")
    if x.dim() != 4 or x.shape[3] % 2 or cos.shape != sin.shape or cos.shape != (x.shape[2], x.shape[3] // 2):
        shapes = f"x {tuple(x.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)}"
        raise ValueError(
            f"{shapes} must be (batch, heads, time, d_head) with d_head even, and twice (time, d_head / 2)"
        )
    if not use_triton(backend, x, cos, sin):
        return rotate(x, cos, sin, layout)
    return _Rope.apply(x, cos.contiguous(), sin.contiguous(), layout)


def rope_cost(batch: int, heads: int, time: int, d_head: int, bytes_each: int) -> Cost:
    """x in, the result out, and each program reads its cosines and sines. The same backward. bytes_each: of a number of either."""
    tables = batch * tiles(heads, _tile(heads, time, d_head).sizes["HEADS"]) * time * d_head
    return Cost(bytes_each * (2 * batch * heads * time * d_head + tables), 3 * batch * heads * time * d_head)


@triton.jit
def rope_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, x_batch, x_head, x_time, x_channel, y_batch, y_head, y_time, y_channel,
    heads, time, sign, INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr,
    HEADS: tl.constexpr, TIMES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * TIMES + tl.arange(0, TIMES)[None, :, None]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None, None]
    batch = tl.program_id(2).to(tl.int64)
    pair = tl.arange(0, WIDTH)[None, None, :]
    known = (at < time) & (pair < PAIRS)
    there = known & (head < heads)
    at, head = at.to(tl.int64), head.to(tl.int64)
    cos = tl.load(cos_ptr + at * PAIRS + pair, mask=known, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + at * PAIRS + pair, mask=known, other=0.0).to(tl.float32) * sign
    x_ptr += batch * x_batch + head * x_head + at * x_time
    y_ptr += batch * y_batch + head * y_head + at * y_time
    if INTERLEAVED:
        channel = tl.arange(0, 2 * WIDTH)[None, None, :]
        there = (at < time) & (head < heads) & (channel < 2 * PAIRS)
        x = tl.load(x_ptr + channel * x_channel, mask=there, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(x, (HEADS, TIMES, WIDTH, 2)))
        y = tl.join(first * cos - second * sin, second * cos + first * sin)
        y = tl.reshape(y, (HEADS, TIMES, 2 * WIDTH)).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + channel * y_channel, y, mask=there)
    else:
        first = tl.load(x_ptr + pair * x_channel, mask=there, other=0.0).to(tl.float32)
        second = tl.load(x_ptr + (pair + PAIRS) * x_channel, mask=there, other=0.0).to(tl.float32)
        y = (first * cos - second * sin).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + pair * y_channel, y, mask=there)
        y = (second * cos + first * sin).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + (pair + PAIRS) * y_channel, y, mask=there)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return _turn(x, cos, sin, layout, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        return _turn(grad_y, *ctx.saved_tensors, ctx.layout, -1.0), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, layout: str, sign: float) -> Tensor:
    y = torch.empty_like(x)
    batch, heads, time, d_head = x.shape
    tile = _tile(heads, time, d_head)
    grid = tiles(time, tile.sizes["TIMES"]), tiles(heads, tile.sizes["HEADS"]), batch
    launch(
        rope_kernel, grid, x, cos, sin, y, *x.stride(), *y.stride(), heads, time, sign, tile=tile,
        INTERLEAVED=layout == "interleaved", PAIRS=d_head // 2,
    )  # fmt: skip
    return y


def _tile(heads: int, time: int, d_head: int) -> Tile:
    """All pairs of a head, for up to 8 heads and as many positions as fill TILE."""
    width = power_of_two(d_head // 2)
    together = max(1, min(TILE // width, 8, power_of_two(heads)))
    times = max(1, min(TILE // width // together, power_of_two(time)))
    return Tile({"HEADS": together, "TIMES": times, "WIDTH": width})
