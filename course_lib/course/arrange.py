"""Give files, links, heads and tables the numbers and titles of the table of contents.

`make contents` runs this module after `contents.toml` was changed, and then executes the first page, whose
map and progress show the numbers. With `--check` it changes nothing, and exits with 1 if something is out of
date.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat

from course_lib.course.contents import TABLE, Lesson, read_table
from course_lib.course.publish import read, write

ROOT = Path(__file__).parents[2]
NOTEBOOK = re.compile(r"\b\d\d_(\w+)\.ipynb")
HEAD = re.compile(r"\A# \d\d · [^:\n]*:")
ROWS = re.compile(r"(?<=<!-- lessons -->\n\n).*?(?=\n\n<!-- /lessons -->)", re.DOTALL)


class ArrangeError(Exception):
    """Something that must be corrected by hand. The message says what."""


def renamed(folder: Path, lessons: Sequence[Lesson]) -> dict[Path, Path]:
    """Return the notebooks in a folder whose names are out of date, each with its new path.

    Raises ArrangeError for a notebook that isn't in the table, and for a lesson that has no notebook.
    """
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


def outdated(root: Path, lessons: Sequence[Lesson]) -> dict[Path, str]:
    """Return the pages that are out of date, each with its new text. Notebooks have their new names."""
    mend: dict[Path, Callable[[str], str]] = {
        root / "notebooks" / lesson.file: lambda text, lesson=lesson: mend_notebook(text, lesson, lessons)
        for lesson in lessons
        if lesson.title
    }
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        mend[page] = lambda text: mend_table(mend_links(text, lessons), lessons, "notebooks/")
    new = {path: change(read(path)) for path, change in mend.items()}
    return {path: text for path, text in new.items() if text != read(path)}


def rename(paths: dict[Path, Path]) -> None:
    """Rename files, also where one takes another's name."""
    between = {path: path.with_name(f".{to.name}.moving") for path, to in paths.items()}
    for path, on_the_way in between.items():
        os.replace(path, on_the_way)
    for path, on_the_way in between.items():
        os.replace(on_the_way, paths[path])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the course's folder")
    options = parser.parse_args(arguments)
    try:
        lessons = read_table(options.root / "course_lib" / "course" / TABLE.name)
        moved = renamed(options.root / "notebooks", lessons)
        if options.check and moved:
            print(
                f"Out of date: {', '.join(path.name for path in moved)}. Run `make contents`.",
                file=sys.stderr,
            )
            return 1
        rename(moved)
        stale = outdated(options.root, lessons)
    except ArrangeError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(str(path.relative_to(options.root)) for path in stale)
    if options.check and stale:
        print(f"Out of date: {names}. Run `make contents`.", file=sys.stderr)
        return 1
    for path, text in stale.items():
        write(path, text)
    for path, to in moved.items():
        print(f"{path.name} is now {to.name}")
    print(f"Written: {names}" if stale else "All links, heads and tables are up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
