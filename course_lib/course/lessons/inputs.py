"""What the cases of several lessons are made with."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from course_lib.families import load_smollm2

smollm2 = cache(load_smollm2)


def random(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Return a tensor of each shape, of the same random numbers each time."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def seeded(function: Callable, *args: Any, seed: int = 0) -> Any:
    """Call a function that draws random numbers, and leave PyTorch's own ones as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(*args)
