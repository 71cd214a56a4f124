"""The solutions of the lesson on tokenization agree with the library."""

import random

from course_lib.course.lessons.tokenization.exercises import encode, merge, stream
from course_lib.text import Tokenizer, bpe

TEXT = "A tiger, a thirsty tiger; the tigress, too: 老虎 drank é 🐯🐯, and the tigers drank. " * 2


def test_merge_is_the_librarys():
    rng = random.Random(1)
    for _ in range(300):
        ids = rng.choices(range(1, 4), k=rng.randrange(12))
        pair = tuple(rng.choices(range(1, 4), k=2))
        assert merge(ids, pair, 9) == bpe.merge(ids, pair, 9)


def test_encode_is_the_librarys():
    merges = bpe.train(TEXT, 300)
    assert len(merges) > 30
    for start in range(0, len(TEXT), 7):
        assert encode(TEXT[start : start + 25], merges) == bpe.encode(TEXT[start : start + 25], merges)


def test_stream_is_the_librarys():
    tokenizer = Tokenizer.train(TEXT, 260)
    ids = tokenizer.encode(TEXT)
    shown = stream([tokenizer.tokens[i] for i in ids])
    assert "" in shown
    assert shown == list(tokenizer.decode_stream(ids))[: len(ids)]
