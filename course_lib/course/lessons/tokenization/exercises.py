"""The exercises of the lesson on tokenization."""

import codecs
import math
from ast import literal_eval
from itertools import accumulate, pairwise

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import smollm2


def check_word(answer):
    if not isinstance(answer, str):
        raise Mistake("a word is a string in quotes")
    word = answer.strip().lower()
    if not (word.isascii() and word.isalpha()):
        raise Mistake(f"{answer!r} is not one word of the letters a to z")
    if len(word) < 8:
        raise Mistake(f"{word!r} has only {len(word)} letters; eight are asked for")
    if word == "strawberry":
        raise Mistake("strawberry is taken")
    encode = smollm2().tokenizer.encode
    inside, first = len(encode(" " + word)), len(encode(word.capitalize()))
    if inside != 1:
        raise Mistake(f"after a space {word!r} is {inside} tokens; look for a more common word")
    if first < 3:
        count = "one token" if first == 1 else "two tokens"
        raise Mistake(f"{word.capitalize()!r} at the start is {count}; it must be three or more")


def merge(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def encode(text, merges):
    ids = list(text.encode())
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids


def stream(tokens):
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(token) for token in tokens]


def merge_reusing_the_middle(ids, pair, new):
    found = [tuple(ids[i : i + 2]) == pair for i in range(len(ids))]
    return [new if found[i] else ids[i] for i in range(len(ids)) if found[i] or not found[i - 1]]


def merge_losing_the_end(ids, pair, new):
    merged = merge(ids, pair, new)
    return merged[:-1] if merged[-1:] == ids[-1:] else merged


def merge_in_place(ids, pair, new):
    ids[:] = merge(ids, pair, new)
    return ids


def merge_only_the_first(ids, pair, new):
    text, found = ("".join(map(chr, numbers)) for numbers in (ids, pair))
    return [ord(letter) for letter in text.replace(found, chr(new), 1)]


def from_the_left(text, merges):
    ids = list(text.encode())
    while pair := next((pair for pair in pairwise(ids) if pair in merges), None):
        ids = merge(ids, pair, merges[pair])
    return ids


def by_the_lowest_id(text, merges):
    ids = list(text.encode())
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: merges.get(pair, math.inf))
        if pair not in merges:
            break
        ids = merge(ids, pair, merges[pair])
    return ids


def each_from_the_bytes(text, merges):
    ids = merged = list(text.encode())
    for pair, new in merges.items():
        merged = merge(ids, pair, new)
    return merged


def of_bytes(merges):
    return {pair: new for pair, new in merges.items() if max(pair) < 256}


def one_by_one(errors):
    return lambda tokens: [token.decode(errors=errors) for token in tokens]


def stream_holding_whole_tokens(tokens):
    shown, waiting = [], b""
    for token in tokens:
        text = (waiting + token).decode(errors="replace")
        shown.append("" if "�" in text else text)
        waiting = waiting + token if "�" in text else b""
    return shown


EXERCISES = (
    Exercise(
        id="merge",
        solution=merge,
        cases=(
            *(Case(ids, (1, 2), 9) for ids in ([1, 2, 3, 1, 2], [2, 1, 3], [11, 2, 1, 23], [])),
            *(Case(ids, (1, 1), 9) for ids in ([1, 1, 1], [1, 1, 1, 1])),
            Case([116, 256, 101, 256], (256, 101), 257),
        ),
        part=True,
        wrong={
            lambda ids, pair, new: list(ids): (
                "nothing was merged: is the pair ever found? The list [1, 2] never equals the tuple (1, 2)"
            ),
            lambda ids, pair, new: [new if pair == (*ids[i : i + 2],) else ids[i] for i in range(len(ids))]: (
                "after a merge you go on at i + 1, where half of the pair still stands: jump over both"
            ),
            merge_reusing_the_middle: "of [1, 1, 1] the middle 1 was used twice. Once merged, it is gone",
            merge_losing_the_end: "the last element gets lost: it has no right neighbour, but must be kept",
            lambda ids, pair, new: [*merge_losing_the_end(ids, pair, new), ids[-1]]: (
                "the last element was added even where it had been merged: add it only if it is left over"
            ),
            merge_only_the_first: "only the first occurrence was replaced; go on after it",
            merge_in_place: "you changed the list that you were given; build a new one",
            lambda ids, pair, new: merge(ids[::-1], pair[::-1], new)[::-1]: (
                "pairs are read from left to right: of [1, 1, 1] the first two are merged"
            ),
            lambda ids, pair, new: merge(merge(ids, pair, new), pair[::-1], new): (
                "(2, 1) isn't the pair (1, 2): the order counts"
            ),
            lambda ids, pair, new: literal_eval(str(ids).replace(str(pair)[1:-1], str(new))): (
                "in [11, 2, 1, 23] there is no pair (1, 2): compare the numbers, not their digits in a text"
            ),
        },
    ),
    Exercise(
        id="hunt-a-word",
        solution="butterfly",
        check=check_word,
        wrong={
            "strawberry": "strawberry is taken",
            "antidisestablishmentarianism": "look for a more common word",
            "computer": "is one token; it must be three or more",
            "elephant": "is two tokens; it must be three or more",
            "cat": "has only 3 letters",
        },
    ),
    Exercise(
        id="encode",
        solution=encode,
        cases=(
            *(Case(text, {(98, 99): 256, (97, 98): 257}) for text in ("abc", "bcabbc", "é", "")),
            Case("bcd", {(98, 99): 300, (99, 100): 290}),
            Case("abcd", {(98, 99): 256, (256, 100): 257}),
            Case("hugs", {(117, 103): 300, (104, 300): 290}),
            Case("hi", {}),
        ),
        part=True,
        wrong={
            lambda text, merges: encode(text, dict(reversed(merges.items()))): "replay from first to last",
            from_the_left: "of 'abc' you merged ab, but bc was learned first: that decides, not the place",
            by_the_lowest_id: "you took the pair with the lowest id; the order of the dictionary counts",
            lambda text, merges: from_the_left(text, of_bytes(merges)): (
                "you went along the text; go along the merges: the first, wherever it stands, then the next"
            ),
            lambda text, merges: encode(text, of_bytes(merges)): "what was merged can be merged again",
            lambda text, merges: encode(text, dict([*merges.items()][:1])) if merges else None: (
                "only the first of the merges was applied: the return belongs after the loop"
            ),
            each_from_the_bytes: "each merge began with the bytes; go on with what the last one returned",
            lambda text, merges: encode(text, {pair: 256 + i for i, pair in enumerate(merges)}): (
                "the new ids are in `merges`: use those, they needn't be 256, 257 …"
            ),
            lambda text, merges: [*text.encode()]: (
                "nothing was merged: do you keep what merge returns, and does it get a pair and a new id?"
            ),
            lambda text, merges: [*map(ord, text)] if "é" in text else encode(text, merges): (
                "é is two bytes in UTF-8: start from the bytes that text.encode() gives"
            ),
        },
    ),
    Exercise(
        id="stream",
        solution=stream,
        cases=(
            Case([b"A", b" \xf0\x9f", b"\x90", b"\xaf", b"!"], name="stream(tokens of 'A 🐯!')"),
            Case([b"\xe8", b"\x99\x8e\xe6", b"\x9c\xa8"], name="stream(tokens of '虎木')"),
            Case([b"caf\xc3", b"\xa9", b" ", b"no"]),
        ),
        wrong={
            one_by_one("strict"): "a token may end within a character: keep those bytes for the next one",
            one_by_one("replace"): "a � came out: a token was decoded before its character was complete",
            one_by_one("ignore"): "the tiger is lost: keep what can't be decoded yet for the next token",
            lambda tokens: ["" if "�" in text else text for text in one_by_one("replace")(tokens)]: (
                "what couldn't be decoded was thrown away: keep those bytes for the next token"
            ),
            lambda tokens: [codecs.getincrementaldecoder("utf-8")().decode(token) for token in tokens]: (
                "each token was decoded on its own: one decoder for all of them remembers the bytes that wait"
            ),
            lambda tokens: "".join(stream(tokens)): "give a list of strings, one for each token",
            lambda tokens: ["".join(stream(tokens))]: "one string came out for all tokens; give one for each",
            lambda tokens: [text for text in stream(tokens) if text]: "give an empty string while it waits",
            lambda tokens: [*accumulate(stream(tokens))]: "each string repeats the last; give the new part",
            stream_holding_whole_tokens: "the space before the tiger could be shown, and was held back too",
        },
    ),
)
