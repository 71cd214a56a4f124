"""What can't be drawn is refused in words: NaN, iterators and strings where lists are meant."""

import math

import numpy as np
import pytest
import torch

from course_lib.show import (
    AttentionWeights,
    draw_alignment,
    draw_head_grid,
    draw_loss,
    draw_row,
    draw_tokens,
    figure_tokens,
    guess_game,
    head_view,
    live_loss,
    next_token,
    routing,
    show,
)

WORDS, EYE = ["the", "tiger"], np.eye(2)
NAN = np.array([[math.nan, 0.0], [0.0, 1.0]])
ATT = AttentionWeights(WORDS, EYE[None, None])


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
        (lambda: draw_tokens([1, 2]), r"tokens\[0\] must be a token's text, not 1"),
        (lambda: figure_tokens(WORDS, [0.5, 1]), r"ids\[0\] must be a whole number, not 0.5"),
        (lambda: draw_loss({"a": 3}), "the run 'a' must be a History, not 3"),
        (lambda: live_loss(3), "levels must be losses by name"),
        (lambda: guess_game(["text"]), r"each text must be a pair \(writer, text\)"),
        (lambda: head_view(None, WORDS), "weights must be a tensor or an array, not None"),
        (lambda: head_view(EYE[None, None], WORDS, layers="0"), "layers must be a list of numbers, not '0'"),
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
