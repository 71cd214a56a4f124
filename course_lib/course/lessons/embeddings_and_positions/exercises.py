"""The exercises of the lesson on embeddings and positions."""

import math
import re
from collections import Counter
from functools import cache

import torch
import torch.nn.functional as F

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise


@cache
def real_tokenizer():
    from course_lib.families import load_smollm2

    return load_smollm2().tokenizer


def check_twins(answer):
    if not isinstance(answer, list | tuple) or [type(text) for text in answer] != [str, str]:
        raise Mistake('two sentences in quotes, such as ("one sentence", "the other")')
    plain = [" ".join(text.lower().split()).rstrip(".!") for text in answer]
    if set(plain) == {"the tiger ate the fish", "the fish ate the tiger"}:
        raise Mistake("tiger and fish are taken: find a pair of your own")
    if answer[0].strip() == answer[1].strip():
        raise Mistake("the two are the same sentence")
    encode, name = real_tokenizer().encode, real_tokenizer().token_text
    one, other = (Counter(encode(text.rstrip())) for text in answer)
    if one.total() < 3:
        raise Mistake("of so few tokens no sentence is made; use three or more")
    words, other_words = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in answer)
    if words != other_words:
        raise Mistake("they aren't made of the same words and marks, so any model can tell them apart")
    if one != other:
        left, right = (", ".join(repr(name(i)) for i in rest) for rest in (one - other, other - one))
        raise Mistake(
            f"the words are the same, but the tokens aren't: {left} on one side, {right} on the other. "
            "Capitals, full stops and the space before a word count; let both begin with the same word"
        )


def random(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def table_of(rows, longest):
    """Random rows of very different lengths, one of them far longer than the others."""
    lengths = torch.linspace(0.1, 0.5, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(2))]
    lengths[longest] = 2
    return F.normalize(random(rows, 5), dim=-1) * lengths[:, None]


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


def nearest_by(like, own=-math.inf):
    """Take the rows most like this one by another measure, which for the row itself gives `own`."""
    return lambda table, row, k: like(table, table[row]).index_fill(0, torch.tensor(row), own).topk(k).indices


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


EXERCISES = (
    Exercise(
        id="nearest",
        hints=(
            "table @ table[row] gives the dot product of every row with this one, all at once.",
            "Divide by table.norm(dim=-1), the lengths of all rows, and by the length of this one.",
            "Set the row's own similarity to -1, the lowest there is; then .topk(k).indices.tolist().",
        ),
        learned=(
            "one matrix product compares a word with all others: "
            "what a vector database does, with short cuts."
        ),
        solution=nearest,
        cases=(Case(table_of(12, 7), 7, 3), Case(table_of(12, 7), 7, 11), Case(table_of(9, 0), 0, 4)),
        wrong={
            nearest_by(F.cosine_similarity, own=math.inf): (
                "the row is among its own neighbours: nothing is nearer to it than itself, so leave it out"
            ),
            nearest_by(lambda table, row: table @ row): (
                "by the dot product alone long rows win: divide it by the lengths of both rows"
            ),
            nearest_by(lambda table, row: -(table - row).norm(dim=-1)): (
                "you measured the distance between the arrows' tips; the cosine asks only for their angle"
            ),
            nearest_by(lambda table, row: F.cosine_similarity(table, row).abs()): (
                "without its sign a cosine of -1 counts as 1, but opposite rows are the least alike"
            ),
            nearest_by(lambda table, row: table @ row / table.norm(dim=-1), own=-1): (
                "-1 is the lowest cosine, but your values go lower: divide by the row's own length too"
            ),
            nearest_by(lambda table, row: -F.cosine_similarity(table, row)): (
                "these are the rows that are least alike; the largest cosine comes first"
            ),
            lambda table, row, k: nearest(table, row, k)[::-1]: (
                "the right rows, the wrong way round: the most alike should stand first"
            ),
            lambda table, row, k: F.cosine_similarity(table, table[row]).topk(k + 1).values[1:].tolist(): (
                "these are the cosines; give back the numbers of the rows, which topk calls the indices"
            ),
        },
    ),
    Exercise(
        id="twins",
        hints=(
            "You need two nouns that can change places, and a verb that both can do.",
            "Let both sentences begin with *The*, and put no full stop behind them (or one behind both).",
        ),
        learned=(
            "whoever did what to whom is in the order alone, and so it must get into the vectors somehow."
        ),
        solution=("The dog chased the cat", "The cat chased the dog"),
        why="The same five tokens in another order: a bag is the same bag however you shake it.",
        check=check_twins,
        wrong={
            ("The dog bit the man", "The man was bitten by the dog"): "aren't made of the same words",
            ("Dogs chase cats", "cats chase Dogs"): "the tokens aren't",
            ("The tiger ate the fish.", "The fish  ate the tiger!"): "are taken",
            ("The dog barks", "The dog barks"): "the same sentence",
        },
    ),
    Exercise(
        id="turn",
        hints=(
            "angle = position * base ** (-torch.arange(0, len(x), 2) / len(x)) has one angle for each pair.",
            "x[0::2] are the first of each pair, x[1::2] the second.",
            "(a, b) turned by t is (a cos t − b sin t, a sin t + b cos t).",
            "torch.stack(…, dim=-1).flatten() puts the two results side by side again, pair by pair.",
        ),
        learned="that is rotary position embedding, and nothing in it is learned.",
        solution=turn,
        cases=(Case(random(6), 3), Case(random(6), 3, 100.0), Case(random(8), 1000)),
        wrong={
            lambda x, at, b=1e4: turn(x, -at, b): (
                "it turns the other way round, by minus the angle: look at the signs of the two sines"
            ),
            lambda x, at, b=1e4: turn(x, at, 1.0): (
                "every pair turns by the same angle; pair i should turn by position · base^(−2i / d)"
            ),
            lambda x, at, b=1e4: turn(x, at, b**0.5): (
                "the speeds fall too slowly: it is base^(−2i / d), and yours is base^(−i / d)"
            ),
            lambda x, at, b=1e4: turn(x, at, 1 / b): (
                "the later pairs turn faster and faster: the exponent is −2i / d, with a minus"
            ),
            lambda x, at, b=1e4: turn(x, math.radians(at), b): (
                "the angle is in radians already, as cos and sin want it: don't convert it from degrees"
            ),
            lambda x, at, b=1e4: turn(x, at): "it turns with 10,000 whatever `base` is: use the argument",
            lambda x, at, b=1e4: mix(turn(mix(x, 2), at, b), len(x) // 2): (
                "you paired x[0] with x[d/2]; here neighbours are pairs, x[0] with x[1], x[2] with x[3]"
            ),
            lambda x, at, b=1e4: mix(torch.cat([turn(x, -at, b)[0::2], turn(x, at, b)[1::2]]), 2): (
                "both sines have the same sign: that mirrors a pair and doesn't turn it. One of them is minus"
            ),
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
        hints=(
            "Print the position that it turns to, for the first token, the second, the third.",
            "As many tokens were read before as there are keys: len(keys).",
            "Mended that? Which of query, key and value take part in finding, and which is only handed over?",
        ),
        learned="a fault can hide another; and a model with either still writes text, only worse.",
        solution=read_next,
        cases=tuple(
            Case(*random(3, 8), turned(random(n, 8, seed=6), range(n)), random(n, 8, seed=7))
            for n in (0, 2, 5)
        ),
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
