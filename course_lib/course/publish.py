"""Write the course's public address, kept in pyproject.toml, into every lesson and the README.

`make address` runs this module. With `--check` it changes nothing, and exits with 1 if a file is out of date.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from course_lib.course.contents import find_lesson
from course_lib.course.home import ROOT, write_file

FOLDER = "thirsty-tiger"
ADDRESS = re.compile(r"https://github\.com/([\w-]+/[\w.-]*[\w-])")
COLAB = "https://colab.research.google.com"
BADGE = re.compile(rf"\[!\[Open in Colab\]\({re.escape(COLAB)}/[^)]*\)\]\([^)]*\)\n\n")
BLOCK = re.compile(r"(?<=<!-- address -->\n).*?(?=<!-- /address -->)", re.DOTALL)
START = f'sys.path[:0] = ["..", "{FOLDER}"]; from course_lib.course import start; start()'


class PublishError(Exception):
    """Something that must be corrected by hand. The message says what."""


def read_address(pyproject: Path) -> str:
    """Return the address in `[tool.thirsty-tiger]`, or "" while the course has none.

    Raises PublishError if Colab can't open an address of this form or git can't clone it.
    """
    address = tomllib.loads(pyproject.read_text())["tool"]["thirsty-tiger"]["address"]
    if address and (not ADDRESS.fullmatch(address) or address.endswith(".git")):
        raise PublishError(
            f'{pyproject.name}: address = "{address}" must look like "https://github.com/owner/name"'
        )
    return address


def colab_badge(address: str, name: str) -> str:
    """Return a Markdown paragraph that opens the lesson `name` in Colab, or "" without an address."""
    if not address:
        return ""
    repository = ADDRESS.fullmatch(address)[1]
    link = f"{COLAB}/github/{repository}/blob/main/notebooks/{name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})\n\n"


def setup_line(address: str) -> str:
    """Return the first code line of every lesson.

    It makes the library importable, after cloning it if the lesson runs on Colab, and calls `start`.
    """
    if not address:
        return f"import sys; {START}"
    clone = f'subprocess.run(["git", "clone", "-q", "--depth", "1", "{address}", "{FOLDER}"], check=True)'
    absent = f'"google.colab" in sys.modules and not os.path.exists("{FOLDER}")'
    return f"import os, subprocess, sys; {absent} and {clone}; {START}"


def publish_lesson(text: str, name: str, address: str) -> str:
    """Return the notebook `text` with its badge and set-up line for `address`. The rest is unchanged."""
    lesson = json.loads(text)
    opening = find_cell(lesson, lambda cell: cell["cell_type"] == "markdown", f"{name}: no markdown cell")
    setup = find_cell(
        lesson,
        lambda cell: cell["cell_type"] == "code" and "setup" in cell["metadata"].get("tags", []),
        f'{name}: no code cell is tagged "setup"; add one, `make address` writes its line',
    )
    before = source(opening), source(setup)
    after = colab_badge(address, name) + BADGE.sub("", before[0], count=1), setup_line(address)
    if before == after:
        return text
    opening["source"], setup["source"] = (cell.splitlines(keepends=True) for cell in after)
    ending = text[len(text.rstrip()) :]  # nbformat writes a final newline, nbconvert doesn't
    return json.dumps(lesson, indent=1, ensure_ascii=False) + ending


def find_cell(lesson: dict, condition: Callable[[dict], bool], message: str) -> dict:
    """Return the first cell that meets a condition. Raises PublishError(message) if there is none."""
    for cell in lesson["cells"]:
        if condition(cell):
            return cell
    raise PublishError(message)


def source(cell: dict) -> str:
    """Return a cell's text, which a notebook stores as one string or as a list of lines."""
    return "".join(cell["source"])


def publish_readme(text: str, address: str) -> str:
    """Return the README with the lines between its address markers written for `address`."""
    if not BLOCK.search(text):
        raise PublishError("README.md: no lines between <!-- address --> and <!-- /address -->")
    lines = "The course has no public address yet: begin in the folder that holds this file.\n"
    if address:
        badge = colab_badge(address, find_lesson("start_here").file)
        lines = f"{badge}```sh\ngit clone {address} {FOLDER}\ncd {FOLDER}\n```\n"
    return BLOCK.sub(lambda _: lines, text)


def outdated(root: Path) -> dict[Path, str]:
    """Return the files under `root` that are out of date with the address, each with its new text."""
    address = read_address(root / "pyproject.toml")
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    new = {path: publish_lesson(read(path), path.name, address) for path in lessons}
    new[root / "README.md"] = publish_readme(read(root / "README.md"), address)
    return {path: text for path, text in new.items() if text != read(path)}


def read(path: Path) -> str:
    return path.read_bytes().decode()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the course's public address where it is shown.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the course's folder")
    options = parser.parse_args(arguments)
    try:
        stale = outdated(options.root)
    except PublishError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(str(path.relative_to(options.root)) for path in stale)
    if not stale:
        print("Every badge, set-up line and clone line is up to date.")
        return 0
    if options.check:
        out_of_date = f"Out of date with the address in pyproject.toml: {names}. Run `make address`."
        print(out_of_date, file=sys.stderr)
        return 1
    for path, text in stale.items():
        write_file(path, text)
    print(f"Written: {names}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
