"""The picture of a mixture's routing: its numbers, its refusals, and that it draws what they say."""

import numpy as np
import pytest
import torch
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_hex

from course_lib.model import Experts, ExpertsConfig, ModelConfig
from course_lib.show import describe_routing, draw_routing, routing, use_style
from course_lib.show.style import BLUE, ORANGE

WORDS = ["the", "tiger", "drank", "$5_"]
SCORES = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])


@pytest.fixture(autouse=True)
def style():
    with rc_context():
        use_style()
        yield


def test_shares_are_those_of_the_chosen():
    sent = routing(WORDS, SCORES, n_active=2)
    assert np.allclose(sent.shares[0], [0.7311, 0.2689, 0], atol=1e-4)
    assert np.allclose(sent.shares.sum(axis=1), 1)
    assert sent.load.tolist() == [3, 3, 2]
    assert not sent.dropped.any() and sent.limit is None


def test_without_normalizing_the_shares_are_probabilities_among_all():
    sent = routing(WORDS, SCORES, n_active=1, normalize=False)
    assert np.allclose(sent.shares.max(axis=1), SCORES.softmax(dim=-1).amax(dim=-1))


def test_choices_beyond_the_limit_are_dropped():
    sent = routing(WORDS, SCORES, n_active=1, capacity=1.0)
    assert sent.limit == 2  # 4 choices, 3 experts: 1.33, rounded up
    assert np.argwhere(sent.dropped).tolist() == [[2, 0]]
    assert sent.load.tolist() == [3, 1, 0]
    assert describe_routing(sent) == "4 tokens; choices an expert: 3, 1, 0; turned away: 1"


@pytest.mark.parametrize("capacity", [0.5, 1.0, 1.5])
def test_the_layer_turns_the_same_tokens_away(capacity):
    config = ModelConfig(
        vocab_size=2, d_model=3, n_layers=1, n_heads=1, n_kv_heads=1, d_head=4, d_ff=5, context=4,
        experts=ExpertsConfig(n_experts=3, n_active=1, normalize_shares=False, capacity_factor=capacity),
    )  # fmt: skip
    layer = Experts(config).requires_grad_(False)
    layer.router.weight.copy_(torch.eye(3))
    served = layer(SCORES).abs().sum(dim=-1) > 0
    dropped = routing(WORDS, SCORES, n_active=1, capacity=capacity).dropped.any(axis=1)
    assert served.tolist() == (~dropped).tolist()


@pytest.mark.parametrize(
    "tokens, scores, n_active, says",
    [
        (WORDS[:3], SCORES, 1, r"3 tokens need scores \(3, experts\), not \(4, 3\)"),
        (WORDS, SCORES[0], 1, r"not \(3,\)"),
        (WORDS, SCORES, 4, "of 3 experts a token can take 1 to 3, not 4"),
        (WORDS, SCORES, 0, "not 0"),
        (["a"] * 41, torch.zeros(41, 3), 1, "1 to 40 tokens, not 41"),
        ([], torch.zeros(0, 3), 1, "1 to 40 tokens, not 0"),
    ],
)
def test_what_no_picture_shows_is_refused(tokens, scores, n_active, says):
    with pytest.raises(ValueError, match=says):
        routing(tokens, scores, n_active)


def test_a_block_for_each_choice_orange_where_it_was_turned_away():
    sent = routing(WORDS, SCORES.clone().requires_grad_(), n_active=1, capacity=1.0)
    fig = draw_routing(sent, "who goes where")
    fig.draw_without_rendering()
    top, grid = fig.axes
    assert [to_hex(block.get_edgecolor()) for block in grid.patches] == [
        to_hex(color) for color in (BLUE, BLUE, ORANGE, BLUE)
    ]
    assert [label.get_text() for label in grid.get_yticklabels()] == WORDS
    assert [bar.get_height() for bar in top.patches] == [3, 1, 0]
    assert top.get_title(loc=rcParams["axes.titlelocation"]) == "who goes where"


def test_a_larger_share_is_a_larger_block():
    _, grid = draw_routing(routing(WORDS[:1], SCORES[:1], n_active=2)).axes
    large, small = grid.patches
    assert large.get_width() ** 2 / small.get_width() ** 2 == pytest.approx(np.e, rel=1e-3)
