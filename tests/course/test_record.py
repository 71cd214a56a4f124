"""The learner's progress: how it adds up, and that none of it is lost."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import portalocker
import pytest

from course_lib.course import home, lessons, record
from course_lib.course.contents import all_lessons
from course_lib.course.lessons import exercises_of, questions_of
from course_lib.course.record import KINDS, OLD_IDS, Record
from course_lib.course.session import Session

ROOT = Path(__file__).parents[2]


def test_progress_adds_up_over_sessions(session, own_record):
    assert session.progress() == (
        "Lesson       Exercises      Quiz   Parts of your model\n"
        "01   Pairs      0 of 4    0 of 1\n"
        "02   Speaking   0 of 1    0 of 1\n"
    )
    session.check("half", 0.5)
    Session().quiz("zip", "a")
    assert "01   Pairs      1 of 4    1 of 1" in session.progress()
    assert [path.name for path in own_record.glob("[!.]*")] == ["progress.json"]


def test_what_another_version_wrote_is_kept(own_record):
    own_record.mkdir()
    (own_record / "progress.json").write_text('{"exercises": ["77-1"], "badges": 3}')
    Record().add("quiz", "zip")
    saved = json.loads((own_record / "progress.json").read_text())
    assert saved == {"exercises": ["77-1"], "badges": 3, "quiz": ["zip"]}


DAMAGED = {
    "unfinished": b"{",
    "a list": b"[]",
    "a text for a list": b'{"exercises": "count-pairs"}',
    "a number for an id": b'{"quiz": [1]}',
    "not UTF-8": b"\xff\xfe",
    "null": b"null",
    "empty": b"",
    "nested too deeply": b"[" * 100_000,
    "nested in a dict": b'{"exercises": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested too deeply to be written": b'{"badges": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a number of 5,000 digits": b'{"badges": ' + b"9" * 5_000 + b"}",
    "huge": b" " * 10_000_001,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_an_unreadable_record_is_set_aside(content, own_record, capsys):
    own_record.mkdir()
    (own_record / "progress.json").write_bytes(content)
    record = Record()
    record.add("exercises", "count-pairs")
    record.add("exercises", "half")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "could not be read. It is kept as" in said
    assert (own_record / "progress.1.json").read_bytes() == content
    assert Record().done()["exercises"] == ["count-pairs", "half"]


def test_a_record_that_an_editor_gave_a_byte_order_mark_is_read(own_record):
    own_record.mkdir()
    marked = b"\xef\xbb\xbf" + b'{"exercises": ["half"],\r\n "quiz": ["zip"]}'
    (own_record / "progress.json").write_bytes(marked)
    assert Record().done() == {"exercises": ["half"], "quiz": ["zip"]}
    Record().add("exercises", "vowel")
    assert Record().done() == {"exercises": ["half", "vowel"], "quiz": ["zip"]}
    assert not (own_record / "progress.1.json").exists()


@pytest.mark.parametrize("name", ["progress.json", ".thirsty-tiger.lock"])
def test_a_folder_in_the_place_of_a_file_is_said_and_the_record_lasts(own_record, capsys, name):
    (own_record / name).mkdir(parents=True)
    record = Record()
    record.add("exercises", "half")
    said = capsys.readouterr().out
    assert "can't be saved here and lasts until the kernel stops" in said and name in said
    assert record.done()["exercises"] == ["half"]


def test_a_dangling_link_is_written_through(own_record, tmp_path):
    own_record.mkdir()
    (own_record / "progress.json").symlink_to(tmp_path / "elsewhere.json")
    Record().add("exercises", "half")
    assert Record().done()["exercises"] == ["half"] and (own_record / "progress.json").is_symlink()
    assert json.loads((tmp_path / "elsewhere.json").read_text())["exercises"] == ["half"]


def test_a_disk_without_locks_is_written_on_without_one(own_record, monkeypatch, capsys):
    def refuse(self):
        raise portalocker.LockException("Operation not supported")

    monkeypatch.setattr(portalocker.Lock, "acquire", refuse)
    Record().add("exercises", "half")
    assert Record().done()["exercises"] == ["half"] and capsys.readouterr().out == ""


def test_files_that_another_kernel_holds_are_waited_for_and_then_said(own_record, monkeypatch, capsys):
    own_record.mkdir()
    mine, inner = Record(), portalocker.Lock

    def impatient(file, timeout, check_interval):
        return inner(file, timeout=0.1, check_interval=check_interval)

    monkeypatch.setattr(portalocker, "Lock", impatient)
    with inner(own_record / ".thirsty-tiger.lock"):
        mine.add("exercises", "half")
    assert "another program is writing in" in capsys.readouterr().out
    mine.add("exercises", "vowel")
    assert Record().done()["exercises"] == ["half", "vowel"]


def test_where_nothing_can_be_written_the_record_lasts_as_long_as_the_kernel(own_record, capsys):
    own_record.write_text("a file where the folder should be")
    record = Record()
    record.add("exercises", "count-pairs")
    record.add("exercises", "half")
    assert record.done() == {"exercises": ["count-pairs", "half"], "quiz": []}
    assert capsys.readouterr().out.count("can't be saved") == 1
    own_record.unlink()
    record.add("quiz", "zip")
    assert Record().done() == {"exercises": ["count-pairs", "half"], "quiz": ["zip"]}


def test_a_full_disk_leaves_the_old_record_whole(own_record, monkeypatch, capsys):
    Record().add("exercises", "count-pairs")
    before = (own_record / "progress.json").read_text()

    def full(self, text, **kwargs):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    Record().add("exercises", "half")
    assert "No space left on device" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in own_record.glob("[!.]*")} == {"progress.json": before}
    assert not list(own_record.glob(".progress*"))


def test_reset_keeps_the_old_records(session, own_record):
    assert session.progress(reset=True).startswith("Your progress starts afresh.\n")
    for exercise in ("count-pairs", "half"):
        session.check(exercise, lessons.find_exercise(exercise).solution)
        assert "is kept as" in session.progress(reset=True)
    assert sorted(path.name for path in own_record.glob("progress*")) == [
        "progress.1.json",
        "progress.2.json",
    ]
    assert "half" in (own_record / "progress.2.json").read_text()


@pytest.mark.parametrize("lesson", ["Pairs", "", 1, None])
def test_only_true_resets_the_record(session, own_record, lesson):
    """`progress("Pairs")` began a new record."""
    session.check("half", 0.5)
    with pytest.raises(TypeError, match=r"only progress\(reset=True\) resets it"):
        Session().progress(lesson)
    assert Record().done()["exercises"] == ["half"]
    assert [path.name for path in own_record.glob("progress*")] == ["progress.json"]


# What earlier versions of the course wrote


def test_progress_under_the_old_ids_counts_as_todays(own_record):
    own_record.mkdir()
    old = {"exercises": ["03-3", "01-1", "77-1", "half"], "quiz": ["19-q2"], "badges": 3}
    (own_record / "progress.json").write_text(json.dumps(old))
    assert Record().done() == {
        "exercises": ["77-1", "causal-attention", "half", "merge"],
        "quiz": ["order-of-knobs"],
    }
    Record().add("exercises", "vowel")
    saved = json.loads((own_record / "progress.json").read_text())
    assert (
        saved["exercises"] == ["77-1", "causal-attention", "half", "merge", "vowel"] and saved["badges"] == 3
    )


def test_every_old_id_names_an_exercise_or_a_question_of_today(monkeypatch):
    monkeypatch.undo()
    today = {item.id for lesson in all_lessons() for item in (*exercises_of(lesson), *questions_of(lesson))}
    old = json.loads(OLD_IDS.read_text())
    assert len(old) == len(set(old.values())) == 50 + 39 and set(old.values()) <= today


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Today's home, the course's folder, and the home of earlier versions, which has a record."""
    monkeypatch.delenv("THIRSTY_TIGER_HOME")
    monkeypatch.setattr(home, "ROOT", tmp_path / "course")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "user"))
    earlier = tmp_path / "user" / ".thirsty-tiger"
    earlier.mkdir(parents=True)
    (tmp_path / "course").mkdir()
    (earlier / "progress.json").write_text('{"exercises": ["01-1"], "quiz": []}')
    return tmp_path / "course", earlier


def test_progress_in_the_earlier_home_is_taken_over_and_left_there(homes):
    today, earlier = homes
    assert Record().done()["exercises"] == ["merge"]
    Record().add("exercises", "encode")
    assert json.loads((today / "progress.json").read_text())["exercises"] == ["encode", "merge"]
    assert json.loads((earlier / "progress.json").read_text())["exercises"] == ["01-1"]


def test_what_was_taken_over_and_reset_does_not_come_back(homes, capsys):
    today, earlier = homes
    Record().reset()
    assert "is kept as" in capsys.readouterr().out
    assert Record().done() == {"exercises": [], "quiz": []}
    assert json.loads((today / "progress.1.json").read_text())["exercises"] == ["merge"]
    assert (earlier / "progress.json").exists()


def test_a_named_home_takes_nothing_over(homes, monkeypatch, tmp_path):
    monkeypatch.setenv("THIRSTY_TIGER_HOME", str(tmp_path / "named"))
    assert Record().done() == {"exercises": [], "quiz": []}


# Several writers


def test_no_mark_is_lost_where_many_kernels_write_at_once(own_record):
    code = "import sys; from course_lib.course.record import Record; record = Record()\n"
    code += "for i in range(75): record.add('exercises', f'{sys.argv[1]}-{i}')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernels = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in "abcd"]
    assert [kernel.wait() for kernel in kernels] == [0] * 4
    assert len(Record().done()["exercises"]) == 300


def test_no_mark_is_lost_where_many_threads_add_to_one_record(own_record):
    record = Record()

    def add(name):
        for i in range(50):
            record.add(KINDS[i % 2], f"{name}-{i}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, "abcd"))
    assert [len(ids) for ids in Record().done().values()] == [100, 100]


def test_a_mark_that_a_thread_adds_while_another_one_saves_stays(own_record, monkeypatch):
    """The second mark comes when the first has been written, and before that is noted."""
    mine, write = Record(), record.write_file

    def write_and_add(file, text):
        write(file, text)
        mine._unsaved["exercises"].add("late")

    monkeypatch.setattr(record, "write_file", write_and_add)
    mine.add("exercises", "half")
    monkeypatch.setattr(record, "write_file", write)
    mine.add("exercises", "vowel")
    assert Record().done()["exercises"] == ["half", "late", "vowel"]


def test_a_record_that_another_kernel_has_mended_meanwhile_is_not_set_aside(own_record, monkeypatch, capsys):
    own_record.mkdir()
    (own_record / "progress.json").write_text("{")

    @contextmanager
    def late_lock():
        (own_record / "progress.json").write_text('{"exercises": ["half"]}')
        with home.locked():
            yield

    monkeypatch.setattr(record, "locked", late_lock)
    assert Record().done()["exercises"] == ["half"]
    assert capsys.readouterr().out == "" and not (own_record / "progress.1.json").exists()


def test_many_kernels_set_a_damaged_record_aside_once_and_lose_no_mark(own_record):
    own_record.mkdir()
    (own_record / "progress.json").write_text("{")
    code = "import sys; from course_lib.course.record import Record\n"
    code += "for i in range(20): Record().add('exercises', f'{sys.argv[1]}-{i}')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernels = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in "abcd"]
    assert [kernel.wait() for kernel in kernels] == [0] * 4
    assert len(Record().done()["exercises"]) == 80
    assert sorted(path.name for path in own_record.glob("progress*")) == ["progress.1.json", "progress.json"]
    assert (own_record / "progress.1.json").read_text() == "{"


def test_a_mark_that_comes_while_the_record_is_reset_is_in_the_old_one_or_in_the_new(own_record):
    code = "from course_lib.course.record import Record; record = Record()\n"
    code += "for i in range(50): record.add('exercises', f'mark-{i}')"
    Record().add("exercises", "half")
    kernel = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while kernel.poll() is None:
        Record().reset()
    kept = [json.loads(path.read_text()) for path in own_record.glob("progress*")]
    assert {id for saved in kept for id in saved["exercises"]} == {"half", *(f"mark-{i}" for i in range(50))}
