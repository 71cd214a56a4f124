"""Pictures of attention in tiles: their numbers, and that they draw what these say."""

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from course_lib.kernels import Cost, Meter, flash_attention
from course_lib.kernels.language import INTERPRETED
from course_lib.show import use_style
from course_lib.show.style import BLUE, HIDDEN, ORANGE
from course_lib.show.tiling import (
    draw_growth,
    draw_roofline,
    draw_tile_step,
    draw_tile_strip,
    draw_visits,
    tile_steps,
    visited,
)


@pytest.fixture(autouse=True)
def style():
    with rc_context():
        use_style()
        yield


def random_scores(n, seed=0):
    return np.random.default_rng(seed).normal(0, 2, size=(n, n))


def texts(ax):
    return [text.get_text() for text in ax.texts]


def colors(ax):
    return [to_hex(patch.get_facecolor()).upper() for patch in ax.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("blocks", [(1, 1), (4, 3), (5, 7), (12, 12), (20, 20)])
def test_the_last_step_of_each_program_knows_its_rows(blocks, causal):
    scores = random_scores(12)
    steps = tile_steps(scores, *blocks, causal=causal)
    masked = np.where(np.tril(np.ones((12, 12), bool)), scores, -np.inf) if causal else scores
    last = {step.queries.start: step for step in steps}
    assert sum(step.queries.stop - step.queries.start for step in last.values()) == 12
    for step in last.values():
        rows = masked[step.queries]
        assert np.allclose(step.largest, rows.max(axis=1))
        assert np.allclose(step.total, np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1))


def test_a_causal_program_goes_no_further_than_it_sees():
    corners = [(step.queries.start, step.keys.start) for step in tile_steps(random_scores(4), 2, 2)]
    assert corners == [(0, 0), (2, 0), (2, 2)]
    assert len(tile_steps(random_scores(4), 2, 2, causal=False)) == 4


def test_grown_is_who_had_to_scale_down():
    steps = tile_steps(np.array([[0.0, 5.0], [9.0, 1.0]]), 2, 1, causal=False)
    assert [step.grown.tolist() for step in steps] == [[False, False], [True, False]]


@pytest.mark.parametrize(
    "scores, blocks", [(random_scores(33), (4, 4)), (np.ones((3, 4)), (1, 1)), (random_scores(3), (0, 1))]
)
def test_what_cannot_be_drawn_is_refused(scores, blocks):
    with pytest.raises(ValueError, match="are drawn, not"):
        tile_steps(scores, *blocks)


def test_a_step_shows_what_is_done_what_is_worked_on_and_what_is_kept():
    steps = tile_steps(np.array([[0.0, 5.0], [9.0, 1.0]]), 2, 1, causal=False)
    left, right = draw_tile_step(steps, 1).axes
    assert colors(left) == [HIDDEN.upper(), BLUE.upper()]
    assert texts(right)[3:] == ["0", "5.00", "1.01", "1", "9.00", "1.00"]
    orange = [to_hex(text.get_color()).upper() == ORANGE.upper() for text in right.texts[3:]]
    assert orange == [False, True, True, False, False, False]
    assert [colors(ax).count(BLUE.upper()) for ax in draw_tile_strip(steps, [0, 1]).axes] == [1, 1]


@pytest.mark.skipif(not INTERPRETED, reason="the meter stands in the interpreter")
def test_visits_are_what_the_kernel_loaded():
    q, k, v = (torch.randn(1, 1, 50, 16) for _ in range(3))
    with Meter() as meter:
        flash_attention(q, k, v, window=20, blocks=(16, 16), backend="triton")
    visits = visited(meter.events, q, k)
    assert visits == {0: [0], 16: [0, 16], 32: [0, 16, 32], 48: [16, 32, 48]}
    (ax,) = draw_visits(visits, 16, 16, 50).axes
    assert colors(ax).count(BLUE.upper()) == 9 and colors(ax).count(HIDDEN.upper()) == 7
    assert texts(ax) == ["1", "1", "2", "1", "2", "3", "1", "2", "3"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0–15", "16–31", "32–47", "48–49"]


def test_the_roofline_climbs_and_is_flat():
    machines = {"slow": (10.0, 100.0), "fast": (100.0, 5_000.0)}
    (ax,) = draw_roofline(machines, {"copy": Cost(8, 1), "product": Cost(1, 100)}).axes
    at, reached = ax.lines[0].get_data()
    assert np.allclose(reached, np.minimum(10 * at, 100))
    assert {"slow", "fast", "copy", "product"} <= set(texts(ax))


def test_growth_names_each_line_at_its_end():
    (ax,) = draw_growth([256, 512], {"a": [1, 4], "b": [1, 2]}, "MB").axes
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert [text.get_position()[1] for text in ax.texts] == [4, 2]
