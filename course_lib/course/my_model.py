"""The learner's own model: the parts that they wrote, kept as text in my_model.py.

The file is Python that can be read, changed, imported and run. A part that another one needs, and that the
learner hasn't written yet, stands there as the course's. The text is run in the learner's own kernel and
nowhere else.
"""

import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from course_lib.course.checking import NotStarted
from course_lib.course.exercise import Exercise
from course_lib.course.home import FILE_ERRORS, home, locked, next_free, write_file
from course_lib.course.judging import find_mistake
from course_lib.course.lessons import parts
from course_lib.course.reading import describe
from course_lib.course.sections import (
    COURSES,
    MINE,
    Section,
    clash,
    find_section,
    join,
    lines_of,
    make_section,
    needed_by,
    split,
    with_section,
)
from course_lib.course.sources import NotAlone, collect

NAME = "my_model.py"
FILE_TROUBLE = (*FILE_ERRORS, UnicodeDecodeError)
HEAD = '''"""My language model: the parts that I wrote in the course Thirsty Tiger.

A part comes here when it passes its check, below a line that says "mine". Where one of mine needs a part that
I haven't written yet, "the course's" stands in. I may change the file as I like: in a notebook, mine("merge")
gives back the part merge as it stands here. Passing an exercise again replaces its part; the file as it was
before is then kept as my_model.1.py, my_model.2.py and so on.
"""
'''
SPEAK = make_section(
    "speak",
    COURSES,
    """if __name__ == "__main__":  # python my_model.py "Who was thirsty?"
    from course_lib.course.speak import speak

    speak(Decoder)
""",
)


class MyModel:
    """The parts in my_model.py in the learner's home."""

    def kept(self) -> set[str]:
        """Return the ids of the parts that are the learner's own; none if the file can't be read."""
        try:
            return {section.id for section in split(self._text())[1:] if section.owner == MINE}
        except FILE_TROUBLE:
            return set()

    def keep(self, exercise: Exercise, answer: Callable) -> str:
        """Write a passed answer into the file. Return a sentence that says so, or why it can't be kept."""
        name = exercise.solution.__name__
        try:
            while True:  # until no other kernel has written between reading and writing
                before = self._text()
                text, said = self._text_with(exercise, answer, before)
                with locked():
                    if self._text() == before:
                        return f"{name} {said}{self._write(exercise, before, text)}."
        except NotAlone as error:
            return f"{name} isn't kept in {NAME}: {error}"
        except FILE_TROUBLE as error:
            return f"{name} can't be kept in {NAME} here: {error}"

    def find(self, exercise: Exercise) -> tuple[Callable | None, str]:
        """Return the learner's own part, or None and, if there is one that can't be used, why it can't."""
        try:
            text = self._text()
        except FILE_TROUBLE as error:
            return None, f"{NAME} can't be read: {error}"
        section = find_section(split(text), exercise.id)
        if section is None or section.owner != MINE:
            return None, ""
        part, why_not = self._load(exercise, text)
        return part, f"Yours, in {NAME}, doesn't pass its check any more: {why_not}." if why_not else ""

    def _text_with(self, exercise: Exercise, answer: Callable, text: str) -> tuple[str, str]:
        """Return the file's text with an answer, and what to say of it.

        Raises NotAlone if the answer wouldn't work there.
        """
        sections = split(text or HEAD)
        body, needed = collect(answer, exercise.solution.__name__, _solutions())
        sections = with_section(sections, make_section(exercise.id, MINE, body), _order())
        lent = self._add_needed(sections, needed)
        name, other = clash(find_section(sections, exercise.id), sections)
        if name:
            raise NotAlone(f"{name} is something else in the section {other}: choose another name")
        if exercise.id == "decoder" and not find_section(sections, SPEAK.id):
            sections.append(SPEAK)
        new = join(sections)
        _, why_not = self._load(exercise, new)
        if why_not:
            hint = f" (it uses {', '.join(sorted(needed))} as in {NAME})" if needed else ""
            raise NotAlone(f"outside the notebook it doesn't pass{hint}: {why_not}")
        lending = f", with the course's {' and '.join(lent)} until yours is there" if lent else ""
        return new, ("is in" if new == text else "is now in") + f" {NAME}{lending}"

    def _add_needed(self, sections: list[Section], names: set[str]) -> list[str]:
        """Add the course's solution of each part that is needed and isn't there. Return their names."""
        lent = []
        for part in parts().values():
            if part.solution.__name__ in names and not find_section(sections, part.id):
                section, further = _lent(part)
                sections[:] = with_section(sections, section, _order())
                lent += [part.solution.__name__, *self._add_needed(sections, further)]
        return lent

    def _write(self, exercise: Exercise, before: str, text: str) -> str:
        """Write the file. Return words that name the copy of the earlier one, if something of it goes."""
        old, words = find_section(split(before), exercise.id), ""
        if text == before:
            return words
        untouched = _lent(exercise)[0].text.strip()
        if old and old.text.strip() != untouched and old.text.strip() not in text:
            copy = next_free(self._file())
            write_file(copy, before)
            words = f", and your earlier one in {copy.name}"
        write_file(self._file(), text)
        return words

    def _load(self, exercise: Exercise, text: str) -> tuple[Callable | None, str]:
        """Run a part and those that it needs as they stand in a text, and judge it.

        Return it, or None and what is wrong.
        """
        sections, module, file = split(text), ModuleType("my_model"), str(self._file())
        module.__file__ = file
        linecache.cache[file] = (len(text), None, lines_of(text), file)
        earlier, sys.modules["my_model"] = sys.modules.get("my_model"), module
        try:
            for section in needed_by(find_section(sections, exercise.id), sections):
                if why_not := _run(section, module, file):
                    own = section.id in ("", exercise.id)
                    return None, why_not if own else f"{section.id}, which it needs, doesn't run: {why_not}"
            part = getattr(module, exercise.solution.__name__, None)
            mistake = find_mistake(exercise, part)
        except NotStarted:
            mistake = "it isn't there"
        finally:
            sys.modules.pop("my_model")
            if earlier:
                sys.modules["my_model"] = earlier
        return (None, mistake.rstrip(".")) if mistake else (part, "")

    def _text(self) -> str:
        """Return the file's text, "" if there is none."""
        try:
            return self._file().read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return ""

    def _file(self) -> Path:
        return home() / NAME


def _run(section: Section, module: ModuleType, file: str) -> str:
    """Run a section where it stands in the file, so that errors name its lines. Return what failed."""
    try:
        code = compile("\n" * section.line + section.text, file, "exec")
        exec(code, module.__dict__)  # noqa: S102  the learner's own, in their kernel
    except KeyboardInterrupt:
        return "you stopped it while it ran"
    except BaseException as error:  # noqa: BLE001  a learner's code may raise anything
        return describe(error)
    return ""


def _lent(part: Exercise) -> tuple[Section, set[str]]:
    """Return the section that stands in for a part, and the names of the parts that this one uses."""
    body, needed = collect(part.solution, part.solution.__name__, _solutions())
    return make_section(part.id, COURSES, body), needed


def _solutions() -> dict[int, str]:
    return {id(part.solution): part.solution.__name__ for part in parts().values()}


def _order() -> list[str]:
    return [*parts(), SPEAK.id]
