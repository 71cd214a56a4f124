"""The exercises and the quiz of 02, embeddings and positions."""

import math
from collections import Counter
from functools import cache

import torch
import torch.nn.functional as F

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.text import Tokenizer

TITLE = "Embeddings and positions"


def _table(rows=12, width=5):
    """Rows of very different lengths."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.linspace(0.5, 4, rows)[torch.randperm(rows, generator=generator)]
    return torch.randn(rows, width, generator=generator) * lengths[:, None]


def check_nearest(answer):
    table, row, k = _table(), 7, 3
    got = call(answer, table, row, k)
    got = got.tolist() if hasattr(got, "tolist") else got
    got = list(got) if isinstance(got, tuple) else got
    if isinstance(got, list) and any(isinstance(i, float) and i % 1 for i in got):
        raise Mistake(
            "these are the cosines; give back the numbers of the rows: of topk, not values but indices"
        )
    if isinstance(got, list) and row in got:
        raise Mistake(
            f"row {row} is among its own neighbours: nothing is nearer to it than itself, so leave it out"
        )
    others = [i for i in range(len(table)) if i != row]
    by_dot = sorted(others, key=lambda i: -float(table[i] @ table[row]))
    by_distance = sorted(others, key=lambda i: float((table[i] - table[row]).norm()))
    by_angle = sorted(others, key=lambda i: -float(F.cosine_similarity(table[i], table[row], dim=0)))
    if got == by_dot[:k]:
        raise Mistake("by the dot product alone long rows win: divide it by the lengths of both rows")
    if got == by_distance[:k]:
        raise Mistake(
            "you measured the distance between the arrows' tips; the cosine asks only for their angle"
        )
    if got == by_angle[::-1][:k]:
        raise Mistake("these are the rows that are least alike; the largest cosine comes first")
    if got == by_angle[:k][::-1]:
        raise Mistake("the right rows, the wrong way round: the most alike should stand first")
    equal(got, by_angle[:k], f"nearest(table, {row}, {k})")


def solve_nearest(table, row, k):
    similarity = (table @ table[row]) / (table.norm(dim=-1) * table[row].norm())
    similarity[row] = -1
    return similarity.topk(k).indices.tolist()


def nearest_with_itself(table, row, k):
    return F.cosine_similarity(table, table[row], dim=-1).topk(k).indices.tolist()


def nearest_by_dot_product(table, row, k):
    similarity = table @ table[row]
    similarity[row] = -math.inf
    return similarity.topk(k).indices.tolist()


def nearest_by_distance(table, row, k):
    distance = (table - table[row]).norm(dim=-1)
    distance[row] = math.inf
    return distance.topk(k, largest=False).indices.tolist()


def nearest_upside_down(table, row, k):
    return F.cosine_similarity(table, table[row], dim=-1).topk(k, largest=False).indices.tolist()


def nearest_backwards(table, row, k):
    return solve_nearest(table, row, k)[::-1]


def nearest_cosines(table, row, k):
    return F.cosine_similarity(table, table[row], dim=-1).topk(k + 1).values[1:].tolist()


@cache
def real_tokenizer() -> Tokenizer:
    from course_lib.families import load_smollm2

    return load_smollm2().tokenizer


def check_twins(answer):
    if (
        not isinstance(answer, list | tuple)
        or len(answer) != 2
        or not all(isinstance(text, str) for text in answer)
    ):
        raise Mistake('two sentences in quotes, such as ("one sentence", "the other")')
    first, second = (text.rstrip() for text in answer)
    if {text.strip().lower().rstrip(".") for text in answer} == {
        "the tiger ate the fish",
        "the fish ate the tiger",
    }:
        raise Mistake("tiger and fish are taken: find a pair of your own")
    if first.strip() == second.strip():
        raise Mistake("the two are the same sentence")
    encode, name = real_tokenizer().encode, real_tokenizer().token_text
    one, other = Counter(encode(first)), Counter(encode(second))
    if len(encode(first)) < 3:
        raise Mistake("of so few tokens no sentence is made; use three or more")
    if sorted(first.lower().split()) != sorted(second.lower().split()):
        raise Mistake(
            "they aren't made of the same words (and the same commas), so any model can tell them apart"
        )
    if one != other:
        left, right = (", ".join(repr(name(i)) for i in rest) for rest in (one - other, other - one))
        raise Mistake(
            f"the words are the same, but the tokens aren't: {left} on one side, {right} on the other. "
            "Capitals, full stops and the space before a word count; let both begin with the same word"
        )


def check_turn(answer):
    x, position = torch.randn(6, generator=torch.Generator().manual_seed(5)), 3
    got, right = call(answer, x, position), solve_turn(x, position)
    for wrong, message in (
        (
            turn_backwards,
            "it turns the other way round, by minus the angle: look at the signs of the two sines",
        ),
        (
            turn_all_alike,
            "every pair turns by the same angle; pair i should turn by position · base^(−2i / d)",
        ),
        (turn_slowly, "the speeds fall too slowly: it is base^(−2i / d), and yours is base^(−i / d)"),
        (
            turn_first_with_last_half,
            "you paired x[0] with x[d/2]; here neighbours are pairs, x[0] with x[1], x[2] with x[3]",
        ),
        (
            turn_mirrored,
            "both sines have the same sign: that mirrors a pair, and doesn't turn it. One of them is minus",
        ),
        (
            turn_overwriting,
            "*b* was turned with the new *a* in place of the old: keep both until the pair is done",
        ),
        (
            turn_unshuffled,
            (
                "the right numbers in the wrong places: all *a* "
                "and then all *b*. Put each pair side by side again"
            ),
        ),
    ):
        if same(got, wrong(x, position)):
            raise Mistake(message)
    close(got, right, f"turn(x, {position})")
    close(call(answer, x, 3, 100.0), solve_turn(x, 3, 100.0), "turn(x, 3, base=100)")


def solve_turn(x, position, base=10_000.0):
    angle = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    first, second = x[0::2], x[1::2]
    pairs = [first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()]
    return torch.stack(pairs, dim=-1).flatten()


def turn_backwards(x, position, base=10_000.0):
    return solve_turn(x, -position, base)


def turn_all_alike(x, position, base=10_000.0):
    return solve_turn(x, position, base=1.0)


def turn_first_with_last_half(x, position, base=10_000.0):
    angle = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    first, second = x.chunk(2)
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()])


def turn_mirrored(x, position, base=10_000.0):
    angle = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    first, second = x[0::2], x[1::2]
    pairs = [first * angle.cos() + second * angle.sin(), first * angle.sin() + second * angle.cos()]
    return torch.stack(pairs, dim=-1).flatten()


def turn_slowly(x, position, base=10_000.0):
    return solve_turn(x, position, base**0.5)


def turn_overwriting(x, position, base=10_000.0):
    angle = position * base ** (-torch.arange(0, len(x), 2) / len(x))
    first, second = x[0::2], x[1::2]
    first = first * angle.cos() - second * angle.sin()
    return torch.stack([first, first * angle.sin() + second * angle.cos()], dim=-1).flatten()


def turn_unshuffled(x, position, base=10_000.0):
    return solve_turn(x, position, base).unflatten(0, (-1, 2)).T.flatten()


def turn_without_base(x, position, base=10_000.0):
    return solve_turn(x, position)


def _read_all(read_next, q, k, v):
    """Every token's output, one after the other."""
    keys, values, outputs = torch.zeros(0, q.shape[-1]), torch.zeros(0, v.shape[-1]), []
    for now in zip(q, k, v, strict=True):
        got = call(read_next, *now, keys, values)
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise Mistake("give back three things, as before: `return weights @ values, keys, values`")
        output, keys, values = (torch.as_tensor(part) for part in got)
        outputs.append(output)
    return torch.stack(outputs), keys, values


def check_reader(answer):
    q, k, v = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(6))
    got, _, values = _read_all(answer, q, k, v)
    right, _, _ = _read_all(solve_read_next, q, k, v)
    if same(got, _read_all(_reader(key_at=0, query_at=0), q, k, v)[0]):
        raise Mistake(
            "every token is still turned as if it stood at position 0, that is not at all: "
            "how many have been read before?"
        )
    if same(got, _read_all(_reader(query_at=0), q, k, v)[0]):
        raise Mistake("the key is turned to its place, but the query still stands at 0: turn both")
    if same(got, _read_all(_reader(key_at=0), q, k, v)[0]):
        raise Mistake("the query is turned to its place, but the key still stands at 0: turn both")
    if same(got, _read_all(_reader(turn_values=True), q, k, v)[0]):
        raise Mistake(
            "the places are right now, and a second fault shows that hid behind the first: the values are "
            "turned as well. A message shouldn't change with the place it is sent from"
        )
    if same(got, _read_all(_reader(ahead=1), q, k, v)[0]):
        raise Mistake(
            "the query stands one place too far on: token 0 is at position 0, so count before you add the key"
        )
    close(got, right, "the outputs, token by token,")
    close(values, v, "the values kept")


def _reader(key_at=None, query_at=None, ahead=0, turn_values=False):
    """A faulty reader: it rotates key and query as if they stood at these positions (None: the right one)."""

    def read_next(q, k, v, keys, values):
        place = len(keys)
        keys = torch.cat([keys, solve_turn(k, place if key_at is None else key_at)[None]])
        values = torch.cat([values, (solve_turn(v, place) if turn_values else v)[None]])
        query = solve_turn(q, (place if query_at is None else query_at) + ahead)
        weights = (keys @ query / math.sqrt(len(q))).softmax(dim=0)
        return weights @ values, keys, values

    return read_next


def solve_read_next(q, k, v, keys, values):
    position = len(keys)
    keys = torch.cat([keys, turn(k, position)[None]])
    values = torch.cat([values, v[None]])
    weights = (keys @ turn(q, position) / math.sqrt(len(q))).softmax(dim=0)
    return weights @ values, keys, values


turn = solve_turn  # what the notebook calls it


EXERCISES = (
    Exercise(
        id="02-1",
        title="Nearest neighbours",
        minutes=6,
        level="easy",
        hints=(
            "table @ table[row] gives the dot product of every row with this one, all at once.",
            "Divide by table.norm(dim=-1), the lengths of all rows, and by the length of this one.",
            "Set the row's own similarity to -1, the lowest there is; then .topk(k).indices.tolist().",
        ),
        check=check_nearest,
        solution=solve_nearest,
        wrong=(
            Wrong(nearest_with_itself, "among its own neighbours"),
            Wrong(nearest_by_dot_product, "long rows win"),
            Wrong(nearest_by_distance, "the arrows' tips"),
            Wrong(nearest_upside_down, "least alike"),
            Wrong(nearest_backwards, "the wrong way round"),
            Wrong(nearest_cosines, "these are the cosines"),
        ),
        learned=(
            "one matrix product compares a word with all others: "
            "what a vector database does, with short cuts."
        ),
    ),
    Exercise(
        id="02-2",
        title="Two sentences it can't tell apart",
        minutes=4,
        level="easy",
        hints=(
            "You need two nouns that can change places, and a verb that both can do.",
            "Let both sentences begin with *The*, and put no full stop behind them (or one behind both).",
        ),
        check=check_twins,
        solution=("The dog chased the cat", "The cat chased the dog"),
        why="The same five tokens in another order: a bag is the same bag however you shake it.",
        wrong=(
            Wrong(("The dog bit the man", "The man was bitten by the dog"), "aren't made of the same words"),
            Wrong(("Dogs chase cats", "cats chase Dogs"), "the tokens aren't"),
            Wrong(("The tiger ate the fish.", "The fish ate the tiger."), "are taken"),
            Wrong(("The dog barks", "The dog barks"), "the same sentence"),
        ),
        learned=(
            "whoever did what to whom is in the order alone, and so it must get into the vectors somehow."
        ),
    ),
    Exercise(
        id="02-3",
        title="Turn",
        minutes=10,
        level="medium",
        hints=(
            "angle = position * base ** (-torch.arange(0, len(x), 2) / len(x)) has one angle for each pair.",
            "x[0::2] are the first of each pair, x[1::2] the second.",
            (
                "(a, b) turned by t is (a cos t − b sin t, a sin t + b cos t); "
                "torch.stack(…, dim=-1).flatten() shuffles the two together."
            ),
        ),
        check=check_turn,
        solution=solve_turn,
        wrong=(
            Wrong(turn_backwards, "the other way round"),
            Wrong(turn_all_alike, "by the same angle"),
            Wrong(turn_first_with_last_half, "you paired x[0] with x[d/2]"),
            Wrong(turn_slowly, "fall too slowly"),
            Wrong(turn_mirrored, "mirrors a pair"),
            Wrong(turn_overwriting, "with the new *a*"),
            Wrong(turn_unshuffled, "in the wrong places"),
            Wrong(turn_without_base, "base=100"),
        ),
        learned="that is rotary position embedding, and nothing in it is learned.",
    ),
    Exercise(
        id="02-4",
        title="Bug hunt: the reader that forgets where it is",
        minutes=12,
        level="hard",
        hints=(
            "Print the position that it turns to, for the first token, the second, the third.",
            "As many tokens were read before as there are keys: len(keys).",
            "Mended that? Which of query, key and value take part in finding, and which is only handed over?",
        ),
        check=check_reader,
        solution=solve_read_next,
        wrong=(
            Wrong(_reader(key_at=0, query_at=0), "as if it stood at position 0"),
            Wrong(_reader(turn_values=True), "a second fault"),
            Wrong(_reader(query_at=0), "the query still stands at 0"),
            Wrong(_reader(key_at=0), "the key still stands at 0"),
            Wrong(_reader(ahead=1), "one place too far on"),
        ),
        learned="a fault can hide another; and a model with either still writes text, only worse.",
    ),
)

QUIZ = (
    Question(
        id="02-q1",
        text="Two tokens of the real model have a cosine of 0.44. What does that say?",
        choices=(
            Choice(
                "They are fairly alike in meaning",
                "Two tokens drawn at random have about as much: compare before you judge.",
            ),
            Choice(
                "Nothing much: two tokens of this table have about that on average",
                "The whole table leans to one side, and 0.44 is the average of random pairs.",
                right=True,
            ),
            Choice(
                "They are two writings of the same word",
                "Those are mostly nearer: tiger and Tiger have 0.82.",
            ),
        ),
    ),
    Question(
        id="02-q2",
        text=(
            "RoPE turns a query at position 10 and a key at "
            "position 7. Where else do they get the same score?"
        ),
        choices=(
            Choice(
                "At 110 and 107",
                "The dot product depends on the distance alone, and that is 3 again.",
                right=True,
            ),
            Choice("At 20 and 14", "Here the distance is 6, so each pair stands at twice the angle."),
            Choice(
                "At 7 and 10",
                "The distance is −3: each pair is turned the other way, and its sine changes sign.",
            ),
        ),
    ),
    Question(
        id="02-q3",
        text="A causal model with two layers gets no positions at all. Is a sentence a bag of words to it?",
        choices=(
            Choice(
                "Yes, since nothing tells it where a token stands",
                "The mask tells something: each token sees another set of tokens before it.",
            ),
            Choice("Only while it isn't trained", "What you showed holds for any weights, trained or not."),
            Choice(
                "No: what a token sees depends on its place, and the second layer can read that",
                "The tokens behind the first layer have been made of different beginnings.",
                right=True,
            ),
        ),
    ),
)
