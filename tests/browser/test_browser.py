"""What only a browser can tell: that a learner's notebook draws, moves, and asks nothing of the internet."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

from course_lib.course.contents import find_lesson
from tests.browser.lab import ROOT

LESSON = find_lesson("multi_head_attention").file
PICTURES = ROOT / "build" / "browser"
VIEWS = """
from course_lib.course import quiz, start
start()
--
import numpy as np
from course_lib.show import draw_tokens, explore_tokens, head_view, model_view, use_style
use_style()
words = ["The", " tiger", " drank"]
weights = np.tril(np.ones((2, 3, 3, 3))) / np.arange(1, 4)[:, None]
--
head_view(weights, words, heads=[0])
--
head_view(weights, words, heads=[0])
--
model_view(weights, words)
--
class Letters:
    encode = staticmethod(lambda text: list(map(ord, text)))
    token_text = staticmethod(chr)
explore_tokens(Letters, "tiger")
--
import torch
from types import SimpleNamespace
from course_lib.show import explore_attention
class Even(torch.nn.Linear):
    def forward(self, tokens, trace):
        n = tokens.shape[1]
        trace("blocks.0.attention.weights", torch.ones(1, 2, n, n).tril() / torch.arange(1, n + 1)[:, None])
explore_attention(SimpleNamespace(tokenizer=Letters, model=Even(1, 1)), "abcd")
--
from ipywidgets import FloatSlider, IntSlider, SelectionSlider, Text, interact_manual
def nothing(**controls): pass
sliders = dict(whole=IntSlider(3), real=FloatSlider(1), chosen=SelectionSlider(options=[1, 2]))
interact_manual(nothing, **sliders, tick=True, menu=["x", "y"], text=Text("t"));
--
quiz("what-is-computed")
--
from course_lib.show import guess_game
guess_game([("a", "one text"), ("b", "another")])
"""


BROKEN = """
from ipywidgets import interact
interact(lambda x: 1 / x, x=0);
--
from IPython.display import HTML
HTML('<img src="https://example.com/x.png"><script>null.x</script>')
--
1 / 0
"""


def run(lab, served, name, source):
    """Write a notebook of the cells in `source`, open it and run it to its end."""
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in source.split("--")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), served / name)
    lab.open(name)
    lab.run_all()
    return lab


@pytest.fixture(scope="module")
def views(lab, served):
    """A notebook of views alone."""
    return run(lab, served, "views.ipynb", VIEWS)


@pytest.fixture(scope="module")
def lesson(lab):
    """The lesson with the most to draw."""
    lab.open(LESSON)
    lab.run_all()
    return lab


def visible_lines(page, view):
    opacity = "lines => lines.filter(line => line.getAttribute('stroke-opacity') > 0).length"
    return page.locator(".bertviz").nth(view).locator("svg line").evaluate_all(opacity)


def test_views_are_drawn_even_twice_the_same(views):
    assert views.failures() == views.errors == []
    assert [visible_lines(views.page, i) for i in range(3)] == [
        6,
        6,
        2 * 3 * 6,
    ]  # 6: half of 3 × 3, and the diagonal


def test_a_click_on_a_head_switches_its_lines_on(views):
    second = views.page.locator(".bertviz").nth(1)
    second.locator("svg > g:last-child > rect").nth(2).click()
    assert (visible_lines(views.page, 0), visible_lines(views.page, 1)) == (6, 12)


def test_tokens_follow_the_keyboard_and_bad_input_is_one_line(views):
    cell = views.page.locator(".jp-CodeCell:has(.widget-textarea)")
    box, output, tokens = (cell.locator(place) for place in ("textarea", ".widget-output", "span[title]"))
    box.press_sequentially("s<b>")
    expect(output).to_contain_text("9 tokens, 9 characters, 9 bytes")
    expect(tokens).to_have_count(9)
    assert tokens.all_inner_texts()[6:] == ["<\n60", "b\n98", ">\n62"]
    box.fill("")
    expect(output).to_have_text("there is no text to cut: type a word or two")


def test_a_new_text_has_new_tokens_to_click(views):
    cell = views.page.locator(".jp-CodeCell:has(.widget-toggle-buttons)")
    box, tokens, figure = (
        cell.locator(place) for place in (".widget-text input", ".widget-toggle-button", "img")
    )
    expect(tokens).to_have_text(["a", "b", "c", "d"])
    box.fill("xy")
    box.press("Enter")
    expect(tokens).to_have_text(["x", "y"])
    # new buttons choose the first token before they choose the last, so it is drawn twice: wait for the last
    expect(figure).to_have_attribute("alt", re.compile(r"y \(token 1\) looks at"))
    before = figure.get_attribute("src")
    tokens.first.click()
    expect(figure).to_have_attribute("alt", re.compile(r"x \(token 0\) looks at"))
    expect(figure).not_to_have_attribute("src", before)
    box.fill("")
    box.press("Enter")
    cell.get_by_text("there is no text to look at").wait_for()
    assert views.failures() == []


def test_all_that_is_drawn_can_be_used_without_eyes_or_a_mouse(views):
    """axe-core finds nothing serious; a slider's name, which ipywidgets leaves out, is its label."""
    assert views.faults() == []
    for name in ("layer", "head", "whole", "real", "chosen"):
        expect(views.page.get_by_role("slider", name=name, exact=True)).to_have_count(1)


def test_a_slider_drawn_later_is_named_too(views):
    views.page.locator(".jp-CodeCell:has(.widget-slider)").last.locator(
        ".widget-slider .noUi-handle"
    ).first.evaluate(
        "handle => { const slider = handle.closest('.widget-slider'), copy = slider.cloneNode(true);"
        "copy.querySelector('.noUi-handle').removeAttribute('aria-label');"
        "copy.querySelector('.widget-label').textContent = 'later'; slider.after(copy) }"
    )
    expect(views.page.get_by_role("slider", name="later", exact=True)).to_have_count(1)


def test_the_lesson_runs_without_errors(lesson):
    assert lesson.failures() == lesson.errors == []
    assert lesson.page.get_by_text("Javascript Error").count() == 0


def test_the_lesson_draws_bertviz(lesson):
    lines = lesson.page.locator(".jp-OutputArea-output .bertviz svg line")
    assert lines.count() > 0 and visible_lines(lesson.page, 0) > 0


def test_a_slider_changes_a_figure(lesson):
    cell = lesson.page.locator(".jp-CodeCell:has(.widget-slider):has(.jupyter-widgets img)").first
    figure, handle = (
        cell.locator(".jupyter-widgets img").first,
        cell.locator(".widget-slider .noUi-handle").first,
    )
    before = figure.get_attribute("src")
    at_left_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemin")
    handle.press("ArrowRight" if at_left_end else "ArrowLeft")
    expect(figure).not_to_have_attribute("src", before, timeout=90_000)


def test_the_lesson_can_be_used_without_eyes_or_a_mouse(lesson):
    assert lesson.faults() == []


def test_it_looks_like_this(lesson):
    path = PICTURES / "04.png"
    lesson.picture(path)
    print(f"picture of the lesson: {path}")
    assert path.stat().st_size > 100_000


def test_nothing_beyond_this_machine_was_asked_for(lesson):
    assert lesson.refused == []


REOPENED = """
from ipywidgets import interact
interact(lambda x: print("x is", x), x=(0, 4));
"""


def test_a_lesson_that_was_run_and_saved_opens_again_without_errors(lab, served):
    """JupyterLab as `make` sets it up keeps what the widgets showed last."""
    overrides = Path(sys.prefix, "share", "jupyter", "lab", "settings", "overrides.json")
    if not overrides.exists():
        pytest.skip("this environment was not made by `make`")
    run(lab, served, "reopened.ipynb", REOPENED)
    lab.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    lab.close()
    lab.view("reopened.ipynb")
    cell = lab.page.locator(".jp-CodeCell")
    expect(cell.locator(".widget-slider")).to_have_count(1)
    expect(cell).to_contain_text("x is 2")
    expect(cell).not_to_contain_text("Error displaying widget")


def test_what_goes_wrong_is_seen(lab, served):
    """Last, because it leaves its mark on `errors` and `refused`."""
    run(lab, served, "broken.ipynb", BROKEN)
    cell, widget = lab.failures()
    assert cell == "cell 2: ZeroDivisionError: division by zero" and "in <lambda>" in widget
    assert "null" in lab.errors[-1] and lab.refused[-1] == "https://example.com/x.png"
