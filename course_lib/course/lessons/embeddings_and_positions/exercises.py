"""The exercises of the lesson on embeddings and positions."""

import math
import re
from collections import Counter

import torch
import torch.nn.functional as F

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random, smollm2

cosine = F.cosine_similarity


def check_twins(answer):
    if not isinstance(answer, list | tuple) or [type(text) for text in answer] != [str, str]:
        raise Mistake('two sentences in quotes, such as ("one sentence", "the other")')
    plain = [" ".join(text.lower().split()).rstrip(".!") for text in answer]
    if set(plain) == {"the tiger ate the fish", "the fish ate the tiger"}:
        raise Mistake("tiger and fish are taken: find a pair of your own")
    if " ".join(answer[0].split()) == " ".join(answer[1].split()):
        raise Mistake("the two are the same sentence")
    encode, name = smollm2().tokenizer.encode, smollm2().tokenizer.token_text
    one, other = (Counter(encode(text.rstrip())) for text in answer)
    if one.total() < 3:
        raise Mistake("of so few tokens no sentence is made; use three or more")
    words, other_words = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in answer)
    if words != other_words:
        raise Mistake("they aren't made of the same words and marks, so any model can tell them apart")
    if one != other:
        left, right = (
            ", ".join(repr(name(i)) for i in rest) or "nothing" for rest in (one - other, other - one)
        )
        raise Mistake(
            f"the words are the same, but the tokens aren't: {left} on one side, {right} on the other. "
            "Capitals, full stops and every single space count; let both begin with the same word"
        )


def table_of(rows, longest):
    """Random rows of very different lengths, one of them far longer than the others."""
    lengths = torch.linspace(0.1, 0.5, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(2))]
    lengths[longest] = 2
    return F.normalize(*random((rows, 5), seed=5), dim=-1) * lengths[:, None]


def nearest(table, row, k):
    similarity = (table @ table[row]) / (table.norm(dim=-1) * table[row].norm())
    similarity[row] = -1
    return similarity.topk(k).indices.tolist()


def turn(x, position, base=10_000.0):
    angle = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    first, second = x[0::2], x[1::2]
    pairs = [first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()]
    return torch.stack(pairs, dim=-1).flatten()


def read_next(q, k, v, keys, values):
    position = len(keys)
    keys = torch.cat([keys, turn(k, position)[None]])
    values = torch.cat([values, v[None]])
    weights = (keys @ turn(q, position) / math.sqrt(len(q))).softmax(dim=0)
    return weights @ values, keys, values


def best(likeness, row, k, own=-math.inf):
    """Return the k largest likenesses and their rows, after the row's own likeness was set to `own`."""
    return likeness.index_fill(0, torch.tensor(row), own).topk(k)


def nearest_by(like, own=-math.inf):
    """Take the rows most like this one by another measure, which for the row itself gives `own`."""
    return lambda table, row, k: best(like(table, table[row]), row, k, own).indices.tolist()


def nearest_of_the_rest(table, row, k):
    rest = torch.cat([table[:row], table[row + 1 :]])
    return cosine(rest, table[row]).topk(k).indices.tolist()


def turn_with_one_sign(sign):
    """Give both sines the sign."""
    return lambda x, at, b=1e4: mix(torch.cat([turn(x, -sign * at, b)[0::2], turn(x, sign * at, b)[1::2]]), 2)


def turn_in_place(x, position, base=10_000.0):
    x[0::2] = turn(x, position, base)[0::2]
    x[1::2] = turn(x, position, base)[1::2]
    return x


def mix(x, rows):
    return x.reshape(rows, -1).T.flatten()


def turned(keys, places):
    return torch.cat([keys[:0], *(turn(key, place)[None] for key, place in zip(keys, places, strict=True))])


def keep_keys_unturned(q, k, v, keys, values):
    output, _, values = read_next(q, k, v, turned(keys, range(len(keys))), values)
    return output, torch.cat([keys, k[None]]), values


def reader_case(n):
    q, k, v, keys, values = random((8,), (8,), (8,), (n, 8), (n, 8))
    return Case(q, k, v, turned(keys, range(n)), values)


EXERCISES = (
    Exercise(
        id="nearest",
        solution=nearest,
        cases=(Case(table_of(12, 7), 7, 3), Case(table_of(12, 7), 7, 11), Case(table_of(9, 0), 0, 4)),
        wrong={
            nearest_by(cosine, own=math.inf): "the row is among its own neighbours: leave it out",
            nearest_by(lambda table, row: table @ row): "long rows win: divide by the lengths of both rows",
            nearest_by(lambda table, row: -(table - row).norm(dim=-1)): (
                "you measured the distance between the arrows' tips; the cosine asks only for their angle"
            ),
            nearest_by(lambda table, row: cosine(table, row).abs()): (
                "without its sign a cosine of -1 counts as 1, but opposite rows are the least alike"
            ),
            nearest_by(lambda table, row: table @ row / table.norm(dim=-1), own=-1): (
                "-1 is the lowest cosine, but your values go lower: divide by the row's own length too"
            ),
            nearest_by(lambda table, row: -cosine(table, row)): (
                "these are the rows that are least alike; the largest cosine comes first"
            ),
            nearest_by(lambda table, row: -cosine(table, row), own=1): (
                "the lowest come first, with the row itself in front of them: begin with the largest cosine"
            ),
            lambda table, row, k: nearest(table, row, k)[::-1]: (
                "the right rows, the wrong way round: the most alike should stand first"
            ),
            lambda table, row, k: cosine(table, table[row]).topk(k + 1).values[1:].tolist(): (
                "these are the cosines; give back the numbers of the rows, which topk calls the indices"
            ),
            lambda table, row, k: best(cosine(table, table[row]), row, k): (
                "topk gives two things, the cosines and the indices: return the indices"
            ),
            lambda table, row, k: cosine(table, table[row]).topk(k).indices[1:].tolist(): (
                "one neighbour is missing: if you take the row itself away at the end, ask for k + 1"
            ),
            lambda table, row, k: cosine(table, table[row]).topk(k + 1).indices.tolist(): (
                "these are k + 1 rows, and the first is the row itself: leave it out"
            ),
            nearest_of_the_rest: (
                "with the row taken out, the later ones move up: your numbers for those are one too small"
            ),
        },
    ),
    Exercise(
        id="twins",
        solution=("The dog chased the cat", "The cat chased the dog"),
        check=check_twins,
        wrong={
            ("The dog bit the man", "The man was bitten by the dog"): "aren't made of the same words",
            ("Dogs chase cats", "cats chase Dogs"): "'Dogs', ' cats' on one side, 'cats', ' Dogs' on the",
            ("The dog chased the cat", "The cat chased  the dog"): "nothing on one side, ' ' on the other",
            ("The tiger ate the fish.", "The fish  ate the tiger!"): "are taken",
            ("The dog chased the cat", "The dog chased  the cat"): "the same sentence",
        },
    ),
    Exercise(
        id="turn",
        solution=turn,
        cases=(Case(*random((6,)), 3), Case(*random((6,)), 3, 100.0), Case(*random((8,)), 1000)),
        wrong={
            lambda x, at, b=1e4: turn(x, -at, b): "it turns the other way: look at the signs of the sines",
            lambda x, at, b=1e4: turn(x, at, 1.0): "all pairs turn alike: pair i's speed is base^(−2i / d)",
            lambda x, at, b=1e4: turn(x, at, b**0.5): "the speed is base^(−2i / d), and yours base^(−i / d)",
            lambda x, at, b=1e4: turn(x, at, b**2): "the speed is base^(−2i / d), and yours base^(−4i / d)",
            lambda x, at, b=1e4: turn(x, 1, b): "the position is missing: t = position · base^(−2i / d)",
            lambda x, at, b=1e4: turn(x, at + 1, b): "it turns a place too far: at position 0 nothing turns",
            lambda x, at, b=1e4: turn(x, at, 1 / b): "later pairs turn faster: the exponent lacks its minus",
            lambda x, at, b=1e4: turn(x, math.radians(at), b): "the angle is in radians: don't convert it",
            lambda x, at, b=1e4: turn(x, at): "it turns with 10,000 whatever `base` is: use the argument",
            lambda x, at, b=1e4: mix(turn(mix(x, 2), at, b), len(x) // 2): (
                "you paired x[0] with x[d/2]; here neighbours are pairs, x[0] with x[1], x[2] with x[3]"
            ),
            **{
                turn_with_one_sign(sign): "both sines have the same sign: only the first takes a minus"
                for sign in (1, -1)
            },
            lambda x, at, b=1e4: turn_in_place(x.clone(), at, b): (
                "*b* was turned with the new *a* in place of the old: keep both until the pair is done"
            ),
            turn_in_place: "you write on x, and turn *b* with the new *a*: put the results into a new tensor",
            lambda x, at, b=1e4: mix(turn(x, at, b), len(x) // 2): (
                "the right numbers in the wrong places: all *a* and then all *b*. Put each pair side by side"
            ),
        },
    ),
    Exercise(
        id="forgetful-reader",
        solution=read_next,
        cases=tuple(map(reader_case, (0, 2, 5))),
        returns=("the output", "the keys", "the values"),
        wrong={
            lambda q, k, v, ks, vs: read_next(turn(q, -len(ks)), turn(k, -len(ks)), v, ks, vs): (
                "every token is still turned as if it stood at position 0, that is not at all: "
                "how many have been read before?"
            ),
            lambda q, k, v, ks, vs: read_next(turn(q, -len(ks)), k, v, ks, vs): (
                "the key is turned to its place, but the query still stands at 0: turn both"
            ),
            lambda q, k, v, ks, vs: read_next(q, turn(k, -len(ks)), v, ks, vs): (
                "the query is turned to its place, but the key still stands at 0: turn both"
            ),
            lambda q, k, v, ks, vs: read_next(q, k, turn(v, len(ks)), ks, vs): (
                "the places are right now, and a second fault shows that hid behind the first: the values "
                "are turned as well. A message shouldn't change with the place it is sent from"
            ),
            lambda q, k, v, ks, vs: read_next(turn(q, 1), k, v, ks, vs): (
                "the query stands one place too far on: token 0 is at 0, so count before you add the key"
            ),
            lambda q, k, v, ks, vs: read_next(turn(q, 1), turn(k, 1), v, ks, vs): (
                "key and query stand one place too far on: token 0 is at position 0"
            ),
            lambda q, k, v, ks, vs: read_next(q, k, v, turned(ks, range(len(ks))), vs): (
                "the earlier keys were turned when they came, and you turn them again: turn the new one only"
            ),
            lambda q, k, v, ks, vs: read_next(q, k, v, turned(ks, [len(ks)] * len(ks)), vs): (
                "you turn the earlier keys to the new place, but they keep their own: turn just the new one"
            ),
            keep_keys_unturned: (
                "the keys that you are given are turned already: turn only the new one, and keep it turned"
            ),
        },
    ),
)
