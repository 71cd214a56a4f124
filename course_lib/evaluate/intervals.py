"""How sure is a score? Each with an interval, and two of them compared.

A score is computed from some items, or some seeds, and others would have given another. Four questions, four
functions:

    how large is a mean, a median, …?                             bootstrap
    what share of answers is right?                               accuracy
    on the same items, by how much is one better?                 paired_difference
    trained with a few seeds each, is one better or is it luck?   paired_test

Items and seeds say different things: an interval over items says nothing of another training run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

EXACT = 16  # so many pairs have 65,536 ways to give them signs: all are tried


@dataclass(frozen=True)
class Estimate:
    """value: what was measured, from n items or seeds. low, high: the ends of its interval, which in
    `confidence` of all repetitions of the whole measurement would hold the truth."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        interval = f"{self.confidence:.0%} interval {self.low:.3g} to {self.high:.3g}"
        return f"{self.value:.3g} ({interval}, n = {self.n})"


@dataclass(frozen=True)
class PairedTest:
    """difference: the mean of a − b. p_value: how often chance alone makes it as far from 0. exact: all signs
    were tried."""

    difference: Estimate
    p_value: float
    exact: bool

    def __str__(self) -> str:
        return f"{self.difference}, p = {self.p_value:.3g}"


def bootstrap(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """The percentile bootstrap (Efron 1979): draw as many values from the values, with replacement, again and
    again, and see within what range the statistic stays.

    statistic: an array and `axis` → the array without that axis, as np.mean and np.median. It is too narrow
    for few values (under 20 or so). For a skewed or biased statistic, such as a variance, the BCa interval is
    better, which corrects the percentiles for both (Efron 1987). Raises ValueError for fewer than two values,
    and for any that is NaN or infinite.

    >>> print(bootstrap([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    5.5 (95% interval 3.7 to 7.3, n = 10)
    """
    data = _numbers(values, least=2)
    _check_confidence(confidence)
    if resamples < 100:
        raise ValueError(f"{resamples} resamples tell no interval: take 100 or more")
    found = _resampled(data, statistic, resamples, np.random.default_rng(seed))
    low, high = np.quantile(found, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Estimate(float(statistic(data, axis=-1)), float(low), float(high), len(data), confidence)


def _resampled(data: np.ndarray, statistic: Callable, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The statistic of each resample, (resamples,), computed for some million numbers at once."""
    most = max(1, 2_000_000 // len(data))
    sizes = [min(most, resamples - done) for done in range(0, resamples, most)]
    draws = (rng.integers(len(data), size=(size, len(data))) for size in sizes)
    return np.concatenate([statistic(data[drawn], axis=-1) for drawn in draws])


def accuracy(right: Sequence[bool], confidence: float = 0.95) -> Estimate:
    """The share that is right, with Wilson's interval (1927).

    For a share it needs no resampling, and holds where the bootstrap fails: where all answers are right, or
    none, every resample is the same and the bootstrap's interval has no width. Wilson's then says how far off
    the truth may be: 10 of 10 is 72% or more. With many answers, some of each kind, both agree. (Brown, Cai
    and DasGupta 2001 compare.) Raises ValueError for no answers, and for any that is neither right (True, 1)
    nor wrong (False, 0).

    >>> print(accuracy([True] * 10))
    1 (95% interval 0.722 to 1, n = 10)
    """
    data = _numbers(right)
    _check_confidence(confidence)
    if not np.isin(data, (0, 1)).all():
        raise ValueError("an answer is right (True) or wrong (False): take `bootstrap` for other scores")
    n, share, z = len(data), float(data.mean()), NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
    return Estimate(share, low, high, n, confidence)


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean of a − b, for scores of the same items in the same order, by `bootstrap` of the items'
    differences.

    Much narrower than two intervals side by side, where hard items are hard for both: what they share
    cancels. Where no item differs, the interval has no width. Raises ValueError as `bootstrap` does, and
    where a and b differ in number.
    """
    return bootstrap(_differences(a, b), np.mean, confidence, resamples, seed)


def paired_test(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> PairedTest:
    """Whether a and b, one score for each seed, differ in the mean: the sign-flip test (Fisher 1935, section
    21).

    If nothing but luck told a from b, each difference could as well have had the other sign. All 2ⁿ ways to
    give them signs are tried, for up to 16 seeds, otherwise 65,535 at random; the p-value is the share that
    lie as far from 0 as what was found. So 5 seeds can't give less than 2/32: for 0.05 it takes 6.

    The interval is of all true differences that the test wouldn't reject, and its ends are means of some of
    the differences (Hartigan 1969); without end where the seeds are too few. It takes luck to be as often up
    as down. Raises ValueError for fewer than two seeds, another number of a than of b, and scores that are
    NaN or infinite.

    >>> print(paired_test([0.71, 0.74, 0.69, 0.72, 0.75, 0.73], [0.70, 0.70, 0.66, 0.70, 0.71, 0.72]))
    0.025 (95% interval 0.01 to 0.04, n = 6), p = 0.0312
    """
    found = _differences(a, b)
    _check_confidence(confidence)
    signs = _signs(len(found), np.random.default_rng(seed))
    far = np.abs(signs @ found) >= abs(found.sum()) - 1e-9 * np.abs(found).sum()
    low, high = _not_rejected(found, signs, confidence)
    difference = Estimate(float(found.mean()), low, high, len(found), confidence)
    return PairedTest(difference, (1 + int(far.sum())) / (1 + len(signs)), exact=len(found) <= EXACT)


def _signs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Ways to give n differences signs, (ways, n), without the one that leaves them all as they are."""
    if n > EXACT:
        return rng.choice((-1.0, 1.0), size=(2**EXACT - 1, n))
    return 2.0 * (np.arange(2**n - 1)[:, None] >> np.arange(n) & 1) - 1


def _not_rejected(found: np.ndarray, signs: np.ndarray, confidence: float) -> tuple[float, float]:
    """The ends of the interval: the means of those differences that change sign, sorted, as many from either
    end as the test leaves outside."""
    changed = (signs < 0)[(signs < 0).any(axis=1)]
    means = np.sort(changed @ found / changed.sum(axis=1))
    outside = math.floor((1 - confidence) / 2 * (1 + len(signs)) + 1e-9)
    return (float(means[outside - 1]), float(means[-outside])) if outside else (-math.inf, math.inf)


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    first, second = _numbers(a, least=2), _numbers(b, least=2)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores can't be paired with {len(second)}: score the same items")
    return first - second


def _numbers(values: Sequence[float], least: int = 1) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or len(data) < least:
        raise ValueError(
            f"an interval needs a list of {least} or more numbers, not one of shape {data.shape}"
        )
    if not np.isfinite(data).all():
        first = int(np.isfinite(data).argmin())
        raise ValueError(f"value {first} is {data[first]}: an interval needs numbers that are finite")
    return data


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, not {confidence}")
