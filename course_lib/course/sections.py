"""The sections of my_model.py: a line `# %% merge (mine)` begins each of them.

What a learner moved, added or changed by hand stays as it is: sections keep their order and their text, and
so do those that belong to no exercise.
"""

import io
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from course_lib.course.bindings import bindings, free_names

MINE, COURSES = "mine", "the course's"
MARK = re.compile(r"#\s*%%\s*([\w-]+)\s*\(([^)]*)\)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Section:
    """A part of the file.

    id: of the exercise, or another name that the learner gave; "" for the text above the first mark.
    owner: MINE or COURSES. line: the number of its first line, counted from 0; the mark stands there.
    """

    id: str
    owner: str
    text: str
    line: int = 0

    @property
    def body(self) -> str:
        """Its text without the mark."""
        return self.text.partition("\n")[2] if self.id else self.text


def make_section(id: str, owner: str, body: str) -> Section:
    return Section(id, owner, f"# %% {id} ({owner})\n{body}")


def split(text: str) -> list[Section]:
    """Return the sections of a file in their order. The first is what stands above all marks."""
    lines = lines_of(text)
    marks = _marks(text, lines)
    starts = [0, *(number for number, _ in marks), len(lines)]
    sections = [Section("", MINE, "".join(lines[: starts[1]]))]
    for (number, match), end in zip(marks, starts[2:], strict=True):
        owner = COURSES if "course" in match[2].lower() else MINE
        sections.append(Section(match[1].lower(), owner, "".join(lines[number:end]), number))
    return sections


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as Python counts them: form feeds and the like end none."""
    return list(io.StringIO(text))


def join(sections: Sequence[Section]) -> str:
    return "\n\n\n".join(section.text.strip("\n") for section in sections if section.text.strip()) + "\n"


def with_section(sections: Sequence[Section], new: Section, order: Sequence[str]) -> list[Section]:
    """Return the sections with a new one, in the place of the last that has its id or in the course's order.

    order: the ids in the order of the course.
    """
    places = [i for i, section in enumerate(sections) if section.id == new.id]
    if places:
        return [new if i == places[-1] else section for i, section in enumerate(sections)]
    later = set(order[order.index(new.id) + 1 :]) if new.id in order else set()
    at = next((i for i, section in enumerate(sections) if section.id in later), len(sections))
    return [*sections[:at], new, *sections[at:]]


def find_section(sections: Sequence[Section], id: str) -> Section | None:
    """Return the last section with this id, which is the one that counts."""
    return next((section for section in reversed(sections) if section.id == id), None)


def needed_by(section: Section, sections: Sequence[Section]) -> list[Section]:
    """Return a section and all that bind a name which it, or one of these, uses, in the order of the file.

    The text above all marks is always among them.
    """
    needed, new = [sections[0]], [section]
    while new:
        needed += new
        used = set().union(*(free_names(one.body) for one in new))
        new = [one for one in sections if one not in needed and used & set(bindings(one.body))]
    return [one for one in sections if one in needed]


def clash(section: Section, sections: Sequence[Section]) -> tuple[str, str]:
    """Return a name that another section binds to something else, and that section's id; or empty texts."""
    own = bindings(section.body)
    for other in sections:
        theirs = bindings(other.body) if other.id not in ("", section.id) else {}
        for name in sorted(own.keys() & theirs.keys()):
            if own[name] != theirs[name]:
                return name, other.id
    return "", ""


def _marks(text: str, lines: Sequence[str]) -> list[tuple[int, re.Match]]:
    """Return the lines that are marks, counted from 0. In a file that is Python, none is part of a string."""
    found = [(i, match) for i, line in enumerate(lines) if (match := MARK.fullmatch(line))]
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return found
    comments = {token.start[0] - 1 for token in tokens if token.type == tokenize.COMMENT}
    return [(i, match) for i, match in found if i in comments]
