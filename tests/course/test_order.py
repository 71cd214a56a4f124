"""Cells that are run out of order: the learner is told which to run first."""

import json
import os
import re
import types

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from notebook_files import NOTEBOOKS, ROOT, read_cells
from traitlets.config import Config

from course_lib.course import order, reading
from course_lib.course.bindings import bound_names, free_names
from course_lib.course.order import Cell, find_origin

PAIRS = [
    Cell("Pairs", "import math\nfrom collections import Counter"),
    Cell("1 · Count", "counts = Counter()\nprint(counts)"),
    Cell("2 · Again", "for pair in []:\n    counts[pair] = 1\nwith open('x') as file: text = file.read()"),
    Cell("3 · Use", "print(math.sqrt(len(text)))\nprint(counts, pair)"),
    Cell("4 · Later", "later = 1"),
]
OTHERS = [Cell("Others", "import math\nfrom collections import Counter"), Cell("1 · Sum", "text = 'other'")]


@pytest.mark.parametrize(
    "name, heading",
    [
        ("math", "Pairs"),
        ("counts", "1 · Count"),
        ("pair", "2 · Again"),
        ("text", "2 · Again"),
        ("file", "2 · Again"),
        ("later", None),
        ("typo", None),
    ],
)
def test_the_cell_is_found_that_binds_the_name_above_the_one_that_runs(name, heading):
    found = find_origin(name, [PAIRS[3]], [OTHERS, PAIRS])
    assert (found and found.heading) == heading


def test_a_lesson_is_known_by_the_cells_that_ran_and_one_changed_by_the_learner_by_its_lines():
    changed = Cell("", "print(counts, pair)  # mine\nprint(math.sqrt(len(text)))\nprint(my_own)")
    assert find_origin("text", [changed], [PAIRS, OTHERS]).heading == "2 · Again"
    assert (
        find_origin("text", [PAIRS[1], Cell("", "text + counts")], [PAIRS, OTHERS]) is None
    )  # which is here?


def test_where_two_lessons_are_equally_likely_nothing_is_said():
    assert find_origin("math", [PAIRS[0], Cell("", "math.pi")], [PAIRS, OTHERS]) is None
    assert find_origin("math", [Cell("", "math.pi")], []) is None


def test_headings_are_those_of_the_text_above_without_marks_or_code():
    cells = [
        nbformat.v4.new_markdown_cell("# A\ntext\n## `b` **c**\n```\n# no heading\n```"),
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_markdown_cell("only text"),
        nbformat.v4.new_code_cell("y = 1"),
    ]
    assert order.read_cells(nbformat.v4.new_notebook(cells=cells)) == [
        Cell("b c", "x = 1"),
        Cell("b c", "y = 1"),
    ]


def test_every_name_of_every_lesson_is_found_in_a_cell_above(monkeypatch):
    """For each cell of the real lessons: the free names that a cell above binds are found there."""
    lessons = [order.read_cells(json.loads(path.read_text("utf-8"))) for path in NOTEBOOKS]
    asked = 0
    for lesson in lessons:
        for i, cell in enumerate(lesson):
            for name in free_names(cell.source) if i % 5 == 0 else ():
                above = [other for other in lesson[:i] if name in bound_names(other.source)]
                if above:
                    assert find_origin(name, [cell], lessons) == above[-1], (name, cell.source)
                    asked += 1
    assert asked > 300


# In a shell, and in a kernel


@pytest.fixture
def shell(monkeypatch):
    """A shell in which a lesson of `PAIRS` is run, and a lesson of `OTHERS` isn't."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(order, "_lessons", lambda: [PAIRS, OTHERS])
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    order.load_ipython_extension(shell)
    order.load_ipython_extension(shell)  # once by the kernel's settings, once by `start`
    return shell


HINT = (
    "{} comes from a cell further up, under the heading “{}”. Run the cells above this one first "
    "(Run ▸ Run All Above Selected Cell), then this one again.\n"
)


def test_the_traceback_stays_and_one_line_follows(shell, capsys):
    shell.run_cell(PAIRS[3].source, store_history=True)
    said = capsys.readouterr().out
    assert "name 'math' is not defined" in said and said.endswith(HINT.format("math", "Pairs"))
    assert said.count("further up") == 1


@pytest.mark.parametrize(
    "source",
    ["print(typo)", "1 / 0", "def f():\n    print(x)\n    x = 1\nf()", "raise NameError('odd')", "x ="],
)
def test_other_errors_get_no_line(shell, capsys, source):
    shell.run_cell(PAIRS[4].source + "\n" + source, store_history=True)
    assert "further up" not in capsys.readouterr().out


def test_on_colab_its_own_menu_is_named(shell, capsys, monkeypatch):
    monkeypatch.setitem(order.sys.modules, "google.colab", types.ModuleType("google.colab"))
    shell.run_cell(PAIRS[3].source, store_history=True)
    assert "(Runtime ▸ Run before)" in capsys.readouterr().out


def test_notebooks_that_cannot_be_read_are_passed_over(shell, capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(order, "ROOT", tmp_path)
    assert order._lessons() == []
    (tmp_path / "notebooks").mkdir()
    for lesson, text in zip(order.all_lessons(), ["{", "[]", "[" * 99_999, '{"cells": [{}]}'], strict=False):
        (tmp_path / "notebooks" / lesson.file).write_text(text)
    assert order._lessons() == []


def test_a_function_that_needs_a_cell_above_is_told_by_its_check(shell):
    shell.user_ns["In"].append(PAIRS[3].source)
    try:
        exec(compile("print(text)", "/nowhere/ipykernel_2/1.py", "exec"), {})  # noqa: S102
    except NameError as error:
        said = reading.describe(error)
    assert said.startswith("NameError: name 'text' is not defined\n  line 1 of your cell: ")
    assert said.endswith("\n  " + HINT.format("text", "2 · Again").rstrip())


@pytest.mark.parametrize("made", ["torch.eye(3)", "[1, 2]", "'text'", "None", "[]"])
def test_a_learner_may_use_ipythons_own_name_for_the_cells(shell, capsys, made):
    shell.run_cell(f"import torch\nIn = {made}", store_history=True)
    shell.run_cell(PAIRS[3].source, store_history=True)
    said = capsys.readouterr()
    assert "name 'math' is not defined" in said.out and "Error in callback" not in said.out + said.err


def kernel_says(notebook, **environment):
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": ROOT / "notebooks"}},
    )
    client.execute(env={**os.environ, **environment})
    (error, said) = notebook.cells[-1].outputs
    assert error.ename == "NameError"
    return said.text


def settings_of_the_makefile():
    return re.search(r"echo '(.*)' > \$\(VENV\)/etc/ipython/ipython_kernel_config.json", makefile())[1]


def makefile():
    return (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("started", [True, False])
def test_a_lessons_cell_says_which_to_run_first_after_start_and_before(monkeypatch, tmp_path, started):
    """Before `start` a kernel has the settings that `make setup` writes."""
    monkeypatch.undo()
    (path,) = [path for path in NOTEBOOKS if "self_attention" in path.name]
    code = [cell for cell in read_cells(path) if cell.cell_type == "code"]
    late = next(cell for cell in code if cell.source.startswith("lm = load_smollm2()"))
    if not started:
        profile = tmp_path / "profile_default"
        profile.mkdir()
        (profile / "ipython_kernel_config.json").write_text(settings_of_the_makefile())
    notebook = nbformat.v4.new_notebook(cells=[*code[: int(started)], nbformat.v4.new_code_cell(late.source)])
    said = kernel_says(notebook, **({} if started else {"IPYTHONDIR": str(tmp_path)}))
    assert "comes from a cell further up, under the heading “03 · Self-attention" in said
