"""The solutions of the lesson on decoder-only models agree with the library's model."""

import pytest
import torch

from course_lib.course.judging import find_mistake
from course_lib.course.lessons.decoder_only.exercises import EXERCISES, count
from course_lib.model import Decoder, ModelConfig, count_parameters

SIZES = {"vocab_size": 70, "d_model": 24, "n_layers": 3, "d_ff": 50, "context": 8}


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), [(6, 2, 10), (3, 3, 8)])
def test_count_is_the_number_of_the_decoders_parameters(n_heads, n_kv_heads, d_head):
    config = ModelConfig(**SIZES, n_heads=n_heads, n_kv_heads=n_kv_heads, d_head=d_head)
    assert count(config) == count_parameters(Decoder(config))[0]


def compares_beginnings(part):
    x = torch.randn(1, 6, 4)
    return any(not torch.equal(part(x)[:, :t], part(x[:, :t])) for t in range(1, 6))


def looks_at_gradients(part):
    x = torch.randn(1, 4, 3, requires_grad=True)
    return any(torch.autograd.grad(part(x)[0, t].sum(), x)[0][0, t + 1 :].any() for t in range(4))


@pytest.mark.parametrize("test", [compares_beginnings, looks_at_gradients])
def test_a_leak_may_be_found_in_another_way(test):
    exercise = next(exercise for exercise in EXERCISES if exercise.id == "find-the-leak")
    assert find_mistake(exercise, test) is None
