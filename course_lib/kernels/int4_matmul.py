"""y = x Wᵀ with W in 4 bits, two codes to a byte.

    affine (Q4_1, Q4_0, Uniform)     weight = scale · code + minimum     for each block of 32 weights, or more
    NF4                              weight = scale · levels[code]       16 levels; a scale for 64 weights

    a block of 32 weights      w₀ w₁ … w₁₅ │ w₁₆ w₁₇ … w₃₁
    its 16 bytes               byte j: wⱼ in the low half, wⱼ₊₁₆ in the high half
                                          ↓                    ↓
    a tile of bytes        →   a tile of low halves, a tile of high halves, of the same shape as the bytes
    x, read twice          →   the columns of the low halves, the columns of the high halves
    result                 =   low halves × their columns + high halves × their columns

So the two halves never have to be interleaved. Programs, loops and tiles are those of `int8_matmul`. A tile
of bytes is (d_out, blocks, 16), so that a scale, (d_out, blocks), is loaded once. The codes become weights
before they are multiplied by x: scaling the sum of a block instead would take fewer multiplications, but an
infinite x times a code of 0 would give nan. For many tokens the weights are rounded to x's dtype, as the
weights of a 16-bit model are.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import chosen
from course_lib.kernels.cost import Cost
from course_lib.kernels.int8_matmul import many_tokens_tile, one_token_tile
from course_lib.kernels.language import launch, tile_count, tl, triton

BLOCK_SIZE = 32  # weights of a block. In an affine format a scale serves one block or more, in NF4 two


def int4_matmul(
    x: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor | None, levels: Tensor | None
) -> Tensor:
    """Return x Wᵀ, (tokens, d_in) → (tokens, d_out) in x's dtype, computed by the kernel.

    codes: (d_out, d_in / 2) bytes. In an affine format, scale and minimum are (d_out, d_in / group), and
    group is a multiple of 32. For NF4, levels is (16,), and scale has an element in 32 bits for every 64
    weights, row after row. `quantized_matmul` calls it and checks the arguments.
    """
    (tokens, d_in), d_out = x.shape, len(codes)
    y = x.new_empty(tokens, d_out)
    blocks = d_in // BLOCK_SIZE  # of a row
    flags = {"NF4": levels is not None, "BLOCKS_PER_SCALE": d_out * blocks // max(1, scale.numel())}
    tensors = x, codes, scale, minimum, levels, y
    if tokens == 1:
        tile = chosen("int4_one_token", one_token_tile(d_out, d_in))
        grid = (tile_count(d_out, tile.sizes["BLOCK_N"]),)
        launch(int4_one_token, grid, *tensors, d_out, blocks, tile=tile, **flags)
    else:
        tile = chosen("int4_many_tokens", many_tokens_tile(tokens, d_out, x.dtype == torch.float32))
        grid = tile_count(d_out, tile.sizes["BLOCK_N"]), tile_count(tokens, tile.sizes["BLOCK_M"])
        launch(int4_many_tokens, grid, *tensors, tokens, d_out, blocks, x.stride(0), tile=tile, **flags)
    return y


def int4_matmul_cost(
    tokens: int, d_out: int, d_in: int, bytes_each: int, nf4: bool, scale_bytes: int = 4
) -> Cost:
    """Return the cost; x and y move as in `int8_matmul_cost`.

    Each block of 32 weights reads its scale and minimum (scale_bytes, together). In NF4 two blocks share a
    scale, which both read, and each weight reads a level: from the cache, but `Meter` counts it. Operations:
    two for each token and weight; the elements that only fill a tile are not counted (`Meter` counts whole
    tiles of matrix products).
    """
    weights = d_out * d_in // 2 + d_out * d_in // BLOCK_SIZE * scale_bytes
    weights += 4 * d_out * d_in if nf4 else 0
    if tokens == 1:
        programs = tile_count(d_out, one_token_tile(d_out, d_in).sizes["BLOCK_N"])
        return Cost(weights + (programs * d_in + d_out) * bytes_each, 2 * d_out * d_in)
    sizes = many_tokens_tile(tokens, d_out, bytes_each == 4).sizes
    down, across = tile_count(tokens, sizes["BLOCK_M"]), tile_count(d_out, sizes["BLOCK_N"])
    moved = down * weights + (across * d_in + d_out) * tokens * bytes_each
    return Cost(moved, 2 * tokens * d_out * d_in)


@triton.jit
def load_weights(
    codes_ptr, scale_ptr, minimum_ptr, levels_ptr, output, block, d_out, blocks,
    NF4: tl.constexpr, BLOCKS_PER_SCALE: tl.constexpr,
):  # fmt: skip
    """Return the weights of the low and of the high halves, (n, k, 16) each, in 32 bits.

    weight = scale · code + minimum, or scale · levels[code] with NF4; 0 outside the matrix. output: (n,).
    block: (k,). BLOCKS_PER_SCALE: how many neighbouring blocks share a scale.
    """
    mask = (output < d_out)[:, None] & (block < blocks)[None, :]  # (n, k)
    # The index of each block in the matrix.
    block_index = output.to(tl.int64)[:, None] * blocks + block[None, :]  # (n, k)
    byte = block_index[:, :, None] * 16 + tl.arange(0, 16)[None, None, :]  # (n, k, 16)
    codes = tl.load(codes_ptr + byte, mask=mask[:, :, None], other=0)  # (n, k, 16)
    low, high = codes & 15, codes >> 4  # (n, k, 16) each
    scale_index = block_index // BLOCKS_PER_SCALE  # (n, k)
    if NF4:
        scale = tl.load(scale_ptr + scale_index, mask=mask, other=0.0)[:, :, None]  # (n, k, 1)
        low = tl.load(levels_ptr + low.to(tl.int32), mask=mask[:, :, None], other=0.0) * scale
        high = tl.load(levels_ptr + high.to(tl.int32), mask=mask[:, :, None], other=0.0) * scale
    else:
        # scale, minimum: (n, k, 1)
        scale = tl.load(scale_ptr + scale_index, mask=mask, other=0.0).to(tl.float32)[:, :, None]
        minimum = tl.load(minimum_ptr + scale_index, mask=mask, other=0.0).to(tl.float32)[:, :, None]
        low, high = low.to(tl.float32) * scale + minimum, high.to(tl.float32) * scale + minimum
    return low, high


@triton.jit
def int4_one_token(
    x_ptr, codes_ptr, scale_ptr, minimum_ptr, levels_ptr, y_ptr, d_out, blocks,
    NF4: tl.constexpr, BLOCKS_PER_SCALE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[n] = Σₖ x[k] · weight[n, k], for BLOCK_N outputs n."""
    BLOCKS: tl.constexpr = BLOCK_K // 32
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    total = tl.zeros((BLOCK_N, BLOCKS, 16), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)  # (BLOCKS,)
        # low, high: (BLOCK_N, BLOCKS, 16)
        low, high = load_weights(
            codes_ptr, scale_ptr, minimum_ptr, levels_ptr, output, block, d_out, blocks, NF4, BLOCKS_PER_SCALE
        )
        inner = block[:, None] * 32 + tl.arange(0, 16)[None, :]  # (BLOCKS, 16)
        mask = (block < blocks)[:, None]  # (BLOCKS, 1)
        # x_low, x_high: (BLOCKS, 16)
        x_low = tl.load(x_ptr + inner, mask=mask, other=0.0).to(tl.float32)
        x_high = tl.load(x_ptr + inner + 16, mask=mask, other=0.0).to(tl.float32)
        total += low * x_low[None, :, :]
        total += high * x_high[None, :, :]
    y = tl.sum(tl.sum(total, axis=2), axis=1)  # (BLOCK_N,)
    tl.store(y_ptr + output, y.to(y_ptr.dtype.element_ty), mask=output < d_out)


@triton.jit
def int4_many_tokens(
    x_ptr, codes_ptr, scale_ptr, minimum_ptr, levels_ptr, y_ptr, tokens, d_out, blocks, x_token,
    NF4: tl.constexpr, BLOCKS_PER_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[t, n] = Σₖ x[t, k] · weight[n, k], for BLOCK_M tokens t and BLOCK_N outputs n."""
    BLOCKS: tl.constexpr = BLOCK_K // 32
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    byte = tl.arange(0, 16 * BLOCKS)  # (16 · BLOCKS,)
    # The column of x that a byte's low half is multiplied by; its high half's is 16 columns further.
    x_ptr += token.to(tl.int64)[:, None] * x_token + (byte // 16 * 32 + byte % 16)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)  # (BLOCKS,)
        # low, high: (BLOCK_N, BLOCKS, 16)
        low, high = load_weights(
            codes_ptr, scale_ptr, minimum_ptr, levels_ptr, output, block, d_out, blocks, NF4, BLOCKS_PER_SCALE
        )
        mask = (token < tokens)[:, None] & (first + byte // 16 < blocks)[None, :]  # (BLOCK_M, 16 · BLOCKS)
        x_low = tl.load(x_ptr + first * 32, mask=mask, other=0.0)  # (BLOCK_M, 16 · BLOCKS)
        x_high = tl.load(x_ptr + first * 32 + 16, mask=mask, other=0.0)  # (BLOCK_M, 16 · BLOCKS)
        low = tl.reshape(low.to(x_low.dtype), (BLOCK_N, 16 * BLOCKS))  # (BLOCK_N, 16 · BLOCKS)
        high = tl.reshape(high.to(x_low.dtype), (BLOCK_N, 16 * BLOCKS))  # (BLOCK_N, 16 · BLOCKS)
        total = tl.dot(x_low, tl.trans(low), total, input_precision="ieee")
        total = tl.dot(x_high, tl.trans(high), total, input_precision="ieee")
    y_ptr += token.to(tl.int64)[:, None] * d_out + output[None, :]
    mask = (token < tokens)[:, None] & (output < d_out)[None, :]  # (BLOCK_M, BLOCK_N)
    tl.store(y_ptr, total.to(y_ptr.dtype.element_ty), mask=mask)
