"""Cells that were run out of order: which cell of the lesson a missing name comes from.

A kernel isn't told which notebook it serves. The lesson is therefore the one that shares most lines with the
cells that ran, whatever the learner changed in them. IPython loads this module as an extension: `start` does
that in a lesson's first cell, and `make lab` lets every kernel do it before that, for a lesson whose first
cell is not the first that is run. A kernel that neither of the two has set up shows Python's NameError alone.
"""

import json
import re
import sys
from typing import Any, NamedTuple

from course_lib.course.bindings import bound_names
from course_lib.course.contents import all_lessons
from course_lib.course.home import ROOT

HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCED = re.compile(r"```.*?```", re.DOTALL)


class Cell(NamedTuple):
    """A code cell, and the heading that it stands under."""

    heading: str
    source: str

    @property
    def lines(self) -> set[str]:
        return {line.strip() for line in self.source.splitlines()} - {""}


def load_ipython_extension(shell: Any) -> None:
    """Print a hint below the traceback of every cell that a missing name ends."""
    shell.events.register("post_run_cell", _print_hint)


def hint_for(error: BaseException) -> str:
    """Return which cells to run for a name that is missing, or "" where no cell of the lesson makes it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or type(error) is not NameError or not error.name:
        return ""
    cells = shell.user_ns.get("In")  # which the learner may have made something else
    texts = cells if isinstance(cells, list) else ()
    ran = [Cell("", text) for text in texts if isinstance(text, str) and text]
    origin = find_origin(error.name, ran, _lessons()) if ran else None
    if origin is None:
        return ""
    menu = "Runtime ▸ Run before" if "google.colab" in sys.modules else "Run ▸ Run All Above Selected Cell"
    where = f"{error.name} comes from a cell further up, under the heading “{origin.heading}”."
    return f"{where} Run the cells above this one first ({menu}), then this one again."


def find_origin(name: str, ran: list[Cell], lessons: list[list[Cell]]) -> Cell | None:
    """Return the last cell of the lesson that binds `name` above the one that runs now, the last of `ran`.

    It is None where no such cell is found, and where two lessons are equally likely.
    """
    lines = _all_lines(ran)
    shared = [len(lines & _all_lines(lesson)) for lesson in lessons]
    if not shared or shared.count(max(shared)) > 1:
        return None
    lesson = lessons[shared.index(max(shared))]
    here = max(range(len(lesson)), key=lambda i: len(lesson[i].lines & ran[-1].lines))
    return next((cell for cell in reversed(lesson[:here]) if name in bound_names(cell.source)), None)


def _all_lines(cells: list[Cell]) -> set[str]:
    return set().union(*(cell.lines for cell in cells))


def read_cells(notebook: dict) -> list[Cell]:
    """Return the code cells of a notebook."""
    cells, heading = [], ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cells.append(Cell(heading, source))
        elif found := HEADING.findall(FENCED.sub("", source)):
            heading = found[-1].replace("`", "").replace("*", "").strip()
    return cells


def _lessons() -> list[list[Cell]]:
    """Return the cells of each lesson as it is stored, but for those that can't be read."""
    found = []
    for lesson in all_lessons():
        try:
            text = (ROOT / "notebooks" / lesson.file).read_text(encoding="utf-8-sig")
            found.append(read_cells(json.loads(text)))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _print_hint(result: Any) -> None:
    if hint := hint_for(result.error_in_exec):
        print(hint)
