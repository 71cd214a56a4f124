"""What the best of several answers would score, from one pool of them."""

import math
from collections.abc import Sequence


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """What the best of n has on average, over all ways to pick n of the scored ones: an unbiased estimate
    from one pool.

    The i-th smallest of a pool of N (from 1) is the best of those n with probability C(i − 1, n − 1) / C(N,
    n); for scores of 0 and 1 this is pass@k of Chen et al. (2021, section 2.1). values: average these of the
    chosen instead of the scores they were chosen by. Raises ValueError unless 1 ≤ n ≤ N, and values, if any,
    are as many; and for a score of NaN.
    """
    size, values = len(scores), scores if values is None else values
    if not 1 <= n <= size or len(values) != size:
        raise ValueError(
            f"n must lie between 1 and the pool's {size}, with a value for each: not {n}, with {len(values)}"
        )
    if any(map(math.isnan, scores)):
        raise ValueError("a score is NaN: the best can't be told")
    # Ties as in `best_of`: the earlier counts as the better.
    ascending = sorted(range(size), key=lambda i: (scores[i], -i))
    picks = math.comb(size, n)  # may be beyond any float, the parts below are not
    return sum(math.comb(place, n - 1) / picks * values[ascending[place]] for place in range(n - 1, size))
