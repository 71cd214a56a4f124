"""The alignment figure: a line for each large weight, blue where two words translate each other."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from course_lib.show.alignment import MIN_DRAWN, THICKNESS, draw_alignment
from course_lib.show.style import BLUE, ORANGE

ENGLISH, FRENCH = ["the", "black", "tiger"], ["le", "tigre", "noir"]
WEIGHTS = np.array([[0.2, 0.0, 0.8], [0.0, 0.0, 1.0], [0.0, 0.96, 0.04]])
LINKS = {(0, 0), (2, 1), (1, 2)}


def test_a_line_for_each_weight_worth_drawing():
    lines = draw_alignment(ENGLISH, FRENCH, WEIGHTS, LINKS).axes[0].patches
    drawn = [(line.get_linewidth() / THICKNESS, to_hex(line.get_edgecolor()).upper()) for line in lines]
    assert [weight for weight, _ in drawn] == pytest.approx(WEIGHTS[WEIGHTS >= MIN_DRAWN])
    assert [color for _, color in drawn] == [BLUE, ORANGE, BLUE, BLUE]


def test_lines_cross_where_the_adjective_moves():
    lines = draw_alignment(ENGLISH, FRENCH, WEIGHTS, LINKS).axes[0].patches
    (noun_above, noun_below), (adjective_above, adjective_below) = (
        line.get_path().vertices[[0, -1], 0] for line in lines[2:]
    )
    assert adjective_above < noun_above and adjective_below > noun_below


def test_all_words_are_written():
    written = {text.get_text() for text in draw_alignment(ENGLISH, FRENCH, WEIGHTS).axes[0].texts}
    assert {*ENGLISH, *FRENCH} <= written


@pytest.mark.parametrize("source, target", [([], ["a"]), (["a"], []), ([], [])])
def test_a_text_without_words_is_refused(source, target):
    with pytest.raises(ValueError, match="nothing to align"):
        draw_alignment(source, target, np.zeros((len(target), len(source))))


def test_weights_must_fit_the_words():
    with pytest.raises(ValueError, match="target and source"):
        draw_alignment(ENGLISH, FRENCH[:2], WEIGHTS)
