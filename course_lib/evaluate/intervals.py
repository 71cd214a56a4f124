"""Confidence intervals: how certain a score is, and whether one is better than another.

A score is computed from a sample of items, or of seeds, and another sample would have given another score.
Four questions, four functions:

    how large is a mean, a median, …?                             bootstrap
    what share of answers is right?                               accuracy
    on the same items, by how much is one better?                 paired_difference
    trained with a few seeds each, is one better or is it luck?   paired_test

An interval over items doesn't cover the variation between training runs; that takes an interval over seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from course_lib.arguments import whole
from course_lib.evaluate.checks import check_confidence, check_values

MAX_EXACT = 16  # differences; they have 65,536 ways to choose signs, and all are tried
MAX_SEEDS = 1_000  # differences that `paired_test` takes, whose 65,535 random signs it keeps
MAX_RESAMPLES = 10_000_000
BATCH_VALUES = 2_000_000  # values that `bootstrap` draws at once


@dataclass(frozen=True)
class Estimate:
    """A measured value with its confidence interval.

    value       the value, measured on the sample
    low, high   the ends of the interval; in `confidence` of all repetitions of the measurement, the interval
                contains the true value
    n           how many items or seeds the sample has
    confidence  such as 0.95
    """

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
    """The result of `paired_test`.

    difference  the mean of a − b
    p_value     how often chance alone makes the mean difference at least as far from 0
    exact       whether all ways to choose signs were tried, or a random sample of them
    """

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
    """Return a statistic of `values` with its percentile bootstrap interval (Efron 1979).

    The statistic is computed for many resamples, each drawn from the values with replacement; the interval
    contains the middle `confidence` of the results. It is too narrow for few values (under 20 or so). For a
    skewed or biased statistic, such as a variance, the BCa interval corrects for both (Efron 1987).

    statistic: a function of an array and an `axis`, such as np.mean or np.median. Raises ValueError for fewer
    than two values, any value that is NaN, infinite or masked, fewer than 100 resamples or more than ten
    million, a statistic that gives anything but a number for each resample, and an interval that is NaN or
    infinite; TypeError for what isn't numbers.

    >>> print(bootstrap([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    5.5 (95% interval 3.7 to 7.3, n = 10)
    """
    data = check_values(values, minimum=2)
    confidence, resamples = check_confidence(confidence), whole("resamples", resamples, 100, MAX_RESAMPLES)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
        value = _measure(statistic, data.copy())
        results = _resample(data, statistic, resamples, np.random.default_rng(whole("seed", seed, 0)))
        low, high = np.quantile(results, ((1 - confidence) / 2, (1 + confidence) / 2))
    _check_finite(value, low, high)
    return Estimate(float(value), float(low), float(high), len(data), confidence)


def _check_finite(value: np.ndarray, low: float, high: float) -> None:
    if not np.isfinite((value, low, high)).all():
        raise ValueError(
            f"the statistic must be finite, and is {value}, from {low} to {high}: the values are too large, "
            f"or it isn't defined for some resamples, in which values occur several times"
        )


def _resample(data: np.ndarray, statistic: Callable, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the statistic of each resample, (resamples,), computed in batches of some million values."""
    batch = max(1, BATCH_VALUES // len(data))
    sizes = [min(batch, resamples - done) for done in range(0, resamples, batch)]
    draws = (rng.integers(len(data), size=(size, len(data))) for size in sizes)  # (size, n) each
    return np.concatenate([_measure(statistic, data[drawn]) for drawn in draws])


def _measure(statistic: Callable, data: np.ndarray) -> np.ndarray:
    """Return the statistic of each row, (…, n) → (…)."""
    result = np.asarray(statistic(data, axis=-1))
    if result.shape != data.shape[:-1] or result.dtype.kind not in "biuf":
        raise ValueError(
            f"the statistic must take an array and axis=-1, and give a number for each row, (…, n) → (…); "
            f"from {data.shape} it made {result.shape} of {result.dtype}"
        )
    return result


def accuracy(right: Sequence[bool], confidence: float = 0.95) -> Estimate:
    """Return the share of right answers with its Wilson interval (1927).

    It needs no resampling, and holds where the bootstrap fails: if all answers are right, or none, all
    resamples are equal and the bootstrap interval has no width, while Wilson's for 10 right answers of 10
    reaches from 72% to 100%. For many answers of both kinds the two agree. Brown, Cai and DasGupta (2001)
    compare such intervals.

    right: True or 1 for a right answer, False or 0 for a wrong one. Raises ValueError for no answers, and for
    any other value.

    >>> print(accuracy([True] * 10))
    1 (95% interval 0.722 to 1, n = 10)
    """
    data = check_values(right)
    confidence = check_confidence(confidence)
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
    """Return the mean of a − b with its interval, by `bootstrap` of the items' differences.

    a, b: two systems' scores of the same items, in the same order. If hard items are hard for both, this
    interval is much narrower than the two systems' own. If no item differs, it has no width. Raises
    ValueError as `bootstrap` does, and if a and b differ in length, or their differences add up to infinity.
    """
    return bootstrap(_paired_differences(a, b), np.mean, confidence, resamples, seed)


def paired_test(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> PairedTest:
    """Test whether the means of a and b, one score per seed, differ, by Fisher's sign-flip test (1935, § 21).

    If a and b differ by chance alone, each difference is as likely to have the opposite sign. For up to 16
    seeds all 2ⁿ ways to choose signs are tried, for more 65,535 random ones. The p-value is the share of them
    whose mean is at least as far from 0 as the observed one. So 5 seeds can't give less than
    2/32; 0.05 takes 6.

    The interval contains all true differences that the test wouldn't reject; its ends are means of subsets of
    the differences (Hartigan 1969), and infinite for too few seeds. The test assumes that the differences are
    distributed symmetrically. Raises ValueError for fewer than two seeds or more than 1,000 (for scores of
    items there is `paired_difference`), a and b of different lengths, and scores that are NaN or infinite, or
    whose differences add up to infinity.

    >>> print(paired_test([0.71, 0.74, 0.69, 0.72, 0.75, 0.73], [0.70, 0.70, 0.66, 0.70, 0.71, 0.72]))
    0.025 (95% interval 0.01 to 0.04, n = 6), p = 0.0312
    """
    differences = _paired_differences(a, b, most=MAX_SEEDS)
    confidence = check_confidence(confidence)
    signs = _choose_signs(len(differences), np.random.default_rng(whole("seed", seed, 0)))  # (ways, n)
    tolerance = 1e-9 * np.abs(differences).sum()
    at_least_as_far = np.abs(signs @ differences) >= abs(differences.sum()) - tolerance  # (ways,)
    low, high = _invert_test(differences, signs, confidence)
    mean = Estimate(float(differences.mean()), low, high, len(differences), confidence)
    p_value = (1 + int(at_least_as_far.sum())) / (1 + len(signs))
    return PairedTest(mean, p_value, exact=len(differences) <= MAX_EXACT)


def _choose_signs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ways to choose the signs of n differences, (ways, n), without the one that changes none."""
    if n > MAX_EXACT:
        return rng.choice((-1.0, 1.0), size=(2**MAX_EXACT - 1, n))
    return 2.0 * (np.arange(2**n - 1)[:, None] >> np.arange(n) & 1) - 1


def _invert_test(differences: np.ndarray, signs: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the ends of the interval of all mean differences that the test doesn't reject.

    They are two of the sorted means of the differences whose sign is changed; the test's error rate decides
    how many means lie outside at each end.
    """
    changed = (signs < 0)[(signs < 0).any(axis=1)]  # (subsets, n)
    means = np.sort(changed @ differences / changed.sum(axis=1))  # (subsets,)
    outside = math.floor((1 - confidence) / 2 * (1 + len(signs)) + 1e-9)
    return (float(means[outside - 1]), float(means[-outside])) if outside else (-math.inf, math.inf)


def _paired_differences(a: Sequence[float], b: Sequence[float], most: float = math.inf) -> np.ndarray:
    first, second = check_values(a, minimum=2), check_values(b, minimum=2)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores can't be paired with {len(second)}: score the same items")
    if len(first) > most:
        raise ValueError(f"{len(first)} scores are more than {most:,} seeds: take paired_difference")
    with np.errstate(over="ignore"):
        differences = check_values(first - second)
        if not np.isfinite(np.abs(differences).sum()):
            raise ValueError(
                "the differences of a and b add up to infinity: divide all scores by some number"
            )
    return differences
