"""The functions that a notebook calls: check, hint, solution, quiz and progress."""

import textwrap
from collections import Counter
from typing import Any

from course_lib.course.checking import Mistake, NotStarted
from course_lib.course.content import Exercise, Question
from course_lib.course.lessons import find_exercise, find_question, lesson_numbers, load_lesson
from course_lib.course.quizzes import answer_text, question_text, show_buttons
from course_lib.course.reading import describe, is_blank
from course_lib.course.record import Record


class Session:
    """The exercises that were tried, the hints that were given, and the learner's record.

    Its five public methods are the functions that a notebook imports from `course_lib.course`. They print
    their results, and the same calls always print the same lines.
    """

    def __init__(self) -> None:
        self.record = Record()
        self._tried: set[str] = set()
        self._hints: Counter[str] = Counter()

    def check(self, id: str, answer: Any = None) -> None:
        """Print whether an answer, a function or a value, solves exercise `id`, or what is wrong with it."""
        exercise = find_exercise(id)
        try:
            mistake = find_mistake(exercise, answer)
        except NotStarted:
            _print(f"{id} not started yet: write your answer where the ... is, then run this cell again.")
            return
        self._tried.add(id)
        if mistake is None:
            _print(f"{id} passed: {exercise.learned}")
            self.record.add("exercises", id)
        else:
            _print(f"{id} not yet: {mistake}")

    def hint(self, id: str) -> None:
        """Print the next hint for exercise `id`. Each hint says a little more than the one before."""
        hints = find_exercise(id).hints
        self._hints[id] = min(self._hints[id] + 1, len(hints))
        _print(f"{id} hint {self._hints[id]} of {len(hints)}: {hints[self._hints[id] - 1]}")

    def solution(self, id: str) -> None:
        """Print a solution of exercise `id`."""
        exercise = find_exercise(id)
        if id not in self._tried:
            _print(f"You haven't tried {id} yet. A try first, even a wrong one, makes the answer stick.\n")
        print(f"One way to do {id}:\n\n{exercise.solution_text()}")

    def quiz(self, id: str, letter: str | None = None) -> None:
        """Print question `id`, or answer it: `quiz("01-q1", "b")`."""
        question = find_question(id)
        if letter is None:
            _print(f'{question_text(question)}\nAnswer with a button, or with quiz("{id}", "a").')
            show_buttons(question, lambda clicked: self._answer(question, clicked))
        elif (letter := str(letter).strip().lower()) in question.lettered():
            _print(self._answer(question, letter))
        else:
            _print(f"{id} has the answers {', '.join(question.lettered())}: choose one of those.")

    def progress(self, reset: bool = False) -> None:
        """Print the progress in each lesson. With `reset` a new record begins, and the old file is kept."""
        if reset:
            self.record.reset()
        done = self.record.done()
        lessons = {number: load_lesson(number) for number in lesson_numbers()}
        width = max(len(lesson.TITLE) for lesson in lessons.values())
        print(f"{'Lesson':{width + 5}}{'Exercises':>9}{'Quiz':>10}")
        for number, lesson in lessons.items():
            exercises = _count_done(lesson.EXERCISES, done["exercises"])
            questions = _count_done(lesson.QUIZ, done["quiz"])
            print(f"{number}   {lesson.TITLE:{width}}{exercises:>9}{questions:>10}")

    def _answer(self, question: Question, letter: str) -> str:
        if question.lettered()[letter].right:
            self.record.add("quiz", question.id)
        return answer_text(question, letter)


def find_mistake(exercise: Exercise, answer: Any) -> str | None:
    """Return what is wrong with an answer, or None. Raises NotStarted if there is no answer yet."""
    if is_blank(answer):
        raise NotStarted
    try:
        exercise.check(answer)
    except NotStarted:
        raise
    except Mistake as mistake:
        return str(mistake)
    except Exception as error:  # noqa: BLE001  an answer may be anything
        return f"the check could not make sense of this answer. {describe(error)}"
    return None


def _count_done(items: tuple, done: list[str]) -> str:
    return f"{sum(item.id in done for item in items)} of {len(items)}"


def _print(text: str, width: int = 96) -> None:
    """Print a text. Long lines are wrapped, and each keeps its indentation."""
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        print(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False) or "")
