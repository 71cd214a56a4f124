"""Best of N: write several texts, and keep the one that scores highest."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

Candidate = TypeVar("Candidate")


def best_of(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> Candidate:
    """Return the candidate with the highest score; at a tie the first.

    Raises ValueError for no candidates, and for a score that is NaN.
    """
    if len(candidates) == 0:
        raise ValueError("there are no candidates to choose from")
    scores = [float(score(candidate)) for candidate in candidates]
    if any(map(math.isnan, scores)):
        which = list(map(math.isnan, scores)).index(True)
        raise ValueError(f"candidate {which} has no score (NaN): the best can't be told")
    return candidates[scores.index(max(scores))]
