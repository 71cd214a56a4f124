"""The table of contents: which lessons there are, in which order, and under which numbers."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("contents.toml")


@dataclass(frozen=True)
class Lesson:
    """A lesson of the course.

    number: its place in the table, two digits. The notebook's name begins with it; `make contents` writes it.
    name: what everything else knows it by, such as "self_attention".
    """

    number: str
    name: str
    title: str
    question: str

    @property
    def file(self) -> str:
        """The name of its notebook."""
        return f"{self.number}_{self.name}.ipynb"


@cache
def read_table(table: Path) -> tuple[Lesson, ...]:
    """Return all lessons of a table, the planned ones (which have no title yet) among them."""
    rows = tomllib.loads(table.read_text(encoding="utf-8"))["lessons"]
    return tuple(
        Lesson(f"{place:02}", row["name"], row.get("title", ""), row.get("question", ""))
        for place, row in enumerate(rows)
    )


def all_lessons() -> tuple[Lesson, ...]:
    """Return the lessons that can be opened, in the order of the course."""
    return tuple(lesson for lesson in read_table(TABLE) if lesson.title)


def lesson_numbers() -> dict[str, str]:
    """Return the number of each lesson that can be opened, {"start_here": "00", …}."""
    return {lesson.name: lesson.number for lesson in all_lessons()}


def find_lesson(name: str) -> Lesson:
    """Return the lesson of this name. Raises ValueError, which lists the names, if there is none."""
    lessons = {lesson.name: lesson for lesson in all_lessons()}
    if name not in lessons:
        raise ValueError(f"there is no lesson {name!r}, only {', '.join(lessons)}")
    return lessons[name]
