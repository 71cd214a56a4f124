"""Write the course's public address, kept in pyproject.toml, into every lesson and the README.

``make address`` runs this; with ``--check`` it changes nothing and exits with 1 where something is out of date.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "thirsty-tiger"
ADDRESS = re.compile(r"https://github\.com/([\w-]+/[\w.-]*[\w-])")
COLAB = "https://colab.research.google.com"
BADGE = re.compile(rf"\[!\[Open in Colab\]\({re.escape(COLAB)}/[^)]*\)\]\([^)]*\)\n\n")
BLOCK = re.compile(r"(?<=<!-- address -->\n).*?(?=<!-- /address -->)", re.DOTALL)
START = f'sys.path[:0] = ["..", "{FOLDER}"]; from course_lib.course import start; start()'


class PublishError(Exception):
    """Something to mend by hand; the message says what."""


def read_address(pyproject: Path) -> str:
    """The address in `[tool.thirsty-tiger]`, or "" while the course has none.

    Raises PublishError unless it has the form that Colab can open and git can clone.
    """
    address = tomllib.loads(pyproject.read_text())["tool"]["thirsty-tiger"]["address"]
    if address and (not ADDRESS.fullmatch(address) or address.endswith(".git")):
        raise PublishError(
            f'{pyproject.name}: address = "{address}" must look like "https://github.com/owner/name"'
        )
    return address


def colab_badge(address: str, name: str) -> str:
    """Markdown that opens the lesson `name` in Colab: a paragraph, or "" without an address."""
    if not address:
        return ""
    repository = ADDRESS.fullmatch(address)[1]
    link = f"{COLAB}/github/{repository}/blob/main/notebooks/{name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})\n\n"


def setup_line(address: str) -> str:
    """The one line that opens every lesson: find the library (in Colab: clone it first), then start."""
    if not address:
        return f"import sys; {START}"
    clone = f'subprocess.run(["git", "clone", "-q", "--depth", "1", "{address}", "{FOLDER}"], check=True)'
    absent = f'"google.colab" in sys.modules and not os.path.exists("{FOLDER}")'
    return f"import os, subprocess, sys; {absent} and {clone}; {START}"


def publish_lesson(text: str, name: str, address: str) -> str:
    """The notebook `text` with its badge and set-up line written for `address`; all else stays as it is."""
    lesson = json.loads(text)
    opening = first(lesson, lambda cell: cell["cell_type"] == "markdown", f"{name}: no markdown cell")
    setup = first(
        lesson,
        lambda cell: cell["cell_type"] == "code" and "setup" in cell["metadata"].get("tags", []),
        f'{name}: no code cell is tagged "setup"; add one, `make address` writes its line',
    )
    before = source(opening), source(setup)
    after = colab_badge(address, name) + BADGE.sub("", before[0], count=1), setup_line(address)
    if before == after:
        return text
    opening["source"], setup["source"] = (cell.splitlines(keepends=True) for cell in after)
    ending = text[len(text.rstrip()) :]  # nbformat writes a last newline, nbconvert doesn't
    return json.dumps(lesson, indent=1, ensure_ascii=False) + ending


def first(lesson: dict, wanted, otherwise: str) -> dict:
    """The first cell that is `wanted`; raises PublishError(otherwise) if there is none."""
    for cell in lesson["cells"]:
        if wanted(cell):
            return cell
    raise PublishError(otherwise)


def source(cell: dict) -> str:
    """A cell's text, which a notebook may store as one string or as lines."""
    return "".join(cell["source"])


def publish_readme(text: str, address: str) -> str:
    """The README with the lines between its address markers written for `address`."""
    if not BLOCK.search(text):
        raise PublishError("README.md: no lines between <!-- address --> and <!-- /address -->")
    lines = "The course has no public address yet: begin in the folder that holds this file.\n"
    if address:
        badge = colab_badge(address, "00_start_here.ipynb")
        lines = f"{badge}```sh\ngit clone {address} {FOLDER}\ncd {FOLDER}\n```\n"
    return BLOCK.sub(lambda _: lines, text)


def outdated(root: Path) -> dict[Path, str]:
    """The files under `root` that differ from what the address asks for, each with its new text."""
    address = read_address(root / "pyproject.toml")
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    new = {path: publish_lesson(read(path), path.name, address) for path in lessons}
    new[root / "README.md"] = publish_readme(read(root / "README.md"), address)
    return {path: text for path, text in new.items() if text != read(path)}


def read(path: Path) -> str:
    return path.read_bytes().decode()


def write(path: Path, text: str) -> None:
    """Replace a file whole or not at all."""
    data = text.encode()  # before there is a file that could be left behind
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the course's public address where it is shown.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 where something is out of date"
    )
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
        print(
            f"Out of date with the address in pyproject.toml: {names}. Run `make address`.", file=sys.stderr
        )
        return 1
    for path, text in stale.items():
        write(path, text)
    print(f"Written: {names}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
