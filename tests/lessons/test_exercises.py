"""All exercises and quiz questions: each check is tested with right, wrong and missing answers."""

import inspect
from collections import Counter

import pytest
from notebook_files import (
    NOTEBOOKS,
    calls,
    code_cells,
    first_argument,
    names_bound,
    number,
    stub_answer,
    tags,
    text_of,
)

from course_lib.course.content import LEVELS
from course_lib.course.lessons import lesson_numbers, load_lesson
from course_lib.course.session import Session

LESSONS = {number: load_lesson(number) for number in lesson_numbers()}
EXERCISES = [exercise for lesson in LESSONS.values() for exercise in lesson.EXERCISES]
QUESTIONS = [question for lesson in LESSONS.values() for question in lesson.QUIZ]
NONSENSE = ("neither this nor that", -1, [], object(), lambda *args, **kwargs: "nonsense", lambda: 1 / 0)

each_lesson = pytest.mark.parametrize("lesson", LESSONS.items(), ids=LESSONS)
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
each_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@pytest.fixture
def told(capsys):
    """A function that returns what `check` prints in a new session, as one line."""

    def tell(exercise, answer):
        Session().check(exercise.id, answer)
        return one_line(capsys.readouterr().out)

    return tell


def one_line(text):
    return " ".join(text.split())


def notebook_of(item):
    return next(path for path in NOTEBOOKS if number(path) == item.id[:2])


def test_every_notebook_has_its_exercises():
    assert NOTEBOOKS
    assert list(map(number, NOTEBOOKS)) == list(LESSONS)


def test_ids_are_unique_and_belong_to_their_lesson():
    ids = Counter(item.id for item in EXERCISES + QUESTIONS)
    assert set(ids.values()) == {1}
    for start, lesson in LESSONS.items():
        assert [item.id for item in lesson.EXERCISES] == [
            f"{start}-{n + 1}" for n in range(len(lesson.EXERCISES))
        ]
        assert [item.id for item in lesson.QUIZ] == [f"{start}-q{n + 1}" for n in range(len(lesson.QUIZ))]


@each_lesson
def test_a_lesson_has_a_few_exercises_from_easy_to_hard(lesson):
    start, content = lesson
    assert (1 if start == "00" else 2) <= len(content.EXERCISES) <= 4
    levels = [LEVELS.index(exercise.level) for exercise in content.EXERCISES]
    assert levels == sorted(levels)
    assert content.TITLE


@each_exercise
def test_an_exercise_is_complete(exercise):
    assert 1 <= exercise.minutes <= 30
    assert exercise.title and exercise.learned.endswith((".", "!", "?"))
    assert len(set(exercise.hints)) == len(exercise.hints) >= 2
    assert len(exercise.wrong) >= 2


@each_exercise
def test_the_solution_passes(exercise, told, own_record):
    assert told(exercise, exercise.solution) == one_line(f"{exercise.id} passed: {exercise.learned}")
    assert exercise.id in (own_record / "progress.json").read_text()


@each_exercise
def test_each_wrong_answer_fails_with_feedback_of_its_own(exercise, told):
    fragments = [one_line(wrong.feedback) for wrong in exercise.wrong]
    for wrong, fragment in zip(exercise.wrong, fragments, strict=True):
        said = told(exercise, wrong.answer)
        assert said.startswith(f"{exercise.id} not yet:")
        assert "could not make sense" not in said
        assert [other for other in fragments if other in said] == [fragment]


@each_exercise
def test_nonsense_is_answered_without_a_traceback(exercise, told):
    for answer in NONSENSE:
        assert told(exercise, answer).startswith(f"{exercise.id} not yet:")


@each_exercise
def test_the_stub_of_the_notebook_has_not_been_started(exercise, told):
    for answer in (None, ..., stub_answer(notebook_of(exercise), exercise.id)):
        assert told(exercise, answer).startswith(f"{exercise.id} not started yet:")
    stored = [cell for cell in code_cells(notebook_of(exercise)) if f"exercise-{exercise.id}" in tags(cell)]
    said = "".join(text_of(output) for cell in stored for output in cell.outputs)
    assert one_line(said) == told(exercise, ...)


@each_exercise
def test_the_solution_that_is_shown_runs_in_the_notebook(exercise):
    shown = exercise.solution_text()
    assert "solve_" not in shown
    if callable(exercise.solution):
        cells = code_cells(notebook_of(exercise))
        here = next(i for i, cell in enumerate(cells) if f"exercise-{exercise.id}" in tags(cell))
        used = inspect.getclosurevars(exercise.solution)
        own = {exercise.solution.__name__}
        assert not used.nonlocals
        assert set(used.globals) - own <= names_bound(cells[: here + 1])


@each_question
def test_a_question_has_one_right_answer_and_explains_them_all(question):
    assert 2 <= len(question.choices) <= 5
    assert sum(choice.right for choice in question.choices) == 1
    for texts in ({choice.text for choice in question.choices}, {choice.why for choice in question.choices}):
        assert len(texts) == len(question.choices) and all(texts)


@each_question
def test_answering_tells_right_from_wrong(question, capsys, own_record):
    for letter, choice in question.lettered().items():
        Session().quiz(question.id, letter)
        verdict = "Right" if choice.right else "Not this one"
        assert one_line(capsys.readouterr().out) == one_line(f"{letter}) {verdict}. {choice.why}")
    assert question.id in (own_record / "progress.json").read_text()


@each_lesson
def test_three_questions_whose_right_answers_differ_in_place(lesson):
    _, content = lesson
    assert len(content.QUIZ) == 3
    right = {
        letter for question in content.QUIZ for letter, choice in question.lettered().items() if choice.right
    }
    assert len(right) > 1


@each_notebook
def test_notebook_and_module_have_the_same_exercises(path):
    cells = code_cells(path)
    expected = [exercise.id for exercise in LESSONS[number(path)].EXERCISES]
    tagged = [
        tag.removeprefix("exercise-") for cell in cells for tag in tags(cell) if tag.startswith("exercise-")
    ]
    checked = [first_argument(call) for cell in cells for call in calls(cell, "check")]
    assert tagged == checked == expected
    for cell in cells:
        assert [f"exercise-{first_argument(call)}" for call in calls(cell, "check")] == [
            tag for tag in tags(cell) if tag.startswith("exercise-")
        ]


@each_notebook
def test_notebook_and_module_have_the_same_questions(path):
    asked = [call for cell in code_cells(path) for call in calls(cell, "quiz")]
    assert [first_argument(call) for call in asked] == [
        question.id for question in LESSONS[number(path)].QUIZ
    ]
    assert all(len(call.args) == 1 for call in asked)
