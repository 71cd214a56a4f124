"""What shows the table of contents: the first page, README, the instructors' page, the heads of lessons."""

import re

from matplotlib.patches import FancyBboxPatch
from notebook_files import NOTEBOOKS, ROOT, code_cells, notebook, read_cells, text_of

import course_lib
from course_lib.course.contents import all_lessons, lesson_numbers
from course_lib.show import describe_map, draw_map
from course_lib.show.course_map import STOPS

START = notebook("start_here")
LESSONS = all_lessons()
NUMBERS = lesson_numbers()


def output_of(start):
    """Return the stored output of the one cell that has a line with this start."""
    (cell,) = (
        cell for cell in code_cells(START) if re.search(rf"^{re.escape(start)}", cell.source, re.MULTILINE)
    )
    return "".join(map(text_of, cell.outputs))


def test_every_lesson_has_a_notebook_and_every_notebook_a_lesson():
    assert [path.name for path in NOTEBOOKS] == [lesson.file for lesson in LESSONS]


def test_the_tables_name_every_lesson_with_its_link():
    here = "\n".join(cell.source for cell in read_cells(START) if cell.cell_type == "markdown")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text, folder in ((here, ""), (readme, "notebooks/")):
        rows = re.findall(r"^\| \d\d \|.*\|$", text, re.MULTILINE)
        assert rows == [
            f"| {lesson.number} | [{lesson.title}]({folder}{lesson.file}) | {lesson.question} |"
            for lesson in LESSONS
        ]


def test_the_instructors_page_has_a_row_for_every_lesson():
    page = (ROOT / "docs" / "instructors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\[[^]]+\]\(\.\./notebooks/[^)]+\)) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(f"[{lesson.title}](../notebooks/{lesson.file})" for lesson in LESSONS)


def test_links_between_pages_lead_somewhere():
    pages = [*NOTEBOOKS, ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        notebook_links = re.findall(r"\]\(([\w./]*?\d\d_\w+\.ipynb)", page.read_text(encoding="utf-8"))
        assert all((page.parent / link).is_file() for link in notebook_links), page.name


def test_a_lesson_is_called_the_same_on_its_own_page():
    for lesson in LESSONS:
        head = read_cells(notebook(lesson.name))[0].source.splitlines()[0]
        assert head.startswith(f"# {lesson.number} · {lesson.title}:"), head


def test_the_stored_map_is_the_course_as_it_is():
    (cell,) = (cell for cell in code_cells(START) if "draw_map(" in cell.source)
    assert cell.source == "numbers = lesson_numbers()\nshow(draw_map(numbers), alt=describe_map(numbers))"
    assert describe_map(NUMBERS) in output_of("show(draw_map(")


def test_the_map_fills_what_stands_and_nothing_else():
    known = {name for _, _, lessons in STOPS for name in lessons}
    assert known <= set(NUMBERS)
    words = describe_map({name: number for name, number in NUMBERS.items() if name != "self_attention"})
    assert f"tokens (lesson {NUMBERS['tokenization']})" in words
    assert f"feed-forward (lesson {NUMBERS['transformer_block']})" in words
    assert "attention," in words  # which has two lessons: one isn't enough
    assert "lesson" not in describe_map({})
    both = f"attention (lessons {NUMBERS['self_attention']} and {NUMBERS['multi_head_attention']})"
    assert both in describe_map(NUMBERS)


def test_the_picture_fills_the_boxes_that_the_words_name():
    some = dict(list(NUMBERS.items())[:4])
    for numbers in (NUMBERS, some, {}):
        boxes = [patch for patch in draw_map(numbers).axes[0].patches if isinstance(patch, FancyBboxPatch)]
        filled = [box.get_linestyle() not in ("--", "dashed") for box in boxes]
        assert filled == [f"{name} (lesson" in describe_map(numbers) for name, _, _ in STOPS]


def test_stored_progress_lists_every_lesson():
    listed = re.findall(r"^(\d\d)   (.+?)  +0 of \d+ +0 of \d+$", output_of("progress()"), re.MULTILINE)
    assert listed == [(lesson.number, lesson.title) for lesson in LESSONS]


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
