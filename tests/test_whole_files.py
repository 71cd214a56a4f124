"""Files that are written whole or not at all."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from course_lib.evaluate import Report
from course_lib.text import Tokenizer
from course_lib.whole_files import replacing


def write(path, text):
    with replacing(path) as file:
        file.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_old_ones_place_and_permissions(tmp_path):
    path = tmp_path / "a.json"
    write(path, "one")
    path.chmod(0o640)
    write(path, "two")
    assert path.read_text() == "two" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_the_old_file_stands_alone(tmp_path, error):
    path = tmp_path / "a.json"
    write(path, "one")
    with pytest.raises(error), replacing(path) as file:
        file.write_text("tw")
        raise error
    assert path.read_text() == "one" and names(tmp_path) == ["a.json"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.json").read_text() == "one"


def test_threads_that_write_at_once_leave_a_whole_file(tmp_path):
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: write(path, "abcd"[i % 4] * 10_000), range(200)))
    assert len(set(path.read_text())) == 1 and path.stat().st_size == 10_000
    assert names(tmp_path) == ["a.json"]


def test_what_is_read_only_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write(path, "one")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests' user may be allowed everything
    with pytest.raises(PermissionError, match=r"a\.json is read-only"):
        write(path, "two")
    assert path.read_text() == "one"


@pytest.mark.parametrize("save", [Report([], {}, "").save, Tokenizer([b"a"], {}).save])
def test_where_no_file_can_be_the_error_says_why(tmp_path, save):
    with pytest.raises(FileNotFoundError, match="no folder .* make it first"):
        save(tmp_path / "missing" / "a.json")
    with pytest.raises(ValueError, match="is a folder: give the name of a file"):
        save(tmp_path)
    with pytest.raises(ValueError, match="no file can be called"):
        save("a\0b")
    assert names(tmp_path) == []
