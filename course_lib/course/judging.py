"""Judging an answer: what is wrong with it, or that nothing is."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number
from typing import Any

from course_lib.course.checking import Mistake, NotStarted, agree, call_on, copied, same
from course_lib.course.exercise import Case, Exercise
from course_lib.course.reading import calls_in, describe, is_blank, shown


@dataclass(frozen=True)
class Outcome:
    """What a function did on one case.

    changed: the places of the arguments on which it wrote.
    """

    result: Any = None
    mistake: Mistake | None = None
    changed: tuple[int, ...] = ()


def find_mistake(exercise: Exercise, answer: Any) -> str | None:
    """Return what is wrong with an answer, or None. Raises NotStarted if there is no answer yet."""
    if is_blank(answer):
        raise NotStarted
    judge = _judge_function if exercise.cases else _judge_value
    try:
        if exercise.check:
            exercise.check(answer)
        else:
            judge(exercise, answer)
    except NotStarted:
        raise
    except Mistake as mistake:
        return str(mistake)
    except KeyboardInterrupt:  # one press of "stop" ends the whole check
        return "you stopped it while it ran. Does every loop come to its end?"
    except Exception as error:  # noqa: BLE001  an answer may be anything
        return f"the check could not make sense of this answer. {describe(error)}"
    except BaseException as error:  # noqa: BLE001  an answer may raise anything
        return f"your code stopped with {describe(error)}"
    return None


def outcomes_of(exercise: Exercise, answer: Any) -> list[Outcome]:
    """Return what a function does on each case of its exercise."""
    return [_run(case, answer) for case in exercise.cases]


def alike(one: Outcome, other: Outcome, tolerance: float) -> bool:
    """Return whether two functions did the same on a case: results, exceptions, and arguments written on."""
    if one.mistake or other.mistake:
        return bool(one.mistake and other.mistake) and _trouble(one) == _trouble(other)
    return one.changed == other.changed and same(one.result, other.result, tolerance)


def _judge_function(exercise: Exercise, answer: Any) -> None:
    _check_calls(exercise, answer)
    got, want = outcomes_of(exercise, answer), outcomes_of(exercise, exercise.solution)
    if _all_alike(got, want, exercise):
        return
    for wrong, message in exercise.wrong.items():
        if _all_alike(got, outcomes_of(exercise, wrong), exercise):
            raise Mistake(message)
    for case, one, other in zip(exercise.cases, got, want, strict=True):
        _explain(exercise, case, one, other)


def _check_calls(exercise: Exercise, answer: Any) -> None:
    used = calls_in(answer) if exercise.forbids else set()
    for name in (name for name in exercise.forbids if name in used):
        raise Mistake(f"that calls {name}, which is what this exercise is about: write it yourself")


def _all_alike(some: list[Outcome], others: list[Outcome], exercise: Exercise) -> bool:
    return all(alike(one, other, exercise.tolerance) for one, other in zip(some, others, strict=True))


def _explain(exercise: Exercise, case: Case, got: Outcome, want: Outcome) -> None:
    """Raise Mistake, which says what differs on a case, unless nothing does."""
    name = case.name_for(exercise.solution)
    if got.mistake:
        raise Mistake(f"{got.mistake}\n  asked for: {name}" if got.mistake.kind else str(got.mistake))
    agree(got.result, want.result, name, exercise.tolerance, exercise.returns)
    if got.changed != want.changed:
        raise Mistake(
            "the result is right, but your function changed what it was given, and whoever called it still "
            f"needs that: work on a copy\n  asked for: {name}"
        )


def _run(case: Case, answer: Any) -> Outcome:
    args = tuple(map(copied, case.args))
    try:
        result = case.probe(_careful(answer), *args) if case.probe else call_on(answer, *args)
    except Mistake as mistake:
        return Outcome(mistake=mistake)
    except NotStarted:
        raise
    except Exception as error:  # noqa: BLE001  a probe runs what the learner's function made
        mistake = Mistake(f"your code stopped with {describe(error)}", f"{type(error).__name__}: {error}")
        return Outcome(mistake=mistake)
    changed = [
        i for i, (now, before) in enumerate(zip(args, case.args, strict=True)) if not same(now, before, 0)
    ]
    return Outcome(result, changed=tuple(changed))


def _careful(answer: Any) -> Callable:
    """Return a function that calls the learner's as `call_on` does, for a probe."""
    return lambda *args: call_on(answer, *args)


def _trouble(outcome: Outcome) -> str:
    return outcome.mistake.kind or str(outcome.mistake)


def _judge_value(exercise: Exercise, answer: Any) -> None:
    kind = str if isinstance(exercise.solution, str) else Number
    if not isinstance(answer, kind) and getattr(answer, "shape", None) != ():
        wanted = "a string in quotes" if kind is str else "a number"
        raise Mistake(f"the answer should be {wanted}, and is {shown(answer)}")
    if same(answer, exercise.solution, exercise.tolerance):
        return
    for wrong, message in exercise.wrong.items():
        if same(answer, wrong, exercise.tolerance):
            raise Mistake(message)
    raise Mistake(exercise.otherwise)
