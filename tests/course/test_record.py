"""The learner's progress: how it adds up, and that none of it is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.course import home, lessons
from course_lib.course.contents import all_lessons
from course_lib.course.lessons import exercises_of, questions_of
from course_lib.course.record import OLD_IDS, Record
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


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"exercises": "count-pairs"}', b'{"quiz": [1]}', b"\xff\xfe", b"null", b""]
)
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


def test_no_mark_is_lost_where_many_kernels_write_at_once(own_record):
    code = "import sys; from course_lib.course.record import Record; record = Record()\n"
    code += "for i in range(25): record.add('exercises', f'{sys.argv[1]}-{i}')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernels = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in "abcd"]
    assert [kernel.wait() for kernel in kernels] == [0] * 4
    assert len(Record().done()["exercises"]) == 100
