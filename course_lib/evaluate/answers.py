"""Whether an answer is right, and how near a translation is."""

from collections.abc import Sequence

from course_lib.text.normalise import last_number, normalise


def exact_match(guess: str, answer: str) -> bool:
    """Whether two texts are the same, once both are normalised.

    >>> exact_match("The tiger!", "a tiger")
    True
    """
    return normalise(guess) == normalise(answer)


def contains(guess: str, accepted: Sequence[str]) -> bool:
    """Whether a text holds one of the accepted words, or runs of words, as a whole. Kinder than
    `exact_match`: it is blind to what else is said, even "not". Raises ValueError where nothing is accepted.

    >>> contains("It's Paris, of course.", ("paris",)), contains("Parisian", ("paris",))
    (True, False)
    """
    wanted = [] if isinstance(accepted, str) else list(map(_words, accepted))
    if not wanted or not all(map(str.strip, wanted)):
        raise ValueError(f"accepted must be a list of words, each with a letter or digit, not {accepted!r}")
    text = _words(guess)
    return any(words in text for words in wanted)


def _words(text: str) -> str:
    """A text's words with one space before and after each."""
    return f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())} "


def same_number(guess: str, answer: str | float) -> bool:
    """Whether the last number of a text is the answer's, whatever stands before it. Raises ValueError for an
    answer without one.

    >>> same_number("He had 40 and lost 35, so 5.", "#### 5")
    True
    """
    number = last_number(str(answer))
    if number is None:
        raise ValueError(f"there is no number in the answer {answer!r}")
    return last_number(guess) == number


def bleu(guesses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of translations (Papineni et al. 2002), from 0 to 100, by sacrebleu with its defaults. A
    score of all texts together: the mean of single ones' would be another number.

    Raises ValueError where the two differ in number, or are empty.
    """
    from sacrebleu import corpus_bleu  # here, for nothing else needs it

    if isinstance(guesses, str) or len(guesses) != len(references) or not guesses:
        raise ValueError(
            f"score a list of translations against as many references, not {len(guesses)} against "
            f"{len(references)}"
        )
    return corpus_bleu(list(guesses), [list(references)]).score
