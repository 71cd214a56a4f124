"""Do easier questions teach the harder ones? How `assets/drills.json` was made.

    python -m course_lib.train.copying.drilled      trains and writes the file, in half an hour

The base of the course's small model (`assets/world_base.safetensors`) learns to answer "Who had the blue
hat?" about first sentences of stories: from "whole questions alone", or in "all three ways" of
`world_texts.drills`, of which one in three is a whole question. Both see as many questions. Every 100 steps
the file has the share of held-out whole questions that the model would answer. Each has two possible answers,
so that a toss of a coin gives a half.

What was seen: after 1000 steps, all five models that were asked in three ways answer 0.97 or more of the
whole questions. They stay at a half for 500 to 800 steps, and then need some 200. Of those that saw whole
questions alone, one has got to 0.91 by then, one to 0.60, and three are still at a half. (We didn't look
whether more steps would do it.)
"""

import random
from itertools import islice
from pathlib import Path
from statistics import mean

import torch

from course_lib import asset
from course_lib.evaluate import would_write
from course_lib.evaluate.teacher_forcing import Pair
from course_lib.families import load_model
from course_lib.train.copying.curves import Curve, write
from course_lib.train.loop import Training
from course_lib.train.world_model import OWNERS, row_by_row
from course_lib.train.world_texts import WAYS, Piece, drill
from course_lib.world import questions, world_tokenizer

MADE_BY = "python -m course_lib.train.copying.drilled: who had something, asked with drills and without"
ARMS = {"whole questions alone": ("whole",), "all three ways": WAYS}
SEEDS, STEPS, EVERY, N_SCORED = range(5), 1000, 100, 300


def taught(arm: str, seed: int, split: str, n: int) -> list[list[Piece]]:
    """Return n first sentences of stories, each with a question of who had something, asked as in an arm."""
    rng = random.Random(f"drilled {seed}")
    asked = questions(seed, split, kinds=("owner",), sentences=2)
    return [drill(question, rng.choice(ARMS[arm])) for question in islice(asked, n)]


def held_out() -> list[Pair]:
    """Return whole questions, and their answers, as ids."""
    encode, pairs = world_tokenizer().encode, taught("whole questions alone", 4, "held_out", N_SCORED)
    return [tuple(encode(text, allow_special=True) for text, _ in pieces) for pieces in pairs]


def run(arm: str, seed: int) -> Curve:
    """Train, on one thread, and return the share of right answers with the number of steps."""
    torch.set_num_threads(1)
    model, _ = load_model(asset("world_base.safetensors"))
    training, asked, curve = Training(model.requires_grad_(True), OWNERS.training), held_out(), []

    def score(training: Training) -> None:
        if training.step % EVERY == 0:
            curve.append({"step": training.step, "right": round(mean(would_write(model.eval(), asked)), 3)})
            model.train()

    questions = taught(arm, seed, "train", OWNERS.documents)
    batches = row_by_row(world_tokenizer(), questions, OWNERS, seed)
    training.run(batches, watch=score, until=STEPS, progress=False)
    return curve


if __name__ == "__main__":
    write(Path("assets/drills.json"), MADE_BY, run, ARMS, SEEDS)
