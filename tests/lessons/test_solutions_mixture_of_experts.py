"""The solutions of the lesson on mixtures of experts agree with the library's functions."""

import pytest
import torch

from course_lib.course.lessons.mixture_of_experts.exercises import EXERCISES, balance, pick
from course_lib.model import Experts, ExpertsConfig, ModelConfig, count_parameters, load_balancing_loss, route


@pytest.mark.parametrize("n_active", [1, 2, 4])
def test_pick_is_route_with_normalized_shares(n_active):
    scores = torch.randn(30, 6, generator=torch.Generator().manual_seed(n_active))
    shares, chosen = pick(scores, n_active)
    expected_shares, expected_chosen = route(scores, n_active, normalize=True)
    assert torch.equal(chosen, expected_chosen)
    torch.testing.assert_close(shares, expected_shares)


@pytest.mark.parametrize("n_active", [1, 2, 4])
def test_balance_is_the_load_balancing_loss(n_active):
    scores = torch.randn(30, 6, generator=torch.Generator().manual_seed(n_active), requires_grad=True)
    loss, expected = balance(scores, n_active), load_balancing_loss(scores, n_active)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, scores)[0] for value in (loss, expected)))


def test_the_active_weights_are_those_that_the_library_counts():
    sizes = {"vocab_size": 9, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "d_head": 8, "context": 8}
    experts = ExpertsConfig(n_experts=16, n_active=4)
    layer = Experts(ModelConfig(**sizes, d_model=64, d_ff=32, experts=experts))
    assert count_parameters(layer)[1] == EXERCISES[0].solution
