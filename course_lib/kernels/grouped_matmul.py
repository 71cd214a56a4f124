"""Many matrices, each times its own run of rows: what a mixture of experts computes.

    x, by expert (rows, d_in)   weight (experts, d_out, d_in)          product (rows, d_out)
    ┌────────────┐                ┌─────────┐                          ┌─────┬─────┬─────┐
    │ expert 0   │       ×        │ expert 0│ᵀ               tile 0 →  │  ▪  │  ▪  │  ▪  │   one program makes one ▪ of
    │            │                ├─────────┤                tile 1 →  │  ▪  │  ▪  │  ▪  │   BLOCK_M × BLOCK_N, walking
    ├────────────┤                │ expert 1│                          ├─────┼─────┼─────┤   over d_in BLOCK_K at a time
    │ expert 2   │                ├─────────┤                tile 2 →  │  ▪  │  ▪  │  ▪  │
    └────────────┘                │ expert 2│                          └─────┴─────┴─────┘

No tile has rows of two experts. How many tiles an expert needs is known on the GPU alone, so as many programs are started as
there could be at most, a table says which tile is whose, and those without one end. The rows needn't lie in that order: `order`
says where each is to be read, and each row of x may serve several experts, so that nothing is copied first.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, product_dtype, tiles, tl, triton, use_triton

NEIGHBOURS = 8  # tiles of rows that take turns with one tile of weights while the cache still holds it


def grouped_matmul(
    x: Tensor,
    weight: Tensor,
    starts: Tensor,
    order: Tensor | None = None,
    times: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Row i of the result, for i from starts[e] to starts[e + 1], is weight[e] times row order[i] // times of x.

    x: (rows, d_in). weight: (experts, d_out, d_in). starts: (experts + 1,) of int32, from 0 to the rows of the result, as
    `group_by_expert` makes it. order: (rows of the result,), each number from 0 to rows · times − 1 once: x's rows by expert
    when each goes to `times` experts; None when x lies so already. Returns (rows · times, d_out). Differentiable in x, weight.

    Under torch.autocast it multiplies in autocast's dtype, as nn.Linear does. Raises ValueError for shapes and dtypes that don't
    fit; for other errors see `use_triton`. What `starts` and `order` hold is not checked.
    """
    if (dtype := product_dtype(x, weight)) is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    _check(x, weight, starts, order, times)
    if not use_triton(backend, x, weight, starts, products=True) or not len(x):
        return _reference(x, weight, starts, order, times)
    return _GroupedProduct.apply(x, weight, starts.int().contiguous(), order, times)


def _reference(x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, times: int) -> Tensor:
    """The same by PyTorch, an expert after the other."""
    runs = (x if order is None else x[order.long() // times]).split(starts.diff().tolist())
    return torch.cat([run @ matrix.T for run, matrix in zip(runs, weight, strict=True)])


def grouped_matmul_cost(
    counts: list[int], d_out: int, d_in: int, bytes_each: int, order: bool = False
) -> Cost:
    """Each tile reads its rows and its expert's weights, walking over d_in, and the table. counts: rows of each expert. bytes_each:
    of a number of x and weight. order: whether rows are looked up."""
    block_m, block_n, block_k = product_tile(bytes_each == 4).sizes.values()
    down, across = sum(tiles(count, block_m) for count in counts), tiles(d_out, block_n)
    read = across * sum(counts) * d_in + sum(tiles(count, block_m) for count in counts) * d_out * d_in
    spare = (
        tiles(sum(counts), block_m) + len(counts) - down
    )  # programs that read in the table that there is nothing to do
    table = across * (4 * (down + spare) + 4 * 3 * down + 4 * sum(counts) * order)
    products = 2 * down * across * block_m * block_n * tiles(d_in, block_k) * block_k
    return Cost(bytes_each * (read + sum(counts) * d_out) + table, products)


@triton.jit
def grouped_product(
    x_ptr, weight_ptr, y_ptr, order_ptr, starts_ptr, tile_starts_ptr, owner_ptr, x_row, weight_expert, weight_out,
    weight_in, d_out, d_in, n_experts, times, down, across, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    neighbours = program // (NEIGHBOURS * across) * NEIGHBOURS
    height = tl.minimum(down - neighbours, NEIGHBOURS)
    tile = neighbours + program % (NEIGHBOURS * across) % height
    column = program % (NEIGHBOURS * across) // height * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = tl.load(owner_ptr + tile)
    if expert >= n_experts:
        return
    first = tl.load(starts_ptr + expert) + (tile - tl.load(tile_starts_ptr + expert)) * BLOCK_M
    row = first + tl.arange(0, BLOCK_M)
    real = row < tl.load(starts_ptr + expert + 1)
    source = row
    if order_ptr is not None:
        source = tl.load(order_ptr + row, mask=real, other=0) // times
    inner = tl.arange(0, BLOCK_K)
    x_ptr += source.to(tl.int64)[:, None] * x_row + inner[None, :]
    weight_ptr += expert.to(tl.int64) * weight_expert
    weight_ptr += column.to(tl.int64)[:, None] * weight_out + inner[None, :] * weight_in
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for at in range(0, d_in, BLOCK_K):
        left = inner[None, :] < d_in - at
        x = tl.load(x_ptr, mask=real[:, None] & left, other=0.0)
        weight = tl.load(weight_ptr, mask=(column < d_out)[:, None] & left, other=0.0)
        total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
        x_ptr += BLOCK_K
        weight_ptr += BLOCK_K * weight_in
    y_ptr += row.to(tl.int64)[:, None] * d_out + column[None, :]
    tl.store(y_ptr, total.to(y_ptr.dtype.element_ty), mask=real[:, None] & (column < d_out)[None, :])


@triton.jit
def grouped_weight_gradient(
    x_ptr, grad_y_ptr, grad_weight_ptr, order_ptr, starts_ptr, x_row, d_out, d_in, times,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # A program owns BLOCK_N × BLOCK_K of an expert's gradient and walks over the expert's rows.
    expert = tl.program_id(2)
    out = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    start, end = tl.load(starts_ptr + expert), tl.load(starts_ptr + expert + 1)
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(start, end, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        real = (row < end)[:, None]
        source = row
        if order_ptr is not None:
            source = tl.load(order_ptr + row, mask=row < end, other=0) // times
        x_at = source.to(tl.int64)[:, None] * x_row + inner[None, :]
        x = tl.load(x_ptr + x_at, mask=real & (inner < d_in)[None, :], other=0.0)
        grad_at = row.to(tl.int64)[:, None] * d_out + out[None, :]
        grad_y = tl.load(grad_y_ptr + grad_at, mask=real & (out < d_out)[None, :], other=0.0)
        total = tl.dot(tl.trans(grad_y), x, total, input_precision="ieee")
    at = (expert.to(tl.int64) * d_out + out[:, None]) * d_in + inner[None, :]
    there = (out < d_out)[:, None] & (inner < d_in)[None, :]
    tl.store(grad_weight_ptr + at, total.to(grad_weight_ptr.dtype.element_ty), mask=there)


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, times: int) -> Tensor:
        x = x if x.stride(1) == 1 else x.contiguous()
        ctx.save_for_backward(x, weight, starts, order)
        ctx.times = times
        return _multiply(x, weight, starts, order, times)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple:
        x, weight, starts, order = ctx.saved_tensors
        grad_y, grad_x, grad_weight = grad_y.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _multiply(grad_y, weight.transpose(1, 2), starts, None, 1)
            if order is not None:
                grad_x = torch.empty_like(grad_x).index_copy_(0, order.long(), grad_x)
                grad_x = grad_x.view(len(x), ctx.times, x.shape[1]).sum(1)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            tile = chosen("grouped_weight_gradient", gradient_tile(x.dtype == torch.float32))
            across, down = (
                tiles(weight.shape[2], tile.sizes["BLOCK_K"]),
                tiles(weight.shape[1], tile.sizes["BLOCK_N"]),
            )
            grid = across, down, len(weight)
            launch(
                grouped_weight_gradient, grid, x, grad_y, grad_weight, order, starts, x.stride(0), *weight.shape[1:],
                ctx.times, tile=tile,
            )  # fmt: skip
        return grad_x, grad_weight, None, None, None


def _multiply(x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, times: int) -> Tensor:
    (n_experts, d_out, d_in), rows = weight.shape, len(x) * times
    tile = chosen("grouped_product", product_tile(x.dtype == torch.float32))
    block_m = tile.sizes["BLOCK_M"]
    down, across = tiles(rows, block_m) + n_experts, tiles(d_out, tile.sizes["BLOCK_N"])
    ends = ((starts.diff() + block_m - 1) // block_m).cumsum(0)
    owner = torch.searchsorted(ends, torch.arange(down, device=x.device), right=True).int()
    tile_starts = torch.nn.functional.pad(ends, (1, 0)).int()
    y = x.new_empty(rows, d_out)
    launch(
        grouped_product, (down * across,), x, weight, y, order, starts, tile_starts, owner, x.stride(0),
        *weight.stride(), d_out, d_in, n_experts, times, down, across, tile=tile, NEIGHBOURS=NEIGHBOURS,
    )  # fmt: skip
    return y


def product_tile(in_32_bits: bool) -> Tile:
    """The tile of `grouped_product`."""
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=4, stages=2)
    return Tile({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, warps=8, stages=3)


def gradient_tile(in_32_bits: bool) -> Tile:
    """The tile of `grouped_weight_gradient`."""
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=8, stages=3)
    return Tile({"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 128}, warps=8, stages=3)


def _check(x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, times: int) -> None:
    if (
        x.dim() != 2
        or weight.dim() != 3
        or x.shape[1] != weight.shape[2]
        or starts.shape != (len(weight) + 1,)
    ):
        shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and starts {tuple(starts.shape)}"
        raise ValueError(f"{shapes} must be (rows, d_in), (experts, d_out, d_in) and (experts + 1,)")
    if x.dtype != weight.dtype:
        raise ValueError(f"x and weight must have one dtype, not {x.dtype} and {weight.dtype}")
    if times < 1 or (order is None and times > 1) or (order is not None and order.shape != (len(x) * times,)):
        wanted = f"an order of {len(x)} · {times} rows"
        raise ValueError(f"{wanted} is needed, not {None if order is None else tuple(order.shape)}")
