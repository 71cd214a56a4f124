"""Rows → tables in Markdown."""

import datetime
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Times

ROOT = Path(__file__).parents[1]
MEMORY = "Peak memory, above what Python and the imports hold"
COLUMNS = {
    "Speed": ("", "course_lib", "instead", "times as fast", "goal"),
    "Decoding (tokens/s) and the memory's limit": (
        "",
        "transformers",
        "plain",
        "packed",
        "limit",
        "reached",
        "the limit is",
    ),
    "What the key-value cache gains (packed, bf16)": ("context", "with", "without", "times as fast"),
    "SmolLM2 by bits (each with the number of threads that suits it)": (
        "bits",
        "weights",
        "perplexity",
        "decode (tokens/s)",
        "prefill 256 (tokens/s)",
    ),
    "Kernels on a GPU, 16 bits": ("", "course_lib", "instead", "times as fast", "goal"),
    MEMORY: ("", "course_lib", "instead", "ratio"),
}
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- benchmarks -->", "<!-- /benchmarks -->"


@dataclass(frozen=True)
class Row:
    """One line of the table `table`.

    why: for a goal that is missed, the profile that shows where the time goes.
    """

    table: str
    cells: tuple[str, ...]
    why: str = ""


def rate(times: Times, amount: float | None, unit: str) -> str:
    """Return the median and the range as text: of the seconds, or of `amount` per second."""
    values = sorted(times if amount is None else (amount / t for t in times))
    middle = times.median if amount is None else amount / times.median
    return f"{f'{_digits(middle)} {unit}'.strip()} ({_digits(values[0])}–{_digits(values[-1])})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def comparison(what, ours: Times, rival: str, theirs: Times, goal: float, why, amount=None, unit="s") -> Row:
    """Return a row that compares ours with theirs.

    goal: how many times as fast ours should be. why: called to explain a missed goal, returns text.
    """
    ratio = theirs.median / ours.median
    met = ratio >= goal
    cells = (
        what,
        rate(ours, amount, unit),
        f"{rival}: {rate(theirs, amount, unit)}",
        f"{ratio:.2f}",
        f"{goal:g}" if met else f"**{goal:g}, missed**",
    )
    return Row("Speed", cells, "" if met else f"{what}\n{why()}")


def memory(what: str, ours: int | None, rival: str, theirs: int | None) -> Iterable[Row]:
    if ours and theirs:
        cells = (f"{ours / 1e6:.0f} MB", f"{rival}: {theirs / 1e6:.0f} MB", f"{ours / theirs:.2f}")
        yield Row(MEMORY, (what, *cells))


def tables(rows: list[Row]) -> str:
    """Return the rows in Markdown, a table for each kind that occurs."""
    parts = []
    for title, columns in COLUMNS.items():
        lines = [row.cells for row in rows if row.table == title]
        if lines:
            parts += ["", f"**{title}**", ""]
            parts += [_line(columns), _line(["---"] * len(columns)), *map(_line, lines)]
    return "\n".join(parts[1:])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine(others: float | None) -> str:
    """Return where and with what it was measured, as text.

    others: the fraction of the cores' time that other programs took.
    """
    import torch

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    busy = "" if others is None else f" Other programs took {others:.0%} of the cores' time meanwhile."
    return (
        f"Measured on {datetime.date.today()}: {_processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads (OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}), "
        f"Python {platform.python_version()}, {packages}. "
        f"Medians of interleaved runs, in brackets the slowest and fastest.{busy}"
    )


def _processor() -> str:
    """Return the processor's model and which of the instructions that matter here it has."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", info.read_text(), re.MULTILINE))
    has = [
        flag
        for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if flag in fields.get("flags", "").split()
    ]
    return f"{fields.get('model name', platform.machine())} ({', '.join(has)})"


def write(text: str) -> None:
    """Put the tables between the marks of docs/benchmarks.md. The README quotes six of their rows."""
    start, end = MARKS
    before, rest = PAGE.read_text(encoding="utf-8").split(start)
    partial = PAGE.with_name(PAGE.name + ".partial")
    partial.write_text(f"{before}{start}\n{text}{end}{rest.split(end)[1]}", encoding="utf-8")
    os.replace(partial, PAGE)
