"""x Wᵀ with W in 8 bits: half the bytes of 16, which for one token is all that counts.

    One token (weights are read once)              Many tokens (weights are read once for BLOCK_M tokens)
    W (rows, columns) of int8                      x (tokens, columns)      Wᵀ
    ┌───────────────────┐                          ┌────────┐           ┌──────────┐
    │ program 0 →→→→→→→ │  BLOCK_N rows, each      │ BLOCK_M│  times    │ BLOCK_N  │  a tile of W becomes numbers of x's
    ├───────────────────┤  multiplied by x and     └────────┘           └──────────┘  dtype on the chip, then a product on
    │ program 1 →→→→→→→ │  added up in 32 bits      walking over the columns, BLOCK_K at a time        tensor cores
    └───────────────────┘

The scale of a row is multiplied last, once for each result. Not handled: activations in 8 bits; x above some 10³², whose products with
codes overflow 32 bits before the scale makes them small.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton

PROCESSORS = 132  # of an H100; an A100 has 108


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """(tokens, columns) → (tokens, rows) in x's dtype, by the kernel. codes: (rows, columns) of int8; scale: (rows,) in 32 bits.
    Called by `quantized_matmul`, which checks."""
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
    """One token: weights once, x once for each program's rows. Many: both as often as there are tiles of the other."""
    if tokens == 1:
        programs = tiles(rows, one_token_tile(rows, columns).sizes["BLOCK_N"])
        read = rows * columns + 4 * rows + programs * columns * bytes_each
        return Cost(read + rows * bytes_each, 2 * rows * columns)
    sizes = many_tokens_tile(tokens, rows, bytes_each == 4).sizes
    down, across = tiles(tokens, sizes["BLOCK_M"]), tiles(rows, sizes["BLOCK_N"])
    read = down * (rows * columns + 4 * rows) + across * tokens * columns * bytes_each
    return Cost(read + tokens * rows * bytes_each, 2 * tokens * rows * columns)


def one_token_tile(rows: int, columns: int) -> Tile:
    """The tile of the kernels for one token. The fewer rows the matrix has, the fewer a program takes, and the more columns at a time."""
    block_n = _fewer(8, rows, programs_each=1, least=1)
    block_k = max(32, min(8_192 // block_n, power_of_two(columns)))
    warps = min(4, max(1, block_n * block_k // 1_024))
    return Tile({"BLOCK_N": block_n, "BLOCK_K": block_k}, warps, stages=2)


def many_tokens_tile(tokens: int, rows: int, in_32_bits: bool) -> Tile:
    """The tile of the kernels for several tokens. With few tokens the weights' bytes are the limit: small tiles, many programs."""
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=4, stages=2)
    if tokens <= 64:
        block_m = max(16, power_of_two(tokens))
        block_n = _fewer(64, rows, programs_each=1, least=16 if block_m == 16 else 32)
        sizes = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": max(128, 4_096 // block_n)}
        return Tile(sizes, warps=4, stages=4)
    block_n = _fewer(128, rows, programs_each=tiles(tokens, 128), least=64)
    return Tile({"BLOCK_M": 128, "BLOCK_N": block_n, "BLOCK_K": 64}, warps=8, stages=3)


def _fewer(block_n: int, rows: int, programs_each: int, least: int) -> int:
    """Rows of a tile, halved until there is a program for each processor. programs_each: that share a tile's rows."""
    while block_n > least and tiles(rows, block_n) * programs_each < PROCESSORS:
        block_n //= 2
    return block_n


@triton.jit
def int8_one_token(
    x_ptr, codes_ptr, scale_ptr, y_ptr, rows, columns, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    codes_ptr += row.to(tl.int64)[:, None] * columns + inner[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for at in range(0, columns, BLOCK_K):
        real = inner < columns - at
        x = tl.load(x_ptr + at + inner, mask=real, other=0.0).to(tl.float32)
        codes = tl.load(codes_ptr + at, mask=(row < rows)[:, None] & real[None, :], other=0)
        total += codes.to(tl.float32) * x[None, :]
    y = tl.sum(total, axis=1) * tl.load(scale_ptr + row, mask=row < rows, other=0.0)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=row < rows)


@triton.jit
def int8_many_tokens(
    x_ptr, codes_ptr, scale_ptr, y_ptr, tokens, rows, columns, x_token,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inner = tl.arange(0, BLOCK_K)
    x_ptr += token.to(tl.int64)[:, None] * x_token + inner[None, :]
    codes_ptr += row.to(tl.int64)[:, None] * columns + inner[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for at in range(0, columns, BLOCK_K):
        real = inner[None, :] < columns - at
        x = tl.load(x_ptr + at, mask=(token < tokens)[:, None] & real, other=0.0)
        codes = tl.load(codes_ptr + at, mask=(row < rows)[:, None] & real, other=0)
        total = tl.dot(x, tl.trans(codes.to(x.dtype)), total, input_precision="ieee")
    y = total * tl.load(scale_ptr + row, mask=row < rows, other=0.0)[None, :]
    y_ptr += token.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(y_ptr, y.to(y_ptr.dtype.element_ty), mask=(token < tokens)[:, None] & (row < rows)[None, :])
