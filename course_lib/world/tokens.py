"""The tokenizer of the world's text, and the tokens that cover a span of characters."""

from collections.abc import Iterator
from itertools import accumulate, chain

from course_lib.text.pretokenize import SMOLLM2
from course_lib.text.tokenizer import Tokenizer
from course_lib.world.marks import MARKS
from course_lib.world.pictures import pictures
from course_lib.world.plots import take
from course_lib.world.questions import questions
from course_lib.world.stories import stories, translations
from course_lib.world.sums import sums

VOCAB_SIZE = 1440


def world_tokenizer(vocab_size: int = VOCAB_SIZE, seed: int = 0, samples: int = 500) -> Tokenizer:
    """Return a byte-pair tokenizer trained on the world's text, with the marks as special tokens.

    It is trained on `samples` items of each kind, and on three times as many English stories. The same
    arguments always give the same tokenizer. At the default size every English noun and reason is one token
    together with the space before it, and so are about 98% of the words after a space in French text. Numbers
    are split into digits.

    Raises ValueError for a vocab_size too small for the 256 bytes and the marks.
    """
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

    Raises ValueError for a span outside the text.

    >>> story = next(stories(sentences=1))
    >>> tokenizer = world_tokenizer()
    >>> ids = tokenizer.encode(story.text)
    >>> [tokenizer.token_text(ids[i]) for i in span_tokens(tokenizer, story.text, story.it)]
    [' it']
    """
    if not 0 <= span[0] < span[1] <= len(text):
        raise ValueError(f"the span {span} is not inside a text of {len(text)} characters")
    first, last = (len(text[:i].encode()) for i in span)
    ends = list(accumulate(len(tokenizer.tokens[token]) for token in tokenizer.encode(text)))
    bounds = enumerate(zip(chain([0], ends), ends, strict=False))
    covering = [i for i, (start, end) in bounds if start < last and end > first]
    return range(covering[0], covering[-1] + 1)
