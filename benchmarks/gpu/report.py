"""The results of a run as a short text: what failed, which constants to change, and the table of contests."""

from collections.abc import Iterator

from benchmarks.gpu import contests, sweeps
from benchmarks.gpu.results import GPU, Results
from benchmarks.report import Row, tables


def summary(results: Results) -> str:
    """Return the failures, the advice, the contests' table and the machine.

    Without a GPU's times it returns the failures alone, and states no speed.
    """
    lines = [
        f"{stage}: {failure}" for stage, record in results.stages.items() for failure in record["failures"]
    ]
    parts = ["Failures:", *(lines or ["none"])]
    if results.timed_by != GPU:
        return "\n".join([*parts, "", f"Timed by {results.timed_by}."])
    change = [line for found in _of(results, "sweeps") if (line := sweeps.advice(found))]
    parts += ["", "Tiles to change:", *(change or ["none"])]
    parts += ["", contest_table(results), "", results.measured_on]
    return "\n".join(parts)


def contest_table(results: Results) -> str:
    """Return the contests in Markdown, with their goals."""
    rows = [row for found in _of(results, "contests") if "seconds" in found for row in contests.rows(found)]
    limits = next((found for found in _of(results, "contests") if found["what"] == "limits"), None)
    if limits:
        speeds = (
            f"{limits['bytes a second'] / 1e9:,.0f} GB/s, {limits['operations a second'] / 1e12:,.0f} TFLOP/s"
        )
        rows.insert(0, Row(contests.TABLE, (f"{results.machine['device']}: {speeds}", "", "", "", "")))
    return tables(rows)


def _of(results: Results, kind: str) -> Iterator[dict]:
    """Yield all results of the stages of a kind."""
    for name, record in results.stages.items():
        if name.startswith(kind):
            yield from record["results"]
