"""The exercises of the lesson on tokenization."""

from ast import literal_eval
from functools import cache
from itertools import accumulate, pairwise

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.families import load_smollm2

real_tokenizer = cache(lambda: load_smollm2().tokenizer)


def check_word(answer):
    if not isinstance(answer, str):
        raise Mistake(f"a word is a string in quotes, not {type(answer).__name__}")
    word = answer.strip().lower()
    if not (word.isascii() and word.isalpha()):
        raise Mistake(f"{answer!r} is not one word of the letters a to z")
    if len(word) < 8:
        raise Mistake(f"{word!r} has only {len(word)} letters; eight are asked for")
    if word == "strawberry":
        raise Mistake("strawberry is taken")
    encode = real_tokenizer().encode
    inside, first = len(encode(" " + word)), len(encode(word.capitalize()))
    if inside != 1:
        raise Mistake(f"after a space {word!r} is {inside} tokens; look for a more common word")
    if first < 3:
        raise Mistake(f"{word.capitalize()!r} at the start is {first} token(s); it must be 3 or more")


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


def of_bytes(merges):
    return {pair: new for pair, new in merges.items() if max(pair) < 256}


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
        hints=(
            "Walk along the list with an index i, and build a second list.",
            "At i, compare (ids[i], ids[i + 1]) with the pair. Equal: append new and go on at i + 2.",
            "If not: append ids[i] and go on at i + 1.",
            "A for loop can't jump by two; a while loop can.",
            "The last element has no right neighbour: tuple(ids[i : i + 2]) is safe there.",
        ),
        learned="that is the one operation that all of BPE is made of.",
        solution=merge,
        cases=(
            *(Case(ids, (1, 2), 9) for ids in ([1, 2, 3, 1, 2], [2, 1, 3], [11, 2, 1, 23], [])),
            *(Case(ids, (1, 1), 9) for ids in ([1, 1, 1], [1, 1, 1, 1])),
            Case([116, 256, 101, 256], (256, 101), 257),
        ),
        part=True,
        wrong={
            lambda ids, pair, new: list(ids): (
                "nothing was merged. [1, 2] == (1, 2) is false: compare tuple(ids[i : i + 2]) with the pair"
            ),
            lambda ids, pair, new: [new if pair == (*ids[i : i + 2],) else ids[i] for i in range(len(ids))]: (
                "after a merge you go on at i + 1, where half of the pair still stands: jump over both"
            ),
            merge_reusing_the_middle: "of [1, 1, 1] the middle 1 was used twice. Once merged, it is gone",
            merge_losing_the_end: "the last element gets lost: it has no right neighbour, but must be kept",
            merge_only_the_first: "only the first occurrence was replaced; go on after it",
            merge_in_place: "you changed the list that you were given; build a new one",
            lambda ids, pair, new: merge(ids[::-1], pair[::-1], new)[::-1]: "read them from left to right",
            lambda ids, pair, new: merge(merge(ids, pair, new), pair[::-1], new): "(2, 1) isn't the pair",
            lambda ids, pair, new: literal_eval(str(ids).replace(str(pair)[1:-1], str(new))): (
                "in [11, 2, 1, 23] there is no pair (1, 2): compare the numbers, not their digits in a text"
            ),
        },
    ),
    Exercise(
        id="hunt-a-word",
        hints=(
            "Which nouns often follow 'the' or 'a', which verbs stand in the middle? Try real.encode.",
            "Fruit, animals, things in a kitchen: common in the middle of sentences, seldom first.",
        ),
        learned="to a model, the same word in two places can be quite different numbers.",
        solution="butterfly",
        why="' butterfly' is one token; 'Butterfly', at the start of a text, is several.",
        check=check_word,
        wrong={
            "strawberry": "strawberry is taken",
            "antidisestablishmentarianism": "look for a more common word",
            "computer": "it must be 3 or more",
            "cat": "has only 3 letters",
        },
    ),
    Exercise(
        id="encode",
        hints=(
            "text.encode() gives the bytes, and list(…) makes numbers of them.",
            "No search is needed: go through merges.items() in order, and merge each pair where it stands.",
        ),
        learned="the list of merges is the tokenizer, and encoding is replaying it in order.",
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
            from_the_left: (
                "of 'abc' you merged ab, but bc was learned first: that decides, not the place in the text"
            ),
            lambda text, merges: from_the_left(text, of_bytes(merges)): (
                "you went along the text; go along the merges: the first, wherever it stands, then the next"
            ),
            lambda text, merges: encode(text, of_bytes(merges)): "what was merged can be merged again",
            lambda text, merges: encode(text, dict([*merges.items()][:1])) if merges else None: (
                "only the first of the merges was applied: the return belongs after the loop"
            ),
            lambda text, merges: [*text.encode()]: "nothing was merged: do you keep what merge returns?",
            lambda text, merges: [*map(ord, text)] if "é" in text else encode(text, merges): (
                "é is two bytes: start from text.encode(), not from the numbers of the characters"
            ),
        },
    ),
    Exercise(
        id="stream",
        hints=(
            "A byte can't know what comes next; something has to remember the bytes that are still waiting.",
            "Python has such a thing: an incremental decoder, in the module codecs.",
            'decoder = codecs.getincrementaldecoder("utf-8")(), then decoder.decode(token) for each token.',
        ),
        learned="every chat window that streams does this, or shows � when you write to it in Chinese.",
        solution=stream,
        cases=(
            Case([b"A", b" \xf0\x9f", b"\x90", b"\xaf", b"!"], name="stream(tokens of 'A 🐯!')"),
            Case([b"\xe8", b"\x99\x8e\xe6", b"\x9c\xa8"], name="stream(tokens of '虎木')"),
            Case([b"caf\xc3", b"\xa9", b" ", b"no"]),
        ),
        wrong={
            lambda tokens: [token.decode(errors="replace") for token in tokens]: (
                "there is still a � in it: some token was decoded before the rest of its character had come"
            ),
            lambda tokens: [token.decode(errors="ignore") for token in tokens]: (
                "the tiger is lost: bytes that can't be decoded yet must be kept for the next token"
            ),
            lambda tokens: "".join(stream(tokens)): "give a list, not one string: one for each token",
            lambda tokens: ["".join(stream(tokens))]: "one string came out for all tokens; give one for each",
            lambda tokens: [text for text in stream(tokens) if text]: "give an empty string while it waits",
            lambda tokens: [*accumulate(stream(tokens))]: "each string repeats the last; give the new part",
            stream_holding_whole_tokens: "the space before the tiger could be shown, and was held back too",
        },
    ),
)
