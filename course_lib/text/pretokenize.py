"""Pre-tokenization: text → pieces, which no merge may cross.

On whole text, byte-pair encoding would make one token of "dog." and another of "dog!", and so learn every
common word again with each punctuation mark after it. GPT-2 (Radford et al. 2019, section 2.2) therefore cuts
the text first, by kind of character, and merges only inside a piece. The cut is one regular expression:

    'll  've  's …     the English contractions
    " ?" letters       a word, with the space before it
    " ?" digits        a number
    " ?" the rest      punctuation, symbols, emoji
    spaces             a run of white space, except the one space that belongs to the next word

SmolLM2 cuts numbers further, into single digits, before anything else, so that 2026 is always 2, 0, 2, 6.

Not handled: Unicode normalisation (both models take the text as it is); characters so new that the Unicode
tables of the `regex` package and those of another library disagree about their kind; and languages written
without spaces, whose sentences are one long piece each.
"""

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

# A digit is a piece of its own: a space before it isn't joined to it.
SMOLLM2 = (
    r"'(?:[sdmt]|ll|ve|re)"
    r"| ?\p{L}+"
    r"|\p{N}"
    r"| ?[^\p{White_Space}\p{L}\p{N}]+"
    r"|\p{White_Space}+(?![^\p{White_Space}\p{N}])"
    r"|\p{White_Space}+"
)


def split(text: str, pattern: str = GPT2) -> list[str]:
    """Cut `text` into the pieces that `pattern` matches. Joined, the pieces are the text again.

    Raises ValueError for a pattern that isn't a regular expression, and for one that would lose text.

    >>> split("It's thirsty, in 2026")
    ['It', "'s", ' thirsty', ',', ' in', ' 2026']
    >>> split("in  2026", SMOLLM2)
    ['in', '  ', '2', '0', '2', '6']
    """
    pieces = compile_pattern(pattern).findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError(f"the pattern {pattern!r} loses text: every character must be in some piece")
    return pieces


@lru_cache
def compile_pattern(pattern: str) -> regex.Pattern:
    """Compile a pattern. Raises ValueError if it isn't a regular expression, or has capturing groups."""
    try:
        compiled = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups:
        raise ValueError(
            f"the pattern {pattern!r} has groups, which return parts of a piece: write (?:…) for (…)"
        )
    return compiled
