"""The product inside a SwiGLU, y = silu(gate) · up, in one pass over memory (Shazeer 2020, section 2).

silu(x) = x · sigmoid(x) = x / (1 + exp(−x))

    gate, up (rows, width)      A program computes a tile of ROWS × COLUMNS elements.
    ┌─────┬─────┬─────┐
    │ 0   │ 1   │ 2   │         Forward: it loads gate and up once and stores the product once. PyTorch's two
    ├─────┼─────┼─────┤         steps also write silu(gate) and read it again.
    │ 3   │ 4   │ 5   │         Backward: it computes silu again, which is cheaper than loading it, and stores
    └─────┴─────┴─────┘         both gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_flags, check_floats, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton

COLUMNS = 1_024
TILE_ELEMENTS = 2_048  # that a program works on


def swiglu(gate: Tensor, up: Tensor, backend: str = "auto") -> Tensor:
    """Return gate · sigmoid(gate) · up, (…, width) as both.

    Computed in 32 bits and rounded once. Differentiable in both. gate and up may be the two halves of one
    tensor, such as those of `chunk(2, dim=-1)`, which are not copied. Raises ValueError for shapes or dtypes
    that differ; for others see `use_triton`.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype or not gate.dim():
        raise ValueError(
            f"gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype} must be alike"
        )
    check_floats(gate=gate)
    if not use_triton(backend, gate, up):
        return F.silu(gate) * up
    return _SwiGLU.apply(gate, up)


def swiglu_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Return the cost. Forward: gate, up in, y out. Backward: gate, up, a gradient in, two gradients out.

    Operations: each multiplication, addition, negation, division and exponential counts as one.
    """
    rows, width = check_sizes(rows=rows, width=width)
    bytes_each = check_bytes(bytes_each)
    check_flags(backward=backward)
    return Cost(bytes_each * (5 if backward else 3) * rows * width, (12 if backward else 5) * rows * width)


@triton.jit
def swiglu_forward(
    gate_ptr, up_ptr, y_ptr, rows, width, gate_stride, up_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """y = gate · sigmoid(gate) · up, for a tile of ROWS × COLUMNS."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # (1, COLUMNS)
    mask = (row < rows) & (column < width)  # (ROWS, COLUMNS), as all that follow
    row = row.to(tl.int64)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=mask, other=0.0).to(tl.float32)
    y = gate / (1 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def swiglu_backward(
    gate_ptr, up_ptr, grad_y_ptr, grad_gate_ptr, grad_up_ptr, rows, width, gate_stride, up_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_up = grad_y · gate · s, grad_gate = grad_y · up · s · (1 + gate · (1 − s)), s = sigmoid(gate)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # (1, COLUMNS)
    mask = (row < rows) & (column < width)  # (ROWS, COLUMNS), as all that follow
    row = row.to(tl.int64)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=mask, other=0.0).to(tl.float32)
    grad_y = tl.load(grad_y_ptr + row * width + column, mask=mask, other=0.0).to(tl.float32)
    sigmoid = 1 / (1 + tl.exp(-gate))
    grad_up = grad_y * gate * sigmoid
    grad_gate = grad_y * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_gate_ptr + row * width + column, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_up_ptr + row * width + column, grad_up.to(grad_up_ptr.dtype.element_ty), mask=mask)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        y = torch.empty_like(gate, memory_format=torch.contiguous_format)
        gate, up = _rows(gate), _rows(up)
        tile = _tile(*gate.shape)
        grid = tuple(map(tile_count, gate.shape, tile.sizes.values()))
        launch(swiglu_forward, grid, gate, up, y, *gate.shape, gate.stride(0), up.stride(0), tile=tile)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_rows = grad_y.reshape(gate.shape).contiguous()
        grads = [torch.empty_like(gate, memory_format=torch.contiguous_format) for _ in range(2)]
        tile = _tile(*gate.shape)
        grid = tuple(map(tile_count, gate.shape, tile.sizes.values()))
        strides = gate.stride(0), up.stride(0)
        launch(swiglu_backward, grid, gate, up, grad_rows, *grads, *gate.shape, *strides, tile=tile)
        return tuple(grad.view(grad_y.shape) for grad in grads)


def _rows(x: Tensor) -> Tensor:
    """Return x as (rows, width), with the elements of each row adjacent in memory."""
    rows = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(0, 0)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _tile(rows: int, width: int) -> Tile:
    """Return a tile as wide as the rows, up to COLUMNS, with as many rows as fill TILE_ELEMENTS."""
    columns = min(COLUMNS, power_of_two(width))
    return Tile({"ROWS": max(1, min(TILE_ELEMENTS // columns, power_of_two(rows))), "COLUMNS": columns})
