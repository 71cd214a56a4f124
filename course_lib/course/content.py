"""What a lesson declares: its exercises and its quiz questions, in plain Python."""

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEVELS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Wrong:
    """A wrong answer planted on purpose, and a piece of the feedback that must name its mistake."""

    answer: Any
    feedback: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    ``check`` takes the learner's answer (a function or a value), says nothing when it is right, and raises
    ``Mistake`` when it is not. ``solution`` is an answer that passes: a function named ``solve_…``, whose
    source is shown, or a plain value, explained by ``why``. ``learned`` finishes the line "01-1 passed: …".
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
        """The solution as the learner would write it, then ``why``."""
        shown = source_of(self.solution) if callable(self.solution) else repr(self.solution)
        return f"{shown}\n\n{self.why}" if self.why else shown


@dataclass(frozen=True)
class Choice:
    """One answer to a question, with what to tell the learner who picks it."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A quiz question. Its choices are lettered a, b, c… in the order given."""

    id: str
    text: str
    choices: tuple[Choice, ...]

    def lettered(self) -> dict[str, Choice]:
        return dict(zip("abcdefgh", self.choices, strict=False))


def source_of(function: Callable) -> str:
    """The source of ``solve_it`` with the name a learner would give it, ``it``."""
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    name = function.__name__
    return re.sub(rf"\b{name}\b", name.removeprefix("solve_"), source)
