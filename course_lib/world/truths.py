"""Whether a guess is right, by the truth that each item carries; and what shallow rules guess.

Each takes a guess and its item. What share of many is right, and how sure that is, says `evaluate.accuracy`.
"""

from collections import Counter
from collections.abc import Callable

from course_lib.text.normalise import last_number, normalise
from course_lib.world.pictures import Picture
from course_lib.world.questions import Question
from course_lib.world.stories import Span, Story
from course_lib.world.sums import Sum


def resolves(guess: Span | str, story: Story) -> bool:
    """Whether a guess is what the story's *it* stands for: the noun's characters in the text, (start, end),
    any mention of it before *it*; or a string ("the tiger")."""
    if isinstance(guess, str):
        return normalise(guess) == story.plot.referent
    return (story.plot.referent, tuple(guess)) in story.nouns


def answers(guess: str, question: Question) -> bool:
    """Whether it is the question's answer, once both are normalised."""
    return normalise(guess) == normalise(question.answer)


def solves(guess: str, sum_: Sum) -> bool:
    """Whether the last number of the text is the sum's, whatever stands before it."""
    return last_number(guess) == sum_.answer


def describes(guess: str, picture: Picture) -> bool:
    """Whether a caption is the picture's, from either side."""
    return normalise(guess) in map(normalise, picture.captions)


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
