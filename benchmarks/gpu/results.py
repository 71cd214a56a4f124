"""The file with what a run of `make gpu` found: written after each stage, read by whoever quotes it.

results = load("gpu_results/results.json")
results.measured_on
results.find("contests: layers", "RMSNorm")["seconds"]
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE = "results.json"
GPU, INTERPRETER = "the GPU's own clock", "nobody: Triton's interpreter ran it, and its times mean nothing"


@dataclass(frozen=True)
class Results:
    """timed_by: GPU, or INTERPRETER. machine: device, driver, versions and date. stages: by name, each with its `results`, its
    `failures` (a line each), the `seconds` that it took and its `budget`."""

    timed_by: str
    machine: dict
    stages: dict[str, dict]

    @property
    def measured_on(self) -> str:
        """Where, with what and when, in one sentence."""
        versions = ", ".join(f"{name} {version}" for name, version in self.machine["versions"].items())
        device, driver, date = (self.machine[name] for name in ("device", "driver", "date"))
        return f"Measured on {date}: {device}, driver {driver}, {versions}."

    def find(self, stage: str, what: str) -> dict:
        """One result of a stage, by its name. Raises KeyError where there is none."""
        found = {result["what"]: result for result in self.stages[stage]["results"]}
        return found[what]


def write(folder: Path, results: Results) -> None:
    """All of it or nothing: whoever reads meanwhile finds what was written before."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (FILE + ".partial")
    partial.write_text(json.dumps(vars(results), indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, folder / FILE)


def load(path: str | Path, small: bool = False) -> Results:
    """What was written. small: let through what no GPU ran.

    Raises FileNotFoundError where there is nothing yet, ValueError for times that mean nothing.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no {path}: run `make gpu` on a machine with an NVIDIA GPU")
    results = Results(**json.loads(Path(path).read_text(encoding="utf-8")))
    if results.timed_by != GPU and not small:
        raise ValueError(f"{path} was timed by {results.timed_by}")
    return results
