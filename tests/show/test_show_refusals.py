"""What can't be drawn is refused in words: NaN, iterators and strings where lists are meant."""

import io
import math

import numpy as np
import pytest
import torch

from course_lib.show import (
    AttentionWeights,
    draw_alignment,
    draw_attention,
    draw_head_grid,
    draw_loss,
    draw_row,
    draw_tokens,
    figure_tokens,
    guess_game,
    head_view,
    live_loss,
    model_view,
    next_token,
    routing,
    show,
)
from course_lib.show.attention import describe_row
from course_lib.show.training import smooth
from course_lib.train import History

WORDS, EYE = ["the", "tiger"], np.eye(2)
NAN = np.array([[math.nan, 0.0], [0.0, 1.0]])
ATT = AttentionWeights(WORDS, EYE[None, None])
HISTORY = History(losses=[2.0, 1.0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: AttentionWeights(WORDS, NAN[None, None]),
        lambda: draw_alignment(WORDS, WORDS, NAN),
        lambda: draw_head_grid(NAN),
        lambda: draw_head_grid([[math.inf]]),
        lambda: head_view(torch.tensor(NAN)[None, None], WORDS),
        lambda: routing(WORDS, torch.tensor(NAN), 1),
        lambda: next_token(torch.tensor([math.nan, 0.0]), torch.zeros(2), str, n=1),
        lambda: next_token(torch.zeros(2), torch.tensor([math.inf, 0.0]), str, n=1),
    ],
)
def test_nan_and_infinity_are_not_drawn(draw):
    with pytest.raises(ValueError, match="NaN"):
        draw()


def test_a_token_that_cannot_come_is_drawn():
    assert next_token(torch.zeros(2), torch.tensor([-math.inf, 0.0]), str, n=1).kept == 1


@pytest.mark.parametrize(
    "draw, said",
    [
        (lambda: AttentionWeights(iter(WORDS), EYE[None, None]), "tokens must be a list of texts"),
        (lambda: ATT.row(0, 0, True), "query must be a whole number, not True"),
        (lambda: ATT.head(0.5, 0), "layer must be a whole number, not 0.5"),
        (lambda: draw_row(ATT, 0, 0, 1, width="wide"), "width must be a number, not 'wide'"),
        (lambda: draw_alignment("ab", WORDS, EYE), "source must be a list of words, not 'ab'"),
        (lambda: draw_alignment(WORDS, WORDS, EYE, links=[3]), "a link must be a pair, not 3"),
        (lambda: draw_head_grid("word"), "scores must be numbers"),
        (lambda: draw_head_grid(EYE, top=1.5), "top must be a whole number, not 1.5"),
        (lambda: draw_tokens("word"), "tokens must be a list of the tokens' texts, not 'word'"),
        (lambda: draw_tokens([1, 2]), r"tokens\[0\] must be a text, not 1"),
        (lambda: figure_tokens(WORDS, [0.5, 1]), r"ids\[0\] must be a whole number, not 0.5"),
        (lambda: draw_loss({"a": 3}), "the run 'a' must be a History, not 3"),
        (lambda: live_loss(3), "levels must be losses by name"),
        (lambda: guess_game(["text"]), r"each text must be a pair \(writer, text\)"),
        (lambda: head_view(None, WORDS), "weights must be numbers"),
        (lambda: head_view(EYE[None, None], WORDS, layers="0"), "layers must be a list of numbers, not '0'"),
        (lambda: AttentionWeights([1, 2], EYE[None, None]), r"tokens\[0\] must be a text, not 1"),
        (lambda: AttentionWeights(WORDS, EYE[None, None] * 1j), "weights must be numbers"),
        (lambda: AttentionWeights(WORDS, EYE.astype(str)), "weights must be numbers"),
        (lambda: AttentionWeights(WORDS, np.array([[[[{}] * 2] * 2]])), "weights must be numbers"),
        (lambda: AttentionWeights(WORDS, None), "weights must be numbers"),
        (lambda: head_view(EYE[None, None], [1, 2]), r"tokens\[0\] must be a text, not 1"),
        (lambda: model_view(torch.eye(2)[None, None] * 1j, WORDS), "weights must be numbers"),
        (lambda: draw_alignment([1, 2], WORDS, EYE), r"source\[0\] must be a text, not 1"),
        (lambda: draw_head_grid([[10**400]]), "scores must be numbers"),
        (lambda: draw_head_grid(torch.eye(2, device="meta")), "scores must be numbers"),
        (lambda: draw_alignment(WORDS, WORDS, EYE * 1j), "weights must be numbers"),
        (lambda: draw_alignment(WORDS, WORDS, [[1.0], [0.0, 1.0]]), "weights must be numbers"),
        (lambda: draw_alignment(WORDS, WORDS, EYE, links=[("a", "b")]), "must be a whole number, not 'a'"),
        (lambda: draw_loss([HISTORY]), "histories must be a History, or several by name, not"),
        (lambda: draw_loss(HISTORY, levels=[1.0]), "levels must be losses by name"),
        (lambda: draw_loss(HISTORY, levels={"a": "b"}), "the level 'a' must be numbers, not 'b'"),
        (lambda: next_token(torch.zeros(2), torch.zeros(2), lambda i: None, n=1), "gave None"),
        (lambda: routing("ab", torch.zeros(2, 2), 1), "tokens must be a list of texts, not 'ab'"),
        (lambda: show("fig", "a figure"), "show takes a figure of matplotlib"),
    ],
)
def test_another_type_is_refused_in_words(draw, said):
    with pytest.raises(TypeError, match=said):
        draw()


@pytest.mark.parametrize(
    "draw, said",
    [
        (lambda: draw_row(ATT, 0, 0, 1, width=0), "width must be above 0"),
        (lambda: draw_loss({}), "there is no run to draw"),
        (lambda: routing(WORDS, torch.zeros(2, 2), 1, capacity=-1.0), "capacity must be above 0"),
        (lambda: routing(WORDS, torch.zeros(2, 2), 1, capacity=1e308), "capacity must be .* at most 1e"),
        (lambda: next_token(torch.zeros(2) - math.inf, torch.zeros(2), str, 1), "all logits are −∞"),
        (lambda: next_token(torch.zeros(2), torch.zeros(2) - math.inf, str, 1), "all logits are −∞"),
        (lambda: AttentionWeights([], np.zeros((1, 1, 0, 0))), "nothing to draw"),
        (lambda: head_view(torch.zeros(1, 1, 0, 0), []), "nothing to draw"),
        (lambda: model_view(np.zeros((0, 1, 2, 2)), WORDS), "nothing to draw"),
        (lambda: draw_loss(HISTORY, levels={"a": math.nan}), "the level 'a' must be one finite number"),
        (lambda: draw_loss(HISTORY, levels={"a": EYE}), "the level 'a' must be one finite number"),
        (lambda: draw_head_grid(EYE, top=-1), "top must be at least 0, not -1"),
    ],
)
def test_values_out_of_range_are_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_iterators_are_lists():
    ids = torch.tensor([5, 6])
    assert draw_tokens(iter(WORDS), iter([5, 6])).html == draw_tokens(WORDS, ids).html
    assert ">5<" in draw_tokens(WORDS, ids).html
    page = head_view(EYE[None, None], iter(WORDS), layers=iter([0]), heads=range(1))
    assert page.html == head_view(EYE[None, None], WORDS).html


def pixels(figure) -> bytes:
    figure.savefig(file := io.BytesIO(), format="rgba", dpi=20)
    return file.getvalue()


PLAIN = np.array([[1.0, 0.0], [0.25, 0.75]])


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor(PLAIN, requires_grad=True),
        torch.tensor(PLAIN, dtype=torch.bfloat16),
        [[torch.tensor(x, requires_grad=True) for x in row] for row in PLAIN],
        [torch.tensor(row, dtype=torch.bfloat16, requires_grad=True) for row in PLAIN],
        [[np.float32(x) for x in row] for row in PLAIN],
        PLAIN.astype(object),
        PLAIN[::-1][::-1],
        PLAIN.astype(np.float16),
    ],
    ids=[
        "gradient",
        "bfloat16",
        "lists of tensors",
        "a list of rows",
        "NumPy's",
        "objects",
        "turned",
        "half",
    ],
)
def test_numbers_of_every_kind_give_the_same_pictures(given):
    def pictures(weights):
        att = AttentionWeights(WORDS, [[weights]])
        yield from (pixels(draw_attention(att, 0, 0)), pixels(draw_row(att, 0, 0, 1)))
        yield from (pixels(draw_head_grid(weights)), pixels(draw_alignment(WORDS, WORDS, weights)))
        yield head_view(att.weights, WORDS).html

    assert list(pictures(given)) == list(pictures(PLAIN))


def test_truth_values_and_whole_numbers_are_weights_too():
    for kind in (bool, np.uint8):
        att = AttentionWeights(WORDS, EYE[None, None].astype(kind))
        assert describe_row(att, 0, 0, 1) == describe_row(ATT, 0, 0, 1)
        assert pixels(draw_attention(att, 0, 0)) == pixels(draw_attention(ATT, 0, 0))
    assert head_view(torch.eye(2)[None, None] > 0, WORDS).html == head_view(EYE[None, None], WORDS).html


def test_a_query_that_sees_nothing_is_drawn():
    att = AttentionWeights(WORDS, np.zeros((1, 1, 2, 2)))
    draw_row(att, 0, 0, 1)
    draw_attention(att, 0, 0)
    assert describe_row(att, 0, 0, 1) == "Layer 0, head 0: tiger (token 1) looks at nothing"


def test_weights_of_float32_stay_the_array_that_they_are():
    weights = EYE[None, None].astype(np.float32)
    assert AttentionWeights(WORDS, weights).weights is weights


def test_logits_losses_and_levels_may_have_gradients():
    logits = torch.tensor([1.0, 2.0], requires_grad=True)
    expected = next_token(logits.detach(), logits.detach() / 2, str, 1)
    assert next_token(logits, logits / 2, str, 1).after.tolist() == expected.after.tolist()
    losses = History(losses=[torch.tensor(2.0, requires_grad=True), torch.tensor(1.0)])
    given = draw_loss(losses, levels={"a": torch.tensor(1.5, requires_grad=True)})
    assert pixels(given) == pixels(draw_loss(HISTORY, levels={"a": 1.5}))


def test_a_link_of_tensors_is_a_link():
    links = [[(torch.tensor(0), torch.tensor(0))], [(np.int64(0), 0)], torch.tensor([[0, 0]])]
    expected = pixels(draw_alignment(["a"], ["b"], [[1.0]], links=[(0, 0)]))
    assert all(pixels(draw_alignment(["a"], ["b"], [[1.0]], links=link)) == expected for link in links)


def test_every_run_stands_in_the_legend():
    legend = draw_loss({"_a": HISTORY, "b": HISTORY}).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["_a", "b"]
    assert len(legend.get_lines()) == 2


def test_the_mean_of_an_array_is_that_of_a_list():
    losses = [3.1, 2.7, 2.9, 1.1]
    assert smooth(np.array(losses)).tolist() == smooth(losses).tolist()
