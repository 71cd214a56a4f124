"""Many matrices, each times its own rows, as in a mixture of experts: y[i] = weight[expert of i] · x[i].

    x, by expert (rows, d_in)   weight (experts, d_out, d_in)    product (rows, d_out)
    ┌────────────┐                ┌─────────┐                    ┌─────┬─────┬─────┐
    │ expert 0   │       ×        │ expert 0│ᵀ         tile 0 →  │  ▪  │  ▪  │  ▪  │   A program computes
    │            │                ├─────────┤          tile 1 →  │  ▪  │  ▪  │  ▪  │   one ▪ of BLOCK_M ×
    ├────────────┤                │ expert 1│                    ├─────┼─────┼─────┤   BLOCK_N elements, in
    │ expert 2   │                ├─────────┤          tile 2 →  │  ▪  │  ▪  │  ▪  │   steps of BLOCK_K
    └────────────┘                │ expert 2│                    └─────┴─────┴─────┘   over d_in.

No tile has rows of two experts. How many tiles each expert needs is known only on the GPU. So as many
programs are started as there can be tiles at most, a table gives the expert of each tile, and programs
without a tile end at once. The rows of x needn't be sorted by expert: `order` holds the row to read for each
row of the product, and one row of x may serve several experts, so that no row is copied first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_counts, check_flags, check_sizes
from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.expert_checks import check_groups
from course_lib.kernels.language import in_product_dtype, launch, tile_count, tl, triton, use_triton
from course_lib.model.checks import plain

# The programs of GROUP_M tiles of rows and one tile of columns run one after another, while the cache still
# holds that tile's weights (Triton's tutorial on matrix multiplication calls it GROUP_SIZE_M).
GROUP_M = 8


def grouped_matmul(
    x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None = None, n_active: int = 1,
    backend: str = "auto", check: bool = False,
) -> Tensor:  # fmt: skip
    """Return y, (rows · n_active, d_out): y[i] = weight[e] x[order[i] // n_active].

    e is the expert of row i of y. The rows of expert e are starts[e] ≤ i < starts[e + 1].
    x: (rows, d_in). weight: (experts, d_out, d_in).
    starts: (experts + 1,) of int32, from 0 to the rows of y, the result of `group_by_expert`.
    n_active: how many experts each row of x goes to.
    order: (rows of y,), a permutation of 0 … rows · n_active − 1 that sorts the rows by expert; None if the
    rows of x are sorted already.
    check: on a GPU too, check the values of starts and order; on a CPU they always are.

    Differentiable in x and weight. Under torch.autocast it multiplies in autocast's dtype, as nn.Linear does.
    Raises ValueError for shapes, dtypes and rows that don't fit; for others see `use_triton`.
    """
    x, weight = in_product_dtype(x, weight)
    n_active = plain(n_active)
    check_groups(x, weight, starts, order, n_active, check)
    return multiply_groups(x, weight, starts, order, n_active, backend)


def multiply_groups(
    x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, n_active: int, backend: str
) -> Tensor:
    """Return what `grouped_matmul` does, for arguments that are known to fit."""
    if not use_triton(backend, x, weight, starts, products=True) or not len(x):
        return _reference(x, weight, starts, order, n_active)
    order = None if order is None else order.contiguous()
    return _GroupedProduct.apply(x, weight, starts.int().contiguous(), order, n_active)


def _reference(x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, n_active: int) -> Tensor:
    """Return the same product, computed by PyTorch, expert after expert."""
    runs = (x if order is None else x[order.long() // n_active]).split(starts.diff().tolist())
    return torch.cat([run @ matrix.T for run, matrix in zip(runs, weight, strict=True)])


def grouped_matmul_cost(
    counts: Sequence[int], d_out: int, d_in: int, bytes_each: int, order: bool = False
) -> Cost:
    """Return the cost. counts: the rows of each expert. order: whether rows are looked up in an order.

    Each tile reads its rows, its expert's weights and the tables of tiles. bytes_each: the bytes of an
    element of x and weight. Operations: those of whole tiles, as `Meter` counts them.
    """
    counts = check_counts("counts", counts)
    d_out, d_in = check_sizes(d_out=d_out, d_in=d_in)
    bytes_each = check_bytes(bytes_each)
    check_flags(order=order)
    block_m, block_n, block_k = product_tile(bytes_each == 4).sizes.values()
    down, across = sum(tile_count(count, block_m) for count in counts), tile_count(d_out, block_n)
    moved = across * sum(counts) * d_in + down * d_out * d_in + sum(counts) * d_out
    # Programs without a tile read only the table that says so.
    without_tile = tile_count(sum(counts), block_m) + len(counts) - down
    table = across * (4 * (down + without_tile) + 4 * 3 * down + 4 * sum(counts) * order)
    flops = 2 * down * across * block_m * block_n * tile_count(d_in, block_k) * block_k
    return Cost(bytes_each * moved + table, flops)


@triton.jit
def grouped_product(
    x_ptr, weight_ptr, y_ptr, order_ptr, starts_ptr, tile_starts_ptr, tile_expert_ptr,
    x_row, weight_expert, weight_out, weight_in, d_out, d_in, n_experts, n_active, down, across,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """y[i] = weight[e] · x[order[i] // n_active] for BLOCK_M rows i of one expert e and BLOCK_N outputs.

    tile_expert, (down,), holds the expert of each tile, or n_experts for a program without a tile.
    tile_starts, (experts + 1,), holds each expert's first tile.
    """
    program = tl.program_id(0)
    group = program // (GROUP_M * across) * GROUP_M  # the first of GROUP_M tiles of rows
    height = tl.minimum(down - group, GROUP_M)
    tile_index = group + program % (GROUP_M * across) % height
    output = program % (GROUP_M * across) // height * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    expert = tl.load(tile_expert_ptr + tile_index)
    if expert >= n_experts:
        return
    first = tl.load(starts_ptr + expert) + (tile_index - tl.load(tile_starts_ptr + expert)) * BLOCK_M
    row = first + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    row_mask = row < tl.load(starts_ptr + expert + 1)  # (BLOCK_M,)
    source = row  # (BLOCK_M,)
    if order_ptr is not None:
        source = tl.load(order_ptr + row, mask=row_mask, other=0) // n_active
    inner = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    x_ptr += source.to(tl.int64)[:, None] * x_row + inner[None, :]  # (BLOCK_M, BLOCK_K)
    weight_ptr += expert.to(tl.int64) * weight_expert
    # (BLOCK_N, BLOCK_K)
    weight_ptr += output.to(tl.int64)[:, None] * weight_out + inner[None, :] * weight_in
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, d_in, BLOCK_K):
        inner_mask = inner[None, :] < d_in - start  # (1, BLOCK_K)
        x = tl.load(x_ptr, mask=row_mask[:, None] & inner_mask, other=0.0)  # (BLOCK_M, BLOCK_K)
        weight_mask = (output < d_out)[:, None] & inner_mask  # (BLOCK_N, BLOCK_K)
        weight = tl.load(weight_ptr, mask=weight_mask, other=0.0)  # (BLOCK_N, BLOCK_K)
        total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
        x_ptr += BLOCK_K
        weight_ptr += BLOCK_K * weight_in
    y_ptr += row.to(tl.int64)[:, None] * d_out + output[None, :]  # (BLOCK_M, BLOCK_N)
    tl.store(y_ptr, total.to(y_ptr.dtype.element_ty), mask=row_mask[:, None] & (output < d_out)[None, :])


@triton.jit
def grouped_weight_gradient(
    x_ptr, grad_y_ptr, grad_weight_ptr, order_ptr, starts_ptr, x_row, d_out, d_in, n_active,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """grad_weight[e] = Σ over the rows i of expert e of grad_y[i] ⊗ x[order[i] // n_active].

    A program computes BLOCK_N × BLOCK_K elements of one expert's gradient.
    """
    expert = tl.program_id(2)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    inner = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    start, end = tl.load(starts_ptr + expert), tl.load(starts_ptr + expert + 1)
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(start, end, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
        row_mask = (row < end)[:, None]  # (BLOCK_M, 1)
        source = row  # (BLOCK_M,)
        if order_ptr is not None:
            source = tl.load(order_ptr + row, mask=row < end, other=0) // n_active
        x_offset = source.to(tl.int64)[:, None] * x_row + inner[None, :]  # (BLOCK_M, BLOCK_K)
        x_mask = row_mask & (inner < d_in)[None, :]  # (BLOCK_M, BLOCK_K)
        x = tl.load(x_ptr + x_offset, mask=x_mask, other=0.0)  # (BLOCK_M, BLOCK_K)
        grad_offset = row.to(tl.int64)[:, None] * d_out + output[None, :]  # (BLOCK_M, BLOCK_N)
        grad_mask = row_mask & (output < d_out)[None, :]  # (BLOCK_M, BLOCK_N)
        grad_y = tl.load(grad_y_ptr + grad_offset, mask=grad_mask, other=0.0)  # (BLOCK_M, BLOCK_N)
        total = tl.dot(tl.trans(grad_y), x, total, input_precision="ieee")
    offset = (expert.to(tl.int64) * d_out + output[:, None]) * d_in + inner[None, :]  # (BLOCK_N, BLOCK_K)
    mask = (output < d_out)[:, None] & (inner < d_in)[None, :]  # (BLOCK_N, BLOCK_K)
    tl.store(grad_weight_ptr + offset, total.to(grad_weight_ptr.dtype.element_ty), mask=mask)


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, n_active: int
    ) -> Tensor:
        x = x if x.stride(1) == 1 else x.contiguous()
        ctx.save_for_backward(x, weight, starts, order)
        ctx.n_active = n_active
        return _multiply(x, weight, starts, order, n_active)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        x, weight, starts, order = ctx.saved_tensors
        grad_y, grad_x, grad_weight = grad_y.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _multiply(grad_y, weight.transpose(1, 2), starts, None, 1)  # (rows · n_active, d_in)
            if order is not None:
                grad_x = torch.empty_like(grad_x).index_copy_(0, order.long(), grad_x)
                grad_x = grad_x.view(len(x), ctx.n_active, x.shape[1]).sum(1)  # (rows, d_in)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, weight, grad_y, starts, order, ctx.n_active)
        return grad_x, grad_weight, None, None, None


def _multiply(x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, n_active: int) -> Tensor:
    """Return the product, (rows · n_active, d_out), by the kernel."""
    (n_experts, d_out, d_in), rows = weight.shape, len(x) * n_active
    tile = chosen("grouped_product", product_tile(x.dtype == torch.float32))
    block_m = tile.sizes["BLOCK_M"]
    down, across = tile_count(rows, block_m) + n_experts, tile_count(d_out, tile.sizes["BLOCK_N"])
    tile_ends = ((starts.diff() + block_m - 1) // block_m).cumsum(0)  # (experts,)
    tile_index = torch.arange(down, device=x.device)  # (down,)
    tile_expert = torch.searchsorted(tile_ends, tile_index, right=True).int()  # (down,)
    tile_starts = torch.nn.functional.pad(tile_ends, (1, 0)).int()  # (experts + 1,)
    y = x.new_empty(rows, d_out)
    launch(
        grouped_product, (down * across,), x, weight, y, order, starts, tile_starts, tile_expert, x.stride(0),
        *weight.stride(), d_out, d_in, n_experts, n_active, down, across, tile=tile, GROUP_M=GROUP_M,
    )  # fmt: skip
    return y


def _weight_gradient(
    x: Tensor, weight: Tensor, grad_y: Tensor, starts: Tensor, order: Tensor | None, n_active: int
) -> Tensor:
    """Return the gradient of weight, (experts, d_out, d_in), by the kernel."""
    n_experts, d_out, d_in = weight.shape
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    tile = chosen("grouped_weight_gradient", gradient_tile(x.dtype == torch.float32))
    grid = tile_count(d_in, tile.sizes["BLOCK_K"]), tile_count(d_out, tile.sizes["BLOCK_N"]), n_experts
    tensors = x, grad_y, grad_weight, order, starts
    launch(grouped_weight_gradient, grid, *tensors, x.stride(0), d_out, d_in, n_active, tile=tile)
    return grad_weight


def product_tile(in_32_bits: bool) -> Tile:
    """Return the tile of `grouped_product`."""
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=4, stages=2)
    return Tile({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, warps=8, stages=3)


def gradient_tile(in_32_bits: bool) -> Tile:
    """Return the tile of `grouped_weight_gradient`."""
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=8, stages=3)
    return Tile({"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 128}, warps=8, stages=3)
