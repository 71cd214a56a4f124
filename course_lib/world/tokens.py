"""The tokenizer of the world's text, and the tokens that cover a span of characters."""

from collections.abc import Iterator
from itertools import accumulate, chain

from course_lib.arguments import short, whole
from course_lib.text.pretokenize import SMOLLM2
from course_lib.text.tokenizer import Tokenizer
from course_lib.world.marks import MARKS
from course_lib.world.pictures import pictures
from course_lib.world.plots import take
from course_lib.world.questions import questions
from course_lib.world.stories import stories, translations
from course_lib.world.sums import sums

VOCAB_SIZE = 1440
MOST = 1_000_000


def world_tokenizer(vocab_size: int = VOCAB_SIZE, seed: int = 0, samples: int = 500) -> Tokenizer:
    """Return a byte-pair tokenizer trained on the world's text, with the marks as special tokens.

    It is trained on `samples` items of each kind, and on three times as many English stories. The same
    arguments always give the same tokenizer. At the default size every English noun and reason is one token
    together with the space before it, and so are about 98% of the words after a space in French text. Numbers
    are split into digits.

    Raises ValueError for a vocab_size too small for the 256 bytes and the marks or above a million, and for
    samples that aren't 1 to a million.
    """
    vocab_size, samples = whole("vocab_size", vocab_size, most=MOST), whole("samples", samples, 1, MOST)
    return Tokenizer.train(_sample(seed, samples), vocab_size, pattern=SMOLLM2, special=MARKS)


def _sample(seed: int, n: int) -> Iterator[str]:
    yield from (story.text for story in take(3 * n, stories(seed)))
    yield from (pair.french for pair in take(n, translations(seed, sentences=None)))
    yield from (text for item in take(n, questions(seed)) for text in (item.question, item.answer))
    yield from (text for sum_ in take(n, sums(seed)) for text in (sum_.text, sum_.question, sum_.steps))
    yield from (picture.caption for picture in take(n, pictures(seed)))


def span_tokens(tokenizer: Tokenizer, text: str, span: tuple[int, int]) -> range:
    """Return the indices in `tokenizer.encode(text)` of the tokens that cover a span of characters.

    span: (start, end), the end excluded. The function serves to score attention: the row of *it*, the
        columns of its referent.

    Raises ValueError for a span that isn't two whole numbers inside the text, and for a text of which the
    tokenizer changes characters, so that its tokens spell another one.

    >>> story = next(stories(sentences=1))
    >>> tokenizer = world_tokenizer()
    >>> ids = tokenizer.encode(story.text)
    >>> [tokenizer.token_text(ids[i]) for i in span_tokens(tokenizer, story.text, story.it)]
    [' it']
    """
    ids = tokenizer.encode(text)
    start, stop = _check_span(span, len(text))
    first, last = len(text[:start].encode()), len(text[:stop].encode())
    ends = list(accumulate(len(tokenizer.tokens[token]) for token in ids))
    if ends[-1] != len(text.encode()):
        raise ValueError(
            "this tokenizer changes the text, so its tokens can't be matched with the text's characters"
        )
    bounds = enumerate(zip(chain([0], ends), ends, strict=False))
    covering = [i for i, (start, end) in bounds if start < last and end > first]
    return range(covering[0], covering[-1] + 1)


def _check_span(span: tuple[int, int], length: int) -> tuple[int, int]:
    if not isinstance(span, tuple | list) or len(span) != 2:
        raise TypeError(f"a span is a pair of numbers, (start, end), not {short(span)}")
    start, stop = whole("the span's start", span[0]), whole("the span's end", span[1])
    if not 0 <= start < stop <= length:
        raise ValueError(f"the span {(start, stop)} is not inside a text of {length} characters")
    return start, stop
