"""Encoding a text that arrives in parts, such as the lines of a file, in little memory.

What comes next can still change the end of a text: "thirst" may become "thirsty", and "<|im_" a special
token. The end is kept until it is settled, and everything before it is encoded:

    "the tiger was thir" → the ids of "the tiger", keep " was thir"      (if two pieces are kept)

Not handled: patterns that look at what is before the piece, as `(?<=…)` and `^` do, and patterns where a
piece depends on what comes more than `LOOKAHEAD_PIECES` pieces later. They may give other ids than the whole
text does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from course_lib.text.checks import check_text
from course_lib.text.pretokenize import split
from course_lib.text.special_tokens import SpecialSplitter

if TYPE_CHECKING:
    from course_lib.text.tokenizer import Tokenizer

# How many pieces at the end of an unfinished text are kept. What comes next changes at most the last two with
# the patterns of GPT-2 and SmolLM2; the other six leave room for patterns that look further ahead.
LOOKAHEAD_PIECES = 8


def encode_stream(tokenizer: Tokenizer, texts: Iterator[str], splitter: SpecialSplitter) -> Iterator[int]:
    """Yield the token ids of the joined texts, reading special tokens where `splitter` cuts.

    The kept end is encoded again only when the text has grown to twice its length, so that a long piece which
    arrives letter by letter takes linear time.
    """
    kept, enough = "", 0
    for text in texts:
        kept += check_text(text)
        if len(kept) >= enough:
            ids, kept = encode_settled(tokenizer, kept, splitter)
            yield from ids
            enough = 2 * len(kept)
    yield from tokenizer.encode_parts(splitter.split(kept))


def encode_settled(tokenizer: Tokenizer, text: str, splitter: SpecialSplitter) -> tuple[list[int], str]:
    """Return the token ids that no continuation of the text can change, and the text after them."""
    settled = splitter.settled_length(text)
    *parts, last = splitter.split(text[:settled])
    pieces = split(last, tokenizer.pattern)
    ids = tokenizer.encode_parts(parts) + tokenizer.encode_pieces(pieces[:-LOOKAHEAD_PIECES])
    return ids, text[settled - sum(map(len, pieces[-LOOKAHEAD_PIECES:])) :]
