"""The results of a run of `make gpu` as a file, which is written after each stage.

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
    """The results of a run.

    timed_by: GPU, or INTERPRETER. machine: device, driver, versions and date. stages: by name, each with its
    `results`, its `failures` (a line each), the `seconds` that it took and its `budget`.
    """

    timed_by: str
    machine: dict
    stages: dict[str, dict]

    @property
    def measured_on(self) -> str:
        """Where, with what and when the run was measured, in one sentence."""
        versions = ", ".join(f"{name} {version}" for name, version in self.machine["versions"].items())
        device, driver, date = (self.machine[name] for name in ("device", "driver", "date"))
        return f"Measured on {date}: {device}, driver {driver}, {versions}."

    def find(self, stage: str, what: str) -> dict:
        """Return one result of a stage, by its name. Raises KeyError where there is none."""
        found = {result["what"]: result for result in self.stages[stage]["results"]}
        return found[what]


def write(folder: Path, results: Results) -> None:
    """Write the file at once: a program that reads it meanwhile finds the whole old file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (FILE + ".partial")
    partial.write_text(json.dumps(vars(results), indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, folder / FILE)


def load(path: str | Path, small: bool = False) -> Results:
    """Return the results in a file. small: accept results that were not measured on a GPU.

    Raises FileNotFoundError where there is no file yet, ValueError for times that mean nothing.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no {path}: run `make gpu` on a machine with an NVIDIA GPU")
    results = Results(**json.loads(Path(path).read_text(encoding="utf-8")))
    if results.timed_by != GPU and not small:
        raise ValueError(f"{path} was timed by {results.timed_by}")
    return results
