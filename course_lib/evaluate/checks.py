"""Checks of the numbers that `intervals` takes."""

from collections.abc import Sequence

import numpy as np

from course_lib.arguments import listed, number


def check_values(values: Sequence[float], minimum: int = 1) -> np.ndarray:
    """Return `values` as an array, (n,).

    Raises ValueError for fewer than `minimum`, and for NaN, infinity and masked values, TypeError for what
    isn't numbers.
    """
    try:
        data = values if isinstance(values, np.ndarray) else _as_array(values)
    except ValueError as error:
        raise ValueError(
            f"an interval needs a list of numbers, not lists of several lengths: {error}"
        ) from None
    if np.ma.is_masked(data):
        raise ValueError("an interval needs all its numbers, and some are masked: give values.compressed()")
    if data.size and data.dtype.kind not in "biuf":
        raise TypeError("an interval needs a list of numbers, and here a value is something else")
    data = np.asarray(data, dtype=float)
    if data.ndim != 1 or len(data) < minimum:
        shape = data.shape
        raise ValueError(f"an interval needs a list of {minimum} or more numbers, not one of shape {shape}")
    if not np.isfinite(data).all():
        first = int(np.isfinite(data).argmin())
        raise ValueError(f"value {first} is {data[first]}: an interval needs numbers that are finite")
    return data


def _as_array(values: Sequence[float]) -> np.ndarray:
    """Return a list of numbers as an array; they, or it, may also be PyTorch's, with or without gradients."""
    values = listed("values", values, "a list of numbers")
    return np.asarray([value.tolist() if hasattr(value, "detach") else value for value in values])


def check_confidence(confidence: float) -> float:
    """Return a confidence. Raises ValueError unless it lies between 0 and 1, TypeError if it is no number."""
    confidence = float(number("confidence", confidence))
    if not 0 < confidence or not (1 + confidence) / 2 < 1:  # for a number just below 1 this rounds to 1
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, not {confidence}")
    return confidence
