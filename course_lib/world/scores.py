"""Scores, from 0 to 1 unless said otherwise, against the truth that each item carries; and what shallow rules would score."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from course_lib.world.pictures import Picture
from course_lib.world.questions import Question
from course_lib.world.stories import Span, Story
from course_lib.world.sums import Sum

ARTICLE = re.compile(r"\b(the|a|an)\b")


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation or doubled spaces, as SQuAD's exact match (Rajpurkar et al. 2016).

    >>> normalise("The  thirsty tiger.")
    'thirsty tiger'
    """
    return " ".join(ARTICLE.sub(" ", re.sub(r"[^\w\s]", " ", text.lower())).split())


def it_score(guesses: Sequence[Span | str], stories: Sequence[Story]) -> float:
    """The share of stories whose *it* was given its right noun. A guess is the noun's characters in the text, (start, end),
    any mention of it before *it*; or a string ("the tiger")."""
    return _share(resolves, guesses, stories)


def resolves(guess: Span | str, story: Story) -> bool:
    """Whether a guess is what the story's *it* stands for."""
    if isinstance(guess, str):
        return normalise(guess) == story.plot.referent
    return (story.plot.referent, tuple(guess)) in story.nouns


def answer_score(guesses: Sequence[str], questions: Sequence[Question]) -> float:
    """The share of questions whose answer is right, once both are normalised."""
    return _share(lambda guess, asked: normalise(guess) == normalise(asked.answer), guesses, questions)


def sum_score(guesses: Sequence[str], sums: Sequence[Sum]) -> float:
    """The share of sums where the last number of the text is right, whatever stands before it."""
    return _share(lambda guess, sum_: re.findall(r"\d+", guess)[-1:] == [str(sum_.answer)], guesses, sums)


def caption_score(guesses: Sequence[str], pictures: Sequence[Picture]) -> float:
    """The share of captions that describe their picture, from either side."""
    return _share(
        lambda guess, picture: normalise(guess) in map(normalise, picture.captions), guesses, pictures
    )


def bleu(guesses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of translations (Papineni et al. 2002), from 0 to 100, by sacrebleu with its defaults.

    Raises ValueError where the two differ in number, or are empty.
    """
    from sacrebleu import corpus_bleu

    _check_lengths(guesses, references)
    return corpus_bleu(list(guesses), [list(references)]).score


def _share(right: Callable, guesses: Sequence, items: Sequence) -> float:
    _check_lengths(guesses, items)
    return sum(right(guess, item) for guess, item in zip(guesses, items, strict=True)) / len(items)


def _check_lengths(guesses: Sequence, items: Sequence) -> None:
    if isinstance(guesses, str) or len(guesses) != len(items) or not items:
        raise ValueError("score a list of guesses against as many items, at least one")


def _most_named(story: Story) -> str:
    return Counter(noun for noun, _ in story.nouns).most_common(1)[0][0]


# Ways to guess what *it* is without the reason: from a story, a noun.
SHALLOW_RULES: dict[str, Callable[[Story], str]] = {
    "first noun": lambda story: story.nouns[0][0],
    "last noun": lambda story: story.nouns[-1][0],
    "most named noun": _most_named,
    "who did it": lambda story: story.plot.animal,
    "what it was done to": lambda story: story.plot.object,
}
