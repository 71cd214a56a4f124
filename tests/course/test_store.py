"""Storing a lesson: what stands in the place of widgets and progress bars."""

import os

import nbformat
import pytest

from course_lib.course.store import METADATA, VIEW, StoreError, describe_controls, main, replace_widgets

LESSON = """
import matplotlib.pyplot as plt
from ipywidgets import IntSlider, interact
from course_lib.show import show

def draw(height):
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, height])
    show(fig, alt=f"a line to {height}")
    print("drawn", height)
--
draw(2)
--
interact(draw, height=IntSlider(3, min=0, max=5));
--
interact(draw, height=(0, 4));
--
from tqdm.auto import tqdm
for _ in tqdm(range(3)): pass
print("after the bar")
--
from course_lib.course import quiz
quiz("what-is-computed")
--
1 + 1
"""


def model(name, **state):
    return {"model_name": name, "state": state}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The stored lesson, and each cell's outputs as (kind, text)."""
    path = tmp_path_factory.mktemp("lessons") / "lesson.ipynb"
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in LESSON.split("--\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert main([str(path)]) == 0
    return nbformat.read(path, as_version=4)


def texts(cell):
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


def test_a_knob_leaves_a_sentence_and_what_it_first_showed(stored):
    cell = stored.cells[2]
    assert texts(cell) == ["A slider appears here when you run this cell.", "a line to 3", "drawn 3\n"]
    assert '<img alt="a line to 3"' in cell.outputs[1].data["text/html"]


def test_a_figure_that_the_page_has_already_is_not_stored_twice(stored):
    assert texts(stored.cells[1]) == ["a line to 2", "drawn 2\n"]
    assert texts(stored.cells[3]) == ["A slider appears here when you run this cell.", "drawn 2\n"]


def test_a_progress_bar_leaves_nothing(stored):
    assert texts(stored.cells[4]) == ["after the bar\n"]


def test_words_that_a_widget_brings_along_stay(stored):
    question, buttons = texts(stored.cells[5])
    assert question.startswith("What does a language model compute")
    assert buttons == "Buttons a, b and c appear here when you run this cell."


def test_the_file_holds_no_widget_and_little_else(stored):
    assert not [output for cell in stored.cells for output in cell.outputs if VIEW in output.get("data", {})]
    assert stored.metadata == METADATA
    assert [cell.execution_count for cell in stored.cells] == [1, 2, 3, 4, 5, 6, 7]
    assert texts(stored.cells[6]) == ["2"] and stored.cells[6].metadata == {}


@pytest.mark.parametrize(
    "source, said",
    [
        ("1 / 0", "ZeroDivisionError"),
        (
            "from ipywidgets import interact\ninteract(lambda x: 1 / 0, x=1);",
            "a widget failed with ZeroDivisionError: division by zero",
        ),
        ("import os\nos._exit(1)", "lesson.ipynb: Kernel died"),
    ],
)
def test_a_lesson_that_fails_is_left_as_it_was(tmp_path, capsys, source, said):
    path = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    before = path.read_bytes()
    assert main([str(path)]) == 1
    assert path.read_bytes() == before and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"{}", b'{"nbformat": 4, "cells": 3}', 99_999 * b"["]
)
def test_a_file_that_is_no_notebook_is_named_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "lesson.ipynb"
    path.write_bytes(content)
    assert main([str(path)]) == 1 and path.read_bytes() == content
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: this file can't be read as a notebook (") and said.count("\n") == 1


def test_a_notebook_that_cannot_be_written_is_named(tmp_path, capsys, monkeypatch):
    path = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    monkeypatch.setattr(os, "access", lambda name, mode: str(name) != str(path))
    assert main([str(path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: ") and said.count("\n") == 1


def test_each_run_is_a_newcomers(tmp_path):
    path = tmp_path / "lesson.ipynb"
    source = """import os
print(os.path.exists(os.environ["THIRSTY_TIGER_HOME"] + "/progress.json"), os.environ["OMP_WAIT_POLICY"])"""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    before = os.environ["THIRSTY_TIGER_HOME"]
    assert main([str(path)]) == 0 and os.environ["THIRSTY_TIGER_HOME"] == before
    assert texts(nbformat.read(path, as_version=4).cells[0]) == ["False passive\n"]


def test_a_notebook_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["notebooks/nowhere.ipynb"])
    assert "no such notebook: notebooks/nowhere.ipynb" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names, said",
    [
        (["VBoxModel", "OutputModel"], ""),
        (["IntSliderModel"], "A slider appears here when you run this cell."),
        (["FloatSliderModel", "SelectionSliderModel"], "Two sliders appear here when you run this cell."),
        (
            ["TextModel", "CheckboxModel", "DropdownModel"],
            "A text box, a tick box and a menu appear here when you run this cell.",
        ),
        (["TextareaModel", "TextModel"], "Two text boxes appear here when you run this cell."),
        (["ToggleButtonsModel"] * 2, "Two rows of buttons appear here when you run this cell."),
        (["ButtonModel"] * 12, "12 buttons appear here when you run this cell."),
    ],
)
def test_the_sentence_counts_the_controls(names, said):
    assert describe_controls([model(name) for name in names]) == said


def test_a_widget_without_state_is_refused():
    output = nbformat.v4.new_output("display_data", {VIEW: {"model_id": "abc"}})
    with pytest.raises(StoreError, match="no state of the widget abc"):
        replace_widgets(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])]), {})


def test_a_control_without_a_word_is_refused():
    with pytest.raises(StoreError, match="no word for a IntRangeSliderModel"):
        describe_controls([model("IntRangeSliderModel")])


def test_widgets_inside_an_output_widget_are_replaced_too():
    """A slider whose output draws a progress bar and another widget; a box that holds a slider and a bar."""
    inner = [
        {"output_type": "display_data", "metadata": {}, "data": {VIEW: {"model_id": name}, "text/plain": "x"}}
        for name in ("bar", "menu")
    ]
    models = {
        "knob": model("VBoxModel", children=["IPY_MODEL_slider", "IPY_MODEL_out"]),
        "slider": model("IntSliderModel"),
        "out": model("OutputModel", outputs=inner),
        "bar": model("FloatProgressModel"),
        "menu": model("DropdownModel"),
        "both": model("HBoxModel", children=["IPY_MODEL_slider", "IPY_MODEL_bar"]),
    }
    outputs = [
        nbformat.v4.new_output("display_data", {VIEW: {"model_id": name}, "text/plain": "VBox(…)"})
        for name in ("knob", "both")
    ]
    inner[1]["data"]["text/plain"] = "Dropdown(…)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    replace_widgets(notebook, models)
    slider = "A slider appears here when you run this cell."
    assert texts(notebook.cells[0]) == [slider, "A menu appears here when you run this cell.", slider]


def test_a_widget_without_words_is_described():
    output = nbformat.v4.new_output("display_data", {VIEW: {"model_id": "abc"}})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    replace_widgets(notebook, {"abc": model("IntSliderModel")})
    assert texts(notebook.cells[0]) == ["A slider appears here when you run this cell."]


def test_other_outputs_are_left_alone():
    outputs = [
        nbformat.v4.new_output("stream", text="x"),
        nbformat.v4.new_output("display_data", {"text/plain": "y"}),
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("", outputs=outputs), nbformat.v4.new_markdown_cell("z")]
    )
    before = notebook.copy()
    replace_widgets(notebook, {})
    assert notebook == before
