"""The tools that a lesson's checks are written with.

A check calls the learner's function with ``call``, compares with ``equal`` (counts, words, lists, dicts) or
``close`` (numbers), and asks ``same`` whether the answer is a well-known wrong one, to name that mistake::

    def check_scale(answer):
        got = call(answer, q, k)
        if same(got, q @ k.T / d):
            raise Mistake("you divided by d: it is the square root of d that keeps the spread at 1")
        close(got, q @ k.T / d**0.5, "the scores")
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from course_lib.course.reading import describe, is_blank, is_untouched, shape, shown


class Mistake(Exception):
    """The answer is wrong; the message names what is wrong with it."""


class NotStarted(Exception):
    """The exercise is as the learner found it."""


def call(answer: Callable, *args: Any, **kwargs: Any) -> Any:
    """What the learner's function returns, given copies of the arguments.

    Raises NotStarted for an untouched stub, and Mistake for what isn't a function, for a function that raises
    (saying what and where) and for one that returns nothing.
    """
    if is_blank(answer):
        raise NotStarted
    if not callable(answer):
        raise Mistake(
            f"this exercise wants a function, and got {shown(answer)}. Hand in its name, without ( )"
        )
    _expect_arguments(answer, args, kwargs)
    try:
        result = answer(*map(_fresh, args), **{name: _fresh(value) for name, value in kwargs.items()})
    except KeyboardInterrupt:
        raise Mistake("you stopped it while it ran. Does every loop come to its end?") from None
    except Exception as error:  # noqa: BLE001  a learner's code may raise anything
        raise _stopped(answer, error) from None
    if result is None or result is ...:
        raise _nothing(answer, result)
    return result


def equal(got: Any, want: Any, name: str) -> None:
    """Raise Mistake unless ``got == want``, naming the first place where lists, tuples and dicts differ."""
    _expect_kind(got, want, name)
    if isinstance(want, dict):
        _equal_dicts(got, want, name)
    elif isinstance(want, list | tuple):
        _equal_sequences(got, want, name)
    elif _differ(got, want):
        raise Mistake(f"{name} should be {shown(want)}, and is {shown(got)}")


def close(got: Any, want: Any, name: str, tolerance: float = 1e-4) -> None:
    """Raise Mistake unless numbers, lists, arrays or tensors have one shape and agree to within ``tolerance``.

    The message speaks of the shape when the shapes differ, else of the first value that is off.
    """
    import numpy as np  # here, so that start() can still say that numpy is missing

    got, want = _numbers(got, name), _numbers(want, name)
    if got.shape != want.shape:
        raise Mistake(f"{name} should have the shape {shape(want)}, and has {shape(got)}")
    off = np.argwhere(~np.isclose(got, want, rtol=tolerance, atol=tolerance))
    if len(off):
        at = tuple(map(int, off[0]))
        where = f"{name}{list(at)}" if at else name
        raise Mistake(f"{where} should be {shown(want[at])}, and is {shown(got[at])}")


def same(got: Any, other: Any, tolerance: float = 1e-4) -> bool:
    """Whether two answers agree in shape and numbers: the question to ask about a well-known wrong answer."""
    try:
        close(got, other, "", tolerance)
    except Mistake:
        return False
    return True


def _expect_arguments(answer: Callable, args: tuple, kwargs: dict) -> None:
    try:
        takes = inspect.signature(answer)
    except ValueError:  # some built-in functions don't say
        return
    try:
        takes.bind(*args, **kwargs)
    except TypeError:
        name, given = getattr(answer, "__name__", "it"), len(args) + len(kwargs)
        raise Mistake(f"{name} is called with {given} arguments here, and yours takes {takes}") from None


def _fresh(value: Any) -> Any:
    """A copy of a list, dict, array or tensor, so that an answer that changes its input harms no later call."""
    data = isinstance(value, list | dict | set) or type(value).__module__ in ("numpy", "torch")
    return copy.deepcopy(value) if data else value


def _stopped(answer: Callable, error: Exception) -> Exception:
    if is_untouched(answer) or (isinstance(error, NotImplementedError) and not error.args):
        return NotStarted()
    return Mistake(f"your code stopped with {describe(error)}")


def _nothing(answer: Callable, result: Any) -> Exception:
    if result is ... or is_untouched(answer):
        return NotStarted()
    return Mistake(f"{shown(answer)} gave back None. Is there a `return` at its end, on every path?")


def _expect_kind(got: Any, want: Any, name: str) -> None:
    for kinds, word in ((dict, "dict"), (str, "string"), ((list, tuple), "list"), (set, "set")):
        if isinstance(want, kinds) and not isinstance(got, kinds):
            raise Mistake(f"{name} should be a {word}, and is {shown(got)}")


def _equal_dicts(got: dict, want: dict, name: str) -> None:
    for key in want:
        if key not in got:
            raise Mistake(f"{name} should have the key {shown(key)}, and hasn't")
    for key in got:
        if key not in want:
            raise Mistake(f"{name} has a key that doesn't belong there: {shown(key)}")
    for key, value in want.items():
        equal(got[key], value, f"{name}[{shown(key)}]")


def _equal_sequences(got: list | tuple, want: list | tuple, name: str) -> None:
    if len(got) != len(want):
        raise Mistake(f"{name} should have {len(want)} items, and has {len(got)}: {shown(got)}")
    for place, (one, other) in enumerate(zip(got, want, strict=True)):
        equal(one, other, f"{name}[{place}]")


def _differ(got: Any, want: Any) -> bool:
    try:
        return bool(got != want)
    except (TypeError, ValueError, RuntimeError):  # an array of truth values is no answer either
        return True


def _numbers(value: Any, name: str) -> Any:
    """A number, list, array or tensor as a float64 array."""
    import numpy as np

    try:
        return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"{name} should be numbers, and is {shown(value)}") from None
