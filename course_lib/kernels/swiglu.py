"""The middle of a SwiGLU, silu(gate) · up, in one trip through memory (Shazeer 2020, section 2).

gate, up (rows, width)      a program takes a tile of ROWS × COLUMNS numbers, wherever
┌─────┬─────┬─────┐
│ 0   │ 1   │ 2   │         gate and up loaded once → silu(gate) · up → stored once. PyTorch's two steps also write silu(gate)
├─────┼─────┼─────┤         and read it again.
│ 3   │ 4   │ 5   │
└─────┴─────┴─────┘         Back: silu is computed again, which is cheaper than to have kept it; both gradients in one trip.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton

COLUMNS = 1_024
TILE = 2_048  # numbers that a program works on


def swiglu(gate: Tensor, up: Tensor, backend: str = "auto") -> Tensor:
    """gate · sigmoid(gate) · up, (…, width) twice → the same shape.

    Computed in 32 bits whatever the dtype, rounded once. Differentiable in both. They may be two halves of one tensor, as
    `chunk(2, dim=-1)` gives them: nothing is copied. Errors: `use_triton`, and ValueError for shapes that differ.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype or not gate.dim():
        raise ValueError(
            f"gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype} must be alike"
        )
    if not use_triton(backend, gate, up):
        return F.silu(gate) * up
    return _SwiGLU.apply(gate, up)


def swiglu_cost(rows: int, width: int, bytes_each: int, backward: bool = False) -> Cost:
    """Forward: gate and up in, the result out. Backward: gate, up and the gradient in, two gradients out."""
    return Cost(bytes_each * (5 if backward else 3) * rows * width, (12 if backward else 5) * rows * width)


@triton.jit
def swiglu_forward(
    gate_ptr, up_ptr, y_ptr, rows, width, gate_stride, up_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (row < rows) & (column < width)
    row = row.to(tl.int64)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=there, other=0.0).to(tl.float32)
    y = gate / (1 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * width + column, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def swiglu_backward(
    gate_ptr, up_ptr, grad_y_ptr, grad_gate_ptr, grad_up_ptr, rows, width, gate_stride, up_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (row < rows) & (column < width)
    row = row.to(tl.int64)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=there, other=0.0).to(tl.float32)
    grad_y = tl.load(grad_y_ptr + row * width + column, mask=there, other=0.0).to(tl.float32)
    opened = 1 / (1 + tl.exp(-gate))
    grad_up = grad_y * gate * opened
    grad_gate = grad_y * up * opened * (1 + gate * (1 - opened))
    tl.store(grad_gate_ptr + row * width + column, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=there)
    tl.store(grad_up_ptr + row * width + column, grad_up.to(grad_up_ptr.dtype.element_ty), mask=there)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        y = torch.empty_like(gate, memory_format=torch.contiguous_format)
        gate, up = _rows(gate), _rows(up)
        tile = _tile(*gate.shape)
        grid = tuple(map(tiles, gate.shape, tile.sizes.values()))
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
        launch(
            swiglu_backward, tuple(map(tiles, gate.shape, tile.sizes.values())), gate, up, grad_rows, *grads,
            *gate.shape, gate.stride(0), up.stride(0), tile=tile,
        )  # fmt: skip
        return tuple(grad.view(grad_y.shape) for grad in grads)


def _rows(x: Tensor) -> Tensor:
    """(rows, width), each row in one piece."""
    rows = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(0, 0)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _tile(rows: int, width: int) -> Tile:
    """As wide as the rows, up to COLUMNS, and as many rows as fill TILE."""
    columns = min(COLUMNS, power_of_two(width))
    return Tile({"ROWS": max(1, min(TILE // columns, power_of_two(rows))), "COLUMNS": columns})
