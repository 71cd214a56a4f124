"""The functions that a notebook calls: check, hint, solution, quiz, mine and progress."""

import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any

from course_lib.course.checking import NotStarted
from course_lib.course.contents import all_lessons
from course_lib.course.exercise import Exercise
from course_lib.course.judging import find_mistake
from course_lib.course.lessons import (
    exercises_of,
    find_exercise,
    find_question,
    lesson_of,
    parts,
    questions_of,
)
from course_lib.course.my_model import MyModel
from course_lib.course.quizzes import Question, answer_text, question_text, show_buttons
from course_lib.course.record import Record


class Session:
    """The exercises that were tried, the hints that were given, the learner's record and their model.

    Its public methods are the functions that a notebook imports from `course_lib.course`. They print their
    results, and the same calls always print the same lines.
    """

    def __init__(self) -> None:
        self.record = Record()
        self.model = MyModel()
        self._tried: set[str] = set()
        self._hints: Counter[str] = Counter()

    def check(self, id: str, answer: Any = None) -> None:
        """Print whether an answer, a function or a value, solves exercise `id`, or what is wrong with it."""
        exercise = find_exercise(id)
        id = exercise.id
        try:
            mistake = find_mistake(exercise, answer)
        except NotStarted:
            _print(f"{id} not started yet: write your answer where the ... is, then run this cell again.")
            return
        self._tried.add(id)
        if mistake is None:
            _print(f"{id} passed: {exercise.learned}")
            self.record.add("exercises", id)
            if exercise.part:
                _print(self.model.keep(exercise, answer))
        else:
            _print(f"{id} not yet: {mistake}")

    def hint(self, id: str) -> None:
        """Print the next hint for exercise `id`. Each hint says a little more than the one before."""
        exercise = find_exercise(id)
        id, hints = exercise.id, exercise.hints
        self._hints[id] = min(self._hints[id] + 1, len(hints))
        _print(f"{id} hint {self._hints[id]} of {len(hints)}: {hints[self._hints[id] - 1]}")

    def solution(self, id: str) -> None:
        """Print a solution of exercise `id`."""
        exercise = find_exercise(id)
        id = exercise.id
        if id not in self._tried:
            _print(f"You haven't tried {id} yet. A try first, even a wrong one, makes the answer stick.\n")
        print(f"One way to do {id}:\n\n{exercise.solution_text()}")

    def mine(self, id: str) -> Callable:
        """Return the learner's own answer to exercise `id`, a part of their model, from any earlier lesson.

        Where there is none, or where it no longer passes, the course's solution is returned. A line says
        which of the two it is. Raises ValueError if that exercise isn't a part of the model.
        """
        exercise = find_exercise(id)
        if not exercise.part:
            raise ValueError(f"{id!r} is no part of the model; the parts are {', '.join(map(repr, parts()))}")
        part, why_not = self.model.find(exercise)
        name = exercise.solution.__name__
        if part is None:
            _print(f"{name}: the course's{self._why_not_mine(exercise, why_not)}")
            return exercise.solution
        _print(f"{name}: yours, from my_model.py.")
        return part

    def _why_not_mine(self, exercise: Exercise, why_not: str) -> str:
        if why_not:
            return f". {why_not}"
        title = lesson_of(exercise.id).title
        if exercise.id in self.record.done()["exercises"]:
            return f". Yours isn't in my_model.py: run its check in the lesson {title} again."
        return f", until yours passes in the lesson {title}."

    def quiz(self, id: str, letter: str | None = None) -> None:
        """Print question `id`, or answer it: `quiz("why-bytes", "b")`."""
        question = find_question(id)
        if letter is None:
            _print(f'{question_text(question)}\nAnswer with a button, or with quiz("{id}", "a").')
            show_buttons(question, lambda clicked: self._answer(question, clicked))
        elif (letter := str(letter).strip().lower()) in question.lettered():
            _print(self._answer(question, letter))
        else:
            _print(f"{id} has the answers {', '.join(question.lettered())}: choose one of those.")

    def progress(self, reset: bool = False) -> None:
        """Print the progress in each lesson. With `reset` a new record begins, and the old file is kept.

        The learner's model, my_model.py, is left as it is. Raises TypeError for a `reset` other than True or
        False, such as a lesson's name, which would otherwise begin a new record.
        """
        if not isinstance(reset, bool):
            raise TypeError(f"progress shows all lessons; only progress(reset=True) resets it, not {reset!r}")
        if reset:
            self.record.reset()
        width = max(len(lesson.title) for lesson in all_lessons())
        print(f"{'Lesson':{width + 5}}{'Exercises':>9}{'Quiz':>10}   Parts of your model")
        done, kept = self.record.done(), self.model.kept()
        for lesson in all_lessons():
            exercises = _count_done(exercises_of(lesson), done["exercises"])
            questions = _count_done(questions_of(lesson), done["quiz"])
            line = f"{lesson.number}   {lesson.title:{width}}{exercises:>9}{questions:>10}"
            own = [part.solution.__name__ for part in exercises_of(lesson) if part.part and part.id in kept]
            print(f"{line}   {', '.join(own)}".rstrip())

    def _answer(self, question: Question, letter: str) -> str:
        if question.lettered()[letter].right:
            self.record.add("quiz", question.id)
        return answer_text(question, letter)


def _count_done(items: tuple[Exercise, ...] | tuple[Question, ...], done: list[str]) -> str:
    return f"{sum(item.id in done for item in items)} of {len(items)}"


def _print(text: str, width: int = 96) -> None:
    """Print a text. Long lines are wrapped, and each keeps its indentation."""
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        print(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False) or "")
