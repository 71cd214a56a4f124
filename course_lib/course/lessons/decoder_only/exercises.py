"""The exercises of the lesson on decoder-only models."""

import math
from dataclasses import replace

import torch
from torch.nn.functional import pad

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import seeded
from course_lib.model import ModelConfig


def shift(rows):
    return rows[:, :-1], rows[:, 1:]


def leaks(part):
    x = torch.randn(1, 6, 4)
    for place in range(1, 6):
        changed = x.clone()
        changed[:, place] += 1
        if (part(x) != part(changed))[:, :place].any():
            return True
    return False


def count(config):
    attention = 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)
    feed_forward = 3 * config.d_model * config.d_ff
    norms = 2 * config.d_model
    return (
        config.vocab_size * config.d_model
        + config.n_layers * (attention + feed_forward + norms)
        + config.d_model
    )


def story_mask(ids, end):
    ended = (ids == end).cumsum(dim=0)
    story = ended - (ids == end).long()  # how many stories ended before this token
    return (story[:, None] == story).tril()


def adding(share, place, *to):
    """A part that adds a share of the vector at a place, if x is that long, to others."""

    def part(x):
        if place >= x.shape[1]:
            return x
        return x.index_add(1, torch.tensor(to), share * x[:, [place] * len(to)])

    return part


PARTS = {
    "each vector doubled": lambda x: 2 * x,
    "the mean of the vectors so far": lambda x: x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None],
    "each vector plus the one before it": lambda x: x + pad(x, (0, 0, 1, -1)),
    "a mean over all of time, taken off": lambda x: x - x.mean(dim=1, keepdim=True),
    "each vector plus the one after it": lambda x: x + pad(x, (0, 0, -1, 1)),
    "each vector times the one after it": lambda x: x * pad(x, (0, 0, -1, 1)),
    "the first vector plus the second, the others as they were": adding(1, 1, 0),
    "the second vector plus the third, the others as they were": adding(1, 2, 1),
    "the first vector plus the third, the others as they were": adding(1, 2, 0),
    "the first and the second vector plus the third, the others as they were": adding(1, 2, 0, 1),
    "the first vector plus the last, the others as they were": adding(1, -1, 0),
    "the first vector plus a millionth of the last, the others as they were": adding(1e-6, -1, 0),
}


def moved(part, place, start=torch.randn, tolerance=0.0):
    """Which outputs move when the vector at a place is changed, (time,)."""
    x = start(1, 6, 4)
    changed = x.clone()
    changed[:, place] += 1
    return ((part(x) - part(changed)).abs() > tolerance).any(dim=-1)[0]


def any_moved(part, seen, places=range(1, 6), **how):
    """Whether some place moves an output of those that `seen(place)` selects."""
    return any(moved(part, place, **how)[seen(place)].any() for place in places)


def sized(**sizes):
    listed = ", ".join(f"{name}={size}" for name, size in sizes.items())
    return Case(ModelConfig(**sizes, context=8), name=f"count(config) with {listed}")


def one_story(numbers):
    return (numbers[:, None] == numbers).tril()


TRUTH = "a mask is of truth values: take .bool()"


def mask_of(answer, ids, end):
    """The mask. Zeros and ones that are whole numbers pass for truth values elsewhere, and not here."""
    mask = answer(ids, end)
    if "int" in str(getattr(mask, "dtype", "")) and set(mask.flatten().tolist()) <= {0, 1}:
        raise Mistake(TRUTH)
    return mask


EXERCISES = (
    Exercise(
        id="shift",
        solution=shift,
        cases=(
            Case(torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 8]])),
            Case(torch.tensor([[7, 8, 2], [5, 0, 4], [1, 6, 9]])),
        ),
        returns=("tokens", "targets"),
        wrong={
            lambda rows: (rows[:, :-1], rows[:, :-1]): (
                "each target is the token itself: the model would learn to repeat what it reads"
            ),
            lambda rows: (rows, rows): "each target is the token itself, which it has just read",
            lambda rows: (rows[:, 1:], rows[:, :-1]): "a token's target is the next one, not the one before",
            lambda rows: (rows, rows.roll(-1, dims=1)): "roll goes round: the last target is the first token",
            lambda rows: (rows[:-1], rows[1:]): "you cut off a row of the batch; time is dimension 1",
            lambda rows: (rows[:, :-2], rows[:, 2:]): "each target stands two places on, not one",
            lambda rows: (rows[:, :-1], rows[:, -1]): "every place has a target, not the last one alone",
            lambda rows: rows[:, 1:]: "these are the targets; return two things: `return tokens, targets`",
        },
    ),
    Exercise(
        id="find-the-leak",
        solution=leaks,
        cases=tuple(
            Case(part, name=f"the answer for “{name}”", probe=seeded) for name, part in PARTS.items()
        ),
        wrong={
            lambda part: moved(part, -1).any(): (
                "your test calls every part a leak; an output may depend on its own vector and earlier ones"
            ),
            lambda part: any_moved(part, lambda place: torch.arange(6) != place): (
                "an output after the change may change, too: compare only those before it, `[:, :place]`"
            ),
            lambda part: any_moved(part, lambda place: slice(place + 1, None)): (
                "you compare outputs after the change, which may move: compare those before it, `[:, :place]`"
            ),
            lambda part: moved(part, 0)[:0].any(): (
                "your test finds no leak: change a vector in a copy of x, and compare the outputs before it"
            ),
            lambda part: moved(part, 1)[0]: (
                "your test tries only the second vector: try each in turn, and return False after the loop"
            ),
            lambda part: moved(part, -1)[0]: (
                "your test sees only the last vector in the first: try each, and compare every output before"
            ),
            lambda part: moved(part, -1)[:-1].any(): (
                "your test sees what the last vector moves, but not what others do: change each in turn"
            ),
            lambda part: any_moved(part, slice, places=range(1, 5)): (
                "your test never changes the last vector, which may leak into the first"
            ),
            lambda part: any_moved(part, lambda place: slice(1)): (
                "you compare the first output alone: compare all outputs before the change, `[:, :place]`"
            ),
            lambda part: any_moved(part, lambda place: place - 1): (
                "your test sees leaks from the next place alone: compare all outputs before it, `[:, :place]`"
            ),
            lambda part: any_moved(part, lambda place: slice(place - 1)): (
                "your test overlooks leaks from the next place: compare all outputs before it, `[:, :place]`"
            ),
            lambda part: any(moved(part, place)[:place].all() for place in range(1, 6)): (
                "one output that moves is a leak, even if others stay: .any(), not .all()"
            ),
            lambda part: any_moved(part, slice, tolerance=1e-5): (
                "your test overlooks small leaks: change vectors by much, and compare bit for bit, with !="
            ),
            lambda part: any_moved(part, slice, start=torch.zeros): (
                "your test overlooks a product with the next vector: start from random numbers, not zeros"
            ),
            lambda part: not leaks(part): "the wrong way round: True is for a part that leaks",
        },
    ),
    Exercise(
        id="count-parameters",
        solution=count,
        cases=(
            sized(vocab_size=49152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_head=64, d_ff=1536),
            sized(vocab_size=100, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_head=10, d_ff=50),
            sized(vocab_size=77, d_model=16, n_layers=3, n_heads=4, n_kv_heads=4, d_head=4, d_ff=40),
        ),
        wrong={
            lambda c: count(c) + c.vocab_size * c.d_model: "the head is the embedding table: count it once",
            lambda c: count(c) - c.vocab_size * c.d_model: "the embedding table is missing",
            lambda c: count(c) + c.context * c.d_model: "positions are rotations, which have no parameters",
            lambda c: count(c) - c.n_layers * c.d_model * c.d_ff: "a matrix is missing: SwiGLU has three",
            lambda c: count(c) - (2 * c.n_layers + 1) * c.d_model: (
                "the norms have a weight for each channel: two in a block, and a last one"
            ),
            lambda c: count(c) - c.d_model: "the last norm, after all blocks, is missing",
            lambda c: count(c) - 2 * c.n_layers * c.d_model: "the norms of the blocks are missing",
            lambda c: count(c) - c.n_layers * c.d_model: "a block has two norms: one is missing",
            lambda c: count(c) + (2 * c.n_layers + 1) * c.d_model: "an RMSNorm has weights, and no bias",
            lambda c: count(c) - 2 * c.n_layers * c.d_model * (c.n_heads * c.d_head - c.d_model): (
                "query and output are d_model × (n_heads · d_head), which need not be a square"
            ),
            lambda c: count(c) + 2 * c.n_layers * c.d_model * c.d_head * (c.n_heads - c.n_kv_heads): (
                "keys and values have n_kv_heads heads, which may be fewer than n_heads"
            ),
            lambda c: count(replace(c, n_heads=c.d_model, n_kv_heads=c.d_model, d_head=1)): (
                "attention's matrices aren't square: one side is n_heads · d_head, or n_kv_heads · d_head"
            ),
            lambda c: count(c) - c.n_layers * c.d_model * c.n_heads * c.d_head: (
                "attention has four matrices: that of the queries or that of the output is missing"
            ),
            lambda c: count(replace(c, n_layers=1)): "you counted one block; there are n_layers of them",
            lambda c: count(c) + (c.n_layers - 1) * (c.vocab_size + 1) * c.d_model: (
                "the embedding table and the last norm are there once, not once for each block"
            ),
        },
    ),
    Exercise(
        id="story-mask",
        solution=story_mask,
        cases=(
            Case(torch.tensor([5, 6, 0, 7, 8, 9, 0, 0, 4]), 0, probe=mask_of),
            Case(torch.tensor([3, 0, 7, 0, 2, 7]), 7, probe=mask_of),
        ),
        wrong={
            lambda ids, end: torch.ones(len(ids), len(ids), dtype=torch.bool).tril(): (
                "that is the plain triangle: it lets a token look into the stories before its own"
            ),
            lambda ids, end: one_story((ids == end).cumsum(dim=0)): (
                "the end mark is counted with the story after it; it belongs to the one that it ends"
            ),
            lambda ids, end: one_story(2 * (ids == end).cumsum(dim=0) - (ids == end).long()): (
                "the end mark is on its own; it belongs to the story that it ends"
            ),
            lambda ids, end: story_mask(ids, end) | story_mask(ids, end).T: (
                "your mask lets a token look at later ones of its story: .tril() is missing"
            ),
            lambda ids, end: story_mask(ids, end).T: "tokens look ahead: rows look, columns are looked at",
            lambda ids, end: story_mask(ids, end).tril(-1): "a token may look at itself: keep the diagonal",
            lambda ids, end: story_mask(ids, 0): "you took 0 for the end mark; it is `end`, whatever that is",
            lambda ids, end: story_mask(ids, end) & (ids != end): "an end mark may look at itself, too",
            lambda ids, end: story_mask(ids, end) & (ids != end)[:, None]: (
                "in your mask an end mark looks at nothing; it may look at its whole story and at itself"
            ),
            lambda ids, end: ~story_mask(ids, end): "the wrong way round: true is where a token may look",
            lambda ids, end: torch.zeros(len(ids), len(ids)).masked_fill(~story_mask(ids, end), -math.inf): (
                "true where a token may look and false elsewhere: minus infinity comes later"
            ),
            lambda ids, end: story_mask(ids, end).float(): TRUTH,
            lambda ids, end: story_mask(ids, end).long(): TRUTH,
        },
    ),
)
