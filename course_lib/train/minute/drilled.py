"""Do easier questions teach the harder ones? How `assets/drills.json` was made.

    python -m course_lib.train.minute.drilled      trains and writes the file, in a quarter of an hour

The base of the course's small model (`assets/world_base.safetensors`) learns to answer questions of
belongings and of order about first sentences of stories (`world_texts.drills`): "whole questions alone", or
"all three ways", of which one in three is a whole question. Both see as many questions. Every 100 steps the
file has the share of held-out whole questions, of each kind, that the model would answer. Each has two
possible answers, so that a toss of a coin gives a half.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path

import torch

from course_lib import asset
from course_lib.evaluate import would_write
from course_lib.evaluate.teacher_forcing import Pair
from course_lib.families import load_model
from course_lib.train.loop import Training
from course_lib.train.world_model import DRILLS, row_by_row
from course_lib.train.world_texts import KEYS, WAYS, drill, drills
from course_lib.whole_files import replacing
from course_lib.world import questions, world_tokenizer

MADE_BY = (
    "python -m course_lib.train.minute.drilled: questions of belongings and order, with drills and without"
)
ARMS = {"whole questions alone": ("whole",), "all three ways": WAYS}
SEEDS, STEPS, EVERY, N_SCORED = range(5), 1000, 100, 300
WORKERS = 2


def held_out(kind: str) -> Iterator[Pair]:
    """Yield whole questions of a kind about first sentences, and their answers, as ids."""
    encode = world_tokenizer().encode
    for question in islice(questions(4, "held_out", kinds=(kind,)), N_SCORED):
        (prompt, _), (answer, _) = drill(question, "whole")
        yield encode(prompt, allow_special=True), encode(answer, allow_special=True)


def run(arm: str, seed: int) -> list[dict[str, float]]:
    """Train, on one thread, and return the scores with the number of steps, every 100 steps."""
    torch.set_num_threads(1)
    asked, curve = {kind: list(held_out(kind)) for kind in KEYS}, []
    model, _ = load_model(asset("world_base.safetensors"))
    taught = drills(seed, "train", DRILLS.documents, ways=ARMS[arm])

    def score(training: Training) -> None:
        if training.step % EVERY == 0:
            model.eval()
            shares = {kind: sum(would_write(model, pairs)) / len(pairs) for kind, pairs in asked.items()}
            curve.append({"step": training.step} | {kind: round(share, 3) for kind, share in shares.items()})
            model.train()

    training = Training(model.requires_grad_(True), DRILLS.training)
    training.run(
        row_by_row(world_tokenizer(), taught, DRILLS, seed), watch=score, until=STEPS, progress=False
    )
    return curve


def main(path: Path) -> None:
    """Train both ways with all seeds, two at a time, and write the file."""
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:  # (a fork would hang in its threads)
        waiting = {(arm, seed): pool.submit(run, arm, seed) for seed, arm in product(SEEDS, ARMS)}
        curves = {arm: [waiting[arm, seed].result() for seed in SEEDS] for arm in ARMS}
    with replacing(path) as file:
        file.write_text(json.dumps({"made_by": MADE_BY, "curves": curves}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path("assets/drills.json"))
