"""The first page of the course: its map, its table, the learner's progress, the length of the library."""

import re

from matplotlib.patches import FancyBboxPatch
from notebook_files import NOTEBOOKS, ROOT, code_cells, number, read_cells, text_of

import course_lib
from course_lib.course.lessons import lesson_numbers, load_lesson
from course_lib.show import describe_map, draw_map
from course_lib.show.course_map import STOPS

START = NOTEBOOKS[0]
TITLES = {number: load_lesson(number).TITLE for number in lesson_numbers()}
ROW = re.compile(
    r"^\| \**(\d\d)\** \| (?:\[([^]]+)\]\((?:notebooks/)?([\w.]+)\)|([^|]+)) \| ([^|]+) \|$", re.MULTILINE
)


def rows(text):
    """Return the lessons of a table, {number: (title, question)}, and check its links."""
    for lesson, _, link, _, _ in ROW.findall(text):
        assert link in ("", *(path.name for path in NOTEBOOKS if number(path) == lesson))
    return {
        lesson: (title or unlinked, question) for lesson, title, _, unlinked, question in ROW.findall(text)
    }


def output_of(start):
    """Return the stored output of the one cell that has a line with this start."""
    (cell,) = (
        cell for cell in code_cells(START) if re.search(rf"^{re.escape(start)}", cell.source, re.MULTILINE)
    )
    return "".join(map(text_of, cell.outputs))


def test_the_tables_name_every_lesson_alike():
    here = rows("\n".join(cell.source for cell in read_cells(START) if cell.cell_type == "markdown"))
    readme = rows((ROOT / "README.md").read_text(encoding="utf-8"))
    assert here == readme
    assert {lesson: title for lesson, (title, _) in here.items()} == TITLES
    assert list(TITLES) == [number(path) for path in NOTEBOOKS]


def test_a_lesson_is_called_the_same_on_its_own_page():
    for path in NOTEBOOKS:
        head = read_cells(path)[0].source.splitlines()[0]
        assert head.startswith(f"# {number(path)} · {TITLES[number(path)]}:"), head


def test_the_stored_map_is_the_course_as_it_is():
    (cell,) = (cell for cell in code_cells(START) if "draw_map(" in cell.source)
    assert cell.source.startswith("ready = lesson_numbers()\nshow(draw_map(ready), alt=describe_map(ready))")
    assert describe_map(lesson_numbers()) in output_of("show(draw_map(")


def test_the_map_fills_what_stands_and_nothing_else():
    known = {lesson for _, _, lessons in STOPS for lesson in lessons.split(", ") if lesson}
    assert known <= set(TITLES)
    words = describe_map(sorted(known - {"03"}))
    assert "tokens (lesson 01)" in words and "feed-forward (lesson 05)" in words
    assert "attention," in words and "03" not in words  # which has two lessons: one isn't enough
    assert "lesson" not in describe_map([])


def test_the_picture_fills_the_boxes_that_the_words_name():
    known = sorted({lesson for _, _, lessons in STOPS for lesson in lessons.split(", ") if lesson})
    for ready in (known, known[1:], []):
        boxes = [patch for patch in draw_map(ready).axes[0].patches if isinstance(patch, FancyBboxPatch)]
        filled = [box.get_linestyle() not in ("--", "dashed") for box in boxes]
        assert filled == [f"{name} (lesson" in describe_map(ready) for name, _, _ in STOPS]


def test_stored_progress_lists_every_lesson():
    listed = re.findall(r"^(\d\d)   (.+?)  +0 of \d+ +0 of \d+$", output_of("progress()"), re.MULTILINE)
    assert dict(listed) == TITLES


def test_the_stored_lengths_are_those_of_the_code():
    """They are right to within a tenth, so that one more line doesn't make the page wrong."""
    told = re.findall(r"^(\w+) +([\d,]+) lines", output_of("FOLDERS ="), re.MULTILINE)
    assert {"model", "text", "generate"} < {name for name, _ in told}
    for name, lines in told:
        files = (ROOT / course_lib.__name__ / name).rglob("*.py")
        real = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert abs(int(lines.replace(",", "")) - real) < 0.1 * real, (
            f"{name} has {real} lines: execute start_here again"
        )
