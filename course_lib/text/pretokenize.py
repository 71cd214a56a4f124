"""Text → pieces: where a tokenizer may never merge.

Byte-pair encoding would happily make one token of "dog." and another of "dog!" and so learn every common word
again with each punctuation mark behind it. GPT-2 (Radford et al. 2019, section 2.2) therefore cuts the text first, by
kind of character, and merges only inside a piece. The cut is one regular expression:

    'll  've  's …     the English contractions
    " ?" letters       a word, with the space before it
    " ?" digits        a number
    " ?" the rest      punctuation, symbols, emoji
    spaces             a run of white space, but for the one space that the next word takes with it

SmolLM2 cuts numbers further, into single digits, before anything else, so that 2026 is always 2, 0, 2, 6.

Special tokens are cut out before that, by their names: `Marks`.

Not handled: Unicode normalisation (both models take the text as it is); characters so new that this library's Unicode tables
and another's disagree about what they are; and languages written without spaces, whose
sentences are one long piece each.
"""

from collections.abc import Iterable
from functools import lru_cache

import regex

GPT2 = (
    r"'(?:[sdmt]|ll|ve|re)"
    r"| ?\p{L}+"
    r"| ?\p{N}+"
    r"| ?[^\p{White_Space}\p{L}\p{N}]+"
    r"|\p{White_Space}+(?!\P{White_Space})"
    r"|\p{White_Space}+"
)

# A digit ends the text on either side of it: no piece crosses it, and white space before it keeps its last space.
SMOLLM2 = (
    r"'(?:[sdmt]|ll|ve|re)"
    r"| ?\p{L}+"
    r"|\p{N}"
    r"| ?[^\p{White_Space}\p{L}\p{N}]+"
    r"|\p{White_Space}+(?![^\p{White_Space}\p{N}])"
    r"|\p{White_Space}+"
)


@lru_cache
def _compile(pattern: str) -> regex.Pattern:
    try:
        compiled = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups:
        raise ValueError(
            f"the pattern {pattern!r} has groups, which hand back parts of a piece: write (?:…) for (…)"
        )
    return compiled


def split(text: str, pattern: str = GPT2) -> list[str]:
    """Cut `text` into the pieces that `pattern` finds. Joined again they are the text: nothing is lost.

    Raises ValueError for a pattern that isn't a regular expression, or one that would lose text.

    >>> split("It's thirsty, in 2026")
    ['It', "'s", ' thirsty', ',', ' in', ' 2026']
    >>> split("in  2026", SMOLLM2)
    ['in', '  ', '2', '0', '2', '6']
    """
    pieces = _compile(pattern).findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError(f"the pattern {pattern!r} loses text: every character must be in some piece")
    return pieces


class Marks:
    """Names, those of special tokens, at which a text is cut before `split` sees it.

    Where several begin at one place, the longest counts.

    >>> Marks(["<a>", "<b>"]).split("low<a>lower<b>")
    ['low', '<a>', 'lower', '<b>', '']
    """

    def __init__(self, names: Iterable[str]):
        names = sorted(names, key=len, reverse=True)
        self._pattern = regex.compile(f"({'|'.join(map(regex.escape, names))})") if names else None
        self._beginnings = {name[:length] for name in names for length in range(1, len(name))}
        self._longest = max(map(len, self._beginnings), default=0)

    def split(self, text: str) -> list[str]:
        """Text, name, text, name, … text: every second part is a name. Joined again they are the text."""
        return self._pattern.split(text) if self._pattern else [text]

    def settled(self, text: str) -> int:
        """How many characters of a text that still goes on are cut at the names as they will be in the end.

        The others, fewer than two of the longest names have, may be the beginning of a name.

        >>> Marks(["<a>", "<b>"]).settled("low<a>lower<")
        11
        """
        ends = range(max(0, len(text) - self._longest), len(text))
        begun = next((i for i in ends if text[i:] in self._beginnings), len(text))
        if begun < len(text):
            for name in self._pattern.finditer(text):
                if name.start() < begun < name.end():
                    return name.start()
        return begun
