"""What the course's own small models read: stories, questions about them, and worked sums (`world_model`)."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from course_lib.text import Tokenizer
from course_lib.train.data import pad
from course_lib.train.loss import IGNORE
from course_lib.world import (
    ANSWER,
    END,
    QUESTION,
    Question,
    Story,
    document,
    questions_about,
    stories,
    sums,
    tell,
)

Piece = tuple[str, bool]  # a text, and whether predicting it counts in the loss
# The shares of the documents of `lessons`, at first, and at the end.
SHARES = {"drills": 0.2, "sums": 0.2, "retold": 0.1, "asked": 0.5}
LAST_SHARES = {"drills": 0.1, "sums": 0.2, "retold": 0.1, "asked": 0.3, "looked up": 0.3}


def documents(seed: int, split: str, n: int) -> Iterator[str]:
    """Yield n stories of all lengths, every other one followed by questions about it and their answers."""
    rng = random.Random(f"documents {seed}")
    for i, story in enumerate(islice(stories(seed, split), n)):
        yield document(story) if i % 2 == 0 else document_with_questions(story, rng)


def document_with_questions(story: Story, rng: random.Random, max_questions: int = 4) -> str:
    """Return a story and up to max_questions of its questions, with their answers.

    Answers can be inferred from the story, so these texts are more predictable.
    """
    candidates = questions_about(story)
    chosen = rng.sample(candidates, min(max_questions, len(candidates)))
    return story.text + "".join(f"{QUESTION}{each.question}{ANSWER}{each.answer}" for each in chosen) + END


def retold(seed: int, split: str, n: int) -> Iterator[str]:
    """Yield n stories of all lengths, every other one twice in a row.

    What stands in the second telling can be copied from the first.
    """
    for i, story in enumerate(islice(stories(seed, split), n)):
        yield document(story) * (1 + i % 2)


def tell_again(story: Story, rng: random.Random) -> Story:
    """Return the same story, in half of the cases with its two animals introduced in the other order.

    "The fox had a red cup and the hen had a blue hat" becomes "The hen had a blue hat and the fox had …", and
    "The fox reached the lake before the hen" becomes "The hen reached the lake after the fox".
    """
    beginning = story.plot.beginning
    if beginning is None or rng.random() < 0.5:
        return story
    details = beginning.details
    if beginning.kind == "reached":
        details = (details[0], "after" if details[1] == "before" else "before")
    turned = replace(beginning, hero_first=not beginning.hero_first, details=details)
    return tell(replace(story.plot, beginning=turned))


def first_sentences(seed: int, split: str, n: int) -> Iterator[list[Piece]]:
    """Yield n first sentences of stories, of belongings or of order, each told again (`tell_again`)."""
    rng, told = random.Random(f"first sentences {seed}"), stories(seed, split, sentences=2)
    fitting = (story for story in told if story.plot.beginning.kind != "lived")
    for story in islice(fitting, n):
        first, second = (each.text.partition(". ")[0] for each in (story, tell_again(story, rng)))
        yield [(first, True), (f". {second}.{END}", True)]


# What the questions of belongings and of order give to look up.
KEYS = {
    "owner": re.compile(r"Who had the (.+)\?"),
    "owned": re.compile(r"What did the (.+) have\?"),
    "order": re.compile(r"Who reached .+ (\w+)\?"),
}


WAYS = ("bare", "short", "whole")  # of asking in a drill


def drills(seed: int, split: str, n: int, kinds: Sequence[str] = tuple(KEYS)) -> Iterator[list[Piece]]:
    """Yield n first sentences of stories, each with a question of one of these kinds, in one of three ways.

        The fox had a red cup and the hen had a blue hat. The blue hat hen
        The fox had a red cup and the hen had a blue hat.<|question|>blue hat<|answer|>the hen
        The fox had a red cup and the hen had a blue hat.<|question|>Who had the blue hat?<|answer|>the hen

    The bare way is the easiest, since what is looked up stands right before the answer.
    """
    rng, told = random.Random(f"drills {seed}"), stories(seed, split, sentences=2)
    asked = (by_kind for by_kind in map(questions_by_kind, told) if by_kind.keys() & set(kinds))
    for by_kind in islice(asked, n):
        kind = rng.choice([kind for kind in kinds if kind in by_kind])
        yield drill(rng.choice(by_kind[kind]), rng.choice(WAYS))


def drill(question: Question, way: str) -> list[Piece]:
    """Return the first sentence of a question's story, and the question asked in one of the three ways."""
    sentence, _, _ = question.story.text.partition(". ")
    key = KEYS[question.kind].fullmatch(question.question)[1]
    if way == "bare":
        ask, answer = f" The {key}", " " + question.answer.partition(" ")[2]
    else:
        ask, answer = f"{QUESTION}{key if way == 'short' else question.question}{ANSWER}", question.answer
    return [(f"{sentence}.{ask}", False), (answer + END, True)]


def lessons(seed: int, split: str, n: int, shares: Mapping[str, float] = SHARES) -> Iterator[list[Piece]]:
    """Yield n documents: drills, worked sums, stories told again, and questions about whole stories.

    Of a drill and of a question only the answer counts, of a sum its steps and its answer, of a story
    everything. There is one question a story: with several, an answer could be guessed from those before it.

    shares: how many of each. "asked" has questions of all kinds, "looked up" those of `KEYS` alone.
    """
    rng, told = random.Random(f"lessons {seed}"), stories(seed, split)
    sources = {
        "drills": drills(seed + 1, split, n),
        "sums": (
            [(sum_.prompt, False), (sum_.completion + END, True)] for sum_ in sums(seed, split, worked=True)
        ),
        "retold": (
            [(f"{each.text}{rng.choice(['', ' ' + tell_again(each, rng).text])}{END}", True)] for each in told
        ),
        "asked": (ask(questions_by_kind(each), rng) for each in told),
        "looked up": (ask(kinds, rng) for each in told if (kinds := _of_keys(questions_by_kind(each)))),
    }
    for _ in range(n):
        (kind,) = rng.choices(list(shares), shares.values())
        yield next(sources[kind])


def ask(by_kind: Mapping[str, Sequence[Question]], rng: random.Random) -> list[Piece]:
    """Return a story with one of its questions. All kinds are equally likely."""
    question = rng.choice(by_kind[rng.choice(list(by_kind))])
    return [(question.prompt, False), (question.answer + END, True)]


def _of_keys(by_kind: dict[str, list[Question]]) -> dict[str, list[Question]]:
    return {kind: asked for kind, asked in by_kind.items() if kind in KEYS}


def questions_by_kind(story: Story) -> dict[str, list[Question]]:
    """Return a story's questions, as lists by their kind."""
    by_kind = defaultdict(list)
    for question in questions_about(story):
        by_kind[question.kind].append(question)
    return by_kind


def token_stream(tokenizer: Tokenizer, texts: Iterable[str]) -> Tensor:
    """Return the ids of texts as one sequence, (length,)."""
    return torch.tensor([token for text in texts for token in tokenizer.encode(text, allow_special=True)])


def marked(tokenizer: Tokenizer, pieces: list[Piece]) -> list[tuple[int, bool]]:
    """Return the ids of a document, each with whether predicting it counts."""
    return [
        (token, counts) for text, counts in pieces for token in tokenizer.encode(text, allow_special=True)
    ]


def row_each(documents: list[list[tuple[int, bool]]]) -> tuple[Tensor, Tensor]:
    """Return tokens and targets, both (documents, time), with a row for each of the `marked` documents."""
    tokens = [[token for token, _ in each[:-1]] for each in documents]
    targets = [[token if counts else IGNORE for token, counts in each[1:]] for each in documents]
    return pad(tokens, 0), pad(targets, IGNORE)


def to_rows(tokenizer: Tokenizer, taught: Iterable[list[Piece]], time: int) -> tuple[Tensor, Tensor]:
    """Return tokens and targets, both (rows, time), from documents whose parts may not count.

    Each row begins with a document, and others follow while there is room. What doesn't fit is left out, so
    that nothing is asked about a story that isn't in the row.
    """
    rows, row = [], []
    for pieces in taught:
        row += marked(tokenizer, pieces)
        if len(row) > time:
            rows.append(row[: time + 1])
            row = []
    ids, counted = torch.tensor(rows).unbind(-1)  # (rows, time + 1) each
    return ids[:, :-1].contiguous(), ids.where(counted == 1, IGNORE)[:, 1:].contiguous()
