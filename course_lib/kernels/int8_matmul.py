"""y = x Wᵀ with W in 8 bits: y[t, n] = scale[n] · Σₖ x[t, k] · codes[n, k].

W takes half the bytes of 16-bit weights, and for one token the time to load W is almost all the time.

    One token (weights are read once)              Many tokens (weights are read once for BLOCK_M tokens)
    W (d_out, d_in) of int8                        x (tokens, d_in)         Wᵀ
    ┌───────────────────┐                          ┌────────┐           ┌──────────┐
    │ program 0 →→→→→→→ │  BLOCK_N rows, each      │ BLOCK_M│     ×     │ BLOCK_N  │  A tile of W is converted
    ├───────────────────┤  multiplied by x and     └────────┘           └──────────┘  to x's dtype on the chip
    │ program 1 →→→→→→→ │  summed in 32 bits       in steps of BLOCK_K of d_in        and multiplied by
    └───────────────────┘                                                             tensor cores.

A row of W belongs to one output. The sum of an output is multiplied by the scale of its row once, at the end.

Not handled: activations in 8 bits; x above some 10³², whose products with codes overflow 32 bits before the
scale makes them small.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile, chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import SM_COUNT, launch, power_of_two, tile_count, tl, triton


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return x Wᵀ, (tokens, d_in) → (tokens, d_out) in x's dtype, computed by the kernel.

    codes: (d_out, d_in) of int8. scale: (d_out,) in 32 bits. `quantized_matmul` calls it and checks the
    arguments.
    """
    (tokens, d_in), d_out = x.shape, len(codes)
    y = x.new_empty(tokens, d_out)
    if tokens == 1:
        tile = chosen("int8_one_token", one_token_tile(d_out, d_in))
        grid = (tile_count(d_out, tile.sizes["BLOCK_N"]),)
        launch(int8_one_token, grid, x, codes, scale, y, d_out, d_in, tile=tile)
    else:
        tile = chosen("int8_many_tokens", many_tokens_tile(tokens, d_out, x.dtype == torch.float32))
        grid = tile_count(d_out, tile.sizes["BLOCK_N"]), tile_count(tokens, tile.sizes["BLOCK_M"])
        launch(int8_many_tokens, grid, x, codes, scale, y, tokens, d_out, d_in, x.stride(0), tile=tile)
    return y


def int8_matmul_cost(tokens: int, d_out: int, d_in: int, bytes_each: int) -> Cost:
    """Return the cost. bytes_each: the bytes of an element of x.

    For one token, the weights are read once, and x once by each program. For several tokens, the weights are
    read once for each tile of tokens, and x once for each tile of outputs. Operations: two for each token and
    weight; the elements that only fill a tile are not counted (`Meter` counts whole
    tiles of matrix products).
    """
    if tokens == 1:
        programs = tile_count(d_out, one_token_tile(d_out, d_in).sizes["BLOCK_N"])
        read = d_out * d_in + 4 * d_out + programs * d_in * bytes_each
        return Cost(read + d_out * bytes_each, 2 * d_out * d_in)
    sizes = many_tokens_tile(tokens, d_out, bytes_each == 4).sizes
    down, across = tile_count(tokens, sizes["BLOCK_M"]), tile_count(d_out, sizes["BLOCK_N"])
    read = down * (d_out * d_in + 4 * d_out) + across * tokens * d_in * bytes_each
    return Cost(read + tokens * d_out * bytes_each, 2 * tokens * d_out * d_in)


def one_token_tile(d_out: int, d_in: int) -> Tile:
    """Return the tile of the kernels for one token.

    The fewer outputs there are, the fewer a program computes, and the more of d_in it takes at a time.
    """
    block_n = _shrink(8, d_out, programs_each=1, smallest=1)
    block_k = max(32, min(8_192 // block_n, power_of_two(d_in)))
    warps = min(4, max(1, block_n * block_k // 1_024))
    return Tile({"BLOCK_N": block_n, "BLOCK_K": block_k}, warps, stages=2)


def many_tokens_tile(tokens: int, d_out: int, in_32_bits: bool) -> Tile:
    """Return the tile of the kernels for several tokens.

    With few tokens the time to load the weights is the limit: tiles are small, so that there are many
    programs.
    """
    if in_32_bits:
        return Tile({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, warps=4, stages=2)
    if tokens <= 64:
        block_m = max(16, power_of_two(tokens))
        block_n = _shrink(64, d_out, programs_each=1, smallest=16 if block_m == 16 else 32)
        sizes = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": max(128, 4_096 // block_n)}
        return Tile(sizes, warps=4, stages=4)
    block_n = _shrink(128, d_out, programs_each=tile_count(tokens, 128), smallest=64)
    return Tile({"BLOCK_M": 128, "BLOCK_N": block_n, "BLOCK_K": 64}, warps=8, stages=3)


def _shrink(block_n: int, d_out: int, programs_each: int, smallest: int) -> int:
    """Return block_n, halved until there is a program for each SM of the GPU, or down to `smallest`.

    programs_each: how many programs compute each tile of outputs.
    """
    while block_n > smallest and tile_count(d_out, block_n) * programs_each < SM_COUNT:
        block_n //= 2
    return block_n


@triton.jit
def int8_one_token(
    x_ptr, codes_ptr, scale_ptr, y_ptr, d_out, d_in, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """y[n] = scale[n] · Σₖ x[k] · codes[n, k], for BLOCK_N outputs n."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    inner = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    codes_ptr += output.to(tl.int64)[:, None] * d_in + inner[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(0, d_in, BLOCK_K):
        mask = inner < d_in - first  # (BLOCK_K,)
        x = tl.load(x_ptr + first + inner, mask=mask, other=0.0).to(tl.float32)  # (BLOCK_K,)
        codes_mask = (output < d_out)[:, None] & mask[None, :]  # (BLOCK_N, BLOCK_K)
        codes = tl.load(codes_ptr + first, mask=codes_mask, other=0)  # (BLOCK_N, BLOCK_K)
        total += codes.to(tl.float32) * x[None, :]
    y = tl.sum(total, axis=1) * tl.load(scale_ptr + output, mask=output < d_out, other=0.0)  # (BLOCK_N,)
    tl.store(y_ptr + output, y.to(y_ptr.dtype.element_ty), mask=output < d_out)


@triton.jit
def int8_many_tokens(
    x_ptr, codes_ptr, scale_ptr, y_ptr, tokens, d_out, d_in, x_token,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[t, n] = scale[n] · Σₖ x[t, k] · codes[n, k], for BLOCK_M tokens t and BLOCK_N outputs n."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    inner = tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    x_ptr += token.to(tl.int64)[:, None] * x_token + inner[None, :]
    codes_ptr += output.to(tl.int64)[:, None] * d_in + inner[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, d_in, BLOCK_K):
        mask = inner[None, :] < d_in - first  # (1, BLOCK_K)
        x = tl.load(x_ptr + first, mask=(token < tokens)[:, None] & mask, other=0.0)  # (BLOCK_M, BLOCK_K)
        codes_mask = (output < d_out)[:, None] & mask  # (BLOCK_N, BLOCK_K)
        codes = tl.load(codes_ptr + first, mask=codes_mask, other=0)  # (BLOCK_N, BLOCK_K)
        total = tl.dot(x, tl.trans(codes.to(x.dtype)), total, input_precision="ieee")
    y = total * tl.load(scale_ptr + output, mask=output < d_out, other=0.0)[None, :]  # (BLOCK_M, BLOCK_N)
    y_ptr += token.to(tl.int64)[:, None] * d_out + output[None, :]
    mask = (token < tokens)[:, None] & (output < d_out)[None, :]  # (BLOCK_M, BLOCK_N)
    tl.store(y_ptr, y.to(y_ptr.dtype.element_ty), mask=mask)
