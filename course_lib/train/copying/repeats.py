"""Does text that repeats itself teach copying? How `assets/repeats.json` was made.

    python -m course_lib.train.copying.repeats      trains and writes the file, in twenty minutes

A small model reads stories, each of them once ("once"), or every other one twice in a row ("twice"). Both
read as many tokens, by the course's recipe. Every 50 steps four scores tell what they can look up, in
held-out stories but for the last:

    names     the share after whose "In the end," the model would name both animals
    noun      the share in which it would write the noun of "looked at the dusty …": the noun that *it* was
    thing     the share after which, told that "The hen had a", it would write what the hen had. Each of the
              two animals is asked for as often as the other
    random    the share of right guesses in the second half of a row of random tokens that is told twice, a
              test of induction heads (Olsson et al. 2022): nothing helps there but to look for the last place
              of a token, and to copy what came next

What was seen (six seeds each): in 600 steps, stories told twice give an early lead and no more. After 150
steps, each model that reads them writes the noun in 26% to 43% of the stories, the others in 6% to 13%. From
400 steps on the two can't be told apart by the noun; after 600 steps the models that read each story once
name both animals a little more often (medians 0.84 and 0.72, and the ranges overlap); they have read 1.5
times as many stories. By then neither finds what an animal had, or copies random tokens, more than three
times in a hundred, so which of them would learn that sooner isn't told here.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from course_lib.evaluate import would_write
from course_lib.evaluate.teacher_forcing import Pair
from course_lib.model import Decoder
from course_lib.train.copying.curves import Curve, write
from course_lib.train.data import Windows
from course_lib.train.loop import Training
from course_lib.train.minute.recipe import DEFAULT
from course_lib.train.world_texts import retold, token_stream
from course_lib.world import Story, document, stories, world_tokenizer

MADE_BY = "python -m course_lib.train.copying.repeats: stories told once, and every other one twice"
WAYS, SEEDS, STEPS, EVERY = ("once", "twice"), range(6), 600, 50
N_STORIES, N_SCORED = 60_000, 300  # so many that no model reads a text twice
ROW = 24  # random tokens that are told twice


@cache
def texts(way: str) -> Tensor:
    """Return the ids that a way's model reads, (length,)."""
    if way == "once":
        told = map(document, islice(stories(0, "train"), N_STORIES))
    else:
        told = retold(0, "train", N_STORIES)
    return token_stream(world_tokenizer(), told)


@cache
def tasks() -> dict[str, list[Pair]]:
    """Return prompts and what should follow, as ids, by the name of the score."""
    held_out = list(islice(stories(3, "held_out", sentences=4), 12 * N_SCORED))
    texts = [story.text for story in held_out]
    ends = [re.fullmatch(r"(.+ In the end,)( the \w+ and the \w+) .+", text).groups() for text in texts]
    looks = [found.groups() for text in texts if (found := re.match(r"(.+ looked at the \w+)( \w+)\.", text))]
    told = {"names": ends, "noun": looks, "thing": list(had(held_out))}
    encode = world_tokenizer().encode
    return {name: [tuple(map(encode, pair)) for pair in pairs[:N_SCORED]] for name, pairs in told.items()}


def had(told: Iterable[Story]) -> Iterator[tuple[str, str]]:
    """Yield stories in which both animals had something, each followed by "The … had a", and what it had."""
    for i, story in enumerate(each for each in told if each.plot.beginning.kind == "had"):
        animals, details = (story.plot.animal, story.plot.other), story.plot.beginning.details
        asked = i % 2
        colour, thing = details[2 * asked : 2 * asked + 2]
        yield f"{story.text} The {animals[asked]} had a", f" {colour} {thing}"


@cache
def random_rows() -> Tensor:
    """Return rows of random tokens, each told twice, (N_SCORED, 2 * ROW)."""
    known = texts("once").unique()
    drawn = torch.randint(len(known), (N_SCORED, ROW), generator=torch.Generator().manual_seed(3))
    return known[drawn].repeat(1, 2)


@torch.no_grad()
def scores(model: Decoder) -> dict[str, float]:
    """Return the four scores."""
    result = {name: mean(would_write(model, pairs)) for name, pairs in tasks().items()}
    rows = random_rows()
    guesses = model(rows).argmax(dim=-1)  # (rows, 2 * ROW), each for the next token
    result["random"] = (guesses[:, ROW:-1] == rows[:, ROW + 1 :]).float().mean().item()
    return {name: round(value, 3) for name, value in result.items()}


def run(way: str, seed: int) -> Curve:
    """Train, on one thread, and return the scores with the number of steps, every 50 steps."""
    torch.set_num_threads(1)
    training, curve = DEFAULT.start(seed, STEPS), []

    def score(training: Training) -> None:
        if training.step % EVERY == 0:
            curve.append({"step": training.step, **scores(training.model.eval())})
            training.model.train()

    training.run(Windows(texts(way), DEFAULT.time, DEFAULT.batch, seed), watch=score, progress=False)
    return curve


if __name__ == "__main__":
    write(Path("assets/repeats.json"), MADE_BY, run, WAYS, SEEDS)
