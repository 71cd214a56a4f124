"""Encoding a text that arrives in chunks, such as the lines of a file, in little memory.

What comes next can still change the end of a text: "thirst" may become "thirsty", and "<|im_" a special
token. The beginning of a text is *settled* as far as no continuation can change its tokens. It is encoded,
and the rest waits for the next chunk. `LOOKAHEAD_PIECES` pieces always wait; if that were 2:

    "the tiger was thir" → the ids of "the tiger"; " was thir" waits

Not handled: patterns that look at the text before the piece, as `(?<=…)` and `^` do, and patterns where a
piece depends on what comes more than `LOOKAHEAD_PIECES` pieces later. For these, the ids may differ from
those of the whole text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from course_lib.text.checks import check_text
from course_lib.text.pretokenize import split
from course_lib.text.special_tokens import SpecialSplitter

if TYPE_CHECKING:
    from course_lib.text.tokenizer import Tokenizer

# How many pieces at the end of an unfinished text wait for the next chunk. With the patterns of GPT-2 and
# SmolLM2, what comes next changes at most the last two; the other six leave room for patterns that look
# further ahead.
LOOKAHEAD_PIECES = 8


def encode_stream(tokenizer: Tokenizer, chunks: Iterator[str], splitter: SpecialSplitter) -> Iterator[int]:
    """Yield the token ids of the joined chunks, reading special tokens where `splitter` cuts.

    The waiting text is cut again only when it has grown to twice its length, so that a long piece that
    arrives letter by letter takes linear time.
    """
    waiting, retry_at = "", 0  # retry_at: the length at which the waiting text is cut again
    for chunk in chunks:
        waiting += check_text(chunk)
        if len(waiting) >= retry_at:
            ids, waiting = encode_settled(tokenizer, waiting, splitter)
            yield from ids
            retry_at = 2 * len(waiting)
    yield from tokenizer.encode_segments(splitter.split(waiting))


def encode_settled(tokenizer: Tokenizer, text: str, splitter: SpecialSplitter) -> tuple[list[int], str]:
    """Return the token ids that no continuation of the text can change, and the text after them."""
    settled = splitter.settled_length(text)
    *segments, last = splitter.split(text[:settled])
    pieces = split(last, tokenizer.pattern)
    ids = tokenizer.encode_segments(segments) + tokenizer.encode_pieces(pieces[:-LOOKAHEAD_PIECES])
    return ids, text[settled - sum(map(len, pieces[-LOOKAHEAD_PIECES:])) :]
