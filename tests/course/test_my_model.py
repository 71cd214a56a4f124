"""The learner's own model: its parts come into a file, come back after a restart, never break a lesson."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from notebook_files import remember

from course_lib import find_smollm2
from course_lib.course import lessons, speak
from course_lib.course.my_model import MyModel
from course_lib.course.session import Session
from course_lib.families import load_smollm2
from course_lib.families.family import BLOCK_TENSORS, TENSORS
from course_lib.generate.decode import complete
from course_lib.generate.sampling import greedy

SAMPLES = Path(__file__).parent / "samples"
ROOT = Path(__file__).parents[2]
COUNT = """def count_pairs(ids):
    counts = {}
    for i in range(len(ids) - 1):
        pair = (ids[i], ids[i + 1])
        counts[pair] = counts.get(pair, 0) + 1
    return counts
"""
COMMON = """def most_common(ids):
    counts = count_pairs(ids)
    best = max(counts.values())
    return [pair for pair in counts if counts[pair] == best][0], counts
"""


def typed(*sources):
    """The last thing that is defined by cells with these sources, run one after the other."""
    names = {"__name__": "__main__"}
    for source in sources:
        filename = remember(source, f"/nowhere/ipykernel_2/{abs(hash(source))}.py")
        exec(compile(source, filename, "exec"), names)  # noqa: S102
    return list(names.values())[-1]


@pytest.fixture
def file(own_record):
    return own_record / "my_model.py"


def test_a_passed_part_is_kept_as_it_was_written(session, file):
    assert session.check("count-pairs", typed(COUNT)).endswith("count_pairs is now in my_model.py.\n")
    text = file.read_text()
    assert "# %% count-pairs (mine)\n" + COUNT in text and text.startswith('"""My language model')
    assert session.check("count-pairs", typed(COUNT)).endswith("count_pairs is in my_model.py.\n")
    assert file.read_text() == text
    assert "count_pairs" in session.progress()


def test_what_did_not_pass_and_what_is_no_part_is_not_kept(session, file):
    session.check("count-pairs", typed("def count_pairs(ids):\n    return {}\n"))
    assert "my_model" not in session.check("half", 0.5)
    assert not file.exists()


def test_mine_gives_back_the_learners_part_in_another_session(session, file, capsys):
    assert Session().mine("count-pairs") is lessons.find_exercise("count-pairs").solution
    assert capsys.readouterr().out == "count_pairs: the course's, until yours passes in the lesson Pairs.\n"
    session.check("count-pairs", typed(COUNT.replace("counts", "found")))
    part = Session().mine("count-pairs")
    assert capsys.readouterr().out == "count_pairs: yours, from my_model.py.\n"
    assert "found" in part.__code__.co_varnames and part([1, 1, 1]) == {(1, 1): 2}
    assert part.__code__.co_filename == str(file)
    assert file.read_text().splitlines()[part.__code__.co_firstlineno - 1] == "def count_pairs(ids):"


def test_only_parts_can_be_had():
    with pytest.raises(
        ValueError,
        match="'half' is no part of the model; the parts are 'count-pairs', 'most-common', 'decoder'",
    ):
        Session().mine("half")


def test_the_file_can_be_imported_on_its_own(session, file):
    session.check("most-common", typed("from itertools import pairwise", COUNT, COMMON))
    code = "import my_model, sys; print(my_model.most_common([1, 2, 1, 2])[0], 'course_lib' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "(1, 2) False\n"


def test_a_part_that_needs_another_brings_the_courses_until_the_learner_has_one(session, file, capsys):
    session.check("most-common", typed(COUNT.replace("counts", "found"), COMMON))
    text = file.read_text()
    assert text.index("# %% count-pairs (the course's)") < text.index("# %% most-common (mine)")
    assert "from itertools import pairwise" in text and "found" not in text
    assert MyModel().kept() == {"most-common"}
    assert Session().mine("count-pairs") is lessons.find_exercise("count-pairs").solution
    session.check("count-pairs", typed(COUNT.replace("counts", "found")))
    assert "(the course's)" not in file.read_text() and "found" in file.read_text()
    assert MyModel().kept() == {"count-pairs", "most-common"}


HELPED = """from collections import Counter as Tally
import itertools as it
STEP = 1

def neighbours(ids):
    return zip(ids, it.islice(ids, STEP, None))

def my_count(ids):
    return dict(Tally(neighbours(ids)))
"""


def test_what_a_part_uses_comes_along_and_another_name_is_no_matter(session, file):
    said = session.check("count-pairs", typed(HELPED))
    assert said.endswith("count_pairs is now in my_model.py.\n")
    text = file.read_text()
    for line in (
        "from collections import Counter as Tally",
        "import itertools as it",
        "STEP = 1",
        "def neighbours(ids):",
    ):
        assert line in text
    assert text.rstrip().endswith("count_pairs = my_count")
    assert Session().mine("count-pairs")([1, 2]) == {(1, 2): 1}


LOCKED = COUNT.replace("counts = {}", "counts = {} if table else 0")
WITHOUT_SOURCE = (
    "count_pairs = eval('lambda ids: dict(__import__(\"collections\").Counter(zip(ids, ids[1:])))')"
)
INSIDE = """def make():
    one = 1
    def count_pairs(ids):
        return dict(__import__("collections").Counter(zip(ids, ids[one:])))
    return count_pairs
"""


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("import threading\ntable = threading.Lock()", LOCKED), "it uses table from another cell"),
        ((WITHOUT_SOURCE,), "its source can't be found"),
        ((INSIDE, "count_pairs = make()"), "it uses variables of a function around it"),
    ],
    ids=["a value", "no source", "a closure"],
)
def test_what_cannot_stand_alone_is_said_and_not_kept(cells, message, session, file):
    said = " ".join(session.check("count-pairs", typed(*cells)).split())
    assert "count-pairs passed" in said and message in said
    assert "count_pairs isn't kept in my_model.py: " in said
    assert not file.exists()


def test_two_parts_may_not_define_the_same_helper(session, file):
    session.check("count-pairs", typed(HELPED))
    clash = "def neighbours(x):\n    return x\n\n" + COMMON.replace(
        "count_pairs(ids)", "count_pairs(neighbours(ids))"
    )
    before = file.read_text()
    said = session.check("most-common", typed(COUNT, clash))
    assert "neighbours is defined by your count-pairs too: choose another name" in " ".join(said.split())
    assert file.read_text() == before


def test_an_edit_by_hand_holds_and_a_new_answer_keeps_the_earlier_one(session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    edited = file.read_text().replace("counts.get(pair, 0)", "counts.get(pair, 2 - 2)") + "\n# my note\n"
    file.write_text(edited)
    assert "2 - 2" not in COUNT
    Session().mine("count-pairs")
    assert "yours" in capsys.readouterr().out
    session.check("most-common", typed(COUNT, COMMON))
    assert "2 - 2" in file.read_text() and "# my note" in file.read_text()
    said = session.check("count-pairs", typed(COUNT))
    assert "count_pairs is now in my_model.py, and your earlier one in my_model.previous.py." in " ".join(
        said.split()
    )
    assert "2 - 2" in (file.parent / "my_model.previous.py").read_text() and "2 - 2" not in file.read_text()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("counts = {}", "counts = {", "SyntaxError"),
        ("counts.get(pair, 0) + 1", "counts.get(pair, 0) + 2", "should be"),
        ("def count_pairs", "def count_pears", "it isn't there"),
        ("return counts", "raise OSError('disk')", "your code stopped with OSError: disk"),
    ],
)
def test_a_broken_or_stale_part_falls_back_and_says_why(before, after, reason, session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    session.check("most-common", typed(COUNT, COMMON))
    file.write_text(file.read_text().replace(before, after, 1))
    assert Session().mine("count-pairs") is lessons.find_exercise("count-pairs").solution
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "count_pairs: the course's. Yours, in my_model.py, doesn't pass its check any more: "
    )
    assert reason in said


def test_a_file_that_is_no_text_at_all_is_left_alone(session, file, capsys):
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe\x00")
    assert Session().mine("count-pairs") is lessons.find_exercise("count-pairs").solution
    said = session.check("count-pairs", typed(COUNT))
    assert "count_pairs can't be kept in my_model.py here" in said
    assert file.read_bytes() == b"\xff\xfe\x00"


def test_where_nothing_can_be_written_the_exercise_passes_all_the_same(session, own_record):
    own_record.write_text("a file where the folder should be")
    said = session.check("count-pairs", typed(COUNT))
    assert said.startswith("count-pairs passed") and "can't be kept in my_model.py here" in said


def test_a_class_can_be_a_part(session, file, monkeypatch):
    source = """class count_pairs(dict):
    def __init__(self, ids):
        for pair in zip(ids, ids[1:]):
            self[pair] = self.get(pair, 0) + 1
"""
    names = {"__name__": "made_up_cell"}
    exec(compile(source, remember(source, "/nowhere/cell.py"), "exec"), names)  # noqa: S102
    module = type(sys)("made_up_cell")
    module.__dict__.update(names, __file__="/nowhere/cell.py")
    monkeypatch.setitem(sys.modules, "made_up_cell", module)
    assert "now in my_model.py" in session.check("count-pairs", names["count_pairs"])


def run_notebook(cells, home):
    start = f"""import os, pathlib
os.environ["THIRSTY_TIGER_HOME"] = {str(home)!r}
import course_lib.course.lessons as lessons, course_lib.course.contents as contents
lessons.__path__[:] = [{str(SAMPLES)!r}]
contents.TABLE = pathlib.Path({str(SAMPLES / "contents.toml")!r})
from course_lib.course import check, mine"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (start, *cells)])
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    ).execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells[1:]]


def test_a_part_comes_back_in_another_notebook_after_a_restart(own_record):
    first = run_notebook(
        ["STEP = 1", COUNT.replace("+ 1", "+ STEP"), 'check("count-pairs", count_pairs)'], own_record
    )
    assert first[-1].endswith("count_pairs is now in my_model.py.\n")
    second = run_notebook(['count = mine("count-pairs")', "print(count([1, 2, 1, 2]))"], own_record)
    assert second == ["count_pairs: yours, from my_model.py.\n", "{(1, 2): 2, (2, 1): 1}\n"]


def test_a_model_of_own_parts_speaks_without_the_librarys_model(session, file):
    """It says what the library's decoder says, token for token."""
    assert "Decoder is now in my_model.py" in session.check(
        "decoder", lessons.find_exercise("decoder").solution
    )
    text = file.read_text()
    assert "class Attention(nn.Module):" in text and "def rotate(" in text and "course_lib.model" not in text
    session.check("count-pairs", typed(COUNT))
    assert file.read_text().rstrip().endswith("speak(Decoder)")
    code = """import runpy, sys
sys.argv[1:] = ["Who was thirsty?"]
runpy.run_path("my_model.py", run_name="__main__")
print([name for name in sys.modules if name.startswith("course_lib.model")])"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=file.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer, loaded = ran.stdout.rstrip("\n").rsplit("\n", 1)
    assert loaded == "[]"
    assert answer == "".join(complete(load_smollm2(), "Who was thirsty?", 60, choose=greedy))


def test_what_reads_the_file_for_a_model_of_own_parts_agrees_with_the_library():
    assert {"blk": "blocks"} | BLOCK_TENSORS | {
        k: v for k, v in TENSORS.items() if k != "output"
    } == speak.NAMES
    reader = gguf.GGUFReader(find_smollm2())
    config, lm = speak.read_config(reader), load_smollm2()
    assert all(getattr(lm.model.config, name) == value for name, value in vars(config).items())
    ours, theirs = speak.read_weights(reader, config.d_head), lm.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert speak.read_chat(reader).encode("Hi") == lm.chat.encode("Hi")
