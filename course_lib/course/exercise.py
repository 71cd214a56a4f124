"""What an exercise is: a solution, the cases on which it is judged, and the mistakes that are known.

Its text stands in the notebook, its hints in the lesson's `texts.toml`.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_lib.course.reading import short_call


class Case:
    """Arguments with which the learner's function is called, and on which it must agree with the solution.

    name: what a message calls the result. By default it is the call itself, `merge([1, 2], (1, 2), 9)`, with
        the parameters' names in place of values that are too long to show.
    probe: a function `probe(answer, *args)` that returns what is compared, where the result of
        `answer(*args)` isn't all there is to see: a gradient, a sequence of calls, a text.
    """

    def __init__(self, *args: Any, name: str = "", probe: Callable | None = None) -> None:
        self.args, self.name, self.probe = args, name, probe

    def name_for(self, function: Callable) -> str:
        return self.name or short_call(function, self.args)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson. There are three kinds:

    - A function is to be written. It must agree with `solution` on every one of `cases`. `wrong` maps wrong
      functions to the message for a learner whose function computes the same as this one.
    - A value is to be found. `wrong` maps wrong values to their messages; `otherwise` is said to any other.
    - Answers are open, such as a sentence. `check(answer)` raises `Mistake`; `wrong` maps wrong answers to a
      part of what it must say.

    solution: a function, whose source is shown to the learner, or a value.
    returns: for functions that return several things, what messages call each of them.
    forbids: names of functions that an answer must not call, since the exercise is to write them.
    tolerance: how far floating-point numbers may be off, absolutely and relatively.
    part: whether a passed answer is kept in my_model.py.

    The lesson's `texts.toml` has `hints`, `learned`, which completes the line "merge passed: …", and for a
    solution that is a value `why`, which explains it.
    """

    id: str
    solution: Any
    cases: tuple[Case, ...] = ()
    check: Callable[[Any], None] | None = None
    wrong: Mapping[Any, str] = field(default_factory=dict)
    otherwise: str = ""
    returns: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    tolerance: float = 1e-4
    part: bool = False
    hints: tuple[str, ...] = ()
    learned: str = ""
    why: str = ""

    def solution_text(self) -> str:
        """Return the solution as the learner would write it, followed by `why`."""
        shown = source_of(self.solution) if callable(self.solution) else repr(self.solution)
        return f"{shown}\n\n{self.why}" if self.why else shown


def source_of(function: Callable) -> str:
    return textwrap.dedent(inspect.getsource(function)).rstrip()
