"""The exercises and quiz questions that a lesson declares, as dataclasses."""

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEVELS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that tests the check, and a part of the feedback that must name its mistake."""

    answer: Any
    feedback: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    check: takes the learner's answer (a function or a value) and raises `Mistake` if it is wrong.
    solution: an answer that passes. It is a function named `solve_…`, whose source is shown, or a plain
        value.
    wrong: wrong answers, each with the feedback that it must get.
    learned: completes the line "01-1 passed: …".
    why: explains a solution that is a value.
    """

    id: str
    title: str
    minutes: int
    level: str
    hints: tuple[str, ...]
    check: Callable[[Any], None]
    solution: Any
    wrong: tuple[Wrong, ...]
    learned: str
    why: str = ""

    def solution_text(self) -> str:
        """Return the solution as the learner would write it, followed by `why`."""
        shown = source_of(self.solution) if callable(self.solution) else repr(self.solution)
        return f"{shown}\n\n{self.why}" if self.why else shown


@dataclass(frozen=True)
class Choice:
    """One answer to a question, with the explanation for a learner who picks it."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A quiz question. Its choices have the letters a, b, c… in the given order."""

    id: str
    text: str
    choices: tuple[Choice, ...]

    def lettered(self) -> dict[str, Choice]:
        return dict(zip("abcdefgh", self.choices, strict=False))


def source_of(function: Callable) -> str:
    """Return the source of a function `solve_it` under the name `it`, as the learner would write it."""
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    name = function.__name__
    return re.sub(rf"\b{name}\b", name.removeprefix("solve_"), source)
