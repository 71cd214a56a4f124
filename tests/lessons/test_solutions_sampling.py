"""The solutions of the lesson on sampling agree with the library."""

import pytest
import torch

from course_lib.course.lessons.sampling.exercises import best, nucleus_of, penalize
from course_lib.evaluate import expected_best
from course_lib.generate import repetition_penalty, top_p


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(19)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8, 0.95])
def test_nucleus(generator, p):
    logits = 3 * torch.randn(20, 50, generator=generator)
    assert nucleus_of(logits, p).equal(top_p(logits, p))


def test_nucleus_of_equal_logits():
    assert (
        nucleus_of(torch.zeros(1, 4), 0.5).isfinite().sum() == top_p(torch.zeros(1, 4), 0.5).isfinite().sum()
    )


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3])
def test_repetition_penalty(generator, penalty):
    logits = torch.randn(6, 30, generator=generator)
    tokens = torch.randint(30, (6, 40), generator=generator)
    assert torch.allclose(penalize(logits, tokens, penalty), repetition_penalty(logits, tokens, penalty))


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_best_of_n(generator, n):
    scores = torch.randint(5, (12,), generator=generator).tolist()
    assert best(scores, n) == pytest.approx(expected_best(scores, n))
