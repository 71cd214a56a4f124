"""The kernels' own tests on the device, in 32 and 16 bits.

Several processes share the tests, because compiling takes most of the time.

    python -m benchmarks.gpu.device_tests 0 4 outcomes.jsonl     # the first of four shares, alone
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.gpu.plan import Plan

ROOT = Path(__file__).parents[2]
NAMES = ("rows", "norms", "cross_entropy", "flash", "paged", "quantized", "experts", "dials")
FILES = [f"tests/kernels/test_kernels_{name}.py" for name in NAMES]
# The tests that run with small sizes, as pytest's -k takes them.
FEW = (
    "same_to_the_bit or weigh_the_same or reads_each_weight_once or left_edge or more_experts_than or "
    "far_apart[- or anywhere_in_memory or two_halves"
)
MOST_SHARES = 8


class Recorder:
    """A pytest plugin that selects a share of the tests and writes each outcome to a file.

    Each is written when its test ends, so that a run that is stopped keeps them.
    """

    def __init__(self, share: int, shares: int, path: str):
        self.share, self.shares, self.path = share, shares, path

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = items[self.share :: self.shares]

    def pytest_collection_finish(self, session) -> None:
        self._write({"collected": len(session.items)})

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = report.longreprtext.strip().splitlines()[-1:] if report.failed else []
            self._write({"test": report.nodeid, "outcome": report.outcome, "why": " ".join(why)})

    def _write(self, line: dict) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)


def run(plan: Plan) -> Iterator[dict]:
    """Yield a result for each file, with its tests that passed, failed and were skipped.

    Then yield a failure for each test that failed.
    """
    shares = 1 if plan.small else min(MOST_SHARES, os.cpu_count() or 1)
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{share}.jsonl") for share in range(shares)]
        running = [_start(share, shares, path, plan.small) for share, path in enumerate(paths)]
        failures = [
            f for process, path in zip(running, paths, strict=True) for f in _wait(process, path, plan)
        ]
        lines = [line for path in paths for line in _lines(path)]
    yield from _summary([line for line in lines if "test" in line])
    yield from failures


def _start(share: int, shares: int, path: Path, small: bool) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.gpu.device_tests", str(share), str(shares), str(path)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # no plugin is needed
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *(["-k", FEW] if small else [])], cwd=ROOT, env=environment, **quiet)


def _wait(process: subprocess.Popen, path: Path, plan: Plan) -> Iterator[dict]:
    """Wait until the share is done or its time is over. Yield what went wrong with the share as a whole."""
    try:
        said = process.communicate(timeout=max(0.1, plan.left()))[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1] + "stopped, for its time was over"
    lines = _lines(path)
    ran = {line["test"] for line in lines if "test" in line}
    missing = sum(line.get("collected", 0) for line in lines) - len(ran)
    if missing or not lines:
        why = f"{missing or 'all'} tests of a share weren't run: {said.strip()[-200:]}"
        yield {"what": "tests", "failure": why}


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _summary(outcomes: list[dict]) -> Iterator[dict]:
    for file in FILES:
        counts = Counter(line["outcome"] for line in outcomes if line["test"].startswith(file))
        yield {"what": file} | {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")}
    for line in outcomes:
        if line["outcome"] == "failed":
            yield {"what": line["test"], "failure": line["why"]}


def main(share: str, shares: str, path: str, *flags: str) -> int:
    recorder = Recorder(int(share), int(shares), path)
    return pytest.main([*FILES, "-p", "no:cacheprovider", *flags], plugins=[recorder])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
