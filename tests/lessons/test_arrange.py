"""One line of the table and one command renumber a lesson everywhere."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from course_lib.course import arrange
from course_lib.course.contents import find_lesson, lesson_numbers, read_table

ROOT = Path(arrange.__file__).parents[2]
TABLE = Path("course_lib", "course", "contents.toml")


@pytest.fixture
def copy(tmp_path):
    """A copy of the course's pages and of its table."""
    for folder in ("notebooks", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".*"))
    (tmp_path / TABLE).parent.mkdir(parents=True)
    for file in ("README.md", TABLE):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def move(copy, name, below):
    """Move one line of the table."""
    lines = (copy / TABLE).read_text(encoding="utf-8").splitlines(keepends=True)
    line = next(line for line in lines if f'"{name}"' in line)
    lines.remove(line)
    lines.insert(next(i for i, other in enumerate(lines) if f'"{below}"' in other) + 1, line)
    (copy / TABLE).write_text("".join(lines), encoding="utf-8")


def texts(copy):
    return {
        path.relative_to(copy): path.read_text(encoding="utf-8")
        for path in copy.rglob("*")
        if path.suffix in (".md", ".ipynb")
    }


def test_the_course_is_as_its_table_says():
    assert arrange.main(["--check"]) == 0


def test_one_line_and_one_command_renumber_a_lesson(copy, capsys):
    before, old = texts(copy), lesson_numbers()
    last = list(old)[-1]
    move(copy, last, below="start_here")
    arguments = ["--root", str(copy)]
    assert arrange.main([*arguments, "--check"]) == 1 and "make contents" in capsys.readouterr().err
    assert texts(copy) == before
    assert arrange.main(arguments) == 0
    new = numbers_in(copy)
    assert new[last] == "01" and new["tokenization"] == "02"
    assert f"{old[last]}_{last}.ipynb is now 01_{last}.ipynb" in capsys.readouterr().out
    after = texts(copy)
    names = {f"{number}_{name}.ipynb" for name, number in new.items()}
    assert {path.name for path in after if path.suffix == ".ipynb"} == names
    everything = "\n".join(after.values())
    assert set(re.findall(r"\b\d\d_\w+\.ipynb", everything)) <= names
    title = find_lesson(last).title
    assert f"| 01 | [{title}](notebooks/01_{last}.ipynb) |" in after[Path("README.md")]
    assert f"| 01 | [{title}](01_{last}.ipynb) |" in after[Path("notebooks", "00_start_here.ipynb")]
    for name, number in new.items():
        head = (
            nbformat.reads(after[Path("notebooks", f"{number}_{name}.ipynb")], as_version=4).cells[0].source
        )
        assert head.startswith(f"# {number} · {find_lesson(name).title}:")
    assert arrange.main([*arguments, "--check"]) == 0
    (copy / TABLE).write_bytes((ROOT / TABLE).read_bytes())
    read_table.cache_clear()
    assert arrange.main(arguments) == 0
    assert texts(copy) == before


def numbers_in(copy):
    """The number of each lesson in a copy, by name."""
    read_table.cache_clear()
    return {lesson.name: lesson.number for lesson in read_table(copy / TABLE) if lesson.title}


def test_a_new_title_comes_everywhere(copy):
    table, file = copy / TABLE, find_lesson("sampling").file
    table.write_text(table.read_text(encoding="utf-8").replace('title = "Sampling"', 'title = "Who chooses"'))
    assert arrange.main(["--root", str(copy)]) == 0
    after = texts(copy)
    assert " · Who chooses:" in after[Path("notebooks", file)]
    assert f"[Who chooses](notebooks/{file})" in after[Path("README.md")]


def test_a_notebook_without_a_line_and_a_line_without_a_notebook_are_refused(copy, capsys):
    file = copy / "notebooks" / find_lesson("sampling").file
    stranger = copy / "notebooks" / "77_stranger.ipynb"
    shutil.copy(file, stranger)
    before = texts(copy)
    assert arrange.main(["--root", str(copy)]) == 1
    assert "no lesson with a title for the notebook of stranger" in capsys.readouterr().err
    assert texts(copy) == before
    stranger.unlink()
    file.rename(copy / "sampling.txt")
    before = texts(copy)
    assert arrange.main(["--root", str(copy)]) == 1
    assert "there is no notebook of sampling" in capsys.readouterr().err
    assert texts(copy) == before


def test_a_lesson_without_a_head_is_refused(copy, capsys):
    lesson = find_lesson("sampling")
    path = copy / "notebooks" / lesson.file
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "Sampling\n\nWho chooses?"
    nbformat.write(notebook, path)
    assert arrange.main(["--root", str(copy)]) == 1
    assert f"should begin with “# {lesson.number} · Sampling: …”" in capsys.readouterr().err


def test_nothing_is_renamed_where_something_must_be_corrected_first(copy, capsys):
    path = copy / "notebooks" / find_lesson("sampling").file
    path.write_text(path.read_text(encoding="utf-8").replace(" · Sampling:", " Sampling"), encoding="utf-8")
    move(copy, "flash_attention", below="start_here")
    before = texts(copy)
    assert arrange.main(["--root", str(copy)]) == 1
    assert "should begin with" in capsys.readouterr().err and texts(copy) == before


def test_an_interrupted_renaming_and_a_damaged_table_are_named(copy, capsys):
    (copy / "notebooks" / ".02_sampling.ipynb.moving").write_text("{}")
    assert arrange.main(["--root", str(copy)]) == 1
    assert "a renaming was interrupted: give .02_sampling.ipynb.moving" in capsys.readouterr().err
    (copy / TABLE).write_text("lessons = [")
    read_table.cache_clear()
    assert arrange.main(["--root", str(copy)]) == 1
    assert "contents.toml can't be read: " in capsys.readouterr().err


def test_numbers_stand_in_names_of_files_and_nowhere_in_the_code():
    """Code, tests and pages know a lesson by its name."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    numbered = re.compile(rf"\b\d\d_({'|'.join(lesson_numbers())})\b")
    for name in tracked.splitlines():
        path = ROOT / name
        arranged = path.suffix == ".ipynb" or name == "README.md" or name.startswith("docs/")
        if path.suffix in (".py", ".toml", ".json", ".sh", ".yml", "") and path.is_file() and not arranged:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not numbered.search(text) or path == Path(__file__), name


def test_prose_names_lessons_and_does_not_number_them():
    for path in [*(ROOT / "notebooks").glob("*.ipynb")]:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not re.search(r"\b[Ll]essons? \d\d\b", cell.source), (path.name, cell.source)
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"\b[Ll]essons? \d\d\b", path.read_text(encoding="utf-8")), path.name


def test_the_table_knows_its_lessons():
    assert find_lesson("start_here").file == "00_start_here.ipynb"
    with pytest.raises(ValueError, match="there is no lesson 'scaling', only start_here, "):
        find_lesson("scaling")
    names = [lesson.name for lesson in read_table(ROOT / TABLE)]
    assert len(set(names)) == len(names)
