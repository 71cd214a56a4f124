"""Functions that say whether a guess is right, and shallow rules that guess what *it* is.

Each function takes a guess and its item. `evaluate.accuracy` gives the share of right guesses, with its
uncertainty.
"""

from collections import Counter
from collections.abc import Callable

from course_lib.text.normalise import last_number, normalise
from course_lib.world.pictures import Picture
from course_lib.world.questions import Question
from course_lib.world.stories import Span, Story
from course_lib.world.sums import Sum
from course_lib.world.words import DEEDS, PURPOSES

_TABLES = (*DEEDS, *PURPOSES)
OPEN_REASONS = {reason for each in _TABLES for reason in each.animal_reasons} & {
    reason for each in _TABLES for reason in each.object_reasons
}


def resolves(guess: Span | str, story: Story) -> bool:
    """Return whether a guess is the noun that the story's *it* stands for.

    guess: a string ("the tiger"), or the characters of any mention of the noun before *it*, (start, end).
        Raises TypeError for anything else.
    """
    if isinstance(guess, str):
        return normalise(guess) == story.plot.referent
    if not isinstance(guess, tuple | list):
        raise TypeError(f"a guess is a text, or a span of characters (start, end), not {guess!r}")
    return (story.plot.referent, tuple(guess)) in story.nouns


def needs_the_deed(story: Story) -> bool:
    """Return whether the story's reason leaves open what *it* is: it may describe either noun, in some deed.

    That is so of 15 reasons, such as *angry*, and of two in five stories; the role that such a reason has
    most often is right in 0.78 of them. In all other stories the reason alone says whether *it* is the one
    who did it or what it was done to.
    """
    return story.plot.reason in OPEN_REASONS


def answers(guess: str, question: Question) -> bool:
    """Return whether a guess is the question's answer, after both are normalised."""
    return normalise(guess) == normalise(question.answer)


def solves(guess: str, sum_: Sum) -> bool:
    """Return whether the last number of a guess is the sum's answer, whatever stands before it."""
    return last_number(guess) == sum_.answer


def describes(guess: str, picture: Picture) -> bool:
    """Return whether a guess is a caption of the picture, from either side."""
    return normalise(guess) in map(normalise, picture.captions)


def _most_named(story: Story) -> str:
    return Counter(noun for noun, _ in story.nouns).most_common(1)[0][0]


# Rules that guess what *it* is without reading the reason. Each takes a story and returns a noun.
SHALLOW_RULES: dict[str, Callable[[Story], str]] = {
    "first noun": lambda story: story.nouns[0][0],
    "last noun": lambda story: story.nouns[-1][0],
    "most named noun": _most_named,
    "who did it": lambda story: story.plot.animal,
    "what it was done to": lambda story: story.plot.object,
}
