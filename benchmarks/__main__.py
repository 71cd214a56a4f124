"""`python -m benchmarks [part …] [--quick] [--write]`: measure, print the tables, and name missed goals."""

import os

# Before torch is imported. As in the lessons, waiting threads leave the cores to other programs by default.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"

import argparse

from benchmarks import adapting, decoding, loading, quantized, report, tokenizing, training
from benchmarks.measure import Neighbours

PARTS = {
    "loading": loading,
    "decoding": decoding,
    "quantized": quantized,
    "tokenizing": tokenizing,
    "training": training,
    "adapting": adapting,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all unless named")
    parser.add_argument("--quick", action="store_true", help="one round: to see that it runs, not to quote")
    parser.add_argument("--write", action="store_true", help="store the tables in docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.write and (options.quick or options.parts):
        parser.error("only a whole run can be stored: leave out --quick and the parts")
    neighbours = Neighbours()
    rows = [row for part in options.parts or PARTS for row in PARTS[part].measure(1 if options.quick else 7)]
    text = f"{report.tables(rows)}\n\n{report.machine(neighbours.share())}\n"
    print(text)
    for row in rows:
        if row.why:
            print(f"Missed: {row.why}\n")
    if options.write:
        report.write(text)


if __name__ == "__main__":
    main()
