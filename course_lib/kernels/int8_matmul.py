"""y = x Wᵀ with W in 8 bits: y[t, n] = scale[n] · Σₖ x[t, k] · codes[n, k].

W takes half the bytes of 16-bit weights, and for one token the time to load W is almost all the time.

    One token (weights are read once)              Many tokens (weights are read once for BLOCK_M tokens)
    W (rows, columns) of int8                      x (tokens, columns)      Wᵀ
    ┌───────────────────┐                          ┌────────┐           ┌──────────┐
    │ program 0 →→→→→→→ │  BLOCK_N rows, each      │ BLOCK_M│     ×     │ BLOCK_N  │  A tile of W is converted
    ├───────────────────┤  multiplied by x and     └────────┘           └──────────┘  to x's dtype on the chip
    │ program 1 →→→→→→→ │  summed in 32 bits       in steps of BLOCK_K columns        and multiplied by
    └───────────────────┘                                                             tensor cores.

Each sum is multiplied by its row's scale at the end, once.

Not handled: activations in 8 bits; x above some 10³², whose products with codes overflow 32 bits before the
scale makes them small.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton

PROCESSORS = 132  # of an H100; an A100 has 108


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return x Wᵀ, (tokens, columns) → (tokens, rows) in x's dtype, computed by the kernel.

    codes: (rows, columns) of int8. scale: (rows,) in 32 bits. `quantized_matmul` calls it and checks the
    arguments.
    """
    (tokens, columns), rows = x.shape, len(codes)
    y = x.new_empty(tokens, rows)
    if tokens == 1:
        tile = chosen("int8_one_token", one_token_tile(rows, columns))
        grid = (tiles(rows, tile.sizes["BLOCK_N"]),)
        launch(int8_one_token, grid, x, codes, scale, y, rows, columns, tile=tile)
    else:
        tile = chosen("int8_many_tokens", many_tokens_tile(tokens, rows, x.dtype == torch.float32))
        grid = tiles(rows, tile.sizes["BLOCK_N"]), tiles(tokens, tile.sizes["BLOCK_M"])
        launch(int8_many_tokens, grid, x, codes, scale, y, tokens, rows, columns, x.stride(0), tile=tile)
    return y


def int8_matmul_cost(tokens: int, rows: int, columns: int, bytes_each: int) -> Cost:
    """Return the cost. bytes_each: the bytes of an element of x.

    For one token, the weights are read once, and x once by each program. For several tokens, the weights are
    read once for each tile of tokens, and x once for each tile of rows.
    """
    if tokens == 1:
        programs = tiles(rows, one_token_tile(rows, columns).sizes["BLOCK_N"])
        read = rows * columns + 4 * rows + programs * columns * bytes_each
        return Cost(read + rows * bytes_each, 2 * rows * columns)
    sizes = many_tokens_tile(tokens, rows, bytes_each == 4).sizes
    down, across = tiles(tokens, sizes["BLOCK_M"]), tiles(rows, sizes["BLOCK_N"])
    read = down * (rows * columns + 4 * rows) + across * tokens * columns * bytes_each
    return Cost(read + tokens * rows * bytes_each, 2 * tokens * rows * columns)


def one_token_tile(rows: int, columns: int) -> Tile:
    """Return the tile of the kernels for one token.

    The fewer rows the matrix has, the fewer a program takes, and the more columns at a time.
    """
    block_n = _shrink(8, rows, programs_each=1, minimum=1)
    block_k = max(32, min(8_192 // block_n, power_of_two(columns)))
    warps = min(4, max(1, block_n * block_k // 1_024))
    return Tile({"BLOCK_N": block_n, "BLOCK_K": block_k}, warps, stages=2)


def many_tokens_tile(tokens: int, rows: int, in_32_bits: bool) -> Tile:
    """Return the tile of the kernels for several tokens.

    With few tokens the time to load the weights is the limit: tiles are small, so that there are many
    programs.
    """
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=4, stages=2)
    if tokens <= 64:
        block_m = max(16, power_of_two(tokens))
        block_n = _shrink(64, rows, programs_each=1, minimum=16 if block_m == 16 else 32)
        sizes = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": max(128, 4_096 // block_n)}
        return Tile(sizes, warps=4, stages=4)
    block_n = _shrink(128, rows, programs_each=tiles(tokens, 128), minimum=64)
    return Tile({"BLOCK_M": 128, "BLOCK_N": block_n, "BLOCK_K": 64}, warps=8, stages=3)


def _shrink(block_n: int, rows: int, programs_each: int, minimum: int) -> int:
    """Return block_n, halved until there is a program for each processor, or down to `minimum`.

    programs_each: how many programs compute each tile of rows.
    """
    while block_n > minimum and tiles(rows, block_n) * programs_each < PROCESSORS:
        block_n //= 2
    return block_n


@triton.jit
def int8_one_token(
    x_ptr, codes_ptr, scale_ptr, y_ptr, rows, columns, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """y[n] = scale[n] · Σₖ x[k] · codes[n, k], for BLOCK_N rows n."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    column = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    codes_ptr += row.to(tl.int64)[:, None] * columns + column[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(0, columns, BLOCK_K):
        mask = column < columns - first
        x = tl.load(x_ptr + first + column, mask=mask, other=0.0).to(tl.float32)
        codes = tl.load(codes_ptr + first, mask=(row < rows)[:, None] & mask[None, :], other=0)
        total += codes.to(tl.float32) * x[None, :]
    y = tl.sum(total, axis=1) * tl.load(scale_ptr + row, mask=row < rows, other=0.0)  # (BLOCK_N,)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=row < rows)


@triton.jit
def int8_many_tokens(
    x_ptr, codes_ptr, scale_ptr, y_ptr, tokens, rows, columns, x_token,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[t, n] = scale[n] · Σₖ x[t, k] · codes[n, k], for BLOCK_M tokens t and BLOCK_N rows n."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    column = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    x_ptr += token.to(tl.int64)[:, None] * x_token + column[None, :]
    codes_ptr += row.to(tl.int64)[:, None] * columns + column[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, columns, BLOCK_K):
        mask = column[None, :] < columns - first
        x = tl.load(x_ptr + first, mask=(token < tokens)[:, None] & mask, other=0.0)  # (BLOCK_M, BLOCK_K)
        codes = tl.load(codes_ptr + first, mask=(row < rows)[:, None] & mask, other=0)  # (BLOCK_N, BLOCK_K)
        total = tl.dot(x, tl.trans(codes.to(x.dtype)), total, input_precision="ieee")
    y = total * tl.load(scale_ptr + row, mask=row < rows, other=0.0)[None, :]
    y_ptr += token.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(y_ptr, y.to(y_ptr.dtype.element_ty), mask=(token < tokens)[:, None] & (row < rows)[None, :])
