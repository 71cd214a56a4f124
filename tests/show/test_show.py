"""Pictures: their numbers, what they say to those who can't see them, and what they say to bad input."""

import base64
import io
import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from course_lib.show import (
    AttentionWeights,
    attention,
    draw_attention,
    draw_head_grid,
    draw_row,
    draw_tokens,
    explore_attention,
    explore_tokens,
    figure_tokens,
    head_view,
    model_view,
    show,
    use_style,
)
from course_lib.show.attention import describe_row
from course_lib.show.attention_row import RIBBON
from course_lib.show.figures import png
from course_lib.show.style import INK, MUTED, drawable
from course_lib.show.tokens import TINTS, visible

TOKENS = ["The", " tiger", " drank", ",", " it", " was"]
LETTERS = SimpleNamespace(encode=lambda text: list(map(ord, text)), token_text=chr)


@pytest.fixture(autouse=True)
def style():
    with rc_context():
        use_style()
        yield


@pytest.fixture
def att():
    """Two layers of three causal heads; in head 1.2 "it" gives 0.7 to "tiger" and 0.06 to itself."""
    weights = np.tril(np.random.default_rng(0).random((2, 3, 6, 6)) + 0.01)
    weights[1, 2, 4] = [0.2, 0.7, 0.039, 0.001, 0.06, 0]
    return AttentionWeights(TOKENS, weights / weights.sum(-1, keepdims=True))


@pytest.fixture
def page():
    """What a notebook's page would get: a list of (data, metadata)."""
    InteractiveShell.instance()
    with capture_output() as captured:
        yield captured
    InteractiveShell.clear_instance()


class Even(torch.nn.Linear):
    """A model of one layer and two heads that look everywhere alike."""

    def forward(self, tokens, trace):
        assert tokens.device == self.weight.device
        n = tokens.shape[1]
        weights = torch.ones(1, 2, n, n).tril() / torch.arange(1, n + 1)[:, None]
        trace("blocks.0.attention.weights", weights)


LM = SimpleNamespace(tokenizer=LETTERS, model=Even(1, 1))


def contrast(one, other):
    """Of two colours, as WCAG 2 defines it."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def ribbons(fig):
    patches = fig.axes[0].patches
    return {int(patch.get_gid().removeprefix("key-")): patch for patch in patches}


def texts(fig):
    return [text.get_text() for text in fig.axes[0].texts]


# numbers


def test_attention_is_the_traces_weights_beside_the_tokens():
    seen = attention(LM, "abc")
    assert seen.tokens == ["a", "b", "c"]
    assert np.allclose(seen.weights[0, 1], [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_the_tokens_are_moved_to_the_models_device():
    lm = SimpleNamespace(tokenizer=LETTERS, model=Even(1, 1, device="meta"))  # checked in `forward`
    assert np.array_equal(attention(lm, "abc").weights, attention(LM, "abc").weights)


@pytest.mark.parametrize("text, says", [("", "no text"), ("a" * 65, "65 tokens are too many")])
def test_attention_refuses_what_no_picture_shows(text, says):
    with pytest.raises(ValueError, match=says):
        attention(LM, text)


def test_tokens_are_found_by_their_word(att):
    assert att.index("it") == att.index(" it ") == 4
    with pytest.raises(ValueError, match=r"no token reads 'lion'; the tokens are The \| tiger"):
        att.index("lion")


def test_attention_must_fit_its_tokens(att):
    with pytest.raises(ValueError, match=r"5 tokens need weights \(layers, heads, 5, 5\).*\(2, 3, 6, 6\)"):
        AttentionWeights(TOKENS[:5], att.weights)


@pytest.mark.parametrize(
    "place, says",
    [((2, 0, 0), "layer 2 .* 0 to 1"), ((0, 3, 0), "head 3 .* 0 to 2"), ((0, 0, -1), "query -1")],
)
def test_what_does_not_exist_is_named(att, place, says):
    for function in (att.row, lambda *place: draw_row(att, *place), lambda *place: describe_row(att, *place)):
        with pytest.raises(IndexError, match=says):
            function(*place)


# the row of ribbons


def test_ribbons_are_as_thick_as_their_weights(att):
    drawn = ribbons(draw_row(att, 1, 2, 4))
    assert {key: patch.get_linewidth() / RIBBON for key, patch in drawn.items()} == pytest.approx(
        {0: 0.2, 1: 0.7, 2: 0.039, 4: 0.06}
    )


def test_ribbons_leave_side_by_side_and_land_in_order(att):
    drawn = ribbons(draw_row(att, 1, 2, 4))
    start = {key: patch.get_path().vertices[0, 0] for key, patch in drawn.items()}
    end = {key: patch.get_path().vertices[-1, 0] for key, patch in drawn.items()}
    assert end[0] < end[1] < end[2] < end[4] == start[4]
    assert start[0] > start[1] > start[2] > start[4]
    assert start[0] - start[1] == pytest.approx(RIBBON * (0.2 + 0.7) / 2)


def test_weights_from_a_twentieth_on_are_written(att):
    expected = "The 0.20 tiger 0.70 drank , it 0.06 was"
    assert texts(draw_row(att, 1, 2, 4))[:9] == expected.split()


def test_a_word_in_pieces_stays_together(att):
    words = AttentionWeights(["a", " b", "c"], att.weights[:, :, :3, :3])
    drawn = [text for text in draw_row(words, 0, 0, 0).axes[0].texts if text.get_text() in "abc"]
    a, b, c = (text.get_position()[0] for text in drawn)
    assert b - a > c - b


def test_later_tokens_make_way_in_a_long_sentence():
    n = 60
    seen = AttentionWeights(
        [" elephant"] * n, (np.tril(np.ones((1, 1, n, n))) / np.arange(1, n + 1)[:, None])
    )
    early, late = draw_row(seen, 0, 0, 2), draw_row(seen, 0, 0, n - 1)
    assert " …" in texts(early) and early.axes[0].texts[0].get_fontsize() == 17
    assert " …" not in texts(late) and texts(late).count("elephant") == n
    assert early.get_figwidth() < 12 and late.get_figwidth() < 12


def test_a_model_that_sees_ahead_gets_ribbons_ahead(att):
    drawn = ribbons(draw_row(AttentionWeights(TOKENS, np.full((1, 1, 6, 6), 1 / 6)), 0, 0, 2))
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
    assert drawn[5].get_path().vertices[-1, 0] > drawn[2].get_path().vertices[0, 0]


def test_a_row_in_words(att):
    expected = "Layer 1, head 2: it (token 4) looks at tiger 0.70, The 0.20, it 0.06"
    assert describe_row(att, 1, 2, 4) == expected


# heat maps


def test_the_heat_map_shows_the_weights_and_masks_the_future(att):
    fig = draw_attention(att, 1, 2, query=4)
    shown = fig.axes[0].images[0].get_array()
    assert np.array_equal(shown.mask, np.triu(np.ones((6, 6), bool), k=1))
    assert np.array_equal(shown.data, att.weights[1, 2])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == [t.strip() for t in TOKENS]
    assert fig.axes[0].patches[0].get_bbox().bounds == (-0.5, 3.5, 6, 1)


def test_a_weight_of_zero_in_the_past_is_not_masked():
    seen = AttentionWeights(["a", "b"], np.array([[[[1.0, 0.0], [0.0, 1.0]]]]))
    shown = draw_attention(seen, 0, 0).axes[0].images[0].get_array()
    assert shown.mask.tolist() == [[False, True], [False, False]]


def test_the_heat_map_draws_where_it_is_told(att):
    ax = Figure().subplots()
    assert draw_attention(att, 0, 0, ax=ax) is ax.figure


def test_the_head_grid_lists_the_largest():
    scores = np.zeros((4, 3))
    scores[3, 1], scores[0, 2], scores[2, 0] = 0.9, 0.5, -0.7
    fig = draw_head_grid(scores, top=2)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["3.1   0.90", "2.0   -0.70"]
    assert [ring.get_bbox().bounds for ring in fig.axes[0].patches] == [(2.5, 0.5, 1, 1), (1.5, -0.5, 1, 1)]
    image = fig.axes[0].images[0]
    assert np.array_equal(image.get_array(), scores.T) and image.get_clim() == (-0.9, 0.9)
    assert draw_head_grid(np.abs(scores)).axes[0].images[0].get_clim() == (0, 0.9)


def test_the_head_grid_needs_one_score_per_head():
    with pytest.raises(ValueError, match=r"\(layers, heads\).*\(3,\)"):
        draw_head_grid(np.zeros(3))


# tokens


def test_tokens_become_visible_and_escaped():
    drawn = draw_tokens([" <b>", "a\n", "\t", "\x1b"], [1, 22, 333, 4])
    assert repr(drawn) == "·<b> | a⏎ | ⇥ | \\x1b"
    assert "<b>" not in drawn._repr_html_() and "·&lt;b&gt;" in drawn._repr_html_()
    assert re.findall(r'title="token 0: (.*?), id 1"', drawn.html) == ["&#x27; &lt;b&gt;&#x27;"]
    assert re.findall(r"<small[^>]*>(\d+)</small>", drawn.html) == ["1", "22", "333", "4"]
    assert drawn.html.count("</span><br>") == 1  # after the line end alone


def test_text_on_tokens_can_be_read():
    assert min(contrast(INK, tint) for tint in TINTS) > 11
    assert min(contrast("#444", tint) for tint in TINTS) > 7
    assert min(contrast(MUTED, tint) for tint in [*TINTS, "white"]) > 5


def test_the_figure_of_tokens_has_a_box_for_each_and_wraps():
    fig = figure_tokens([" tiger"] * 30 + ["\n", "end"], range(32))
    boxes = [box.get_bbox() for box in fig.axes[0].patches]
    assert len(boxes) == 32 and max(box.x1 for box in boxes) <= 720
    assert all(a.x1 <= b.x0 or b.y1 <= a.y0 for a, b in pairwise(boxes))
    assert boxes[31].x0 == 0 and boxes[31].y1 <= boxes[30].y0
    assert texts(fig)[::2] == ["·tiger"] * 30 + ["⏎", "end"]
    assert texts(fig)[1::2] == [str(i) for i in range(32)]


@pytest.mark.parametrize("draw", [draw_tokens, figure_tokens])
def test_every_token_needs_its_id(draw):
    with pytest.raises(ValueError, match="2 tokens can't have 1 ids"):
        draw(["a", "b"], [7])


@pytest.mark.filterwarnings("error")
def test_signs_without_a_glyph_and_dollars_are_drawn_as_text(att):
    odd = ["$x$", " 日", "🐯", "\n", "\\frac", "_^"]
    assert drawable(visible(" 日")) == "·‹65E5›"
    seen = AttentionWeights(odd, att.weights)
    for fig in (
        draw_row(seen, 0, 0, 5),
        draw_attention(seen, 0, 0),
        figure_tokens(odd),
        draw_head_grid([[1]], "$"),
    ):
        png(fig)
        png(fig)  # a figure may be shown twice


# on the page


def test_show_gives_picture_and_words(att, page):
    show(draw_row(att, 1, 2, 4), alt='ribbons, "thick" & thin')
    data = page.outputs[0].data
    assert set(data) == {"text/plain", "text/html"} and data["text/plain"] == 'ribbons, "thick" & thin'
    alt, width, picture = re.fullmatch(
        r'<img alt="([^"]*)" width="(\d+)" src="data:image/png;base64,([^"]*)">', data["text/html"]
    ).groups()
    assert alt == "ribbons, &quot;thick&quot; &amp; thin"
    assert int(width) == Image.open(io.BytesIO(base64.b64decode(picture))).width // 2


def test_show_insists_on_words(att):
    with pytest.raises(ValueError, match="say what the figure shows"):
        show(draw_row(att, 0, 0, 0), alt=" ")


def test_pictures_stay_small(att):
    n = 32
    rows = np.random.default_rng(0).dirichlet(np.ones(n), (1, 1, n))
    busy = AttentionWeights([" elephant"] * n, rows)
    grid = np.random.default_rng(0).normal(size=(30, 9))
    for fig in (draw_row(busy, 0, 0, 31), draw_attention(busy, 0, 0), draw_head_grid(grid)):
        assert len(png(fig)) < 80_000


def test_a_picture_keeps_its_colours(att):
    shown = Image.open(io.BytesIO(png(draw_row(att, 1, 2, 4)))).convert("RGB")
    orange = tuple(round(255 * c) for c in to_rgb("#D55E00"))
    assert min(np.abs(np.subtract(color, orange)).sum() for _, color in shown.getcolors(10_000)) < 12


def test_style_is_set_only_when_asked():
    with rc_context({"font.size": 3}):
        import importlib

        import course_lib.show.style

        importlib.reload(course_lib.show.style)
        assert rcParams["font.size"] == 3
        use_style()
        assert rcParams["font.size"] == 14


# explorers


@pytest.fixture
def explorer(monkeypatch):
    """Explore with `explorer(function, *arguments)`; returns the widgets that would be on the page."""

    def explore(function, *arguments, **more):
        shown = []
        monkeypatch.setattr(sys.modules[function.__module__], "display", shown.append)
        function(*arguments, **more)
        return shown[-1].children

    return explore


def test_a_new_text_brings_its_own_tokens(explorer):
    box, sliders, tokens, _ = explorer(explore_attention, LM, "abcd", head=1, query=-2)
    assert [slider.value for slider in sliders.children[:2]] == [0, 1]
    assert tokens.options == tuple((letter, ("abcd", i)) for i, letter in enumerate("abcd"))
    assert tokens.index == 2
    box.value = "xy"
    assert tokens.options == (("x", ("xy", 0)), ("y", ("xy", 1))) and tokens.index == 1


def test_a_text_that_cannot_be_shown_is_explained_in_a_line(explorer):
    box, sliders, tokens, _ = explorer(explore_attention, LM, "abcd")
    problem = sliders.children[2]
    box.value = "a" * 70
    assert problem.value.startswith("70 tokens are too many") and len(tokens.options) == 4
    box.value = "z"
    assert problem.value == "" and len(tokens.options) == 1


def test_tokens_are_counted_and_bad_text_is_one_line(explorer, capsys):
    box, _ = explorer(explore_tokens, LETTERS, "né")
    assert "2 tokens, 2 characters, 3 bytes" in capsys.readouterr().out
    for text, says in [("", "there is no text to cut"), ("a" * 2001, "2001 characters are too many")]:
        box.value = text
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith(says)


# bertviz


@pytest.fixture(params=[head_view, model_view])
def view(request):
    return request.param


def test_views_are_whole_and_the_same_every_time(view, att):
    html = view(att.weights, TOKENS, layers=[1])._repr_html_()
    assert html == view(torch.tensor(att.weights), TOKENS, layers=np.array([1]))._repr_html_()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    assert "cdnjs" not in html and "require.config" not in html
    assert html.count("</script>") == 1


def test_views_carry_the_weights_to_three_decimals(view, att):
    data = re.search(
        r'"attn": (\[.*?\]), "left_text"', view(att.weights, TOKENS, layers=[1], heads=[2]).html
    )[1]
    sent = np.array(eval(data))
    expected = att.weights[[1]] if view is head_view else att.weights[[1]][:, [2]]
    assert sent.shape == expected.shape and np.abs(sent - expected).max() <= 0.0005
    assert max(len(number) for number in re.findall(r"[\d.]+", data)) <= 5


def test_a_token_cannot_end_the_script(view, att):
    html = view(att.weights, ["</script>", "<!--", " </SCRIPT>", *TOKENS[3:]]).html
    assert html.lower().count("</script") == 1 and "<!--" not in html
    assert r'"<\/script>", "<\!--", "<\/SCRIPT>"' in html


def test_views_name_what_does_not_fit(view, att):
    with pytest.raises(ValueError, match=r"5 tokens need weights \(layers, heads, 5, 5\).*\(2, 3, 6, 6\)"):
        view(att.weights, TOKENS[:5])
    with pytest.raises(ValueError, match=r"choose layers from 0 to 1; \[2\]"):
        view(att.weights, TOKENS, layers=[2])
    with pytest.raises(ValueError, match=r"choose heads from 0 to 2; \[\]"):
        view(att.weights, TOKENS, heads=[])


def test_views_stand_in_words_where_there_is_no_page(att):
    assert repr(head_view(att.weights, TOKENS)) == "bertviz head view: 6 tokens, layers [0, 1]"
