"""The learner's own model: the parts that they wrote, kept as text in my_model.py.

The file is Python that can be read, edited, imported and run. A line `# %% merge (mine)` begins each
part's section; a part that another one needs and that the learner hasn't written yet stands there as
`# %% merge (the course's)`. The text is run in the learner's own kernel and nowhere else.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_lib.course.checking import NotStarted
from course_lib.course.contents import all_lessons
from course_lib.course.exercise import Exercise
from course_lib.course.home import FILE_ERRORS, home, locked, write_file
from course_lib.course.judging import find_mistake
from course_lib.course.lessons import exercises_of
from course_lib.course.reading import describe
from course_lib.course.sources import NotAlone, collect, names_defined, run_section

NAME, PREVIOUS = "my_model.py", "my_model.previous.py"
MINE, COURSES = "mine", "the course's"
MARK = re.compile(rf"^# %% (\S+) \(({MINE}|{COURSES})\)\n", re.MULTILINE)
HEAD = '''"""My language model: its parts, as I wrote them in the course Thirsty Tiger.

A part comes here when it passes its check. The file is yours: change it as you like. In a notebook,
mine("merge") gives back the part merge as it stands here.
"""
'''
SPEAK = "speak"  # the last section, once there is a decoder
SPEAK_TEXT = """if __name__ == "__main__":  # python my_model.py "Who was thirsty?"
    from course_lib.course.speak import speak

    speak(Decoder)
"""


class MyModel:
    """The sections of my_model.py in the learner's home."""

    def kept(self) -> set[str]:
        """Return the ids of the parts that are the learner's own."""
        return {id for id, (owner, _) in self._sections().items() if owner == MINE}

    def keep(self, exercise: Exercise, answer: Callable) -> str:
        """Write a passed answer into the file. Return a sentence that says so, or why it can't be kept."""
        name = exercise.solution.__name__
        try:
            with locked():
                return self._keep(exercise, answer)
        except NotAlone as error:
            return f"{name} isn't kept in {NAME}: {error}"
        except (*FILE_ERRORS, UnicodeDecodeError) as error:
            return f"{name} can't be kept in {NAME} here: {error}"

    def find(self, exercise: Exercise) -> tuple[Callable | None, str]:
        """Return the learner's own part, or None and, if there is one that doesn't work, why it doesn't."""
        sections = self._sections()
        if sections.get(exercise.id, ("", ""))[0] != MINE:
            return None, ""
        part, why_not = self._load(exercise, sections, _lines(self._text()))
        return part, f"Yours, in {NAME}, doesn't pass its check any more: {why_not}." if why_not else ""

    def _keep(self, exercise: Exercise, answer: Callable) -> str:
        before = self._text()
        head, sections = _split(before)
        name = exercise.solution.__name__
        parts = _parts()
        text, needed = collect(answer, name, {part.solution.__name__ for part in parts.values()})
        wanted = dict(sections)
        wanted[exercise.id] = (MINE, text)
        self._add_needed(wanted, needed, parts)
        _refuse_clashes(wanted, exercise.id)
        _, why_not = self._load(exercise, wanted, {})
        if why_not:
            raise NotAlone(f"apart from the notebook it doesn't pass: {why_not}")
        if wanted == sections:
            return f"{name} is in {NAME}."
        if before:
            write_file(self._file().with_name(PREVIOUS), before)
        write_file(self._file(), _joined(head, wanted, parts))
        replaces = sections.get(exercise.id, (COURSES,))[0] == MINE
        return f"{name} is now in {NAME}" + f", and your earlier one in {PREVIOUS}" * replaces + "."

    def _add_needed(self, sections: dict, names: set[str], parts: dict[str, Exercise]) -> None:
        """Add the course's solution of each part that is needed and not there, and of those that it needs."""
        for part in parts.values():
            if part.solution.__name__ in names and part.id not in sections:
                own = {other.solution.__name__ for other in parts.values()}
                text, further = collect(part.solution, part.solution.__name__, own)
                sections[part.id] = (COURSES, text)
                self._add_needed(sections, further, parts)

    def _load(
        self, exercise: Exercise, sections: dict[str, tuple[str, str]], lines: dict[str, int]
    ) -> tuple[Callable | None, str]:
        """Run the sections, in their order, and judge a part. Return it, or None and what is wrong.

        lines: where each section's text begins in the file.
        """
        names: dict[str, Any] = {"__name__": "my_model"}
        for id in sorted(sections, key=_order(_parts())):
            try:
                run_section(sections[id][1], names, self._file(), lines.get(id, 0))
            except Exception as error:  # noqa: BLE001  a learner's code may raise anything
                if id == exercise.id:
                    return None, describe(error)
        part = names.get(exercise.solution.__name__)
        try:
            mistake = find_mistake(exercise, part)
        except NotStarted:
            mistake = "it isn't there"
        return (None, mistake.rstrip(".")) if mistake else (part, "")

    def _sections(self) -> dict[str, tuple[str, str]]:
        """Return {id: (owner, text)}, and nothing if the file can't be read."""
        try:
            return _split(self._text())[1]
        except (*FILE_ERRORS, UnicodeDecodeError):
            return {}

    def _text(self) -> str:
        """Return the file's text, "" if there is none."""
        try:
            return self._file().read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return ""

    def _file(self) -> Path:
        return home() / NAME


def _split(text: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return a file's text above the first section, and {id: (owner, text)}."""
    head, *rest = MARK.split(text or HEAD)
    ids, owners, texts = rest[::3], rest[1::3], rest[2::3]
    found = {id: (owner, text.strip("\n") + "\n") for id, owner, text in zip(ids, owners, texts, strict=True)}
    found.pop(SPEAK, None)
    return head, found


def _lines(text: str) -> dict[str, int]:
    """Return the line on which each section's text begins, counted from 0."""
    return {mark[1]: text.count("\n", 0, mark.end()) for mark in MARK.finditer(text)}


def _parts() -> dict[str, Exercise]:
    """Return all exercises that are parts of the model, in the order of the course."""
    return {part.id: part for lesson in all_lessons() for part in exercises_of(lesson) if part.part}


def _order(parts: dict[str, Exercise]) -> Callable[[str], int]:
    """Return a key that sorts ids in the order of the course, with what the learner added at the end."""
    places = list(parts)
    return lambda id: places.index(id) if id in places else len(places)


def _refuse_clashes(sections: dict[str, tuple[str, str]], id: str) -> None:
    own = names_defined(sections[id][1])
    for other, (_, text) in sections.items():
        if other != id and (both := own & names_defined(text)):
            raise NotAlone(f"{', '.join(sorted(both))} is defined by your {other} too: choose another name")


def _joined(head: str, sections: dict[str, tuple[str, str]], parts: dict[str, Exercise]) -> str:
    if "decoder" in sections:
        sections = {**sections, SPEAK: (COURSES, SPEAK_TEXT)}
    texts = [
        f"# %% {id} ({sections[id][0]})\n{sections[id][1]}" for id in sorted(sections, key=_order(parts))
    ]
    return "\n\n".join([head.rstrip("\n") + "\n", *texts])
