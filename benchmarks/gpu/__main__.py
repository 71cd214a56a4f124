"""`python -m benchmarks.gpu [--small]`: run all stages, print a line for each, and then a summary.

The results are also in $OUT/results.json.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

TOTAL = 470.0  # seconds on a GPU: less than eight minutes with what it takes to begin and end


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes in Triton's interpreter: to see that it runs"
    )
    options = parser.parse_args()
    if sys.platform != "linux":
        print("The kernels are measured on Linux: there is no Triton for other systems.")
        return 1
    small = options.small or not _gpu()
    # Before Triton is imported, here and in all stages.
    os.environ["TRITON_INTERPRET"] = "1" if small else "0"
    run(small, Path(os.environ.get("OUT", "gpu_results")))
    return 0


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def run(small: bool, folder: Path) -> None:
    """Run the stages, and write the file after each."""
    from benchmarks.gpu.report import summary
    from benchmarks.gpu.results import FILE, GPU, INTERPRETER, Results, write
    from benchmarks.gpu.stages import STAGES

    results = Results(INTERPRETER if small else GPU, {}, {})
    for name, record in records(small, STAGES):
        results.stages[name] = record
        results.machine.update(*(found for found in record["results"] if name == "machine"))
        write(folder, results)
        ended = f"{len(record['results'])} results, {len(record['failures'])} failures"
        print(f"{name}: {ended}, {record['seconds']:.0f} s", flush=True)
    print(f"\n{summary(results)}\n\nAll of it is in {folder / FILE}.")


def records(small: bool, stages: dict) -> Iterator[tuple[str, dict]]:
    """Yield each stage's name and record when the stage has ended."""
    from benchmarks.gpu.stages import run_apart, run_here

    begun = monotonic()
    for name, stage in stages.items():
        start, left = monotonic(), TOTAL - (monotonic() - begun)
        budget = min(stage.budget, left)
        found = [{"what": name, "failure": "there was no time left for it"}]
        if budget > 0:
            found = run_here(name, budget) if small else run_apart(name, budget)
        good = [one for one in found if "failure" not in one]
        bad = [f"{one['what']}: {one['failure']}" for one in found if "failure" in one]
        yield name, {"budget": budget, "seconds": monotonic() - start, "results": good, "failures": bad}


if __name__ == "__main__":
    sys.exit(main())
