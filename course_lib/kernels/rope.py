"""Rotary positions in one pass over memory (Su et al. 2021, section 3.2).

Each pair of coordinates (first, second) is rotated by an angle that grows with the position:

    first  ← first · cos − second · sin
    second ← second · cos + first · sin

    x (batch, heads, time, d_head)            A program rotates TIMES positions of HEADS heads.
              ┌── d_head ───┐
    time      │ first│second│   half-split: a pair is (i, i + d_head/2); the halves are loaded separately.
    0 … TIMES │  ×   │  ×   │   interleaved: a pair is (2i, 2i + 1); a tile is loaded whole, then split.
              └──────┴──────┘
    cos, sin  (time, d_head/2) are loaded once for all HEADS heads.

The inverse of a rotation is the rotation by the opposite angle, so backward runs the same kernel with the
sign of the sines changed.
"""

import torch
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_floats, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton
from course_lib.model import rotate

TILE_PAIRS = 2_048  # that a program rotates
LAYOUTS = ("half-split", "interleaved")


def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half-split", backend: str = "auto") -> Tensor:
    """Return x with each pair of coordinates rotated by its angle, as `model.rotate` does.

    x: (batch, heads, time, d_head), with any strides; the result has the same shape.
    cos, sin: (time, d_head / 2), the result of `model.rotary_tables`. layout: which coordinates form a pair.
    Computed in 32 bits and rounded to x's dtype. Differentiable in x alone.
    Raises ValueError for shapes that don't fit each other; for other errors see `use_triton`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; not {layout!r}")
    if x.dim() != 4 or x.shape[3] % 2 or cos.shape != sin.shape or cos.shape != (x.shape[2], x.shape[3] // 2):
        shapes = f"x {tuple(x.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)}"
        raise ValueError(
            f"{shapes} must be (batch, heads, time, d_head) with d_head even, and twice (time, d_head / 2)"
        )
    check_floats(x=x, cos=cos, sin=sin)
    if not use_triton(backend, x, cos, sin):
        return rotate(x, cos, sin, layout).to(x.dtype)
    return _Rope.apply(x, cos.contiguous(), sin.contiguous(), layout)


def rope_cost(batch: int, heads: int, time: int, d_head: int, bytes_each: int) -> Cost:
    """Return the cost of forward, which is also that of backward.

    The kernel reads x and writes the result, and each program reads its cosines and sines. bytes_each: the
    bytes of an element of x, cos and sin. Operations: six multiplications and additions for each pair.
    """
    batch, heads, time, d_head = check_sizes(batch=batch, heads=heads, time=time, d_head=d_head)
    bytes_each = check_bytes(bytes_each)
    tables = batch * tile_count(heads, _tile(heads, time, d_head).sizes["HEADS"]) * time * d_head
    return Cost(bytes_each * (2 * batch * heads * time * d_head + tables), 3 * batch * heads * time * d_head)


@triton.jit
def rope_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, x_batch, x_head, x_time, x_channel, y_batch, y_head, y_time, y_channel,
    heads, time, sign, INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr,
    HEADS: tl.constexpr, TIMES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """(first, second) ← (first · cos − second · sin, second · cos + first · sin), with sign · sin for sin.

    x_batch, x_head, x_time and x_channel are the strides of x; y_batch to y_channel are those of y.
    """
    position = tl.program_id(0) * TIMES + tl.arange(0, TIMES)[None, :, None]  # (1, TIMES, 1)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None, None]  # (HEADS, 1, 1)
    batch = tl.program_id(2).to(tl.int64)
    pair = tl.arange(0, WIDTH)[None, None, :]  # (1, 1, WIDTH)
    table_mask = (position < time) & (pair < PAIRS)  # (1, TIMES, WIDTH)
    mask = table_mask & (head < heads)  # (HEADS, TIMES, WIDTH)
    position, head = position.to(tl.int64), head.to(tl.int64)
    # cos, sin: (1, TIMES, WIDTH)
    cos = tl.load(cos_ptr + position * PAIRS + pair, mask=table_mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * PAIRS + pair, mask=table_mask, other=0.0).to(tl.float32) * sign
    x_ptr += batch * x_batch + head * x_head + position * x_time
    y_ptr += batch * y_batch + head * y_head + position * y_time
    if INTERLEAVED:
        channel = tl.arange(0, 2 * WIDTH)[None, None, :]  # (1, 1, 2 · WIDTH)
        mask = (position < time) & (head < heads) & (channel < 2 * PAIRS)  # (HEADS, TIMES, 2 · WIDTH)
        # (HEADS, TIMES, 2 · WIDTH)
        x = tl.load(x_ptr + channel * x_channel, mask=mask, other=0.0).to(tl.float32)
        # first, second: (HEADS, TIMES, WIDTH) each
        first, second = tl.split(tl.reshape(x, (HEADS, TIMES, WIDTH, 2)))
        # (HEADS, TIMES, WIDTH, 2)
        y = tl.join(first * cos - second * sin, second * cos + first * sin)
        y = tl.reshape(y, (HEADS, TIMES, 2 * WIDTH)).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + channel * y_channel, y, mask=mask)
    else:
        # first, second, y: (HEADS, TIMES, WIDTH)
        first = tl.load(x_ptr + pair * x_channel, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(x_ptr + (pair + PAIRS) * x_channel, mask=mask, other=0.0).to(tl.float32)
        y = (first * cos - second * sin).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + pair * y_channel, y, mask=mask)
        y = (second * cos + first * sin).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + (pair + PAIRS) * y_channel, y, mask=mask)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return _rotate(x, cos, sin, layout, sign=1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        return _rotate(grad_y, *ctx.saved_tensors, ctx.layout, sign=-1.0), None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str, sign: float) -> Tensor:
    """Return x rotated by the angles, or by their opposites for sign = −1, (batch, heads, time, d_head)."""
    y = torch.empty_like(x)  # x's strides, or compact ones if x is a slice
    batch, heads, time, d_head = x.shape
    tile = _tile(heads, time, d_head)
    grid = tile_count(time, tile.sizes["TIMES"]), tile_count(heads, tile.sizes["HEADS"]), batch
    launch(
        rope_kernel, grid, x, cos, sin, y, *x.stride(), *y.stride(), heads, time, sign, tile=tile,
        INTERLEAVED=layout == "interleaved", PAIRS=d_head // 2,
    )  # fmt: skip
    return y


def _tile(heads: int, time: int, d_head: int) -> Tile:
    """Return a tile of all pairs of a head, for up to 8 heads and as many positions as fill TILE_PAIRS."""
    width = power_of_two(d_head // 2)
    heads = max(1, min(TILE_PAIRS // width, 8, power_of_two(heads)))
    times = max(1, min(TILE_PAIRS // width // heads, power_of_two(time)))
    return Tile({"HEADS": heads, "TIMES": times, "WIDTH": width})
