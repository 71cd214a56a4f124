"""What the best of several would score: over all subsets, and by the formula of pass@k."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.evaluate import expected_best
from course_lib.generate import best_of

calm = settings(derandomize=True, deadline=None, max_examples=60)


@calm
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_the_expected_best_is_the_mean_over_all_subsets(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    values = data.draw(st.lists(st.floats(-5, 5), min_size=len(scores), max_size=len(scores)))
    subsets = list(combinations(range(len(scores)), n))
    assert expected_best(scores, n) == pytest.approx(
        sum(max(scores[i] for i in s) for s in subsets) / len(subsets)
    )
    chosen = [best_of(subset, lambda i: scores[i]) for subset in subsets]
    assert expected_best(scores, n, values) == pytest.approx(
        sum(values[i] for i in chosen) / len(subsets), abs=1e-9
    )


def test_the_expected_best_of_right_and_wrong_is_pass_at_k():
    """1 − C(wrong, k) / C(all, k): Chen et al. 2021."""
    assert expected_best([1, 0, 0, 1, 0], 2) == pytest.approx(1 - math.comb(3, 2) / math.comb(5, 2))


def test_the_expected_best_of_large_pools_and_of_scores_without_end():
    # out of more choices than a float can count
    assert expected_best([0.0, 1.0] * 1500, 1500) == pytest.approx(1)
    assert expected_best([-math.inf, 1.0, 2.0], 2) == pytest.approx((1 + 2 + 2) / 3)


def test_an_impossible_best_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        expected_best([1.0, math.nan], 1)
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"n must lie between 1 and the pool's 3, not be {n}"):
            expected_best([1, 2, 3], n)
    with pytest.raises(ValueError, match="a value for each of the pool's 3 scores, not 1"):
        expected_best([1, 2, 3], 1, [1])
