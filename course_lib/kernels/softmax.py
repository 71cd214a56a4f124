"""Softmax in one pass over memory, the simplest kernel: y = exp(x − max x) / Σ exp(x − max x).

    x (rows, width)            A program computes ROWS whole rows.
    ┌───────────────┐
    │ program 0     │          It loads them once, subtracts the maximum, takes exponentials, divides by their
    ├───────────────┤          sum, and stores them once. Written as separate operations of PyTorch, the
    │ program 1     │          maximum, the differences, the exponentials and their sum would each be written
    ├───────────────┤          to memory and read again. Here they stay on the chip, as in PyTorch's own
    │ …             │          softmax, which is one kernel too.
    └───────────────┘

The width of a tile is a power of two, because Triton has no other sizes. The columns beyond a row's end are
masked: they are not loaded but set to −∞, whose exponential is 0, and they are not stored.
"""

import torch
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_flags, check_floats, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton

WIDEST = 65_536  # a row must fit on the chip
TILE_ELEMENTS = 4_096  # that a program works on at a time


def softmax(x: Tensor, backend: str = "auto") -> Tensor:
    """Return exp(x) / Σ exp(x) over the last dimension, (…, width) as x.

    Computed in 32 bits and rounded to x's dtype. Differentiable. As in PyTorch, a row gives nan if all of it
    is −∞, or if it contains ∞ or nan. Raises ValueError for rows that don't fit on the chip; for others see
    `use_triton`.

    >>> softmax(torch.tensor([0.0, 0.0, float("-inf")]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    if x.dim() == 0:
        raise ValueError("softmax is taken over the last dimension, and a single number has none")
    check_floats(x=x)
    width = x.shape[-1]
    if width > WIDEST and backend == "triton":
        raise ValueError(
            f"rows of {width} elements don't fit on the chip (at most {WIDEST}): use backend='torch'"
        )
    if not use_triton(backend, x) or not 0 < width <= WIDEST:
        return x.softmax(dim=-1)
    return _Softmax.apply(x)


def softmax_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Return the cost. Forward reads x and writes y; backward reads y and its gradient and writes x's.

    Operations: each subtraction, multiplication, division, exponential, comparison and addition to a sum
    counts as one. `Meter` counts none of them, because there is no matrix product.
    """
    rows, width = check_sizes(rows=rows, width=width)
    bytes_each = check_bytes(bytes_each)
    check_flags(backward=backward)
    return Cost(bytes_each * (3 if backward else 2) * rows * width, (4 if backward else 5) * rows * width)


@triton.jit
def softmax_forward(x_ptr, y_ptr, rows, width, row_stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """y = exp(x − max x) / Σ exp(x − max x), for ROWS rows; the shift by max x keeps exp from overflowing."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    mask = (row < rows) & (column < width)  # (ROWS, WIDTH), as all that follow
    row = row.to(tl.int64)
    x = tl.load(x_ptr + row * row_stride + column, mask=mask, other=-float("inf")).to(tl.float32)
    numerator = tl.exp(x - tl.max(x, axis=1, keep_dims=True))
    y = numerator / tl.sum(numerator, axis=1, keep_dims=True)
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def softmax_backward(y_ptr, grad_y_ptr, grad_x_ptr, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """grad_x = y · (grad_y − Σ y · grad_y), for ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    mask = (row < rows) & (column < width)  # (ROWS, WIDTH), as all that follow
    offset = row.to(tl.int64) * width + column
    y = tl.load(y_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    grad_y = tl.load(grad_y_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    grad_x = y * (grad_y - tl.sum(y * grad_y, axis=1, keep_dims=True))
    tl.store(grad_x_ptr + offset, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (rows, width)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = _tile(*rows.shape)
        grid = (tile_count(len(rows), tile.sizes["ROWS"]),)
        launch(softmax_forward, grid, rows, y, *rows.shape, rows.stride(0), tile=tile)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        grad_y, grad_x, rows = grad_y.contiguous(), torch.empty_like(y), y.view(-1, y.shape[-1])
        tile = _tile(*rows.shape)
        grid = (tile_count(len(rows), tile.sizes["ROWS"]),)
        launch(softmax_backward, grid, y, grad_y, grad_x, *rows.shape, tile=tile)
        return grad_x


def _tile(rows: int, width: int) -> Tile:
    """Return a tile of whole rows: one, or as many as fill TILE_ELEMENTS."""
    width = power_of_two(width)
    per_program = max(1, min(TILE_ELEMENTS // width, power_of_two(rows)))
    warps = 32 if width > 16_384 else 8 if width > 2_048 else 4
    return Tile({"ROWS": per_program, "WIDTH": width}, warps)
