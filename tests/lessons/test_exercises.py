"""All exercises: each check is tried on right, wrong and missing answers, and on changed solutions."""

import builtins
import inspect
import re
import signal
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from mutants import mutants_of
from notebook_files import (
    NOTEBOOKS,
    calls,
    code_cells,
    first_argument,
    name,
    names_bound,
    notebook,
    read_cells,
    stub_answer,
    tags,
    text_of,
)

from course_lib.course.bindings import free_names
from course_lib.course.checking import NotStarted
from course_lib.course.contents import all_lessons, find_lesson
from course_lib.course.judging import find_mistake
from course_lib.course.lessons import exercises_of, lesson_of
from course_lib.course.session import Session

LESSONS = all_lessons()
EXERCISES = [exercise for lesson in LESSONS for exercise in exercises_of(lesson)]
NONSENSE = ("neither this nor that", -1, [], object(), lambda *args, **kwargs: "nonsense", lambda: 1 / 0)
LEVELS = ("easy", "medium", "hard")
HEAD = re.compile(r"### Exercise (?P<place>\d) · .+ \((?P<level>\w+), (?P<minutes>\d+) minutes\)")
EQUIVALENT = Path(__file__).parent / "equivalent"

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
FUNCTIONS = [exercise for exercise in EXERCISES if callable(exercise.solution)]
each_function = pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.id)


@pytest.fixture
def told(capsys):
    """A function that returns what `check` prints in a new session, as one line."""

    def tell(exercise, answer):
        Session().check(exercise.id, answer)
        return one_line(capsys.readouterr().out)

    return tell


def one_line(text):
    return " ".join(text.split())


def notebook_of(exercise):
    return notebook(lesson_of(exercise.id).name)


def test_ids_are_unique_words():
    ids = Counter(exercise.id for exercise in EXERCISES)
    assert set(ids.values()) == {1}
    assert all(id == id.lower() and id.replace("-", "").isalpha() for id in ids)


@each_exercise
def test_an_exercise_is_complete(exercise):
    assert exercise.learned.endswith((".", "!", "?"))
    assert len(set(exercise.hints)) == len(exercise.hints) >= 2
    assert len(exercise.wrong) >= 2
    is_value = not callable(exercise.solution) and not exercise.check
    assert bool(exercise.check) + bool(exercise.cases) + is_value == 1
    assert bool(exercise.otherwise) == is_value
    assert not exercise.part or callable(exercise.solution)


def test_parts_have_names_of_their_own():
    parts = [exercise.solution.__name__ for exercise in EXERCISES if exercise.part]
    assert {"write", "merge", "encode", "causal_attention"} <= set(parts) and len(set(parts)) == len(parts)


@each_exercise
def test_the_solution_passes(exercise, told, own_record):
    said = told(exercise, exercise.solution)
    passed = one_line(f"{exercise.id} passed: {exercise.learned}")
    kept = f" {exercise.solution.__name__} is now in my_model.py" if exercise.part else ""
    assert said.startswith(passed + kept) and (exercise.part or said == passed)
    assert f'"{exercise.id}"' in (own_record / "progress.json").read_text()


@each_exercise
def test_each_wrong_answer_fails_and_is_told_its_own_mistake(exercise, told):
    messages = [one_line(message) for message in exercise.wrong.values()]
    for wrong, message in zip(exercise.wrong, messages, strict=True):
        said = told(exercise, wrong)
        if exercise.check:
            assert said.startswith(f"{exercise.id} not yet:") and "could not make sense" not in said
            assert {other for other in messages if other in said} == {message}
        else:
            assert said == f"{exercise.id} not yet: {message}"


@each_exercise
def test_nonsense_is_answered_without_a_traceback(exercise, told):
    for answer in NONSENSE:
        said = told(exercise, answer)
        assert said.startswith(f"{exercise.id} not yet:") and "could not make sense" not in said


@each_exercise
def test_the_stub_of_the_notebook_has_not_been_started(exercise, told):
    for answer in (None, ..., stub_answer(notebook_of(exercise), exercise.id)):
        assert told(exercise, answer).startswith(f"{exercise.id} not started yet:")
    stored = [cell for cell in code_cells(notebook_of(exercise)) if f"exercise-{exercise.id}" in tags(cell)]
    said = "".join(text_of(output) for cell in stored for output in cell.outputs)
    assert one_line(said) == told(exercise, ...)


@each_function
def test_the_solution_that_is_shown_runs_in_the_notebook_under_the_stubs_name(exercise):
    cells = code_cells(notebook_of(exercise))
    here = next(i for i, cell in enumerate(cells) if f"exercise-{exercise.id}" in tags(cell))
    assert not exercise.solution.__closure__
    assert free_names(exercise.solution_text()) - set(dir(builtins)) - {
        exercise.solution.__name__
    } <= names_bound(cells[: here + 1])
    stub = stub_answer(notebook_of(exercise), exercise.id)
    if callable(stub):
        assert exercise.solution.__name__ == stub.__name__
        assert list(inspect.signature(exercise.solution).parameters) == list(
            inspect.signature(stub).parameters
        )


@each_notebook
def test_notebook_and_lesson_have_the_same_exercises(path):
    cells, exercises = code_cells(path), exercises_of(find_lesson(name(path)))
    tagged = [tag[len("exercise-") :] for cell in cells for tag in tags(cell) if tag.startswith("exercise-")]
    checked = [first_argument(call) for cell in cells for call in calls(cell, "check")]
    assert tagged == checked == [exercise.id for exercise in exercises]
    for cell in cells:
        assert [f"exercise-{first_argument(call)}" for call in calls(cell, "check")] == [
            tag for tag in tags(cell) if tag.startswith("exercise-")
        ]


@each_notebook
def test_exercises_are_numbered_have_their_minutes_and_go_from_easy_to_hard(path):
    lines = [line for cell in read_cells(path) for line in cell.source.splitlines()]
    heads = [HEAD.fullmatch(line) for line in lines if line.startswith("### Exercise")]
    assert all(heads) and len(heads) == len(exercises_of(find_lesson(name(path))))
    assert [int(head["place"]) for head in heads] == list(range(1, len(heads) + 1))
    assert (1 if name(path) == "start_here" else 2) <= len(heads) <= 4
    levels = [LEVELS.index(head["level"]) for head in heads]
    assert levels == sorted(levels)
    assert all(1 <= int(head["minutes"]) <= 30 for head in heads)


# Small changes of the solutions


class TooSlow(BaseException):
    """A mutant that doesn't come to an end is caught: the learner would stop it."""


def _ring(*_):
    raise TooSlow


@pytest.fixture
def alarm():
    """Calls a function, and raises TooSlow after some seconds."""
    before = signal.signal(signal.SIGALRM, _ring)

    def within(seconds, function, *args):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function(*args)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    yield within
    signal.signal(signal.SIGALRM, before)


def is_caught(exercise, mutant, within, seconds):
    try:
        return within(seconds, find_mistake, exercise, mutant) is not None
    except (NotStarted, TooSlow):
        return True


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="stops endless mutants by a signal of Unix")
@each_function
def test_no_small_change_of_the_solution_passes_unexplained(exercise, alarm):
    file = EQUIVALENT / f"{lesson_of(exercise.id).name}.toml"
    listed = tomllib.loads(file.read_text(encoding="utf-8")).get(exercise.id, {}) if file.exists() else {}
    began = time.perf_counter()
    assert find_mistake(exercise, exercise.solution) is None
    limit = max(2, 20 * (time.perf_counter() - began))
    mutants = dict(mutants_of(exercise.solution))
    survivors = {
        change for change, mutant in mutants.items() if not is_caught(exercise, mutant, alarm, limit)
    }
    assert len(mutants) >= 3
    assert survivors == set(listed), "caught and listed, or alive and not listed"
    assert all(listed.values())


def test_what_is_listed_as_computing_the_same_belongs_to_an_exercise():
    functions = {exercise.id for exercise in FUNCTIONS}
    for file in EQUIVALENT.iterdir():
        listed = tomllib.loads(file.read_text(encoding="utf-8"))
        assert set(listed) <= {exercise.id for exercise in exercises_of(find_lesson(file.stem))} & functions


def test_the_mutants_are_small_changes_of_every_kind():
    def function(x, n=2):
        total = 0
        for i in range(n):
            if i <= 3 and x[i:] is not None:
                total += x[i].sum(dim=-1, keepdim=True) / (n - 1)
        return -total if total else max(total, n)

    changes = [change for change, _ in mutants_of(function)]
    after = "\n".join(change.partition("→")[2] for change in changes)
    for text in (
        "n=3):", "total = 1", "pass", "if i < 3", "if i >= 3", "if i <= 4", "or x[i:]", "x[:]", "is None",
        "total -= x", "dim=1", "dim=-2", "sum(keepdim=True)", "keepdim=False", "x[i] / (n - 1)",
        "* (n - 1)", "// (n - 1)", "(n - 2)", "/ n", "(n + 1)", "(1 - n)", "max(n, total)",
        "return total if", "else total", "in n:",
    ):  # fmt: skip
        assert text in after, text
    assert len(changes) == len(set(changes)) > 40
