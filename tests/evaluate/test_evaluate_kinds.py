"""Numbers of NumPy and PyTorch count as what they are; texts are compared with all their signs."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from references import random_tokens, tiny_decoder

from course_lib.evaluate import (
    accuracy,
    bootstrap,
    contains,
    distinct,
    exact_match,
    expected_best,
    find_loop,
    held_out_loss,
    log_likelihood,
    ngrams,
    paired_difference,
    paired_test,
    repeated,
    same_number,
    teacher_forced,
    token_losses,
)


def small(number: int) -> list:
    return [np.uint8(number), np.int8(number), torch.tensor(number, dtype=torch.uint8)]


@pytest.mark.parametrize("eight", small(8))
def test_small_whole_numbers_do_not_overflow(eight):
    model = tiny_decoder()
    row = random_tokens(model, time=300)[0]
    pairs = [([1, 2], [3])] * 300
    assert held_out_loss(model, row, eight, eight) == held_out_loss(model, row, 8, 8)
    assert token_losses(model, row, eight).equal(token_losses(model, row, 8))
    assert ngrams(range(300), eight) == ngrams(range(300), 8) and len(ngrams(range(300), eight)) == 293
    assert find_loop([1, 2] * 300, eight) == (0, 2)
    assert len(teacher_forced(model, pairs, eight)) == 300
    assert expected_best(range(300), eight) == expected_best(range(300), 8)


def test_small_numbers_of_resamples_and_seeds_are_numbers():
    expected = bootstrap([1, 2, 3], resamples=120, seed=3)
    assert bootstrap([1, 2, 3], resamples=np.uint8(120), seed=np.uint8(3)) == expected
    a, b = [1, 2, 3, 4], [0, 2, 1, 2]
    assert paired_test(a, b, seed=torch.tensor(3)) == paired_test(a, b, seed=3)


def test_tensors_of_one_token_are_told_by_their_number():
    tokens = [torch.tensor(x) for x in [1, 2] * 4]
    assert repeated(tokens, 2) == repeated([1, 2] * 4, 2) == pytest.approx(5 / 7)
    assert distinct([tokens, [np.array(1), np.int64(2)]], 1) == 0.2
    assert find_loop(tokens) == (0, 2) and ngrams(tokens, 1)[0] == (1,)
    for odd in ([(1, [2])] * 6, [torch.tensor([1, 2])] * 6):
        with pytest.raises(TypeError, match="here one is a list"):
            repeated(odd, 1)


def test_tensors_of_one_number_are_scores_with_or_without_gradients():
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        scores = [torch.tensor(x, dtype=kind, requires_grad=True) for x in (1.0, 0.0, 1.0)]
        assert bootstrap(scores) == bootstrap([1, 0, 1]) and accuracy(scores) == accuracy([1, 0, 1])
        zeros = torch.zeros(3, dtype=kind, requires_grad=True)
        assert paired_difference(scores, zeros) == paired_difference([1, 0, 1], [0] * 3)
        assert paired_test(zeros, scores) == paired_test([0] * 3, [1, 0, 1])
        assert expected_best(scores, 2) == 1 and isinstance(expected_best(scores, 2), float)
    assert expected_best([Decimal("1.5"), Fraction(5, 2)], 1) == 2


def test_log_probabilities_can_be_part_of_a_loss():
    model, weights = tiny_decoder(), torch.ones(2, requires_grad=True)
    scores = log_likelihood(model, [1], [2, 3]), teacher_forced(model, [([1], [2, 3])])[0].log_probs
    for each in (*scores, token_losses(model, [1, 2, 3], 8)):
        assert not each.requires_grad and not each.is_inference()
        (weights * each).sum().backward()


def test_a_confidence_may_be_a_fraction():
    assert str(accuracy([1, 0], Fraction(19, 20))) == str(accuracy([1, 0], 0.95))
    assert bootstrap([1, 2, 3], confidence=Fraction(1, 2)) == bootstrap([1, 2, 3], confidence=0.5)


@pytest.mark.parametrize(
    "measure, error, said",
    [
        (lambda: accuracy([1, 0], np.nextafter(1, 0)), ValueError, "confidence must lie between 0 and 1"),
        (lambda: accuracy(torch.tensor([1j, 0])), TypeError, "here a value is something else"),
        (lambda: accuracy(np.ma.array([1, 0, 1], mask=[0, 1, 0])), ValueError, "some are masked"),
        (lambda: bootstrap([1e308] * 10), ValueError, "the statistic must be finite, and is inf"),
        (lambda: bootstrap([1, 2], lambda x, axis: x.mean(axis) * math.nan), ValueError, "and is nan"),
        (lambda: paired_test([1e308] * 7, [0] * 7), ValueError, "add up to infinity"),
        (
            lambda: expected_best([torch.tensor([1.0, 2.0])] * 2, 1),
            TypeError,
            r"scores\[0\] must be a number",
        ),
        (lambda: expected_best([1, 10**400], 1), ValueError, r"scores\[1\] is too large"),
        (
            lambda: held_out_loss(tiny_decoder(), torch.ones(9, dtype=torch.complex64), 2),
            ValueError,
            "whole numbers; not",
        ),
        (lambda: held_out_loss(tiny_decoder(), [1, 2**64], 1), ValueError, r"tokens\[1\] must be from"),
        (lambda: log_likelihood(tiny_decoder(), [2**64], [3]), ValueError, r"prompt\[0\] must be from"),
        (lambda: teacher_forced(tiny_decoder(), [([2**64], [3])]), ValueError, "the prompt of pairs"),
    ],
)
def test_what_would_be_lost_or_infinite_is_refused(measure, error, said):
    with pytest.raises(error, match=said):
        measure()


def test_a_statistic_cannot_change_the_values():
    values = np.array([1.0, 2.0, 3.0])
    doubled = bootstrap(values, lambda x, axis: np.multiply(x, 2, out=x).mean(axis))
    assert values.tolist() == [1, 2, 3]
    assert doubled == bootstrap(2 * values)


# Texts


@pytest.mark.parametrize(
    "guess, answer, right",
    [
        ("की", "का", False),
        ("😀", "😢", False),
        ("5€", "5$", False),
        ("e\u0301", "e\u0300", False),
        ("a\u0323", "", False),
        ("café", "cafe\u0301", True),
        ("CAFÉ", "cafe\u0301", True),
        ("İstanbul", "istanbul", True),
        ("5 €", "5€", True),
        ("$5", "5", True),
        ("−5", "-5", True),
        ("❤", "❤️", True),
        ("“Paris…”", "paris", True),
        ("the_tiger", "tiger", False),
    ],
)
def test_signs_that_make_a_difference_are_compared(guess, answer, right):
    assert exact_match(guess, answer) == exact_match(answer, guess) == right


def test_contains_compares_signs_too():
    assert contains("İstanbul", ["istanbul"]) and contains("un cafe\u0301 !", ["café"])
    assert contains("It costs €5.", ["5"]) and contains("new_york", ["York"]) and contains("I 😀 it", ["😀"])
    assert not contains("यह की है", ["का"]) and not contains("5€", ["5£"]) and not contains("😀", ["😢"])


@pytest.mark.parametrize(
    "guess, answer, right",
    [
        ("7", 1e-7, False),
        ("0.0000001", 1e-7, True),
        ("16", 1e16, False),
        ("10000000000000000", 1e16, True),
        ("3", Fraction(1, 3), False),
        ("it is 0.5", Fraction(1, 2), True),
        ("0.1", np.float32(0.1), True),
        ("5", np.uint8(5), True),
    ],
)
def test_a_number_is_compared_as_a_number(guess, answer, right):
    assert same_number(guess, answer) == right


@pytest.mark.parametrize("answer", [math.nan, math.inf, 10**400, np.bool_(True), None])
def test_what_is_no_finite_number_is_no_answer(answer):
    with pytest.raises(ValueError, match="there is no number in the answer"):
        same_number("1", answer)
