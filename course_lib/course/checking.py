"""Calling a learner's function, and comparing what it returns.

`course_lib.course.judging` does this for exercises that have cases. A check that is written by hand, for an
exercise with open answers, calls the learner's function with `call` and compares with `agree`, or looks at
the answer itself and raises `Mistake`.
"""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from course_lib.course.reading import describe, is_blank, is_untouched, shape, shown

LARGE = 100_000  # numbers; a larger array that can't be right isn't copied to compare it


class Mistake(Exception):
    """The answer is wrong. The message says what is wrong with it.

    kind: the exception that the learner's function raised, "ValueError: …"; "None" if it returned nothing;
        otherwise "".
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class NotStarted(Exception):
    """The learner has not written an answer yet."""


def call(answer: Callable, *args: Any) -> Any:
    """Call the learner's function with copies of the arguments, and return its result.

    Raises NotStarted for an untouched stub. Raises Mistake for an answer that isn't a function, for a
    function that raises (the message says what and where) and for a function that returns nothing.
    """
    return call_on(answer, *map(copied, args))


def call_on(answer: Callable, *args: Any) -> Any:
    """Call as `call` does, but hand over the arguments themselves, so that a change to them can be seen."""
    if is_blank(answer):
        raise NotStarted
    if not callable(answer):
        raise Mistake(
            f"this exercise wants a function, and got {shown(answer)}. Hand in its name, without ( )"
        )
    _check_arguments(answer, args)
    try:
        result = answer(*args)
    except SystemExit:
        raise Mistake("your code calls exit(), which would end the notebook", kind="SystemExit") from None
    except (Mistake, NotStarted):  # said by what the function was given to call
        raise
    except Exception as error:  # noqa: BLE001  a learner's code may raise anything
        raise _explain_error(answer, error) from None
    if is_blank(result):
        raise _explain_none(answer, result)
    return result


def copied(value: Any) -> Any:
    """Copy a list, dict, set, array, tensor or module, which the learner's function might change in place."""
    is_data = isinstance(value, list | dict | set | tuple) or _is_array(value)
    return copy.deepcopy(value) if is_data or _is_module(value) else value


def agree(got: Any, want: Any, name: str, tolerance: float = 1e-4, returns: Sequence[str] = ()) -> None:
    """Raise Mistake unless a result is as wanted. The message names the first thing that differs.

    Floats, and the numbers in arrays and modules, may differ by `tolerance`, absolutely and relatively; all
    else must be equal. An array may come where a list or a number is wanted, and a list where a tuple is.

    returns: what the message calls the parts of a result that is a tuple.
    """
    if _is_module(got) and _is_module(want):
        got, want = got.state_dict(), want.state_dict()
    if _is_array(got) and math.prod(got.shape) > LARGE and got.shape != getattr(want, "shape", None):
        raise Mistake(f"{name} should be {shown(want)}, and is {shown(got)}")
    if isinstance(want, tuple):
        _agree_in_parts(got, want, name, tolerance, returns)
    elif _is_array(want) or isinstance(want, float):
        close(got, want, name, tolerance)
    elif _is_array(got):
        agree(got.tolist(), want, name, tolerance)
    else:
        equal(got, want, name, tolerance)


def equal(got: Any, want: Any, name: str, tolerance: float = 1e-4) -> None:
    """Raise Mistake unless `got == want`. In lists, tuples and dicts it names the first item that differs.

    Arrays and floats within them are compared as `agree` does.
    """
    _check_type(got, want, name)
    if isinstance(want, dict):
        _equal_dicts(got, want, name, tolerance)
    elif isinstance(want, list | tuple):
        _equal_sequences(got, want, name, tolerance)
    elif _differ(got, want):
        raise Mistake(f"{name} should be {shown(want)}, and is {shown(got)}")


def close(got: Any, want: Any, name: str, tolerance: float = 1e-4) -> None:
    """Raise Mistake unless two answers have the same shape, and values that agree to within `tolerance`.

    The answers are numbers, lists, arrays or tensors. Where an array is wanted, a list won't do, nor will
    floats for whole numbers or truth values. The message names the shapes if they differ, and otherwise the
    first value that is wrong.
    """
    import numpy as np  # imported here, so that start() can still say that numpy is missing

    exact = _is_array(want) and not _is_fractional(want)
    truth = exact and "bool" in str(want.dtype)
    _check_kind(got, want, name, "truth values" if truth else "whole numbers" if exact else "")
    got, want = _to_array(got, name), _to_array(want, name)
    if want.shape == () != got.shape:
        raise Mistake(f"{name} should be one number, and has the shape {shape(got)}")
    if got.shape != want.shape:
        raise Mistake(f"{name} should have the shape {shape(want)}, not {shape(got)}")
    alike = got == want if exact else np.isclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
    differ = np.argwhere(~alike)
    if len(differ):
        index = tuple(map(int, differ[0]))
        item = f"{name}{list(index)}" if index else name
        right, wrong = (bool(part[index]) if truth else part[index].item() for part in (want, got))
        raise Mistake(f"{item} should be {shown(right)}, and is {shown(wrong)}")


def same(got: Any, other: Any, tolerance: float = 1e-4) -> bool:
    """Return whether two results agree."""
    try:
        agree(got, other, "", tolerance)
    except Mistake:
        return False
    return True


def _agree_in_parts(got: Any, want: tuple, name: str, tolerance: float, returns: Sequence[str]) -> None:
    if _is_array(got) and got.shape and not any(map(_is_array, want)):
        got = list(got)
    if not isinstance(got, tuple | list) or len(got) != len(want):
        listed = f": {', '.join(returns[:-1])} and {returns[-1]}" if returns else ""
        raise Mistake(f"{name} should give {len(want)} things{listed}. It gives {shown(got)}")
    for i, (got_part, want_part) in enumerate(zip(got, want, strict=True)):
        agree(got_part, want_part, f"{name}: {returns[i]}" if returns else f"{name}[{i}]", tolerance)


def _check_kind(got: Any, want: Any, name: str, exact: str) -> None:
    """Raise Mistake for a list where an array or a number is wanted, and for floats where these are exact."""
    if _is_array(want) and isinstance(got, list | tuple):
        if want.shape == ():
            raise Mistake(f"{name} should be one number, and is {shown(got)}")
        kind = "tensor" if type(want).__module__ == "torch" else "array"
        raise Mistake(f"{name} should be one {kind}, and is a {type(got).__name__} of {len(got)} items")
    if exact and _is_array(got) and _is_fractional(got):
        raise Mistake(f"{name} should be {exact}, and is of the type {got.dtype}")


def _check_arguments(answer: Callable, args: tuple) -> None:
    try:
        signature = inspect.signature(answer)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*args)
    except TypeError:
        name = getattr(answer, "__name__", "it")
        n = f"{len(args)} argument{'s' * (len(args) != 1)}"
        raise Mistake(f"{name} is called with {n} here, and yours takes {signature}") from None


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_parameters") and not isinstance(value, type)


def _is_array(value: Any) -> bool:
    """Return whether this is an array, a tensor, or one of numpy's numbers."""
    return getattr(value, "shape", None) is not None and hasattr(value, "tolist") and hasattr(value, "dtype")


def _is_fractional(array: Any) -> bool:
    """Return whether an array's or tensor's numbers are floats."""
    return "float" in str(array.dtype)


def _explain_error(answer: Callable, error: Exception) -> Exception:
    if is_untouched(answer) or (isinstance(error, NotImplementedError) and not error.args):
        return NotStarted()
    return Mistake(f"your code stopped with {describe(error)}", kind=f"{type(error).__name__}: {error}")


def _explain_none(answer: Callable, result: Any) -> Exception:
    if result is not None or is_untouched(answer):  # there is a ... in it
        return NotStarted()
    return Mistake(
        f"{shown(answer)} gave back None. Is there a `return` at its end, on every path?", kind="None"
    )


def _check_type(got: Any, want: Any, name: str) -> None:
    for types, word in ((dict, "dict"), (str, "string"), ((list, tuple), "list"), (set, "set")):
        if isinstance(want, types) and not isinstance(got, types):
            raise Mistake(f"{name} should be a {word}, and is {shown(got)}")


def _equal_dicts(got: dict, want: dict, name: str, tolerance: float) -> None:
    for key in want:
        if key not in got:
            raise Mistake(f"{name} should have the key {shown(key)}, and hasn't")
    for key in got:
        if key not in want:
            raise Mistake(f"{name} has a key that doesn't belong there: {shown(key)}")
    for key, value in want.items():
        agree(got[key], value, f"{name}[{shown(key)}]", tolerance)


def _equal_sequences(got: list | tuple, want: list | tuple, name: str, tolerance: float) -> None:
    if len(got) != len(want):
        raise Mistake(
            f"{name} should have {len(want)} item{'s' * (len(want) != 1)}, and has {len(got)}: {shown(got)}"
        )
    for i, (got_item, want_item) in enumerate(zip(got, want, strict=True)):
        agree(got_item, want_item, f"{name}[{i}]", tolerance)


def _differ(got: Any, want: Any) -> bool:
    try:
        return bool(got != want)
    except (TypeError, ValueError, RuntimeError):  # for instance an array of truth values
        return True


def _to_array(value: Any, name: str) -> Any:
    """Return a number, list, array or tensor as an array. Raises Mistake for anything else."""
    import numpy as np

    try:
        tensor = value.detach().cpu() if hasattr(value, "detach") else value
        is_brain_float = "bfloat16" in str(getattr(tensor, "dtype", ""))
        array = np.asarray(tensor.double() if is_brain_float else tensor)
    except (TypeError, ValueError, RuntimeError):
        array = None
    if array is None or array.dtype.kind not in "biuf":
        raise Mistake(f"{name} should be numbers, and is {shown(value)}")
    return array
