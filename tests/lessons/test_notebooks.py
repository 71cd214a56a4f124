"""The stored notebooks: executed in order, complete without a kernel, and built as a lesson is."""

import json
import re

import pytest
from lxml import html
from nbconvert import HTMLExporter
from notebook_files import NOTEBOOKS, calls, code_cells, name, read_cells, tags, text_of

from course_lib.course.publish import BADGE, START
from course_lib.course.store import VIEW

EXTERNAL = re.compile(
    r"""<(?:img|script|iframe|link)\b[^>]*?\b(?:src|href)\s*=\s*["']?(?:https?:)?//|!\[[^]]*\]\(https?://"""
)
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|content|opt|mnt)/|\b[A-Z]:\\")
MEGABYTE = 1_000_000
IMAGE = re.compile(r"<img [^>]*\balt=")
KNOB = re.compile(r"^(?!from|import).*?\b(interact\w*|explore_\w+|guess_game)\b", re.MULTILINE)
SENTENCE = re.compile(r"appears? here when you run this cell\.$")
NEAR = 5  # cells away
FROZEN = re.compile(r"\d+%\||\d+it \[|^\w+\(children=|Loading widget|model not found", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def texts(path):
    """Yield all texts of a notebook, those of its cells and those of their outputs."""
    for cell in read_cells(path):
        yield BADGE.sub("", cell.source)
        yield from map(text_of, cell.get("outputs", []))


def test_there_are_notebooks():
    assert NOTEBOOKS and name(NOTEBOOKS[0]) == "start_here"


@each_notebook
def test_executed_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_no_error_is_stored(path):
    for cell in code_cells(path):
        if "raises-exception" not in tags(cell):
            assert [output.ename for output in cell.outputs if output.output_type == "error"] == []


@each_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 20, cell.source


@each_notebook
def test_opens_with_the_set_up_line(path):
    first, *others = code_cells(path)
    assert "setup" in tags(first)
    assert first.source.endswith(START) and "\n" not in first.source
    assert not any("setup" in tags(cell) for cell in others)


@each_notebook
def test_has_a_widget_with_a_static_figure_beside_it(path):
    cells = code_cells(path)
    assert any("nbval-ignore-output" in tags(cell) for cell in cells)
    compared = [cell for cell in cells if "nbval-ignore-output" not in tags(cell)]
    assert any(IMAGE.search(text_of(output)) for cell in compared for output in cell.outputs)


@each_notebook
def test_a_stored_page_is_whole_without_a_kernel(path):
    """A page stores no widget views and no progress bars, and a sentence for each knob."""
    for cell in code_cells(path):
        for output in cell.outputs:
            assert VIEW not in output.get("data", {}) and not FROZEN.search(text_of(output)), cell.source
        if KNOB.search(cell.source) or calls(cell, "quiz"):
            assert any(map(SENTENCE.search, map(text_of, cell.outputs))), cell.source


@each_notebook
def test_what_a_knob_shows_is_on_the_page_without_it(path):
    """Below a knob's sentence stands what it first showed, or a figure is near."""
    cells = read_cells(path)
    shown = [any(map(IMAGE.search, map(text_of, cell.get("outputs", [])))) for cell in cells]
    for i, cell in enumerate(cells):
        if cell.cell_type == "code" and KNOB.search(cell.source):
            first = [output for output in cell.outputs if not SENTENCE.search(text_of(output))]
            assert first or any(shown[max(0, i - NEAR) : i + NEAR]), cell.source


@each_notebook
def test_every_figure_says_what_there_is_to_see(path):
    """This holds in the file, and in the HTML page that nbconvert makes of it."""
    kinds = {kind for cell in code_cells(path) for output in cell.outputs for kind in output.get("data", {})}
    assert not {kind for kind in kinds if kind.startswith("image/")}, (
        "a bare image has no place for words: use show(fig, alt=…)"
    )
    page, _ = HTMLExporter().from_filename(path)
    pictures = html.fromstring(page).iter("img")
    alts = [picture.get("alt", "").strip() for picture in pictures]
    assert alts and all(alts) and "No description has been provided" not in page


@each_notebook
def test_has_the_parts_of_a_lesson(path):
    text = "\n".join(cell.source for cell in read_cells(path) if cell.cell_type == "markdown").lower()
    for part in ("predict", "exercise", "what to read"):
        assert part in text, f"no “{part}” in its text"
    assert any(calls(cell, "quiz") for cell in code_cells(path))


@each_notebook
def test_needs_nothing_from_outside(path):
    for text in texts(path):
        assert not EXTERNAL.findall(text)
        assert not ABSOLUTE.findall(text)


@each_notebook
def test_the_file_is_small_and_stores_no_widget_state(path):
    assert path.stat().st_size < 3 * MEGABYTE
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert "widgets" not in metadata
    assert metadata["kernelspec"]["name"] == "python3"
