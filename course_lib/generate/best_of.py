"""Best of N: write several texts, and keep the one that scores highest."""

import math
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import TypeVar

Candidate = TypeVar("Candidate")


def best_of(candidates: Iterable[Candidate], score: Callable[[Candidate], float]) -> Candidate:
    """Return the candidate with the highest score; at a tie the first.

    Raises ValueError for no candidates, and for a score that is NaN or no number.
    """
    candidates = list(candidates)
    if not candidates:
        raise ValueError("there are no candidates to choose from")
    scores = [_number(i, score(candidate)) for i, candidate in enumerate(candidates)]
    return candidates[scores.index(max(scores))]


def _number(i: int, score: object) -> float:
    """Return the score of candidate i as a number. Raises ValueError for NaN and for what is none."""
    if isinstance(score, Integral):
        return int(score)  # a large one would be rounded
    try:
        number = float(score)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"candidate {i} has no score ({score!r}): the best can't be told")
    return number
