"""Interleaved timing, peak memory, and profiles."""

import cProfile
import io
import os
import pstats
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

CLEAR = Path("/proc/self/clear_refs")


class Times(tuple[float, ...]):
    """The seconds of one contestant's runs."""

    @property
    def median(self) -> float:
        return median(self)


def seconds(f: Callable, *arguments) -> float:
    start = perf_counter()
    f(*arguments)
    return perf_counter() - start


def race(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, Times]:
    """Return each contestant's times. contestants: functions that return the seconds that they took.

    Each contestant runs once to warm up. Then all run in turns, `rounds` times, so that what slows the
    machine down for a while slows all of them.
    """
    for run in contestants.values():
        run()
    runs = [{name: run() for name, run in contestants.items()} for _ in range(rounds)]
    return {name: Times(one[name] for one in runs) for name in contestants}


def peak_memory(f: Callable, *arguments) -> int | None:
    """Return the bytes by which a fresh Python process grows, at its peak, in `f(*arguments)`.

    f is a function of a module, and what its module imports isn't counted. None on systems except Linux,
    which alone reports it.
    """
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_growth, f, arguments).result()


def _growth(f: Callable, arguments: tuple) -> int:
    CLEAR.write_text("5")  # forget the peak so far: see proc_pid_clear_refs(5)
    before = _held("VmRSS")
    f(*arguments)
    return _held("VmHWM") - before


def _held(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def profile(f: Callable, *arguments, lines: int = 12) -> str:
    """Return the functions in which `f` spends most of its time, as a report of Python's profiler."""
    profiler, text = cProfile.Profile(), io.StringIO()
    profiler.runcall(f, *arguments)
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return "\n".join(line for line in text.getvalue().splitlines() if line.strip())


class Neighbours:
    """How busy other programs have kept the machine since this object was created."""

    def __init__(self):
        self.start = self._now()

    def share(self) -> float | None:
        """Return the fraction of all cores' time that other programs took; None on systems except Linux."""
        if self.start is None:
            return None
        everyone, own, clock = (now - start for now, start in zip(self._now(), self.start, strict=True))
        return max(0.0, everyone - own) / clock / os.cpu_count()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Return the work of all processes, that of this one and its children, and the time, in seconds."""
        if not Path("/proc/stat").exists():
            return None
        user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        everyone = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
        return everyone, sum(os.times()[:4]), perf_counter()
