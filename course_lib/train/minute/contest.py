"""The contest of recipes for a minute of training: how `assets/minute.json` was made.

    python -m course_lib.train.minute.contest          measures, trains and writes the file, in two hours
    python -m course_lib.train.minute.contest table    prints the table that the file holds

All recipes train on the same texts for the same seconds: the time of a step is measured for all of them in
turn, on a machine that does nothing else, and each run takes as many steps as fit into its seconds. Which
weights come out then depends on the number of steps and on the seed alone, so that the runs themselves may
share the machine, be stopped and taken up again, and be repeated.

A row says what differs from the recipe that it is compared with. They are compared seed by seed, and the
intervals (`evaluate.paired_test`) cover what seeds change. They don't cover the error of the measured times:
two recipes that compute the same differed by 5%. Of so many intervals about one is wrong.
"""

import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import torch

from course_lib import asset
from course_lib.evaluate import Estimate, paired_test
from course_lib.model.config import AttentionConfig
from course_lib.train.config import TrainConfig
from course_lib.train.minute.recipe import DEFAULT, MODEL, Recipe, score
from course_lib.whole_files import replacing

SEEDS = range(6)  # with five, `paired_test` could tell no difference from chance at the usual 0.05
SECONDS, GOAL_SECONDS, THREADS = 60, 36, 2
MADE_BY = "python -m course_lib.train.minute.contest: recipes for a minute of training"
ROUNDS, IDLE_ROUNDS = 25, 3  # steps of each recipe that are timed, and steps before them that aren't


@dataclass(frozen=True)
class Entry:
    """A recipe in the contest: its name, what it is compared with, and how long and how it trains."""

    name: str
    recipe: Recipe
    against: str = "Muon"
    seconds: int = SECONDS
    threads: int = THREADS


def changed(recipe: Recipe, batch: int | None = None, **changes) -> Recipe:
    """Return a recipe with another batch or other settings of its training."""
    training = replace(recipe.training, **changes)
    return replace(recipe, training=training, batch=batch or recipe.batch)


def of_model(**changes) -> Recipe:
    """Return the default recipe for a model with other settings."""
    return replace(DEFAULT, model=replace(MODEL, **changes))


OLD_NAME, ADAMW_NAME, MUON_NAME = "as it was", "AdamW, tuned", "Muon"
OLD = Recipe(TrainConfig(steps=10_000, learning_rate=3e-3, warmup=100), batch=32)
ADAMW = Recipe(
    TrainConfig(
        10_000, learning_rate=3e-3, betas=(0.9, 0.99), warmup=40, schedule="linear", decay=0.6, final=0.0
    ),
    batch=8,
)
MUON = DEFAULT
ENTRIES = (
    Entry(OLD_NAME, OLD, against=ADAMW_NAME),
    Entry(ADAMW_NAME, ADAMW, against=OLD_NAME),
    Entry("AdamW, tuned, projections from zeros", replace(ADAMW, zero_init=True), against=ADAMW_NAME),
    Entry(MUON_NAME, MUON, against=ADAMW_NAME),
    Entry("AdamW, all else as Muon", changed(MUON, optimizer="adamw", learning_rate=4e-3), against=MUON_NAME),
    Entry(
        "Muon, all else as AdamW, tuned",
        changed(ADAMW, optimizer="muon", learning_rate=6e-3),
        against=ADAMW_NAME,
    ),
    Entry("Muon in 36 s", MUON, against=OLD_NAME, seconds=GOAL_SECONDS),
    Entry("Muon, projections not from zeros", replace(MUON, zero_init=False)),
    Entry("Muon, one thread", MUON, threads=1),
    Entry("Muon, in bfloat16", changed(MUON, precision="bf16")),
    Entry("Muon, batch of 8", changed(MUON, batch=8, learning_rate=6e-3)),
    Entry("Muon, batch of 32", changed(MUON, batch=32, learning_rate=1e-2, warmup=20)),
    Entry("Muon, no warm-down", changed(MUON, final=1.0)),
    Entry("Muon, untied head", of_model(tie_embeddings=False)),
    Entry("Muon, biases", of_model(bias=True)),
    Entry("Muon, queries and keys normalized", of_model(attention=AttentionConfig(qk_norm=True))),
    Entry("Muon, value tables", replace(MUON, tables="values")),
    Entry("Muon, bigram tables", replace(MUON, tables="bigrams")),
)


def timed(entries: Sequence[Entry]) -> dict[str, float]:
    """Return the milliseconds of a step of each entry: the median of steps taken in turn, in random order."""
    milliseconds, rng = {}, random.Random(0)
    for threads in sorted({entry.threads for entry in entries}):
        torch.set_num_threads(threads)
        runs = [
            (entry.name, entry.recipe.start(0, 1000), entry.recipe.batches(0))
            for entry in entries
            if entry.threads == threads
        ]
        times = {name: [] for name, _, _ in runs}
        for step in range(IDLE_ROUNDS + ROUNDS):
            for name, training, batches in rng.sample(runs, len(runs)):
                start = perf_counter()
                training.learn(batches(step))
                times[name].append(perf_counter() - start)
        milliseconds |= {name: 1000 * median(each[IDLE_ROUNDS:]) for name, each in times.items()}
    return milliseconds


def run(entry: Entry, steps: int, seed: int) -> dict[str, float]:
    """Train by an entry's recipe, on one thread, and return the scores."""
    torch.set_num_threads(1)
    training = entry.recipe.start(seed, steps)
    training.run(entry.recipe.batches(seed), progress=False)
    return {name: round(value, 5) for name, value in score(training.model).items()}


def to_rows(entries: Sequence[Entry]) -> dict[str, dict]:
    """Return a row for each entry, without runs, with the number of steps that its seconds allow."""
    milliseconds = timed(entries)
    return {
        entry.name: {
            "recipe": json.loads(json.dumps(asdict(entry.recipe))),
            "seconds": entry.seconds,
            "threads": entry.threads,
            "ms a step": round(milliseconds[entry.name], 1),
            "steps": int(1000 * entry.seconds / milliseconds[entry.name]),
            "runs": {},
        }
        for entry in entries
    }


def hold(path: Path) -> None:
    """Train all entries with all seeds, two at a time, and write the file after each run.

    A file that was begun is taken up: its entries keep their numbers of steps.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else {}
    rows |= to_rows([entry for entry in ENTRIES if entry.name not in rows])
    lacking = [
        (entry, seed) for seed, entry in product(SEEDS, ENTRIES) if str(seed) not in rows[entry.name]["runs"]
    ]
    if not lacking:
        print(f"{path} is complete: remove it to run the contest anew")
    with ProcessPoolExecutor(THREADS, get_context("spawn")) as pool:  # (a fork would hang in its threads)
        waiting = [
            (entry, seed, pool.submit(run, entry, rows[entry.name]["steps"], seed)) for entry, seed in lacking
        ]
        for entry, seed, result in waiting:
            rows[entry.name]["runs"][str(seed)] = result.result()
            print(entry.name, seed, result.result(), flush=True)
            with replacing(path) as file:
                file.write_text(json.dumps({"made_by": MADE_BY, "entries": rows}, indent=1) + "\n", "utf-8")


def same_model(row: dict) -> bool:
    """Return whether a row's recipe trains the same model in the same time as it was before the contest."""
    equal = row["recipe"]["model"] == asdict(MODEL) and not row["recipe"]["tables"]
    return equal and row["seconds"] == SECONDS and row["threads"] == THREADS


def winner(rows: dict) -> str:
    """Return the entry with the fewest bits a byte, of those that train the same model in the same time."""
    return min(filter(lambda name: same_model(rows[name]), rows), key=lambda name: mean(scores(rows[name])))


def scores(row: dict, what: str = "bits a byte") -> list[float]:
    """Return a row's scores in the order of the seeds."""
    return [row["runs"][str(seed)][what] for seed in SEEDS]


def gain(rows: dict, name: str, other: str) -> Estimate:
    """Return how many bits a byte an entry needs less than another one, with its interval over seeds."""
    return paired_test(scores(rows[other]), scores(rows[name])).difference


def table(rows: dict) -> str:
    """Return the rows of the file as a table, the best first. Those that lack runs are left out."""
    rows = {name: row for name, row in rows.items() if len(row["runs"]) == len(SEEDS)}
    against = {entry.name: entry.against for entry in ENTRIES}
    lines = ["| recipe | batch | rate | ms a step | steps | bits a byte | answers | bits less than |"]
    lines.append("|---" * 8 + "|")
    for name in sorted(rows, key=lambda name: mean(scores(rows[name]))):
        if against[name] not in rows:
            continue
        row, by = rows[name], gain(rows, name, against[name])
        cells = (
            name,
            row["recipe"]["batch"],
            row["recipe"]["training"]["learning_rate"],
            row["ms a step"],
            row["steps"],
            f"{mean(scores(row)):.4f}",
            f"{mean(scores(row, 'answers')):.3f}",
            f"{against[name]}: {by.value:+.4f} ({by.low:+.4f} to {by.high:+.4f})",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if "table" in sys.argv:
        print(table(json.loads(asset("minute.json").read_text(encoding="utf-8"))["entries"]))
    else:
        hold(Path("assets/minute.json"))
