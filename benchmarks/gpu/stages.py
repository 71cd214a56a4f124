"""The stages in their order, each within its budget, even if others fail.

On a GPU each stage has a process of its own: what a kernel breaks there, such as the driver's state, harms no
other stage, and a stage that hangs is stopped. A stage yields its results one by one, and each is written at
once, so that a stage that is stopped keeps the results it had.

    python -m benchmarks.gpu.stages machine 20 results.jsonl     # one stage alone, for 20 seconds
"""

import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch

from benchmarks.gpu import contests, device_tests, sweeps
from benchmarks.gpu.plan import Plan, reason

ROOT = Path(__file__).parents[2]
GRACE = 8.0  # seconds that a stage may take beyond its budget, to finish what it is doing


@dataclass(frozen=True)
class Stage:
    """A stage of the run.

    budget: seconds on a GPU. run: yields results, each with a name, `what`, and failures, each with what
    failed and why.
    """

    budget: float
    run: Callable[[Plan], Iterator[dict]]


def machine(plan: Plan) -> Iterator[dict]:
    """Yield the device, the driver, the versions and the date."""
    found = {"what": "machine", "device": "none: Triton's interpreter", "capability": None, "driver": None}
    if not plan.small:
        found["device"] = torch.cuda.get_device_name()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        found["driver"] = _driver()
    versions = {"Python": platform.python_version()} | {
        name: version(name) for name in ("torch", "triton", "numpy")
    }
    yield found | {"versions": versions, "date": datetime.date.today().isoformat()}


def _driver() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout
    return answer.split("\n")[0] or None


STAGES = {
    "machine": Stage(15, machine),
    "tests": Stage(115, device_tests.run),
    "sweeps: attention": Stage(45, partial(sweeps.run, sweeps.forward)),
    "sweeps: attention's way back": Stage(60, partial(sweeps.run, sweeps.backward)),
    "sweeps: 8 and 4 bits": Stage(50, partial(sweeps.run, sweeps.quantized)),
    "sweeps: mixtures, last layer": Stage(40, partial(sweeps.run, sweeps.others)),
    "contests: layers": Stage(45, partial(contests.run, contests.layers)),
    "contests: losses": Stage(30, partial(contests.run, contests.losses)),
    "contests: attention": Stage(30, partial(contests.run, contests.attention)),
    "contests: decoding": Stage(10, partial(contests.run, contests.decoding)),
    "contests: products": Stage(30, partial(contests.run, contests.products)),
}


def run_here(name: str, budget: float) -> list[dict]:
    """Run the stage in this process, with small sizes. Return its results; a failure is the last of them."""
    found = []
    try:
        found.extend(STAGES[name].run(Plan(small=True, until=monotonic() + budget)))
    except Exception as error:  # noqa: BLE001 (a stage that fails must not keep the others from running)
        found.append({"what": name, "failure": reason(error)})
    return found


def run_apart(name: str, budget: float, small: bool = False) -> list[dict]:
    """Run the stage in a process of its own. Return its results; a failure is the last of them.

    The process and all that it started are stopped GRACE seconds after the budget is spent.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "found.jsonl")
        arguments = [name, str(budget), str(path), *["small"] * small]
        command = [sys.executable, "-m", "benchmarks.gpu.stages", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet)
        try:
            said = process.communicate(timeout=budget + GRACE)[1]
            why = "" if process.returncode == 0 else f"ended with {process.returncode}: {said.strip()[-300:]}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            why = f"stopped after {budget + GRACE:.0f} seconds"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
    return [*found, {"what": name, "failure": why}] if why else found


def main(name: str, budget: str, path: str, small: str = "") -> None:
    plan = Plan(bool(small), monotonic() + float(budget))
    for found in STAGES[name].run(plan):
        with open(path, "a", encoding="utf-8") as file:
            print(json.dumps(found, ensure_ascii=False), file=file)


if __name__ == "__main__":
    main(*sys.argv[1:])
