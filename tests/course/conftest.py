"""A made-up lesson in place of the real ones, and a session that returns what it prints."""

import types
from pathlib import Path

import pytest

from course_lib.course import contents, lessons
from course_lib.course.session import Session

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def made_up_lesson(monkeypatch):
    monkeypatch.setattr(lessons, "__path__", [str(SAMPLES)])
    monkeypatch.setattr(contents, "TABLE", SAMPLES / "contents.toml")


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
