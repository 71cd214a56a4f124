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
from math import prod

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


# Some patterns, such as (a+)+b, try every way to cut a text before they give up. These seconds, and one more
# for each 100,000 characters, are many times what any other pattern needs.
SECONDS, CHARACTERS_A_SECOND = 10, 100_000
MOST_REPEATS = 10_000  # that a pattern may ask for, as in a{1000}, multiplied: each is built when compiled


def split(text: str, pattern: str = GPT2) -> list[str]:
    """Cut `text` into the pieces that `pattern` matches. Joined, the pieces are the text again.

    Raises ValueError for a pattern that isn't a regular expression, for one that would lose text, and for one
    that takes endlessly long; TypeError for anything but strings.

    >>> split("It's thirsty, in 2026")
    ['It', "'s", ' thirsty', ',', ' in', ' 2026']
    >>> split("in  2026", SMOLLM2)
    ['in', '  ', '2', '0', '2', '6']
    """
    if not isinstance(text, str):
        raise TypeError(f"only a string can be cut into pieces, not {type(text).__name__}")
    # A time limit costs time: the two patterns above need none.
    limit = None if pattern in (GPT2, SMOLLM2) else SECONDS + len(text) / CHARACTERS_A_SECOND
    try:
        pieces = compile_pattern(pattern).findall(text, timeout=limit)
    except (TimeoutError, MemoryError) as error:
        raise ValueError(
            f"the pattern {pattern!r} didn't come to an end on a text of {len(text):,} characters "
            f"({str(error) or 'no memory left'}): "
            "repeat nothing that is itself a repetition, as (?:a+)+ does"
        ) from error
    if "".join(pieces) != text:
        raise ValueError(f"the pattern {pattern!r} loses text: every character must be in some piece")
    return pieces


def compile_pattern(pattern: str) -> regex.Pattern:
    """Compile a pattern. Raises ValueError if it isn't a regular expression, or has capturing groups.

    Raises ValueError also for a pattern that searches backwards, and TypeError for anything but a string.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern is a regular expression, as a string, not {pattern!r}")
    return _compile(pattern)


@lru_cache
def _compile(pattern: str) -> regex.Pattern:
    repeats = regex.findall(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}", pattern)  # {n}, {n,}, {,m} and {n,m}
    if prod(max(1, int(least or 0), int(most or 0)) for least, most in repeats) > MOST_REPEATS:
        raise ValueError(f"the pattern {pattern!r} asks for more than {MOST_REPEATS:,} repeats")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups:
        raise ValueError(
            f"the pattern {pattern!r} has groups, which return parts of a piece: write (?:…) for (…)"
        )
    if compiled.flags & regex.REVERSE:
        raise ValueError(
            f"the pattern {pattern!r} searches backwards, so its pieces come in the wrong order: "
            "take the flag r out of it"
        )
    return compiled
