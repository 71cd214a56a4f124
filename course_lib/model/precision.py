"""Which floating-point type a processor multiplies fastest.

Sixteen bits halve what is read. But a processor without instructions for bfloat16 must turn every number into 32 bits first: on one
with AVX2 alone, SmolLM2 reads a text at a quarter of the speed of 32 bits, and trains at a twelfth.
"""

from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS, WIDTH = 256, 1024  # of the product that is timed: a few milliseconds
ROUNDS = 3


def fast_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """The type to compute in where speed is the point: torch.bfloat16 where the device really multiplies it, else torch.float32.

        lm = load_smollm2(fast_dtype())

    A GPU is asked. A CPU is measured, once, in some hundredths of a second: oneDNN says "supported" also where it only converts. Not
    handled: a single row at a time, which waits for memory, not for products, and so is quicker in 16 bits on nearly every processor.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(ROUNDS):  # in turn, the best of each: other programs make a round slower, never quicker
        for dtype in seconds:
            x, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
            seconds[dtype] = min(seconds[dtype], _seconds_of(x, weight))
    return min(seconds, key=seconds.get)


@torch.inference_mode()
def _seconds_of(x: Tensor, weight: Tensor) -> float:
    start = perf_counter()
    F.linear(x, weight)
    return perf_counter() - start
