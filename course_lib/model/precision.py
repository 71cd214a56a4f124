"""Which floating-point type a processor multiplies fastest.

In 16 bits half as many bytes are read as in 32. But a processor without instructions for bfloat16 must
convert every number to 32 bits first: on one with AVX2 alone, SmolLM2 reads a text at a quarter of the speed
of 32 bits, and trains at a tenth (with LoRA: a twentieth).
"""

from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F

# The size of the product that is timed: so short that other programs seldom interrupt it.
ROWS, WIDTH = 128, 768
ROUNDS = 20


def fast_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """Return the faster type: bfloat16 where the device has instructions that multiply it, else float32.

        lm = load_smollm2(fast_dtype())

    For a GPU, PyTorch says which it is. A CPU is measured, once, in some hundredths of a second, because
    oneDNN also says "supported" where it only converts. Not handled: products of a few rows, whose limit is
    memory rather than arithmetic, and which are faster in 16 bits on nearly every processor.

    Raises ValueError for another kind of device, and for what names none.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise ValueError(f"a device is called cpu, cuda or cuda:0, not {device!r}") from None
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind != "cpu":
        raise ValueError(f"fast_dtype knows CPUs and CUDA's GPUs, not {kind!r}: choose a type yourself")
    return _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    """Time a product in both types, with one thread, and return the faster type."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for a second thread can take longer than the product itself
    try:
        return min((torch.float32, torch.bfloat16), key=_seconds)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of one product in this type: other programs can only make it longer."""
    x, weight = (torch.ones(rows, WIDTH, dtype=dtype, device="cpu") for rows in (ROWS, WIDTH))
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        F.linear(x, weight)
        times.append(perf_counter() - start)
    return min(times)
