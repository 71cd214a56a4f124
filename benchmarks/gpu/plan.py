"""How a stage runs: on which device, until when, and by which clock."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from time import monotonic

import torch
from torch import Tensor

from benchmarks import measure

FLUSH = 256 * 2**20  # bytes, more than any cache holds


@dataclass(frozen=True)
class Plan:
    """The conditions under which a stage runs.

    small: tiny sizes, in Triton's interpreter. until: when the stage should end, by `time.monotonic`.
    """

    small: bool
    until: float

    @property
    def device(self) -> str:
        return "cpu" if self.small else "cuda"

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the measurements: bfloat16, in which models are trained, where the GPU has it.

        float16 on other GPUs, and float32 in the interpreter, which can't multiply bfloat16.
        """
        if self.small:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    @property
    def randn(self) -> Callable[..., Tensor]:
        return partial(torch.randn, device=self.device, dtype=self.dtype)

    def left(self) -> float:
        """Return the seconds until the end; below 0 when it is over."""
        return self.until - monotonic()

    def share(self, parts: int) -> "Plan":
        """Return the plan of the next of `parts` parts, which share the time that is left equally."""
        return Plan(self.small, monotonic() + max(0.0, self.left()) / parts)

    @property
    def clock(self) -> Callable[[Callable], float]:
        """A function that takes a function and returns the seconds of one run of it."""
        if self.small:
            return measure.seconds
        return partial(device_seconds, cache=torch.empty(FLUSH, dtype=torch.int8, device=self.device))


def device_seconds(f: Callable, cache: Tensor) -> float:
    """Return the seconds of one run by the device's own clock.

    Before the run, `cache` is overwritten, so that the device's cache holds nothing of the last run.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cache.zero_()
    start.record()
    f()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def reason(error: Exception) -> str:
    """Return an exception as one line that fits into a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
