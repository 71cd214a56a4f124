"""Checks of arguments that several kernels share. Their errors say what to do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.kernels import compiled
from course_lib.model.checks import is_a, is_whole

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32)


def check_sizes(least: int = 0, **sizes: int) -> list[int]:
    """Check numbers that count something, such as rows; return them as Python's, which don't overflow."""
    for name, size in sizes.items():
        if not is_whole(size, least):
            raise ValueError(f"{name} must be a whole number, {least} or more; not {size!r}")
    return list(map(int, sizes.values()))


def check_bytes(bytes_each: int) -> int:
    """Check the bytes of an element of a tensor; return them as Python's number."""
    if not is_whole(bytes_each, 1, 8):
        raise ValueError(f"an element has from 1 to 8 bytes, not bytes_each={bytes_each!r}")
    return int(bytes_each)


def check_heads(heads: int, kv_heads: int) -> list[int]:
    """Check how many query heads share the key-value heads; return both as Python's numbers."""
    heads, kv_heads = check_sizes(1, heads=heads, kv_heads=kv_heads)
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads can't share {kv_heads} key-value heads evenly")
    return [heads, kv_heads]


def check_counts(name: str, counts: Sequence[int]) -> list[int]:
    """Check a list of numbers that count something; return it with Python's numbers."""
    if isinstance(counts, (str, bytes)) or not isinstance(counts, Sequence):
        raise TypeError(f"{name} must be a list of whole numbers, not {counts!r}")
    return check_sizes(**{f"{name}[{i}]": count for i, count in enumerate(counts)})


def check_flags(**flags: bool) -> None:
    """Check arguments that are True or False: any word would count as True."""
    for name, flag in flags.items():
        if flag is not True and flag is not False:
            raise ValueError(f"{name} must be True or False, not {flag!r}")


def check_epsilon(eps: float) -> None:
    """Check the number that a norm adds under its root."""
    if not is_a(eps, float) or eps < 0:
        raise ValueError(f"eps must be a small number such as 1e-5, at least 0; not {eps!r}")


def check_floats(**tensors: Tensor) -> None:
    """Check that tensors hold floating-point numbers."""
    for name, x in tensors.items():
        if x.dtype not in FLOATS:
            raise ValueError(
                f"{name} doesn't compute with {x.dtype}; convert to float32, float16 or bfloat16"
            )


def values_are_checked(check: bool, x: Tensor) -> bool:
    """Return whether the numbers in a tensor of positions are looked at, not only its shape and dtype.

    They always are on a CPU. On a GPU this means waiting for it, and is done where `check` asks for it.
    """
    return (check or x.device.type == "cpu") and x.device.type != "meta" and not compiled.is_compiling()
