"""The tile that a kernel works on, and a way to try other tiles than the default.

    with use_tiles(attention_forward=Tile({"BLOCK_Q": 64, "BLOCK_K": 64}, warps=4, stages=3)):
        flash_attention(q, k, v)

In the file of each kernel a function returns its default tile. `chosen` returns the override that `use_tiles`
sets for a kernel, or else the default. The results differ by rounding alone. The cost functions of the
kernels assume the default tiles, and those of attention the `blocks` that they are given, (128, 64) by
default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SIZES = {  # kernel → the names of its tile's sizes
    "attention_forward": ("BLOCK_Q", "BLOCK_K"),
    "grad_queries": ("BLOCK_Q", "BLOCK_K"),
    "grad_keys_values": ("BLOCK_K", "BLOCK_Q"),
    "int8_one_token": ("BLOCK_N", "BLOCK_K"),
    "int8_many_tokens": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "int4_one_token": ("BLOCK_N", "BLOCK_K"),
    "int4_many_tokens": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "grouped_product": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "grouped_weight_gradient": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
}


@dataclass(frozen=True)
class Tile:
    """The tile of one program, as `launch` takes it; what `triton.Config` is to Triton's autotuner.

    Raises ValueError for sizes, warps and stages that no tile can have.
    """

    sizes: dict[str, int] = field(default_factory=dict)  # the names of the kernel's constants → powers of two
    warps: int = 4  # groups of 32 threads that share the program
    stages: int = 2  # iterations of the program's loop whose loads are under way at the same time

    def __post_init__(self):
        numbers = (*self.sizes.values(), self.warps, self.stages)
        if any(not isinstance(number, int) or number < 1 for number in numbers):
            raise ValueError(f"the sizes of a tile, warps and stages are whole numbers from 1 on, not {self}")
        if any(number & (number - 1) for number in numbers[:-1]):
            raise ValueError(f"the sizes of a tile and its warps are powers of two, not {self}")


# Shared by all threads, because PyTorch runs the backward pass on a GPU in a thread of its own.
_overrides: dict[str, Tile] = {}


@contextmanager
def use_tiles(**tiles: Tile) -> Iterator[None]:
    """Launch the named kernels with these tiles inside the `with` block.

    Raises ValueError for a kernel that isn't in SIZES, and for a tile whose sizes are not the kernel's.
    """
    for kernel, tile in tiles.items():
        if kernel not in SIZES:
            raise ValueError(f"no kernel is called {kernel!r} here; there are {', '.join(SIZES)}")
        if set(tile.sizes) != set(SIZES[kernel]):
            raise ValueError(f"{kernel} takes {', '.join(SIZES[kernel])}; not {', '.join(tile.sizes)}")
    before = _overrides.copy()
    _overrides.update(tiles)
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


def chosen(kernel: str, default: Tile) -> Tile:
    """Return the tile that `use_tiles` sets for this kernel, or else the default."""
    return _overrides.get(kernel, default)
