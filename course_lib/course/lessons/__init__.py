"""The lessons' exercises, quizzes and long experiments: a folder for each lesson, under the lesson's name.

Each folder has

    exercises.py     EXERCISES, from easy to hard: solutions, cases, known mistakes
    texts.toml       their hints, and what passing them teaches
    quiz.toml        the questions
    experiment.py    the long run whose log the lesson draws, where there is one
"""

import tomllib
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from course_lib.course.contents import Lesson, all_lessons
from course_lib.course.exercise import Exercise
from course_lib.course.quizzes import Question, make_questions


@cache
def exercises_of(lesson: Lesson) -> tuple[Exercise, ...]:
    exercises = import_module(f"{__name__}.{lesson.name}.exercises").EXERCISES
    texts = _read(lesson, "texts.toml")
    return tuple(replace(it, **texts[it.id] | {"hints": tuple(texts[it.id]["hints"])}) for it in exercises)


@cache
def questions_of(lesson: Lesson) -> tuple[Question, ...]:
    return make_questions(_read(lesson, "quiz.toml"))


def parts() -> dict[str, Exercise]:
    """Return the exercises that are parts of the learner's model, by id, in the order of the course."""
    return {part.id: part for lesson in all_lessons() for part in exercises_of(lesson) if part.part}


def find_exercise(id: str) -> Exercise:
    """Return the exercise with this id. Raises ValueError, which lists similar ids, if there is none."""
    return _find(id, "exercise", exercises_of)


def find_question(id: str) -> Question:
    """Return the question with this id. Raises ValueError, which lists similar ids, if there is none."""
    return _find(id, "question", questions_of)


def lesson_of(id: str) -> Lesson:
    """Return the lesson that has this exercise."""
    return next(lesson for lesson in all_lessons() if any(id == it.id for it in exercises_of(lesson)))


def _read(lesson: Lesson, name: str) -> dict:
    return tomllib.loads((Path(__path__[0]) / lesson.name / name).read_text(encoding="utf-8"))


def _find(id: str, kind: str, items_of):
    items = {item.id: item for lesson in all_lessons() for item in items_of(lesson)}
    wanted = str(id).replace("_", "-")  # the part causal_attention is that of the exercise causal-attention
    if wanted not in items:
        near = get_close_matches(wanted, items, n=3, cutoff=0.3) or list(items)
        raise ValueError(f"there is no {kind} {id!r}. Did you mean {' or '.join(map(repr, near[:3]))}?")
    return items[wanted]
