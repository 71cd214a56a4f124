"""The exercises of the lesson on multi-head attention."""

import re

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import smollm2

EXAMPLE = [[1, 0, 0], [0.9, 0.1, 0], [0.2, 0.5, 0.3]]
ON_THE_PAGE = """tiger jumped out, letter from the bank, elephant sat on the chair, bird flew to the nest,
dog barked at the car, robot opened the door, boat hit the rock, horse crossed the river, lamp on the desk,
aunt bought a lamp, boy found a coin, sister baked a cake, children built a castle, king wore a crown,
mechanic repaired the car, teacher wrote a letter, cook dropped the plate, trophy did not fit, lake freezes"""
NOT_NOUNS = """a an the this that my your his her its our their i you he she it we they me him us them who
what which where how and or but so because while until when then if as after before since although of in on at
to from by with for into onto over under about through between near is are was were be been had has did"""


def check_fooled(answer):
    from course_lib.show import attention

    if not isinstance(answer, tuple | list) or [type(part) for part in answer] != [str, str]:
        raise Mistake('give two strings in brackets: ("The … it …", "noun")')
    text, noun = answer[0].strip(), answer[1].strip()
    if not noun.isalpha() or noun.lower() in NOT_NOUNS.split():
        raise Mistake(f"{noun!r} isn't a noun, in one word: which thing or animal does 'it' stand for?")
    try:
        att = attention(smollm2(), text)
    except ValueError as error:
        raise Mistake(str(error)) from None
    nouns, it = find_both(noun, text, att.tokens)
    row = att.row(13, 8, it)
    mine = max(row[i] for i in nouns)
    others = {i: row[i] for i in range(1, it) if i not in nouns}
    rival = max(others, key=others.get, default=None)
    if rival is None or mine >= others[rival]:
        raise Mistake(f"head 13.8 is not fooled: it gives {noun!r} {mine:.2f}, more than any other word")
    if mine >= 1 / 3:
        raise Mistake(f"nearly: {att.tokens[rival].strip()!r} gets more, but {noun!r} still gets {mine:.2f}")
    plain = " ".join(text.lower().split())
    if any(part in plain for part in re.split(r",\s", ON_THE_PAGE)):
        raise Mistake("that one stands on the page; find one of your own")


def find_both(noun, text, tokens):
    """Return the places of the noun among the tokens, and that of the last 'it'."""
    names = [token.strip() for token in tokens]
    if "it" not in names and "It" in names:
        raise Mistake("this 'It' has a capital: put the noun first, and after it a small 'it'")
    if "it" not in names:
        raise Mistake("there is no 'it' in the sentence")
    it = max(i for i, name in enumerate(names) if name == "it")
    if noun not in words_of(text):
        raise Mistake(f"the sentence doesn't have the word {noun!r}")
    if noun not in words_of("".join(tokens[:it])):
        raise Mistake(f"{noun!r} must stand before the 'it'")
    nouns = [i for i, name in enumerate(names[:it]) if name == noun]
    if not nouns:
        raise Mistake(f"{noun!r} is more than one token: choose a more common noun")
    if nouns == [0]:
        raise Mistake("the first token is where heads rest; begin with another word, such as The")
    return nouns, it


def words_of(text):
    return re.findall(r"\w+", text)


def split_heads(x, n_heads):
    time, d_model = x.shape
    return x.reshape(time, n_heads, d_model // n_heads).transpose(0, 1)


def previous_token_score(weights):
    return np.mean([weights[i, i - 1] for i in range(1, len(weights))])


def cut(weights, query, key):
    changed = weights.clone()
    changed[:, :, query, key] = 0
    return changed / changed.sum(dim=-1, keepdim=True)


def replace(weights, query, key, by=0.0):
    changed = weights.clone()
    changed[:, :, query, key] = by
    return changed


def shared_out(among):
    """Give the weight that is cut off to other keys, `among(row, query, key)`, in equal shares."""

    def changed(weights, query, key):
        rest = replace(weights, query, key)
        takers = among(rest[0, 0, query], query, key)
        rest[:, :, query, takers] += weights[:, :, query, key, None] / len(takers)
        return rest

    return changed


def random_weights(*shape, ahead=0):
    weights = (torch.rand(shape, generator=torch.Generator().manual_seed(5)) + 0.1).tril(ahead)
    return weights / weights.sum(dim=-1, keepdim=True)


EXERCISES = (
    Exercise(
        id="split-heads",
        solution=split_heads,
        cases=(Case(torch.arange(24.0).reshape(4, 6), 2), Case(torch.arange(40.0).reshape(5, 8), 4)),
        part=True,
        wrong={
            lambda x, n: x.reshape(n, len(x), -1): (
                "head 0 gets the first tokens, whole: split each token's channels before you swap dimensions"
            ),
            lambda x, n: x.view(len(x), n, -1): "this is (time, heads, d_head): swap the first two",
            lambda x, n: x.reshape(len(x), -1, n).permute(2, 0, 1): (
                "head 0 got every n_heads-th channel; its channels are the first d_head, side by side"
            ),
            lambda x, n: split_heads(x, n).mT: "this is (heads, d_head, time): swap the last two",
        },
    ),
    Exercise(
        id="previous-token-score",
        solution=previous_token_score,
        cases=(
            Case(np.array(EXAMPLE), name=f"previous_token_score({EXAMPLE})"),
            Case(random_weights(7, 7).numpy()),
        ),
        wrong={
            lambda w: np.diagonal(w, 1).mean(): "you took the token after; the one before is in column i - 1",
            lambda w: np.diagonal(w).mean(): "you took each token's own column, i; the one before is i - 1",
            lambda w: np.diagonal(w, -1).sum() / len(w): "the first token has none before it: leave it out",
            lambda w: np.diagonal(w, -1).tolist(): "these are the weights; their mean is wanted",
            lambda w: np.diagonal(w, -1)[1:].mean(): "you left out the second token's weight on the first",
            lambda w: np.diagonal(w, -1)[:-1].mean(): (
                "you left out the last token's weight: range(1, len(weights)) goes up to the last token"
            ),
            lambda w: np.diagonal(w, -1).sum(): "this is the sum; the mean of the weights is wanted",
            lambda w: np.median(np.diagonal(w, -1)): "this is the median; the mean of the weights is wanted",
        },
    ),
    Exercise(
        id="fool-the-head",
        solution=("The cat watched the train while it ate.", "cat"),
        check=check_fooled,
        wrong={
            ("The tiger jumped out of a tree because it was thirsty.", "tiger"): "head 13.8 is not fooled",
            ("The dog barked at the car while it slept.", "dog"): "stands on the page",
            ("The old  robot opened the door and then it smiled.", "door"): "stands on the page",
            ("The dog barked at the car and ran away.", "dog"): "there is no 'it'",
            ("The cat slept. It ate.", "cat"): "this 'It' has a capital",
            ("Because it was thirsty, the tiger drank.", "tiger"): "must stand before the 'it'",
            ("The hippopotamus watched the train while it ate.", "hippopotamus"): "is more than one token",
            ("The cats watched the train while it ate.", "cat"): "doesn't have the word 'cat'",
            ("The old robot opened the door and then it smiled.", "cat"): "doesn't have the word 'cat'",
            ("The cat watched the train while it ate.", "while"): "isn't a noun",
        },
    ),
    Exercise(
        id="cut-an-edge",
        solution=cut,
        cases=(Case(random_weights(2, 3, 4, 4), 2, 1), Case(random_weights(2, 3, 4, 4, ahead=3), 1, 3)),
        wrong={
            lambda w, q, k: w: "some head still looks from the query to the key: you changed nothing",
            lambda w, q, k: cut(w, k, q): "query and key are swapped: it is [batch, heads, query, key]",
            replace: "the rows no longer add up to 1: divide by the new sum of each row",
            lambda w, q, k: cut(w, slice(None), k): "other tokens' rows changed too: cut off one query only",
            lambda w, q, k: cut(w, slice(k + 1, None), k): (
                "the rows of the other tokens after the key changed too; only one query is to be cut off"
            ),
            lambda w, q, k: replace(w, q, k).softmax(dim=-1): (
                "after a softmax the 0 is a share again: these are shares already, so divide by their sum"
            ),
            lambda w, q, k: replace(w, q, k, by=-torch.inf).softmax(dim=-1): (
                "a second softmax changes the others' proportions: set a 0, then divide each row by its sum"
            ),
            lambda w, q, k: F.normalize(replace(w, q, k), p=1, dim=-2): (
                "you divided by the sums of the columns, dim=-2; a row's weights lie along dim=-1"
            ),
            lambda w, q, k: cut(w.copy_(replace(w, q, k)), q, k): (
                "you wrote on the tensor that you were given: work on weights.clone()"
            ),
            lambda w, q, k: w.copy_(replace(w, q, k)): (
                "work on weights.clone(), not on what you were given, and divide each row by its new sum"
            ),
            **{
                shared_out(among): "the others should keep their proportions: divide the row by its sum"
                for among in (
                    lambda row, query, key: [i for i in range(len(row)) if i != key],
                    lambda row, query, key: row.nonzero()[:, 0],
                    lambda row, query, key: [query],
                )
            },
        },
    ),
)
