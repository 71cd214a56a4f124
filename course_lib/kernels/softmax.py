"""Softmax in one trip through memory: a first kernel to read.

    x (rows, width)            a program takes ROWS whole rows
    ┌───────────────┐
    │ program 0     │          loaded once → less its largest → exponentials → divided by their sum → stored once
    ├───────────────┤
    │ program 1     │          Step by step, PyTorch would write each of these to memory and read it again: the largest, the
    ├───────────────┤          differences, the exponentials, their sum. Here they stay on the chip.
    │ …             │
    └───────────────┘

A tile is as wide as the next power of two, the only sizes that Triton has; what lies beyond a row is masked: not loaded, taken to
be −∞, whose exponential is 0, and not stored.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton

WIDEST = 65_536  # a row must fit on the chip
TILE = 4_096  # numbers that a program works on at a time


def softmax(x: Tensor, backend: str = "auto") -> Tensor:
    """exp(x) / Σ exp(x) over the last dimension, (…, width) → the same shape.

    Computed in 32 bits whatever the dtype. Differentiable. A row of nothing but −∞, or with ∞ or nan in it, gives nan, as in
    PyTorch. Errors: `use_triton`, and ValueError for rows that don't fit on the chip.

    >>> softmax(torch.tensor([0.0, 0.0, float("-inf")]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    if x.dim() == 0:
        raise ValueError("softmax is taken over the last dimension, and a single number has none")
    if x.shape[-1] > WIDEST and backend == "triton":
        raise ValueError(
            f"rows of {x.shape[-1]} numbers don't fit on the chip (at most {WIDEST}): use backend='torch'"
        )
    if x.shape[-1] > WIDEST or not x.shape[-1] or not use_triton(backend, x):
        return x.softmax(dim=-1)
    return _Softmax.apply(x)


def softmax_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Forward: x in, y out. Backward: y and the gradient in, a gradient out."""
    return Cost(bytes_each * (3 if backward else 2) * rows * width, (4 if backward else 5) * rows * width)


@triton.jit
def softmax_forward(x_ptr, y_ptr, rows, width, row_stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    there = (row < rows) & (column < width)
    row = row.to(tl.int64)
    x = tl.load(x_ptr + row * row_stride + column, mask=there, other=-float("inf")).to(tl.float32)
    weight = tl.exp(x - tl.max(x, axis=1, keep_dims=True))
    y = weight / tl.sum(weight, axis=1, keep_dims=True)
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def softmax_backward(y_ptr, grad_y_ptr, grad_x_ptr, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    there = (row < rows) & (column < width)
    at = row.to(tl.int64) * width + column
    y = tl.load(y_ptr + at, mask=there, other=0.0).to(tl.float32)
    grad_y = tl.load(grad_y_ptr + at, mask=there, other=0.0).to(tl.float32)
    grad_x = y * (grad_y - tl.sum(y * grad_y, axis=1, keep_dims=True))
    tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=there)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = _tile(*rows.shape)
        grid = (tiles(len(rows), tile.sizes["ROWS"]),)
        launch(softmax_forward, grid, rows, y, *rows.shape, rows.stride(0), tile=tile)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        grad_y, grad_x, rows = grad_y.contiguous(), torch.empty_like(y), y.view(-1, y.shape[-1])
        tile = _tile(*rows.shape)
        grid = (tiles(len(rows), tile.sizes["ROWS"]),)
        launch(softmax_backward, grid, y, grad_y, grad_x, *rows.shape, tile=tile)
        return grad_x


def _tile(rows: int, width: int) -> Tile:
    """Whole rows: one, or as many as fill TILE."""
    width = power_of_two(width)
    per_program = max(1, min(TILE // width, power_of_two(rows)))
    warps = 32 if width > 16_384 else 8 if width > 2_048 else 4
    return Tile({"ROWS": per_program, "WIDTH": width}, warps)
