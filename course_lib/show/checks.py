"""Checks of what pictures are drawn from: numbers, texts, and attention weights that fit their tokens."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from course_lib.arguments import finite, listed, short


def numbers(name: str, values: Any) -> np.ndarray:
    """Return numbers as an array of floats. They may be an array, a tensor, a number, or lists of these.

    Gradients are left behind. Raises TypeError for anything else, and for lists of unequal lengths.
    """
    try:
        array = np.asarray(_as_numpy(values))
        if array.dtype.kind == "O":  # such as fractions
            array = np.array([float(value) for value in array.flat]).reshape(array.shape)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, not {short(values)}")
    return array if array.dtype.kind == "f" else array.astype(float)


def _as_numpy(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return [_as_numpy(value) for value in values]
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    is_short = values.is_floating_point() and values.itemsize < 4  # such as bfloat16, which NumPy lacks
    return (values.float() if is_short else values).numpy()


def texts(name: str, values: Iterable[str], of: str = "a list of texts") -> list[str]:
    """Return texts as a list. Raises TypeError for what isn't `of`, and for an item that is no text."""
    values = listed(name, values, of)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{i}] must be a text, not {short(value)}")
    return values


def attention_weights(weights: Any, n: int) -> np.ndarray:
    """Return the attention weights of n tokens, (layers, heads, query, key), as an array of floats.

    Raises TypeError for what is no numbers, ValueError for another shape, for nothing to draw, and for
    weights that aren't finite.
    """
    weights = numbers("weights", weights)
    if weights.ndim != 4 or weights.shape[2:] != (n, n):
        raise ValueError(f"{n} tokens need weights (layers, heads, {n}, {n}), and these are {weights.shape}")
    if 0 in weights.shape:
        raise ValueError(f"there is nothing to draw in weights of the shape {weights.shape}")
    return finite("the attention weights", weights)
