"""RMSNorm and LayerNorm in one pass over memory.

Written as separate operations of PyTorch, each step would be a pass of its own; `F.layer_norm` is one kernel
too.

    RMSNorm:    y = x / √(mean(x²) + eps) · weight
    LayerNorm:  y = (x − mean(x)) / √(mean((x − mean(x))²) + eps) · weight + bias

    x (rows, width)            Forward: a program computes ROWS whole rows. It loads them once, subtracts
    ┌───────────────┐          the mean (LayerNorm only), divides by the root mean square, scales by the
    │ program 0     │          weights, and stores the result once.
    ├───────────────┤
    │ program 1     │          Backward: each program loops over every PROGRAMS-th tile of rows, and adds its
    ├───────────────┤          rows' part of the weight's gradient to a partial sum on the chip. PyTorch adds
    │ …             │          up the partial sums.
    └───────────────┘

LayerNorm is RMSNorm of x − mean(x), plus a bias; the flag CENTER turns the subtraction on.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_epsilon, check_flags, check_floats, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton
from course_lib.model.checks import plain

WIDEST = 16_384  # a row must fit on the chip
TILE_ELEMENTS = 4_096  # that a program works on at a time
PROGRAMS = 256  # of the backward pass: enough to keep each of an H100's 132 SMs busy


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, backend: str = "auto") -> Tensor:
    """Return x / √(mean(x²) + eps) · weight, (…, width) as x (Zhang & Sennrich 2019, equation 4).

    weight: (width,). Computed in 32 bits and rounded to x's dtype. Differentiable in x and weight. The square
    of an element beyond some 10¹⁹ is ∞, as in PyTorch: such rows become zeros. A row with nan becomes nan.
    Raises ValueError for shapes that don't fit; for others see `use_triton`.
    """
    eps = plain(eps)
    if not _use_kernel(backend, eps, x, weight):
        wide, weight = _in_one_dtype(x, weight)
        return F.rms_norm(wide, weight.shape, weight, eps).to(x.dtype)
    return _Norm.apply(x, weight, None, eps, False)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, backend: str = "auto"
) -> Tensor:
    """Return (x − mean) / √(variance + eps) · weight + bias, (…, width) as x (Ba et al. 2016, equation 4).

    weight, bias: (width,). Precision and errors are those of `rms_norm`.
    """
    eps = plain(eps)
    parameters = [weight] if bias is None else [weight, bias]
    if not _use_kernel(backend, eps, x, *parameters):
        wide, *parameters = _in_one_dtype(x, *parameters)
        return F.layer_norm(wide, weight.shape, *parameters, eps=eps).to(x.dtype)
    return _Norm.apply(x, weight, bias, eps, True)


def _in_one_dtype(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the widest of their dtypes, as PyTorch's norms want them."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    return [x.to(dtype) for x in tensors]


def rms_norm_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Return the cost. bytes_each: the bytes of an element of x.

    Forward reads x and writes y and a factor for each row; each program reads the weights. Backward reads x
    and y's gradient and writes x's; each program reads the weights and writes a partial sum of their
    gradient, in 32 bits. Operations: the multiplications and additions of
    elements, four in forward and nine in backward.
    """
    rows, width = check_sizes(rows=rows, width=width)
    bytes_each = check_bytes(bytes_each)
    check_flags(backward=backward)
    programs = tile_count(rows, _tile(rows, width).sizes["ROWS"])
    if not backward:
        return Cost(bytes_each * (2 * rows + programs) * width + 4 * rows, 4 * rows * width)
    programs = min(PROGRAMS, programs)
    moved = bytes_each * (3 * rows + programs) * width + 4 * (rows + programs * width)
    return Cost(moved, 9 * rows * width)


def _use_kernel(backend: str, eps: float, x: Tensor, *weights: Tensor) -> bool:
    """Return whether the kernel computes, not PyTorch. Raises ValueError for arguments that don't fit."""
    check_epsilon(eps)
    check_floats(x=x, weight=weights[0], bias=weights[-1])
    if not x.dim():
        raise ValueError("a norm is taken over the last dimension, and a single number has none")
    for weight in weights:
        if weight.shape != x.shape[-1:]:
            raise ValueError(
                f"weights of shape {tuple(weight.shape)} don't fit vectors of {x.shape[-1]} elements"
            )
    if x.shape[-1] > WIDEST and backend == "triton":
        raise ValueError(
            f"rows of {x.shape[-1]} elements don't fit on the chip (at most {WIDEST}): use backend='torch'"
        )
    return use_triton(backend, x, *weights) and 0 < x.shape[-1] <= WIDEST


@triton.jit
def norm_forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, factor_ptr, rows, width, row_stride, eps,
    CENTER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """y = x · factor · weight + bias with factor = 1 / √(mean(x²) + eps); with CENTER, of x − mean(x)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    mask = (row < rows) & (column < width)  # (ROWS, WIDTH)
    row = row.to(tl.int64)
    x = tl.load(x_ptr + row * row_stride + column, mask=mask, other=0.0).to(tl.float32)
    if CENTER:
        mean = tl.sum(x, axis=1, keep_dims=True) / width  # (ROWS, 1)
        tl.store(mean_ptr + row, mean, mask=row < rows)
        x = tl.where(mask, x - mean, 0.0)  # (ROWS, WIDTH)
    factor = 1 / tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True) / width + eps)  # (ROWS, 1)
    tl.store(factor_ptr + row, factor, mask=row < rows)
    y = x * factor * tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_backward(
    x_ptr, weight_ptr, mean_ptr, factor_ptr, grad_y_ptr, grad_x_ptr, grad_weight_ptr, grad_bias_ptr,
    rows, width, row_stride, programs, CENTER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """With n = x · factor (of x − mean(x) for CENTER) and g = grad_y · weight, for every row:

    grad_x      = factor · (g − n · mean(g · n))      with CENTER: also − factor · mean(g)
    grad_weight = Σ over rows of grad_y · n           grad_bias = Σ over rows of grad_y
    """
    column = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((1, WIDTH), tl.float32)
    grad_bias = tl.zeros((1, WIDTH), tl.float32)  # unused, and removed by the compiler, without a bias
    for first in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
        mask = (row < rows) & (column < width)  # (ROWS, WIDTH)
        row = row.to(tl.int64)
        x = tl.load(x_ptr + row * row_stride + column, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + row * width + column, mask=mask, other=0.0).to(tl.float32)
        factor = tl.load(factor_ptr + row, mask=row < rows, other=0.0)  # (ROWS, 1)
        if CENTER:
            x -= tl.load(mean_ptr + row, mask=row < rows, other=0.0)
        normed = tl.where(mask, x * factor, 0.0)  # (ROWS, WIDTH)
        grad_normed = grad_y * weight
        grad_x = grad_normed - normed * (tl.sum(grad_normed * normed, axis=1, keep_dims=True) / width)
        if CENTER:
            grad_x -= tl.sum(grad_normed, axis=1, keep_dims=True) / width
        grad_x = (factor * grad_x).to(grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + row * width + column, grad_x, mask=mask)
        grad_weight += tl.sum(grad_y * normed, axis=0, keep_dims=True)
        if grad_bias_ptr is not None:
            grad_bias += tl.sum(grad_y, axis=0, keep_dims=True)
    offset = tl.program_id(0).to(tl.int64) * width + column  # of this program's partial sums
    tl.store(grad_weight_ptr + offset, grad_weight, mask=column < width)
    if grad_bias_ptr is not None:
        tl.store(grad_bias_ptr + offset, grad_bias, mask=column < width)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, center: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (rows, width)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        factor = torch.empty(len(rows), dtype=torch.float32, device=x.device)
        mean = torch.empty_like(factor) if center else None
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        tile = _tile(*rows.shape)
        grid = (tile_count(len(rows), tile.sizes["ROWS"]),)
        launch(
            norm_forward, grid, rows, weight, bias, y, mean, factor, *rows.shape, rows.stride(0), eps,
            tile=tile, CENTER=center,
        )  # fmt: skip
        ctx.save_for_backward(rows, weight, mean, factor)
        ctx.center, ctx.has_bias = center, bias is not None
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        rows, weight, mean, factor = ctx.saved_tensors
        grad_rows = grad_y.reshape(rows.shape).contiguous()
        grad_x = torch.empty_like(rows, memory_format=torch.contiguous_format)
        tile = _tile(*rows.shape)
        programs = min(PROGRAMS, tile_count(len(rows), tile.sizes["ROWS"]))
        # The partial sums of the gradients of the weight and of the bias: (1 or 2, programs, width).
        sizes = 1 + ctx.has_bias, programs, rows.shape[1]
        partial_sums = torch.empty(sizes, dtype=torch.float32, device=rows.device)
        pointers = *partial_sums, *([] if ctx.has_bias else [None])
        launch(
            norm_backward, (programs,), rows, weight, mean, factor, grad_rows, grad_x, *pointers, *rows.shape,
            rows.stride(0), programs, tile=tile, CENTER=ctx.center,
        )  # fmt: skip
        grad_weight, *grad_bias = partial_sums.sum(dim=1).to(weight.dtype)
        return grad_x.view(grad_y.shape), grad_weight, grad_bias[0] if grad_bias else None, None, None


def _tile(rows: int, width: int) -> Tile:
    """Return a tile of whole rows: one, or as many as fill TILE_ELEMENTS."""
    width = power_of_two(width)
    per_program = max(1, min(TILE_ELEMENTS // width, power_of_two(rows)))
    warps = 16 if width > 8_192 else 8 if width > 2_048 else 4
    return Tile({"ROWS": per_program, "WIDTH": width}, warps)
