"""The functions that a lesson's checks are written with.

A check calls the learner's function with `call`, and compares the result with `equal` (counts, words, lists,
dicts) or `close` (numbers). With `same` it recognises a well-known wrong answer, so that it can name the
mistake:

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
    """The answer is wrong. The message says what is wrong with it."""


class NotStarted(Exception):
    """The learner has not written an answer yet."""


def call(answer: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function with copies of the arguments, and return its result.

    Raises NotStarted for an untouched stub. Raises Mistake for an answer that isn't a function, for a
    function that raises (the message says what and where) and for a function that returns nothing.
    """
    if is_blank(answer):
        raise NotStarted
    if not callable(answer):
        raise Mistake(
            f"this exercise wants a function, and got {shown(answer)}. Hand in its name, without ( )"
        )
    _check_arguments(answer, args, kwargs)
    try:
        result = answer(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})
    except KeyboardInterrupt:
        raise Mistake("you stopped it while it ran. Does every loop come to its end?") from None
    except Exception as error:  # noqa: BLE001  a learner's code may raise anything
        raise _explain_error(answer, error) from None
    if result is None or result is ...:
        raise _explain_none(answer, result)
    return result


def equal(got: Any, want: Any, name: str) -> None:
    """Raise Mistake unless `got == want`. In lists, tuples and dicts it names the first item that differs."""
    _check_type(got, want, name)
    if isinstance(want, dict):
        _equal_dicts(got, want, name)
    elif isinstance(want, list | tuple):
        _equal_sequences(got, want, name)
    elif _differ(got, want):
        raise Mistake(f"{name} should be {shown(want)}, and is {shown(got)}")


def close(got: Any, want: Any, name: str, tolerance: float = 1e-4) -> None:
    """Raise Mistake unless two answers have the same shape, and values that agree to within `tolerance`.

    The answers are numbers, lists, arrays or tensors. The message names the shapes if they differ, and
    otherwise the first value that is wrong.
    """
    import numpy as np  # imported here, so that start() can still say that numpy is missing

    got, want = _to_array(got, name), _to_array(want, name)
    if got.shape != want.shape:
        raise Mistake(f"{name} should have the shape {shape(want)}, and has {shape(got)}")
    wrong = np.argwhere(~np.isclose(got, want, rtol=tolerance, atol=tolerance))
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        item = f"{name}{list(index)}" if index else name
        raise Mistake(f"{item} should be {shown(want[index])}, and is {shown(got[index])}")


def same(got: Any, other: Any, tolerance: float = 1e-4) -> bool:
    """Return whether two answers agree in shape and values. Checks use it with well-known wrong answers."""
    try:
        close(got, other, "", tolerance)
    except Mistake:
        return False
    return True


def _check_arguments(answer: Callable, args: tuple, kwargs: dict) -> None:
    try:
        signature = inspect.signature(answer)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        name, n = getattr(answer, "__name__", "it"), len(args) + len(kwargs)
        raise Mistake(f"{name} is called with {n} arguments here, and yours takes {signature}") from None


def _copy(value: Any) -> Any:
    """Copy a list, dict, set, array or tensor, which the learner's function might change in place."""
    is_data = isinstance(value, list | dict | set) or type(value).__module__ in ("numpy", "torch")
    return copy.deepcopy(value) if is_data else value


def _explain_error(answer: Callable, error: Exception) -> Exception:
    if is_untouched(answer) or (isinstance(error, NotImplementedError) and not error.args):
        return NotStarted()
    return Mistake(f"your code stopped with {describe(error)}")


def _explain_none(answer: Callable, result: Any) -> Exception:
    if result is ... or is_untouched(answer):
        return NotStarted()
    return Mistake(f"{shown(answer)} gave back None. Is there a `return` at its end, on every path?")


def _check_type(got: Any, want: Any, name: str) -> None:
    for types, word in ((dict, "dict"), (str, "string"), ((list, tuple), "list"), (set, "set")):
        if isinstance(want, types) and not isinstance(got, types):
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
    for i, (got_item, want_item) in enumerate(zip(got, want, strict=True)):
        equal(got_item, want_item, f"{name}[{i}]")


def _differ(got: Any, want: Any) -> bool:
    try:
        return bool(got != want)
    except (TypeError, ValueError, RuntimeError):  # for instance an array of truth values
        return True


def _to_array(value: Any, name: str) -> Any:
    """Return a number, list, array or tensor as a float64 array."""
    import numpy as np

    try:
        return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"{name} should be numbers, and is {shown(value)}") from None
