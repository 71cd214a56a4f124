"""Other tiles than a kernel's own: to try them, and to measure which are the fastest.

    with use_tiles(attention_forward=(64, 64, 4, 3)):
        flash_attention(q, k, v)

Which tiles a kernel takes is written next to its launch; there, `chosen` lets through what is said here instead. A tile is named by
its sizes, in the order of the table below, and behind them the warps that share it and the stages of its loop. The results differ by
rounding alone. What `cost` calculates is of the kernels' own tiles.
"""

from collections.abc import Iterator
from contextlib import contextmanager

SIZES = {
    "attention_forward": ("BLOCK_Q", "BLOCK_K"),
    "grad_queries": ("BLOCK_Q", "BLOCK_K"),
    "grad_keys_values": ("BLOCK_K", "BLOCK_Q"),  # a program's own tile first, then those that it walks over
    "int8_one_token": ("BLOCK_N", "BLOCK_K"),
    "int8_many_tokens": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "int4_one_token": ("BLOCK_N", "BLOCK_K"),
    "int4_many_tokens": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "grouped_product": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "grouped_weight_gradient": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
}

_instead: dict[
    str, tuple[int, ...]
] = {}  # of the whole process: on a GPU the way back runs in a thread of PyTorch's own


@contextmanager
def use_tiles(**tiles: tuple[int, ...]) -> Iterator[None]:
    """Inside, these kernels work on these tiles: their sizes, warps, stages. Raises ValueError for what can't be a tile."""
    for kernel, tile in tiles.items():
        _check(kernel, tile)
    before = _instead.copy()
    _instead.update(tiles)
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)


def chosen(kernel: str, own: tuple[int, ...]) -> tuple[int, ...]:
    """The tile that `use_tiles` wants for this kernel; its own, where nothing is wanted."""
    return _instead.get(kernel, own)


def _check(kernel: str, tile: tuple[int, ...]) -> None:
    if kernel not in SIZES:
        raise ValueError(f"no kernel is called {kernel!r} here; there are {', '.join(SIZES)}")
    wanted = (*SIZES[kernel], "warps", "stages")
    if len(tile) != len(wanted) or any(not isinstance(size, int) or size < 1 for size in tile):
        raise ValueError(f"{kernel} takes {', '.join(wanted)}, whole numbers from 1 on; not {tile!r}")
    if any(size & (size - 1) for size in tile[:-1]):
        raise ValueError(f"the sizes of a tile and its warps are powers of two, not {tile!r}")
