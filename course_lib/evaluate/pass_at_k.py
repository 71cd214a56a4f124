"""pass@k and its generalisation: the expected score of the best of several answers from one pool."""

import math
from collections.abc import Sequence

from course_lib.arguments import listed, short, whole


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """Return the mean score of the best of n answers, over all ways to choose n answers from the pool.

    In a pool of N answers, the i-th smallest (from 1) is the best of the chosen ones with probability
    C(i − 1, n − 1) / C(N, n). The estimate is unbiased. For scores of 0 and 1 it is pass@k of Chen et al.
    (2021, section 2.1).

    values: what to average instead of the scores; the scores still decide which answer is the best. Raises
    ValueError unless 1 ≤ n ≤ N, if there aren't as many values as scores, and for a score or a value that is
    NaN or too large for a float; TypeError for anything but numbers.
    """
    scores = _numbers("scores", scores)
    values = scores if values is None else _numbers("values", values)
    size, n = len(scores), whole("n", n)
    if not 1 <= n <= size:
        raise ValueError(f"n must lie between 1 and the pool's {size}, not be {n}")
    if len(values) != size:
        raise ValueError(f"there must be a value for each of the pool's {size} scores, not {len(values)}")
    # Of equal scores, the earlier one counts as better, as in `generate.best_of`, which returns
    # the first of the best texts.
    ascending = sorted(range(size), key=lambda i: (scores[i], -i))
    choices = math.comb(size, n)  # an integer that may be too large for a float; the quotients below are not
    return sum(math.comb(rank, n - 1) / choices * values[ascending[rank]] for rank in range(n - 1, size))


def _numbers(name: str, values: Sequence[float]) -> list[float]:
    numbers = [_number(f"{name}[{i}]", x) for i, x in enumerate(listed(name, values, "a list of numbers"))]
    for i, number in enumerate(numbers):
        if math.isnan(number):
            raise ValueError(f"{name}[{i}] is NaN, which is neither better nor worse than another number")
    return numbers


def _number(name: str, value: float) -> float:
    value = value.tolist() if hasattr(value, "tolist") else value  # a number of NumPy's or PyTorch's
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {short(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: it must be a number that a float can hold") from None
