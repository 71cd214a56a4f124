"""One learner at work in one notebook."""

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
    """What was tried, which hints were given, and the learner's record.

    Its five methods are the functions that a notebook imports from ``course_lib.course``. All they have to say
    they print, and the same steps always print the same lines.
    """

    def __init__(self) -> None:
        self.record = Record()
        self._tried: set[str] = set()
        self._hints: Counter[str] = Counter()

    def check(self, id: str, answer: Any = None) -> None:
        """Say whether ``answer``, a function or a value, solves exercise ``id``; if not, what is wrong with it."""
        exercise = find_exercise(id)
        try:
            mistake = mistake_in(exercise, answer)
        except NotStarted:
            _say(f"{id} not started yet: write your answer where the ... is, then run this cell again.")
            return
        self._tried.add(id)
        if mistake is None:
            _say(f"{id} passed: {exercise.learned}")
            self.record.add("exercises", id)
        else:
            _say(f"{id} not yet: {mistake}")

    def hint(self, id: str) -> None:
        """Print the next hint for exercise ``id``; each says a little more than the one before."""
        hints = find_exercise(id).hints
        self._hints[id] = min(self._hints[id] + 1, len(hints))
        _say(f"{id} hint {self._hints[id]} of {len(hints)}: {hints[self._hints[id] - 1]}")

    def solution(self, id: str) -> None:
        """Print one way to solve exercise ``id``."""
        exercise = find_exercise(id)
        if id not in self._tried:
            _say(f"You haven't tried {id} yet. A try first, even a wrong one, makes the answer stick.\n")
        print(f"One way to do {id}:\n\n{exercise.solution_text()}")

    def quiz(self, id: str, letter: str | None = None) -> None:
        """Ask question ``id``, or answer it: ``quiz("01-q1", "b")``."""
        question = find_question(id)
        if letter is None:
            _say(f'{question_text(question)}\nAnswer with a button, or with quiz("{id}", "a").')
            show_buttons(question, lambda clicked: self._answer(question, clicked))
        elif (letter := str(letter).strip().lower()) in question.lettered():
            _say(self._answer(question, letter))
        else:
            _say(f"{id} has the answers {', '.join(question.lettered())}: choose one of those.")

    def progress(self, reset: bool = False) -> None:
        """Print what is done, lesson by lesson. ``reset=True`` starts afresh and keeps the old record's file."""
        if reset:
            self.record.reset()
        done = self.record.done()
        lessons = {number: load_lesson(number) for number in lesson_numbers()}
        width = max(len(lesson.TITLE) for lesson in lessons.values())
        print(f"{'Lesson':{width + 5}}{'Exercises':>9}{'Quiz':>10}")
        for number, lesson in lessons.items():
            exercises = _of(lesson.EXERCISES, done["exercises"])
            print(f"{number}   {lesson.TITLE:{width}}{exercises:>9}{_of(lesson.QUIZ, done['quiz']):>10}")

    def _answer(self, question: Question, letter: str) -> str:
        if question.lettered()[letter].right:
            self.record.add("quiz", question.id)
        return answer_text(question, letter)


def mistake_in(exercise: Exercise, answer: Any) -> str | None:
    """What is wrong with an answer, or None. Raises NotStarted for one that isn't there yet."""
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


def _of(items: tuple, done: list[str]) -> str:
    return f"{sum(item.id in done for item in items)} of {len(items)}"


def _say(text: str, width: int = 96) -> None:
    """Print, breaking long lines and keeping the indentation of each."""
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        print(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False) or "")
