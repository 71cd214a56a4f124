"""Comparing an answer with the right one, and translations with their references."""

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real

from course_lib.arguments import listed
from course_lib.text.normalise import last_number, normalise, words_of


def exact_match(guess: str, answer: str) -> bool:
    """Return whether two texts are equal, apart from case, English articles and punctuation (`normalise`).

    >>> exact_match("The tiger!", "a tiger"), exact_match("5€", "5£")
    (True, False)
    """
    return normalise(guess) == normalise(answer)


def contains(guess: str, accepted: Sequence[str]) -> bool:
    """Return whether `guess` contains one of the accepted words or phrases, as whole words.

    More lenient than `exact_match`: it ignores the rest of the guess, even "not". Raises ValueError if
    nothing is accepted, or what has no letter, digit or symbol.

    >>> contains("It's Paris, of course.", ("paris",)), contains("Parisian", ("paris",))
    (True, False)
    """
    words = [] if isinstance(accepted, str) else listed("accepted", accepted, "a list of words")
    phrases = [_pad_words(word) for word in words if isinstance(word, str)]
    if not phrases or len(phrases) < len(words) or not all(map(str.strip, phrases)):
        raise ValueError(f"accepted must be a list of words, each with a letter or digit, not {accepted!r}")
    text = _pad_words(guess)
    return any(phrase in text for phrase in phrases)


def _pad_words(text: str) -> str:
    """Return the words of a text, with one space before and after each."""
    return f" {' '.join(words_of(text.replace('_', ' ')))} "


def same_number(guess: str, answer: str | float) -> bool:
    """Return whether the last number of `guess` equals the last number of `answer`.

    Raises ValueError if the answer has no number, also for NaN and infinity.

    >>> same_number("He had 40 and lost 35, so 5.", "#### 5")
    True
    """
    number = last_number(answer) if isinstance(answer, str) else _as_float(answer)
    if number is None or not math.isfinite(number):
        raise ValueError(f"there is no number in the answer {answer!r}")
    return last_number(guess) == number


def _as_float(answer: float) -> float | None:
    """Return a number, or None for what is none."""
    if isinstance(answer, bool) or not isinstance(answer, Real):
        return None
    # A NumPy number of 32 bits that prints as 0.1 is 0.1, as in a text.
    return float(answer if isinstance(answer, Fraction) else str(answer))


def bleu(guesses: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU of translations (Papineni et al. 2002), from 0 to 100.

    sacrebleu computes it, with its defaults. It is one score of all texts together, and differs from the mean
    of the single texts' scores. Raises ValueError if there aren't as many references as guesses, or none,
    and TypeError for anything but texts.
    """
    from sacrebleu import corpus_bleu  # imported here, because only this function needs it

    guesses, references = _texts("guesses", guesses), _texts("references", references)
    if len(guesses) != len(references) or not guesses:
        counts = f"{len(guesses)} against {len(references)}"
        raise ValueError(f"score a list of translations against as many references, not {counts}")
    return corpus_bleu(guesses, [references]).score


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    texts = listed(name, texts, "a list of texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be a text, not {text!r}")
    return texts
