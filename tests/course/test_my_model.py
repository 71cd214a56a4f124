"""The learner's own model: its parts come into a file, come back after a restart, never break a lesson."""

import os
import re
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
from course_lib.course.sections import split
from course_lib.course.session import Session
from course_lib.families import load_smollm2
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
    names["In"] = list(sources)
    return list(names.values())[-2]


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
        (("import threading\ntable = threading.Lock()", LOCKED), "it uses table, which another cell made"),
        ((WITHOUT_SOURCE,), "the source of count_pairs can't be found"),
        ((INSIDE, "count_pairs = make()"), "count_pairs uses variables of a function around it"),
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
    assert "neighbours is something else in the section count-pairs: choose another name" in " ".join(
        said.split()
    )
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
    assert "count_pairs is now in my_model.py, and your earlier one in my_model.1.py." in " ".join(
        said.split()
    )
    assert "2 - 2" in (file.parent / "my_model.1.py").read_text() and "2 - 2" not in file.read_text()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("counts = {}", "counts = {", "SyntaxError"),
        ("counts.get(pair, 0) + 1", "counts.get(pair, 0) + 2", "should be"),
        ("def count_pairs", "def count_pears", "it isn't there"),
        ("return counts", "raise OSError('disk')", "your code stopped with OSError: disk"),
        ("return counts", "raise BaseException('odd')", "your code stopped with BaseException: odd"),
        ("return counts", "raise KeyboardInterrupt", "you stopped it while it ran"),
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


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert Session().mine("count-pairs")([1, 2]) == {(1, 2): 1}
    assert capsys.readouterr().out == "count_pairs: yours, from my_model.py.\n"
    assert "now in my_model.py" in session.check("most-common", typed(COUNT, COMMON))
    assert MyModel().kept() == {"count-pairs", "most-common"}


def test_a_folder_in_the_place_of_the_file_is_said(session, file, capsys):
    file.mkdir(parents=True)
    assert MyModel().kept() == set()
    assert Session().mine("count-pairs") is lessons.find_exercise("count-pairs").solution
    assert "my_model.py can't be read" in capsys.readouterr().out
    assert "can't be kept in my_model.py here" in session.check("count-pairs", typed(COUNT))


def test_where_nothing_can_be_written_the_exercise_passes_all_the_same(session, own_record):
    own_record.write_text("a file where the folder should be")
    said = session.check("count-pairs", typed(COUNT))
    assert said.startswith("count-pairs passed") and "can't be kept in my_model.py here" in said


def run_file(file, question, n_tokens=60):
    """What a file of parts prints when it is run with a question, then the modules of the library's model."""
    code = f"""import runpy, sys
import course_lib.course.speak as speak
speak.speak.__defaults__ = (None, {n_tokens})
sys.argv[1:] = [{question!r}]
runpy.run_path("my_model.py", run_name="__main__")
print([name for name in sys.modules if name.startswith("course_lib.model")])"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=file.parent, env=environment, capture_output=True, text=True, check=True
    ).stdout


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
    answer, loaded = run_file(file, "Who was thirsty?").rstrip("\n").rsplit("\n", 1)
    assert loaded == "[]"
    assert answer == "".join(complete(load_smollm2(), "Who was thirsty?", 60, choose=greedy))


def test_what_reads_the_file_for_a_model_of_own_parts_agrees_with_the_library():
    reader = gguf.GGUFReader(find_smollm2())
    config, lm = speak.read_config(reader), load_smollm2()
    assert all(getattr(lm.model.config, name) == value for name, value in vars(config).items())
    ours, theirs = speak.read_weights(reader, config.d_head), lm.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert speak.read_chat(reader).encode("Hi") == lm.chat.encode("Hi")


def test_a_decoder_of_classes_in_many_cells_is_kept_and_speaks(own_record, file):
    source = (SAMPLES / "speaking" / "exercises.py").read_text()
    cells = re.split(r"\n\n\n(?=class|def)", source.partition("SIZES =")[0])
    said = run_notebook([*cells, 'check("decoder", Decoder)'], own_record)[-1]
    assert said.endswith("Decoder is now in my_model.py.\n")
    assert run_file(file, "Hi", n_tokens=3)


GLOBAL = """import math
from collections import OrderedDict as Table
import concurrent.futures
Ids = list[int]
NEG = -math.inf
STEP: int = 1"""
USING = """%%time
import functools
@functools.cache
def nothing(ids: tuple) -> dict:
    return {}

@functools.wraps(nothing)
def count_pairs(ids: Ids, start=Table()) -> Table:
    # the comment stays
    counts = dict(nothing(()))
    for pair in zip(ids, ids[STEP:]):
        counts[pair] = counts.get(pair, 0) + 1
    return counts if len(counts) > NEG and concurrent.futures else None
"""


def test_what_other_cells_bound_comes_along_as_it_was_written(own_record, file):
    said = run_notebook([GLOBAL, USING, 'check("count-pairs", count_pairs)'], own_record)[-1]
    assert said.endswith("count_pairs is now in my_model.py.\n")
    text = file.read_text()
    lines = (
        "NEG = -math.inf",
        "Ids = list[int]",
        "STEP: int = 1",
        "# the comment stays",
        "import concurrent.futures",
    )
    assert all(
        line in text for line in (*lines, "from collections import OrderedDict as Table", "@functools.cache")
    )
    code = "import my_model; print(my_model.count_pairs([1, 2, 1]))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "{(1, 2): 1, (2, 1): 1}\n"


def test_a_part_by_another_name_is_a_use_of_that_part(own_record, file):
    run_notebook([COUNT, 'check("count-pairs", count_pairs)'], own_record)
    cells = ['tally = mine("count-pairs")', COMMON.replace("count_pairs(ids)", "tally(ids)")]
    said = run_notebook([*cells, 'check("most-common", most_common)'], own_record)[-1]
    assert said.endswith("most_common is now in my_model.py.\n")
    text = file.read_text()
    assert "tally = count_pairs" in text and "import" not in text and text.count("def count_pairs") == 1


BEFORE = "    return counts"


@pytest.mark.parametrize(
    ("cell", "before", "after", "message"),
    [
        ("def sum(ids): return {}", BEFORE, "    return counts or sum(ids)", "is now in my_model.py"),
        ("", BEFORE, "    display(1)\n    return counts", "it uses display, which only a notebook has"),
        (
            "import threading; lock = threading.Lock()",
            "{}",
            "{} if lock else 0",
            "it uses lock, which another cell made",
        ),
        (
            "seen = []",
            BEFORE,
            "    seen.append(1)\n    return counts",
            "it uses seen, which another cell made",
        ),
        ("help = lambda n: n", "+ 1", "+ help(1)", "write help with def or class"),
        ("def display(n): return n", "+ 1", "+ display(1)", "is now in my_model.py"),
        ("def make(): return 1\nONE = make()", "+ 1", "+ ONE", "is now in my_model.py"),
        (
            "stack = [1, 2]\nONE = stack.pop() - 1",
            "+ 1",
            "+ ONE * len(stack)",
            "it uses stack, which another",
        ),
    ],
    ids=["own builtin", "display", "a lock", "state", "a lambda", "own display", "a made value", "a queue"],
)
def test_what_a_notebook_alone_can_run(cell, before, after, message, own_record):
    count = COUNT.replace(before, after, 1) if before == "{}" else COUNT.replace(before, after)
    said = run_notebook([cell, count, 'check("count-pairs", count_pairs)'], own_record)[-1]
    assert message in " ".join(said.split())


STAYS = """import numpy
class Box:
    asked = []
    def __getitem__(self, i):
        self.asked.append(i)
        return 1
arr, seen, table, box = numpy.ones(3), [1], {1: 1}, Box()
--
arr *= 2
seen += [2]
table |= {2: 2}
first = last = seen[-1] = 2
if True:
    arr += 1
for step in [1]:
    seen += [3]
--
one = box[0]"""


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ("arr", "it uses arr, which another cell made"),
        ("one", "it uses box, which another cell made"),
        ("seen", "is now in my_model.py"),
        ("table", "is now in my_model.py"),
        ("last", "is now in my_model.py"),
    ],
)
def test_keeping_a_part_leaves_the_learners_data_as_they_are(used, said, own_record, file):
    """A statement that may change an object isn't run again: its value is written, or the part isn't kept."""
    count = COUNT.replace("return counts", f"return counts if {used} is not None else 0")
    cells = [*STAYS.split("--\n"), count, 'check("count-pairs", count_pairs)']
    checked, data = run_notebook([*cells, "print(arr, seen, table, box.asked)"], own_record)[-2:]
    assert said in " ".join(checked.split())
    assert data == "[3. 3. 3.] [1, 2, 3] {1: 1, 2: 2} [0]\n"
    if "now" in said:
        assert Session().mine("count-pairs")([1, 2]) == {(1, 2): 1}


def test_equal_helpers_of_two_parts_are_no_clash(session, file):
    helper = "def step(n):\n    return n + 1\n"
    session.check("count-pairs", typed(helper, COUNT.replace("+ 1\n", "- 1 + step(1)\n")))
    said = session.check(
        "most-common", typed(helper, COUNT, COMMON.replace("return [", "step(1)\n    return ["))
    )
    assert "most_common is now in my_model.py" in said and file.read_text().count("def step") == 2


def test_what_the_learner_added_moved_or_doubled_stays(session, file):
    session.check("decoder", lessons.find_exercise("decoder").solution)
    session.check("count-pairs", typed(COUNT))
    head, *sections = split(file.read_text())
    mine = "# %% helpers (my own)\nLUCKY = 7\n"
    texts = [section.text.strip("\n") for section in sections]
    text = "\n\n".join(
        [head.text + "TWO = 2\n", mine, texts[0], texts[0], *texts[1:], "def tail():\n    return TWO\n"]
    )
    file.write_text(text.replace("speak(Decoder)", "speak(Decoder, n_tokens=5)"))
    session.check("most-common", typed(COUNT, COMMON))
    text = file.read_text()
    assert text.count("def count_pairs") == 2 and "n_tokens=5" in text and text.count("speak import") == 1
    assert "LUCKY" in text and "TWO = 2" in text and "def tail" in text
    assert (
        text.index("LUCKY")
        < text.index("def count_pairs")
        < text.index("def most_common")
        < text.index("class Dec")
    )


def test_what_is_above_all_sections_is_run_first(session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    file.write_text("ONE = 1\n" + file.read_text().replace("0) + 1", "0) + ONE"))
    assert Session().mine("count-pairs")([1, 2]) == {(1, 2): 1}
    assert "yours" in capsys.readouterr().out


def test_what_was_changed_in_the_courses_section_is_kept_aside_too(session, file):
    session.check("most-common", typed(COUNT, COMMON))
    file.write_text(file.read_text().replace("counts = {}", "counts = {}  # my note", 1))
    assert "your earlier one in my_model.1.py" in session.check("count-pairs", typed(COUNT))
    assert "my note" in (file.parent / "my_model.1.py").read_text() and "my note" not in file.read_text()


def test_odd_line_ends_in_a_file_hide_nothing(session, file):
    session.check("count-pairs", typed(COUNT))
    file.write_text(file.read_text().replace("counts = {}", "counts = {}  # \x0c \u2028"))
    session.check("most-common", typed(COUNT, COMMON))
    assert MyModel().kept() == {"count-pairs", "most-common"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ONES = [i for i in range(2)]", "TWOS = [2 * i for i in range(2)]"),
        ("import os", "import os.path"),
        ("import torch.nn.functional as F", "from torch.nn import functional as F"),
    ],
)
def test_what_is_the_same_or_no_name_at_all_is_no_clash(one, other, session, file):
    used = [
        text.partition(" = ")[0] if " = [" in text else text.split()[-1].partition(".")[0]
        for text in (one, other)
    ]
    count = COUNT.replace("    return", f"    assert {used[0]}\n    return")
    session.check("count-pairs", typed(one, count))
    common = COMMON.replace("    return", f"    assert {used[1]}\n    return")
    assert "most_common is now in my_model.py" in session.check("most-common", typed(other, COUNT, common))


def test_names_that_begin_alike_are_two_names(own_record, file):
    cells = [COUNT.replace("count_pairs", "count_pairs_of_mine"), 'check("count-pairs", count_pairs_of_mine)']
    assert run_notebook(cells, own_record)[-1].endswith("count_pairs is now in my_model.py.\n")
    assert file.read_text().rstrip().endswith("count_pairs = count_pairs_of_mine")


def test_an_answer_whose_source_is_no_statement_passes_without_a_traceback(own_record):
    lines = ("lambda ids: {p: list(zip(ids, ids[1:])).count(p)", "             for p in zip(ids, ids[1:])}))")
    cell = 'check("count-pairs", (\n' + "\n".join(lines)
    assert "write count_pairs with def or class" in " ".join(run_notebook([cell], own_record)[-1].split())


def test_a_section_that_was_deleted_stays_deleted(session, file):
    session.check("decoder", lessons.find_exercise("decoder").solution)
    text = file.read_text()
    file.write_text(text[: text.index("# %% speak")])
    session.check("count-pairs", typed(COUNT))
    assert "speak" not in file.read_text().partition("class Decoder")[2]


def test_two_kernels_that_keep_at_once_lose_nothing(session, file, monkeypatch):
    """Between reading and writing, another kernel writes: the answer is then put into what this one wrote."""
    judge, written = MyModel._load, []

    def meanwhile(self, exercise, text):
        if not written:
            written.append(True)
            MyModel().keep(lessons.find_exercise("count-pairs"), typed(COUNT))
        return judge(self, exercise, text)

    monkeypatch.setattr(MyModel, "_load", meanwhile)
    session.check("most-common", typed(COUNT, COMMON))
    assert MyModel().kept() == {"count-pairs", "most-common"}


def test_a_decoder_that_cannot_take_the_weights_is_told_so(capsys):
    with pytest.raises(SystemExit, match="Your Linear can't take the weights of SmolLM2"):
        speak.speak(lambda config: torch.nn.Linear(1, 1), ["Hi"])


def test_a_mark_in_a_docstring_is_text(session, file, capsys):
    doc = COUNT.replace(":\n", ':\n    """\n# %% most-common (mine)\n    """\n', 1)
    assert "now in my_model.py" in session.check("count-pairs", typed(doc))
    assert MyModel().kept() == {"count-pairs"}
    assert "# %% most-common (mine)" in Session().mine("count-pairs").__doc__


NESTED = "x = " + "-" * 100_000 + "1"  # Python's parser gives up, with a RecursionError or a MemoryError


@pytest.mark.parametrize(
    "bad",
    [
        "while True: pass",
        "import sys; sys.exit(2)",
        "def (",
        "raise KeyboardInterrupt",
        "raise BaseException('odd')",
        "raise GeneratorExit",
        NESTED,
    ],
)
def test_a_bad_section_harms_no_other_part(bad, session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    session.check("most-common", typed(COUNT, COMMON))
    file.write_text(file.read_text() + bad + "\n")
    assert Session().mine("count-pairs")([1, 2]) == {(1, 2): 1}
    assert "yours" in capsys.readouterr().out
    if "while" not in bad:
        assert Session().mine("most-common") is lessons.find_exercise("most-common").solution
        assert "doesn't pass its check any more" in " ".join(capsys.readouterr().out.split())
    assert "now in my_model.py" in session.check("count-pairs", typed(COUNT.replace("counts", "found")))
    assert bad in file.read_text()


def test_a_broken_part_is_named_where_another_needs_it(session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    session.check("most-common", typed(COUNT, COMMON))
    file.write_text(
        file.read_text().replace("def count_pairs(ids):", "raise OSError('disk')\ndef count_pairs(ids):")
    )
    Session().mine("most-common")
    said = " ".join(capsys.readouterr().out.split())
    assert "count-pairs, which it needs, doesn't run: OSError: disk line" in said and "of my_model.py" in said


def test_a_link_stays_a_link_and_a_read_only_file_as_it_is(session, file):
    file.parent.mkdir()
    target = file.parent / "elsewhere.py"
    target.write_text("")
    file.symlink_to(target)
    session.check("count-pairs", typed(COUNT))
    assert file.is_symlink() and "def count_pairs" in target.read_text()


def test_a_read_only_file_stays_as_it_is_and_the_mode_of_another_is_kept(session, file, monkeypatch):
    session.check("count-pairs", typed(COUNT))
    file.chmod(0o640)
    session.check("most-common", typed(COUNT, COMMON))
    before = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640 and "most_common" in before
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file.resolve())
    said = session.check("count-pairs", typed(COUNT.replace("counts", "found")))
    assert "is read-only" in " ".join(said.split())
    assert file.read_text() == before


def test_a_part_that_passed_and_was_deleted_is_asked_for_again(session, file, capsys):
    session.check("count-pairs", typed(COUNT))
    file.unlink()
    Session().mine("count_pairs")
    assert "Yours isn't in my_model.py: run its check in the lesson Pairs again." in " ".join(
        capsys.readouterr().out.split()
    )
