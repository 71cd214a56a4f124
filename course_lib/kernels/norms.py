"""RMSNorm and LayerNorm: one trip through memory instead of one for each of their steps.

    x (rows, width)            a program takes ROWS whole rows, so that nothing has to be said between programs
    ┌───────────────┐
    │ program 0     │          loaded once → mean (LayerNorm only) → mean square → scaled by the weights → stored once
    ├───────────────┤
    │ program 1     │          Back: a program walks through every PROGRAMS-th tile of rows and adds up its share of the
    ├───────────────┤          weights' gradient on the chip; PyTorch adds up the programs' shares.
    │ …             │
    └───────────────┘

Layer normalization is RMSNorm of x less its mean, and that is the one line by which the kernels differ (CENTER).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton

WIDEST = 16_384  # a row must fit on the chip
TILE = 4_096  # numbers that a program works on at a time
PROGRAMS = 256  # for the backward pass: enough to keep each of a large GPU's 132 processors busy


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, backend: str = "auto") -> Tensor:
    """x / √(mean(x²) + eps) · weight, (…, width) → the same shape (Zhang & Sennrich 2019, equation 4).

    Computed in 32 bits whatever the dtype. Differentiable in x and weight. Errors: `use_triton`.
    """
    if not _fits(backend, x, weight):
        return F.rms_norm(x, weight.shape, weight, eps)
    return _Norm.apply(x, weight, None, eps, False)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, backend: str = "auto"
) -> Tensor:
    """(x − mean) / √(variance + eps) · weight + bias, (…, width) → the same shape (Ba et al. 2016, equation 4)."""
    if not _fits(backend, x, weight, *([] if bias is None else [bias])):
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return _Norm.apply(x, weight, bias, eps, True)


def rms_norm_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Forward: x in, y out, a factor a row out, and each program reads the weights. Backward: x and the gradient in, a gradient
    out, and each program writes its share of the weights' gradients. bytes_each: of a number of x."""
    programs = tiles(rows, _tile(rows, width).sizes["ROWS"])
    if not backward:
        return Cost(bytes_each * (2 * rows + programs) * width + 4 * rows, 4 * rows * width)
    programs = min(PROGRAMS, programs)
    return Cost(
        bytes_each * (3 * rows + programs) * width + 4 * (rows + 2 * programs * width), 9 * rows * width
    )


def _fits(backend: str, x: Tensor, *weights: Tensor) -> bool:
    if not x.dim():
        raise ValueError("a norm is taken over the last dimension, and a single number has none")
    for weight in weights:
        if weight.shape != x.shape[-1:]:
            raise ValueError(
                f"weights of shape {tuple(weight.shape)} don't fit vectors of {x.shape[-1]} numbers"
            )
    if x.shape[-1] > WIDEST and backend != "triton":
        return False
    if x.shape[-1] > WIDEST:
        raise ValueError(
            f"rows of {x.shape[-1]} numbers don't fit on the chip (at most {WIDEST}): use backend='torch'"
        )
    return use_triton(backend, x, *weights) and x.shape[-1] > 0


@triton.jit
def norm_forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, factor_ptr, rows, width, row_stride, eps,
    CENTER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    there = (row < rows) & (column < width)
    row = row.to(tl.int64)
    x = tl.load(x_ptr + row * row_stride + column, mask=there, other=0.0).to(tl.float32)
    if CENTER:
        mean = tl.sum(x, axis=1, keep_dims=True) / width
        tl.store(mean_ptr + row, mean, mask=row < rows)
        x = tl.where(there, x - mean, 0.0)
    factor = 1 / tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True) / width + eps)
    tl.store(factor_ptr + row, factor, mask=row < rows)
    y = x * factor * tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def norm_backward(
    x_ptr, weight_ptr, mean_ptr, factor_ptr, grad_y_ptr, grad_x_ptr, grad_weight_ptr, grad_bias_ptr,
    rows, width, row_stride, programs, CENTER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDTH)[None, :]
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((1, WIDTH), tl.float32)
    grad_bias = tl.zeros((1, WIDTH), tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < rows) & (column < width)
        row = row.to(tl.int64)
        x = tl.load(x_ptr + row * row_stride + column, mask=there, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + row * width + column, mask=there, other=0.0).to(tl.float32)
        factor = tl.load(factor_ptr + row, mask=row < rows, other=0.0)
        if CENTER:
            x -= tl.load(mean_ptr + row, mask=row < rows, other=0.0)
        normed = tl.where(there, x * factor, 0.0)
        grad = grad_y * weight
        pull = grad - normed * (tl.sum(grad * normed, axis=1, keep_dims=True) / width)
        if CENTER:
            pull -= tl.sum(grad, axis=1, keep_dims=True) / width
        tl.store(
            grad_x_ptr + row * width + column, (factor * pull).to(grad_x_ptr.dtype.element_ty), mask=there
        )
        grad_weight += tl.sum(grad_y * normed, axis=0, keep_dims=True)
        grad_bias += tl.sum(grad_y, axis=0, keep_dims=True)
    share = tl.program_id(0).to(tl.int64) * width + column
    tl.store(grad_weight_ptr + share, grad_weight, mask=column < width)
    tl.store(grad_bias_ptr + share, grad_bias, mask=column < width)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, center: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        mean, factor = torch.empty(2, len(rows), dtype=torch.float32, device=x.device)
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        tile = _tile(*rows.shape)
        launch(
            norm_forward, (tiles(len(rows), tile.sizes["ROWS"]),), rows, weight, bias, y, mean, factor, *rows.shape,
            rows.stride(0), eps, tile=tile, CENTER=center,
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
        programs = min(PROGRAMS, tiles(len(rows), tile.sizes["ROWS"]))
        shares = torch.empty(2, programs, rows.shape[1], dtype=torch.float32, device=rows.device)
        launch(
            norm_backward, (programs,), rows, weight, mean, factor, grad_rows, grad_x, *shares, *rows.shape,
            rows.stride(0), programs, tile=tile, CENTER=ctx.center,
        )  # fmt: skip
        grad_weight, grad_bias = shares.sum(dim=1).to(weight.dtype)
        return grad_x.view(grad_y.shape), grad_weight, grad_bias if ctx.has_bias else None, None, None


def _tile(rows: int, width: int) -> Tile:
    """Whole rows: one, or as many as fill TILE."""
    width = power_of_two(width)
    per_program = max(1, min(TILE // width, power_of_two(rows)))
    warps = 16 if width > 8_192 else 8 if width > 2_048 else 4
    return Tile({"ROWS": per_program, "WIDTH": width}, warps)
