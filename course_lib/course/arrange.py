"""Give files, links, heads and tables the numbers and titles of the table of contents.

`make contents` runs this module after `contents.toml` was changed, and then executes the first page, whose
map and progress show the numbers. With `--check` it changes nothing, and exits with 1 if something is out of
date.
"""

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nbformat

from course_lib.course.contents import TABLE, Lesson, read_table
from course_lib.course.home import ROOT, write_file
from course_lib.course.publish import read

NOTEBOOK = re.compile(r"\b\d\d_(\w+)\.ipynb")
HEAD = re.compile(r"\A# \d\d · [^:\n]*:")
ROWS = re.compile(r"(?<=<!-- lessons -->\n\n).*?(?=\n\n<!-- /lessons -->)", re.DOTALL)


class ArrangeError(Exception):
    """Something that must be corrected by hand. The message says what."""


def renamed(folder: Path, lessons: Sequence[Lesson]) -> dict[Path, Path]:
    """Return the notebooks in a folder whose names are out of date, each with its new path.

    Raises ArrangeError for a notebook that isn't in the table, for a lesson that has no notebook, and where
    an earlier renaming was interrupted.
    """
    if left := sorted(path.name for path in folder.glob(".*.moving")):
        raise ArrangeError(
            f"a renaming was interrupted: give {', '.join(left)} their names back, without .moving"
        )
    files = {NOTEBOOK.sub(r"\1", path.name): path for path in sorted(folder.glob("*.ipynb"))}
    ready = {lesson.name: lesson for lesson in lessons if lesson.title}
    if unknown := files.keys() - ready.keys():
        names = ", ".join(sorted(unknown))
        raise ArrangeError(f"{TABLE.name} has no lesson with a title for the notebook of {names}")
    if absent := ready.keys() - files.keys():
        raise ArrangeError(f"there is no notebook of {', '.join(sorted(absent))}, which {TABLE.name} lists")
    new = {path: folder / ready[name].file for name, path in files.items()}
    return {path: to for path, to in new.items() if path != to}


def mend_links(text: str, lessons: Sequence[Lesson]) -> str:
    """Return a page with the names of notebooks as they are now."""
    files = {lesson.name: lesson.file for lesson in lessons}
    return NOTEBOOK.sub(lambda link: files.get(link[1], link[0]), text)


def mend_table(text: str, lessons: Sequence[Lesson], folder: str = "") -> str:
    """Return a page with the table between `<!-- lessons -->` and `<!-- /lessons -->` written anew."""
    rows = [
        f"| {lesson.number} | [{lesson.title}]({folder}{lesson.file}) | {lesson.question} |"
        for lesson in lessons
        if lesson.title
    ]
    table = "\n".join(["| | lesson | the question |", "|---|---|---|", *rows])
    return ROWS.sub(lambda _: table, text)


def mend_notebook(text: str, lesson: Lesson, lessons: Sequence[Lesson]) -> str:
    """Return a lesson with the links and the table in its Markdown, and its head, as they are now."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        cell.source = mend_table(mend_links(cell.source, lessons), lessons)
    first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    if not HEAD.match(first.source):
        raise ArrangeError(f"{lesson.file} should begin with “# {lesson.number} · {lesson.title}: …”")
    first.source = HEAD.sub(f"# {lesson.number} · {lesson.title}:", first.source)
    return nbformat.writes(notebook) + "\n"


def outdated(root: Path, lessons: Sequence[Lesson], moved: Mapping[Path, Path]) -> dict[Path, str]:
    """Return the pages that are out of date, by their new paths, each with its new text.

    moved: the notebooks that are to be renamed, each with its new path.
    """
    old = {to: path for path, to in moved.items()}
    mend: dict[Path, Callable[[str], str]] = {
        root / "notebooks" / lesson.file: lambda text, lesson=lesson: mend_notebook(text, lesson, lessons)
        for lesson in lessons
        if lesson.title
    }
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        mend[page] = lambda text: mend_table(mend_links(text, lessons), lessons, "notebooks/")
    texts = {path: read(old.get(path, path)) for path in mend}
    return {path: new for path, text in texts.items() if (new := mend[path](text)) != text}


def rename(paths: Mapping[Path, Path]) -> None:
    """Rename files, also where one takes another's name."""
    between = {path: path.with_name(f".{to.name}.moving") for path, to in paths.items()}
    for path, on_the_way in between.items():
        os.replace(path, on_the_way)
    for path, on_the_way in between.items():
        os.replace(on_the_way, paths[path])


def plan(root: Path) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Return what `renamed` and `outdated` say of the course in a folder."""
    try:
        lessons = read_table(root / "course_lib" / "course" / TABLE.name)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ArrangeError(f"{TABLE.name} can't be read: {error}") from error
    moved = renamed(root / "notebooks", lessons)
    return moved, outdated(root, lessons, moved)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the course's folder")
    options = parser.parse_args(arguments)
    try:
        moved, stale = plan(options.root)
    except ArrangeError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join([*(path.name for path in moved), *(path.name for path in stale)])
    if options.check and names:
        print(f"Out of date: {names}. Run `make contents`.", file=sys.stderr)
        return 1
    rename(moved)
    for path, text in stale.items():
        write_file(path, text)
    for path, to in moved.items():
        print(f"{path.name} is now {to.name}")
    written = ", ".join(path.name for path in stale)
    print(f"Written: {written}" if stale else "All links, heads and tables are up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
