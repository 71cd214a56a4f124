"""The best of several texts, by whatever one can score."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

Candidate = TypeVar("Candidate")


def best_of(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> Candidate:
    """The candidate that scores highest; at a tie the first. Raises ValueError for none, or a score of NaN."""
    if len(candidates) == 0:
        raise ValueError("there are no candidates to choose from")
    scores = [float(score(candidate)) for candidate in candidates]
    if any(map(math.isnan, scores)):
        raise ValueError(
            f"candidate {list(map(math.isnan, scores)).index(True)} has no score (NaN): the best can't be told"
        )
    return candidates[scores.index(max(scores))]
