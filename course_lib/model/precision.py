"""Which floating-point type a processor multiplies fastest.

Sixteen bits halve what is read. But a processor without instructions for bfloat16 must turn every number into 32 bits first: on one
with AVX2 alone, SmolLM2 reads a text at a quarter of the speed of 32 bits, and trains at a tenth (LoRA: a twentieth).
"""

from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F

ROWS, WIDTH = 128, 768  # of the product that is timed: so short that another program seldom comes between
ROUNDS = 20


def fast_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """The type to compute in where speed is the point: torch.bfloat16 where the device really multiplies it, else torch.float32.

        lm = load_smollm2(fast_dtype())

    A GPU is asked. A CPU is measured, once, in some hundredths of a second: oneDNN says "supported" also where it only converts. Not
    handled: a few rows at a time, which wait for memory more than for products, and so are quicker in 16 bits on nearly every processor.

    Raises ValueError for another kind of device.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind != "cpu":
        raise ValueError(f"fast_dtype knows CPUs and CUDA's GPUs, not {kind!r}: choose a type yourself")
    return _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # two would wait for each other, which takes longer than the product where another program runs
    try:
        return min((torch.float32, torch.bfloat16), key=_seconds)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of one product: other programs make some of them longer, and none shorter."""
    x, weight = (torch.ones(rows, WIDTH, dtype=dtype, device="cpu") for rows in (ROWS, WIDTH))
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        F.linear(x, weight)
        times.append(perf_counter() - start)
    return min(times)
