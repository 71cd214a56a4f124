"""The exercises and quiz questions: one module for each lesson, imported when it is first used.

A lesson module is named after its notebook's number (`lesson_01` for `01_tokenization.ipynb`) and has a
`TITLE`, its `EXERCISES` and its `QUIZ`. An id starts with that number: `01-2`, `01-q3`.
"""

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

from course_lib.course.content import Exercise, Question


def lesson_numbers() -> list[str]:
    """Return the numbers of the lessons that have exercises, in the order of the course."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.removeprefix("lesson_") for name in modules if name.startswith("lesson_"))


def load_lesson(number: str) -> ModuleType:
    return import_module(f"{__name__}.lesson_{number}")


def find_exercise(id: str) -> Exercise:
    """Return the exercise with this id. Raises ValueError, which lists the lesson's ids, if there is none."""
    return _find(id, "EXERCISES")


def find_question(id: str) -> Question:
    """Return the question with this id. Raises ValueError, which lists the lesson's ids, if there is none."""
    return _find(id, "QUIZ")


def _find(id: str, kind: str) -> Any:
    number = str(id).partition("-")[0]
    if number not in lesson_numbers():
        raise ValueError(
            f"{id!r} belongs to no lesson: an id looks like '01-1', or '01-q1' for a quiz question"
        )
    items = {item.id: item for item in getattr(load_lesson(number), kind)}
    if id not in items:
        raise ValueError(f"there is no {id!r} in lesson {number}, only {', '.join(items)}")
    return items[id]
