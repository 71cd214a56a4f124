"""The lessons' exercises, quizzes and long experiments: a folder for each lesson, under the lesson's name.

exercises.py     EXERCISES, from easy to hard
quiz.toml        the questions
experiment.py    the long run whose log the lesson draws, where there is one
"""

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from course_lib.course.contents import Lesson, all_lessons
from course_lib.course.exercise import Exercise
from course_lib.course.quizzes import Question, read_quiz


@cache
def exercises_of(lesson: Lesson) -> tuple[Exercise, ...]:
    return import_module(f"{__name__}.{lesson.name}.exercises").EXERCISES


@cache
def questions_of(lesson: Lesson) -> tuple[Question, ...]:
    return read_quiz(Path(__path__[0]) / lesson.name / "quiz.toml")


def find_exercise(id: str) -> Exercise:
    """Return the exercise with this id. Raises ValueError, which lists similar ids, if there is none."""
    return _find(id, "exercise", exercises_of)


def find_question(id: str) -> Question:
    """Return the question with this id. Raises ValueError, which lists similar ids, if there is none."""
    return _find(id, "question", questions_of)


def lesson_of(id: str) -> Lesson:
    """Return the lesson that has this exercise."""
    return next(lesson for lesson in all_lessons() if any(id == it.id for it in exercises_of(lesson)))


def _find(id: str, kind: str, items_of):
    items = {item.id: item for lesson in all_lessons() for item in items_of(lesson)}
    if id not in items:
        near = get_close_matches(str(id), items, n=3, cutoff=0.3) or list(items)
        raise ValueError(f"there is no {kind} {id!r}. Did you mean {' or '.join(map(repr, near[:3]))}?")
    return items[id]
