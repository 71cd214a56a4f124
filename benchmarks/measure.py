"""Timing in turns, peak memory, and where the time goes."""

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
    """Seconds of one contestant's runs."""

    @property
    def median(self) -> float:
        return median(self)


def seconds(f: Callable, *arguments) -> float:
    start = perf_counter()
    f(*arguments)
    return perf_counter() - start


def race(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, Times]:
    """Each contestant, a function that returns the seconds it took, runs once to warm up and then `rounds` times, in turns:
    what slows the machine down for a while slows all of them."""
    for run in contestants.values():
        run()
    runs = [{name: run() for name, run in contestants.items()} for _ in range(rounds)]
    return {name: Times(one[name] for one in runs) for name in contestants}


def peak_memory(f: Callable, *arguments) -> int | None:
    """Bytes by which a fresh Python grows, at its peak, in `f(*arguments)`, a function of a module. What its module imports
    isn't counted. None where the system doesn't tell (Linux does)."""
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
    """The functions in which `f` spends most of its time, as Python's profiler sees them."""
    profiler, text = cProfile.Profile(), io.StringIO()
    profiler.runcall(f, *arguments)
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return "\n".join(line for line in text.getvalue().splitlines() if line.strip())


class Neighbours:
    """How busy other programs kept the machine since this was made."""

    def __init__(self):
        self.start = self._now()

    def share(self) -> float | None:
        """The part of all cores' time that went to others; None where the system doesn't tell (Linux does)."""
        if self.start is None:
            return None
        everyone, own, clock = (now - start for now, start in zip(self._now(), self.start, strict=True))
        return max(0.0, everyone - own) / clock / os.cpu_count()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds of work by everyone, by this process and its children, and on the clock."""
        if not Path("/proc/stat").exists():
            return None
        user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        everyone = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
        return everyone, sum(os.times()[:4]), perf_counter()
