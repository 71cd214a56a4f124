"""The exercises and the quiz of 01, tokenization."""

from functools import cache

from course_lib.course.checking import Mistake, call, equal
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.text import Tokenizer

TITLE = "Tokenization"


def check_merge(answer):
    given = [1, 2, 3, 1, 2]
    if call(answer, given, (1, 2), 9) == given:
        raise Mistake(
            "nothing was merged. A piece of a list is a list, and "
            "[1, 2] == (1, 2) is false: compare tuple(ids[i : i + 2])"
        )
    equal(call(answer, [1, 2, 3, 1, 2], (1, 2), 9), [9, 3, 9], "merge([1, 2, 3, 1, 2], (1, 2), 9)")
    equal(call(answer, [2, 1, 3], (1, 2), 9), [2, 1, 3], "merge([2, 1, 3], (1, 2), 9), where the pair isn't,")
    overlapping = call(answer, [1, 1, 1], (1, 1), 9)
    if overlapping == [9, 9]:
        raise Mistake("of [1, 1, 1] the middle 1 was used twice. Once merged, it is gone: jump over both")
    equal(overlapping, [9, 1], "merge([1, 1, 1], (1, 1), 9)")
    equal(call(answer, [1, 1, 1, 1], (1, 1), 9), [9, 9], "merge([1, 1, 1, 1], (1, 1), 9)")
    answer(given, (1, 2), 9)
    if given != [1, 2, 3, 1, 2]:
        raise Mistake("you changed the list that you were given; build a new one")


def solve_merge(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def merge_reusing_the_middle(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new)
            i += 1 if tuple(ids[i + 1 : i + 3]) == pair else 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def merge_losing_the_end(ids, pair, new):
    merged, i = [], 0
    while i < len(ids) - 1:
        found = (ids[i], ids[i + 1]) == pair
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def merge_comparing_lists(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        found = ids[i : i + 2] == pair
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def merge_in_place(ids, pair, new):
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new]
        i += 1
    return ids


def merge_only_the_first(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2 :]
    return ids


@cache
def real_tokenizer() -> Tokenizer:
    from course_lib.families import load_smollm2

    return load_smollm2().tokenizer


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
        raise Mistake(
            f"at the start {word.capitalize()!r} is only {first} token(s); it begins sentences too often"
        )


def check_encode(answer):
    merges = {(98, 99): 256, (97, 98): 257, (256, 100): 258}
    got = call(answer, "abc", merges)
    if got == [257, 99]:
        raise Mistake(
            "of 'abc' you merged ab, but bc was learned first. The "
            "order of learning decides, not the place in the text"
        )
    equal(got, [97, 256], "encode('abc', …), with bc learned before ab,")
    got = call(answer, "abcd", merges)
    if got == [97, 256, 100]:
        raise Mistake("of 'abcd' you stopped after bc. Merges go on: what was merged can be merged again")
    equal(got, [97, 258], "encode('abcd', …)")
    equal(call(answer, "bcbc", merges), [256, 256], "encode('bcbc', …)")
    equal(call(answer, "é", merges), [195, 169], "encode('é', …), which is two bytes,")
    equal(call(answer, "", merges), [], "encode of an empty text")


def solve_encode(text, merges):
    ids = list(text.encode())
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids


merge = solve_merge  # the notebook has it by this name, and so has the solution that is shown


def encode_backwards(text, merges):
    ids = list(text.encode())
    for pair, new in reversed(merges.items()):
        ids = merge(ids, pair, new)
    return ids


def encode_one_merge_each(text, merges):
    ids, i = list(text.encode()), 0
    done = []
    while i < len(ids):
        pair = tuple(ids[i : i + 2])
        earliest = pair in merges and tuple(ids[i + 1 : i + 3]) != (98, 99)
        done.append(merges[pair] if earliest else ids[i])
        i += 2 if earliest else 1
    return done


def encode_characters(text, merges):
    ids = [ord(character) for character in text]
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids


TIGER = [b"A", b" \xf0\x9f", b"\x90", b"\xaf", b"!"]


def check_stream(answer):
    got = call(answer, TIGER)
    if isinstance(got, str):
        raise Mistake(
            "that is one string; give a list, one string for each token, so that it can be shown as it comes"
        )
    if not isinstance(got, list) or not all(isinstance(piece, str) for piece in got):
        raise Mistake("give a list of strings, one for each token")
    text = "".join(got)
    if "\ufffd" in text:
        raise Mistake(
            "there is still a � in it: some token was decoded before the rest of its character had come"
        )
    if text == "A !":
        raise Mistake(
            "the tiger is lost: bytes that can't be decoded yet must be kept for the next token, not dropped"
        )
    if len(got) != len(TIGER):
        raise Mistake(
            f"{len(TIGER)} tokens came and {len(got)} strings went out; while it waits, hand out an empty one"
        )
    if got[1:4] == ["", "", " 🐯"]:
        raise Mistake("the space before the tiger was ready with the second token and was held back too")
    equal(got, ["A", " ", "", "🐯", "!"], "the stream")
    equal(call(answer, [b"no", b" trick"]), ["no", " trick"], "the stream of plain letters")
    equal(call(answer, [b"\xe8", b"\x99\x8e\xe6", b"\x9c\xa8"]), ["", "虎", "木"], "the stream of 虎木")


def solve_stream(tokens):
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(token) for token in tokens]


def stream_each_alone(tokens):
    return [token.decode(errors="replace") for token in tokens]


def stream_dropping(tokens):
    return [token.decode(errors="ignore") for token in tokens]


def stream_at_the_end(tokens):
    return [b"".join(tokens).decode()]


def stream_holding_whole_tokens(tokens):
    shown, waiting = [], b""
    for token in tokens:
        waiting += token
        try:
            shown.append(waiting.decode())
            waiting = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown


EXERCISES = (
    Exercise(
        id="01-1",
        title="Merge",
        minutes=8,
        level="easy",
        hints=(
            "Walk along the list with an index i, and build a second list.",
            (
                "At i, compare (ids[i], ids[i + 1]) with the pair. If they are equal, append new and go on "
                "at i + 2; if not, append ids[i] and go on at i + 1."
            ),
            (
                "A for loop can't jump by two; a while loop can. And the last element has no right "
                "neighbour: tuple(ids[i : i + 2]) is safe there."
            ),
        ),
        check=check_merge,
        solution=solve_merge,
        wrong=(
            Wrong(merge_reusing_the_middle, "the middle 1 was used twice"),
            Wrong(merge_losing_the_end, "where the pair isn't"),
            Wrong(merge_comparing_lists, "compare tuple"),
            Wrong(merge_in_place, "you changed the list"),
            Wrong(merge_only_the_first, "merge([1, 2, 3, 1, 2], (1, 2), 9) should have 3 items"),
        ),
        learned="that is the one operation that all of BPE is made of.",
    ),
    Exercise(
        id="01-2",
        title="Hunt a word",
        minutes=5,
        level="easy",
        hints=(
            (
                "Which nouns follow 'the' or 'a' all the time, and which "
                "verbs stand in the middle? Try a few with real.encode."
            ),
            "Fruit, animals, things in a kitchen: common in the middle of sentences, seldom first.",
        ),
        check=check_word,
        solution="butterfly",
        wrong=(
            Wrong("strawberry", "strawberry is taken"),
            Wrong("antidisestablishmentarianism", "look for a more common word"),
            Wrong("computer", "begins sentences too often"),
            Wrong("cat", "has only 3 letters"),
        ),
        learned="to a model, the same word in two places can be quite different numbers.",
        why="' butterfly' is one token; 'Butterfly', at the start of a text, is several.",
    ),
    Exercise(
        id="01-3",
        title="Replay",
        minutes=10,
        level="medium",
        hints=(
            "text.encode() gives the bytes, and list(…) makes numbers of them.",
            (
                "You need no search at all: go through merges.items() from "
                "first to last, and merge each pair wherever it stands."
            ),
        ),
        check=check_encode,
        solution=solve_encode,
        wrong=(
            Wrong(encode_backwards, "bc was learned first"),
            Wrong(encode_one_merge_each, "what was merged can be merged again"),
            Wrong(encode_characters, "which is two bytes"),
        ),
        learned="the list of merges is the tokenizer, and encoding is replaying it in order.",
    ),
    Exercise(
        id="01-4",
        title="Bug hunt: the broken stream",
        minutes=10,
        level="hard",
        hints=(
            (
                "Decoding byte by byte can't know what comes next; "
                "something has to remember the bytes that are still waiting."
            ),
            "Python has such a thing: an incremental decoder, in the module codecs.",
            'decoder = codecs.getincrementaldecoder("utf-8")(), then decoder.decode(token) for each token.',
        ),
        check=check_stream,
        solution=solve_stream,
        wrong=(
            Wrong(stream_each_alone, "there is still a �"),
            Wrong(stream_dropping, "the tiger is lost"),
            Wrong(stream_at_the_end, "5 tokens came and 1 strings went out"),
            Wrong(stream_holding_whole_tokens, "was held back too"),
        ),
        learned="every chat window that streams does this, or shows � when you write to it in Chinese.",
    ),
)

QUIZ = (
    Question(
        id="01-q1",
        text="Why is it hard for a language model to count the r's in strawberry?",
        choices=(
            Choice(
                "The word is too rare for the model to have learned anything about how it is written",
                "It is common enough to have a token all to itself.",
            ),
            Choice(
                "It is given the number of a token, and the letters are not in that number",
                "What it knows of the spelling it had to learn from other texts, token by token.",
                right=True,
            ),
            Choice(
                "The tokenizer loses the double r",
                "A tokenizer loses nothing: decoding gives back every letter.",
            ),
        ),
    ),
    Question(
        id="01-q2",
        text="Why do these tokenizers start from the 256 bytes, and not from letters?",
        choices=(
            Choice(
                "So that any text whatever can be written, with a small start vocabulary",
                (
                    "Unicode has over 150,000 characters; 256 bytes "
                    "write them all, and the ones not invented yet."
                ),
                right=True,
            ),
            Choice(
                "Bytes are faster to compare than letters, and training a tokenizer compares very often",
                "True or not, it isn't why: no text is ever unknown.",
            ),
            Choice(
                "Because each letter is one byte",
                "Only for plain English letters; é has two, 虎 three, 🐯 four.",
            ),
        ),
    ),
    Question(
        id="01-q3",
        text="The same sentence has 16 tokens in English and 67 in Korean. What follows from that?",
        choices=(
            Choice(
                "Korean sentences carry four times the information",
                "They say the same; only the pieces are smaller.",
            ),
            Choice(
                "Korean text takes four times the bytes",
                "79 bytes against 69: hardly more. The merges make the gap.",
            ),
            Choice(
                (
                    "In Korean the same context holds about a quarter "
                    "as much, and costs four times as much by the token"
                ),
                "The vocabulary was learned from mostly English text, and others pay for it.",
                right=True,
            ),
        ),
    ),
)
