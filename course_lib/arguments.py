"""Checks of arguments that several rooms share. An error says what the argument is, and what it should be."""

import math
import operator
from collections.abc import Iterable
from reprlib import repr as short
from typing import Any


def whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """Return a whole number.

    Raises TypeError for anything else, and for True, ValueError for a number below `least` or above `most`.

    >>> whole("batch", 3, 1)
    3
    """
    try:
        number = to_int(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {short(value)}") from None
    if not least <= number <= most:
        limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be {limits}, not {number}")
    return number


def to_int(value: Any) -> int:
    """Return a whole number of Python, NumPy or PyTorch as int. Raises TypeError for others, and for True."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError(f"{short(value)} is no number")
    try:
        return operator.index(value)
    except (ValueError, RuntimeError) as error:  # PyTorch's, for a tensor without values
        raise TypeError(f"{short(value)} is no whole number") from error


def number(name: str, value: Any, above: float = -math.inf, most: float = math.inf) -> float:
    """Return a number. Raises TypeError for anything else, ValueError for NaN and for one out of range.

    It must be finite, greater than `above`, and at most `most`.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {short(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value}")
    if not above < value <= most:
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        raise ValueError(f"{name} must be {' and '.join(limits)}, not {value}")
    return value


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError for a switch that is neither True nor False: a word, even "no", would count as True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {short(value)}")


def finite(name: str, array: Any) -> Any:
    """Return an array or tensor. Raises ValueError if one of its numbers is NaN or infinite."""
    if 0 not in array.shape and not math.isfinite(abs(array).max().item()):
        raise ValueError(f"{name} must be finite numbers, and one is NaN or infinite")
    return array


def listed(name: str, values: Iterable[Any], of: str = "a list") -> list[Any]:
    """Return a list of all that `values` yields, also of an iterator, which can be gone through only once.

    of: what is wanted, for the message. Raises TypeError for a string, and for what can't be gone through.
    """
    single = getattr(values, "ndim", 1) == 0  # a tensor or an array of one number
    if single or isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be {of}, not {short(values)}")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def token_ids(name: str, ids: Iterable[int]) -> list[int]:
    """Return token ids as a list, from a list, an iterator, an array or a tensor.

    Raises TypeError for anything but whole numbers, ValueError for those that no tensor can hold. Whether the
    vocabulary has them isn't looked at here.
    """
    ids = listed(name, ids, "a list of token ids")
    return [whole(f"{name}[{i}]", each, -(2**63), 2**63 - 1) for i, each in enumerate(ids)]
