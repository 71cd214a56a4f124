"""y = x Wᵀ with W in 4 bits, two codes to a byte.

    a grid (Q4_1, Q4_0, Uniform)     weight = scale · code + minimum     for each block of 32 weights, or more
    NF4                              weight = scale · levels[code]       16 levels; a scale for 64 weights

    a block of 32 weights      w₀ w₁ … w₁₅ │ w₁₆ w₁₇ … w₃₁
    its 16 bytes               byte j: wⱼ in the low half, wⱼ₊₁₆ in the high half
                                          ↓                    ↓
    a tile of bytes        →   a tile of low halves, a tile of high halves, of the same shape as the bytes
    x, read twice          →   the columns of the low halves, the columns of the high halves
    result                 =   low halves × their columns + high halves × their columns

So the two halves never have to be interleaved. Programs, loops and tiles are those of `int8_matmul`. A tile
of bytes is (rows, blocks, 16), so that a scale, (rows, blocks), is loaded once. The codes become weights
before they are multiplied by x: scaling the sum of a block instead would take fewer multiplications, but an
infinite x times a code of 0 would give nan. For many tokens the weights are rounded to x's dtype, as the
weights of a 16-bit model are.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.int8_matmul import many_tokens_tile, one_token_tile
from course_lib.kernels.language import launch, tiles, tl, triton

GRID_BLOCK = 32  # weights that share a scale on the grid; in NF4 twice as many do


def int4_matmul(
    x: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor | None, levels: Tensor | None
) -> Tensor:
    """Return x Wᵀ, (tokens, columns) → (tokens, rows) in x's dtype, computed by the kernel.

    codes: (rows, columns / 2) bytes. On a grid, scale and minimum are (rows, columns / group), with a group
    of a multiple of 32. For NF4, levels is (16,), and scale has an element in 32 bits for every 64 weights,
    row after row. `quantized_matmul` calls it and checks the arguments.
    """
    (tokens, columns), rows = x.shape, len(codes)
    y = x.new_empty(tokens, rows)
    blocks = columns // GRID_BLOCK  # of a row
    flags = {"NF4": levels is not None, "PER": rows * blocks // max(1, scale.numel())}
    tensors = x, codes, scale, minimum, levels, y
    if tokens == 1:
        tile = chosen("int4_one_token", one_token_tile(rows, columns))
        grid = (tiles(rows, tile.sizes["BLOCK_N"]),)
        launch(int4_one_token, grid, *tensors, rows, blocks, tile=tile, **flags)
    else:
        tile = chosen("int4_many_tokens", many_tokens_tile(tokens, rows, x.dtype == torch.float32))
        grid = tiles(rows, tile.sizes["BLOCK_N"]), tiles(tokens, tile.sizes["BLOCK_M"])
        launch(int4_many_tokens, grid, *tensors, tokens, rows, blocks, x.stride(0), tile=tile, **flags)
    return y


def int4_matmul_cost(
    tokens: int, rows: int, columns: int, bytes_each: int, nf4: bool, scale_bytes: int = 4
) -> Cost:
    """Return the cost; x and y move as in `int8_matmul_cost`.

    Each block of 32 weights reads its scale and minimum (scale_bytes, together). In NF4 two blocks share a
    scale, which both read, and each weight reads a level: from the cache, but `Meter` counts it.
    """
    weights = rows * columns // 2 + rows * columns // GRID_BLOCK * scale_bytes
    weights += 4 * rows * columns if nf4 else 0
    if tokens == 1:
        programs = tiles(rows, one_token_tile(rows, columns).sizes["BLOCK_N"])
        return Cost(weights + (programs * columns + rows) * bytes_each, 2 * rows * columns)
    sizes = many_tokens_tile(tokens, rows, bytes_each == 4).sizes
    down, across = tiles(tokens, sizes["BLOCK_M"]), tiles(rows, sizes["BLOCK_N"])
    moved = down * weights + (across * columns + rows) * tokens * bytes_each
    return Cost(moved, 2 * tokens * rows * columns)


@triton.jit
def load_weights(
    codes_ptr, scale_ptr, minimum_ptr, levels_ptr, row, block, rows, blocks,
    NF4: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Return the weights of the low and of the high halves, (n, k, 16) each, in 32 bits.

    weight = scale · code + minimum, or scale · levels[code] with NF4; 0 outside the matrix. row: (n,). block:
    (k,). PER: how many neighbouring blocks share a scale.
    """
    mask = (row < rows)[:, None] & (block < blocks)[None, :]  # (n, k)
    block_index = (
        row.to(tl.int64)[:, None] * blocks + block[None, :]
    )  # (n, k): the block's index in the matrix
    byte = block_index[:, :, None] * 16 + tl.arange(0, 16)[None, None, :]  # (n, k, 16), as all that follow
    codes = tl.load(codes_ptr + byte, mask=mask[:, :, None], other=0)
    low, high = codes & 15, codes >> 4
    if NF4:
        scale = tl.load(scale_ptr + block_index // PER, mask=mask, other=0.0)[:, :, None]
        low = tl.load(levels_ptr + low.to(tl.int32), mask=mask[:, :, None], other=0.0) * scale
        high = tl.load(levels_ptr + high.to(tl.int32), mask=mask[:, :, None], other=0.0) * scale
    else:
        scale = tl.load(scale_ptr + block_index // PER, mask=mask, other=0.0).to(tl.float32)[:, :, None]
        minimum = tl.load(minimum_ptr + block_index // PER, mask=mask, other=0.0).to(tl.float32)[:, :, None]
        low, high = low.to(tl.float32) * scale + minimum, high.to(tl.float32) * scale + minimum
    return low, high


@triton.jit
def int4_one_token(
    x_ptr, codes_ptr, scale_ptr, minimum_ptr, levels_ptr, y_ptr, rows, blocks,
    NF4: tl.constexpr, PER: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[n] = Σₖ x[k] · weight[n, k], for BLOCK_N rows n."""
    BLOCKS: tl.constexpr = BLOCK_K // 32
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    total = tl.zeros((BLOCK_N, BLOCKS, 16), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)  # (BLOCKS,)
        # low, high: (BLOCK_N, BLOCKS, 16)
        low, high = load_weights(
            codes_ptr, scale_ptr, minimum_ptr, levels_ptr, row, block, rows, blocks, NF4, PER
        )
        column = block[:, None] * 32 + tl.arange(0, 16)[None, :]  # (BLOCKS, 16)
        mask = (block < blocks)[:, None]
        x_low = tl.load(x_ptr + column, mask=mask, other=0.0).to(tl.float32)
        x_high = tl.load(x_ptr + column + 16, mask=mask, other=0.0).to(tl.float32)
        total += low * x_low[None, :, :]
        total += high * x_high[None, :, :]
    y = tl.sum(tl.sum(total, axis=2), axis=1)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=row < rows)


@triton.jit
def int4_many_tokens(
    x_ptr, codes_ptr, scale_ptr, minimum_ptr, levels_ptr, y_ptr, tokens, rows, blocks, x_token,
    NF4: tl.constexpr, PER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[t, n] = Σₖ x[t, k] · weight[n, k], for BLOCK_M tokens t and BLOCK_N rows n."""
    BLOCKS: tl.constexpr = BLOCK_K // 32
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    byte = tl.arange(0, 16 * BLOCKS)
    x_ptr += token.to(tl.int64)[:, None] * x_token + (byte // 16 * 32 + byte % 16)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)  # (BLOCKS,)
        low, high = load_weights(
            codes_ptr, scale_ptr, minimum_ptr, levels_ptr, row, block, rows, blocks, NF4, PER
        )
        mask = (token < tokens)[:, None] & (first + byte // 16 < blocks)[None, :]
        x_low = tl.load(x_ptr + first * 32, mask=mask, other=0.0)  # (BLOCK_M, 16 · BLOCKS)
        x_high = tl.load(x_ptr + first * 32 + 16, mask=mask, other=0.0)
        low = tl.reshape(low.to(x_low.dtype), (BLOCK_N, 16 * BLOCKS))
        high = tl.reshape(high.to(x_low.dtype), (BLOCK_N, 16 * BLOCKS))
        total = tl.dot(x_low, tl.trans(low), total, input_precision="ieee")
        total = tl.dot(x_high, tl.trans(high), total, input_precision="ieee")
    y_ptr += token.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(y_ptr, total.to(y_ptr.dtype.element_ty), mask=(token < tokens)[:, None] & (row < rows)[None, :])
