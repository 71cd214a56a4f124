"""The way in: pinned packages, the Makefile's failures, the public address, links."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import nbformat
import pytest
from notebook_files import NOTEBOOKS, ROOT, read_cells
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.course import publish

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = "https://github.com/owner/thirsty-tiger"


def requirements(lines) -> dict[str, Requirement]:
    """Requirement lines by canonical name, without comments and hashes."""
    parsed = [Requirement(line.split(" --hash")[0]) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(*names: str) -> dict[str, Requirement]:
    return requirements(line for name in names for line in (ROOT / name).read_text().splitlines())


RANGES = requirements(PROJECT["dependencies"])
EXTRAS = requirements(line for extra in PROJECT["optional-dependencies"].values() for line in extra)
BUILD = requirements(["setuptools>=77"])
PINS = pins("requirements.txt", "requirements-test.txt")
MODELS = pins("requirements-models.txt")


# Packages


def test_every_range_has_a_pin_and_every_pin_a_range():
    assert set(PINS) == {*RANGES, *EXTRAS, *BUILD}


@pytest.mark.parametrize("name", PINS)
def test_pin_is_exact_within_its_range_and_installed(name):
    (specifier,) = PINS[name].specifier
    assert specifier.operator == "=="
    assert {**RANGES, **EXTRAS, **BUILD}[name].specifier.contains(specifier.version)
    assert PINS[name].specifier.contains(version(name)), "run `make setup`: another version is installed"


@pytest.mark.parametrize("name", MODELS)
def test_models_are_pinned_and_installed(name):
    assert MODELS[name].specifier.contains(version(name))


@pytest.mark.parametrize(
    "colab",
    [
        "torch==2.11.0",
        "numpy==2.1.0",
        "matplotlib==3.10.0",
        "ipywidgets==7.7.1",
        "ipython==7.34.0",
        "triton==3.6.0",
    ],
)
def test_ranges_admit_what_colab_has(colab):
    name, number = colab.split("==")
    assert RANGES[name].specifier.contains(number)


def imported(folder: str) -> set[str]:
    """The canonical names of the distributions that a folder's modules import."""
    paths = list((ROOT / folder).rglob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    folders = {parent.name for path in paths for parent in path.relative_to(ROOT).parents}
    own = {path.name for path in ROOT.iterdir()} | {path.stem for path in paths} | folders
    outside = {module.split(".")[0] for module in modules} - sys.stdlib_module_names - own
    by_module = packages_distributions()
    return {canonicalize_name(by_module.get(module, [module])[0]) for module in outside}


def test_every_import_is_declared():
    lab = requirements(
        PROJECT["optional-dependencies"]["lab"]
    )  # `course.store` executes lessons, which no lesson does
    assert imported("course_lib") <= {*RANGES, *lab, "matplotlib-inline"}, "which comes with ipython"
    with_jupyterlab = {"nbconvert", "traitlets"}
    where_installed = {
        "llama-cpp",
        "llama-cpp-python",
    }  # module and package: measured beside, if there, and not required
    assert imported("tests") | imported("benchmarks") <= {
        *RANGES,
        *EXTRAS,
        *with_jupyterlab,
        *where_installed,
    }


# The public address


@pytest.fixture
def copy(tmp_path):
    """The course's files that know its address, in a folder of their own."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "notebooks", tmp_path / "notebooks", ignore=lambda folder, names: {".ipynb_checkpoints"}
    )
    cells = [
        nbformat.v4.new_markdown_cell("# A lesson", id="a"),
        nbformat.v4.new_code_cell(
            publish.setup_line(""), id="b", metadata={"tags": ["setup"]}, execution_count=1
        ),
        nbformat.v4.new_code_cell("print('«é» \\u2028')", id="c", execution_count=2),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "99_lesson.ipynb")
    set_address(tmp_path, "")
    assert run(tmp_path) == 0
    return tmp_path


def set_address(folder: Path, address: str) -> None:
    file = folder / "pyproject.toml"
    file.write_text(re.sub(r'(?m)^address = ".*"$', f'address = "{address}"', file.read_text()))


def run(folder: Path, *flags: str) -> int:
    return publish.main(["--root", str(folder), *flags])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_lessons_and_readme_are_up_to_date(capsys):
    assert publish.main(["--check"]) == 0, capsys.readouterr().err


def test_address_goes_in_and_out_without_a_trace(copy):
    before = contents(copy)
    set_address(copy, ADDRESS)
    assert run(copy) == 0
    assert set(contents(copy)) == set(before)
    assert all(ADDRESS.removeprefix("https://") in text.decode() for text in contents(copy).values())
    set_address(copy, "")
    assert run(copy) == 0
    assert contents(copy) == before


def test_only_badge_and_setup_line_change(copy):
    lesson = copy / "notebooks" / "99_lesson.ipynb"
    before = json.loads(lesson.read_text("utf-8"))
    set_address(copy, ADDRESS)
    run(copy)
    after = json.loads(lesson.read_text("utf-8"))
    link = "https://colab.research.google.com/github/owner/thirsty-tiger/blob/main/notebooks/99_lesson.ipynb"
    badge, blank, title = after["cells"][0]["source"]
    assert badge.endswith(f"({link})\n") and (blank, title) == ("\n", "# A lesson")
    assert after["cells"][1]["source"] == [publish.setup_line(ADDRESS)]
    for cell in (0, 1):
        after["cells"][cell]["source"] = before["cells"][cell]["source"]
    assert after == before


def test_second_run_writes_nothing(copy, capsys):
    set_address(copy, ADDRESS)
    run(copy)
    times = {path: path.stat().st_mtime_ns for path in contents(copy)}
    assert run(copy) == 0 and "up to date" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in contents(copy)}


def test_another_address_replaces_the_first(copy):
    for address in (ADDRESS, "https://github.com/someone/else", ADDRESS):
        set_address(copy, address)
        run(copy)
    assert not any(b"someone" in text for text in contents(copy).values())


def test_check_names_what_is_out_of_date_and_changes_nothing(copy, capsys):
    set_address(copy, ADDRESS)
    before = contents(copy)
    assert run(copy, "--check") == 1
    message = capsys.readouterr().err
    assert "README.md" in message and "99_lesson.ipynb" in message and "make address" in message
    assert contents(copy) == before


@pytest.mark.parametrize(
    "address",
    [
        "github.com/owner/name",
        "https://github.com/owner",
        "https://gitlab.com/owner/name",
        "https://github.com/a/b/",
        "https://github.com/a/b.git",
        "https://github.com/a/b c",
    ],
)
def test_address_of_another_form_is_refused(copy, capsys, address):
    set_address(copy, address)
    assert run(copy) == 1
    assert "https://github.com/owner/name" in capsys.readouterr().err


def test_lesson_without_setup_cell_is_named(copy, capsys):
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# X")]),
        copy / "notebooks" / "98_x.ipynb",
    )
    assert run(copy) == 1
    assert '98_x.ipynb: no code cell is tagged "setup"' in capsys.readouterr().err


@pytest.mark.parametrize("colab", [False, True])
@pytest.mark.parametrize("cloned", [False, True])
@pytest.mark.parametrize("address", ["", ADDRESS])
def test_setup_line_clones_once_and_only_in_colab(monkeypatch, tmp_path, address, colab, cloned):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr("course_lib.course.start", lambda: calls.append("start"))
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", None)
    if cloned:
        Path("thirsty-tiger").mkdir()
    exec(publish.setup_line(address), {})  # noqa: S102
    clone = ["git", "clone", "-q", "--depth", "1", ADDRESS, "thirsty-tiger"]
    assert calls == [clone, "start"] if address and colab and not cloned else calls == ["start"]
    assert "\n" not in publish.setup_line(address)


# Links and names in what a reader sees


def pages() -> dict[str, str]:
    """Markdown by the path of its file: the README, docs, and the lessons' text cells."""
    found = {path: path.read_text("utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
    for path in NOTEBOOKS:
        found[path] = "\n\n".join(cell.source for cell in read_cells(path) if cell.cell_type == "markdown")
    return {str(path.relative_to(ROOT)): text for path, text in found.items()}


PAGES = pages()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", PAGES[page])
    for link in (first or second for first, second in links):
        if not re.match(r"https://|#|attachment:|data:", link):
            assert (ROOT / page).parent.joinpath(link.split("#")[0]).exists(), link
    assert not re.search(
        r"\]\(\s*(#?|https?:///?)\)|//(www\.)?example\.|owner/(name|repo)|TODO|FIXME",
        PAGES[page],
        re.IGNORECASE,
    )


def test_readme_names_every_lesson_and_only_real_targets():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"(?:`|\n|and )make ([a-z-]+)", PAGES["README.md"]))
    assert {"lab", "test", "test-all", "bench"} <= named <= targets
    assert set(re.findall(r"notebooks/(\w+\.ipynb)\)", PAGES["README.md"])) == {
        path.name for path in NOTEBOOKS
    }


def test_other_pages_name_only_real_targets():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for page in ("docs/installing.md", "docs/maintaining.md", "docs/benchmarks.md", "docs/instructors.md"):
        assert set(re.findall(r"(?:`|\n|and )make ([a-z-]+)", PAGES[page])) <= targets


def test_the_speeds_of_the_readme_are_in_the_stored_tables():
    """After `python -m benchmarks --write` this names the README's rows that must be brought up to date."""
    stored = re.findall(
        r"(?m)^\| ([^|]+) \| [^|]+ \| ([^:|]+): [^|]+ \| ([\d.]+) \| [^|]+ \|$", PAGES["docs/benchmarks.md"]
    )
    quoted = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| (\d+\.\d+) \|$", PAGES["README.md"])
    assert len(quoted) == 6 and set(quoted) <= set(stored)


# make


@pytest.fixture
def make(tmp_path):
    """Runs make on a copy of the files that set-up reads; returns its exit status and what it said."""
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    for name in (
        "Makefile",
        "pyproject.toml",
        "requirements.txt",
        "requirements-models.txt",
        "requirements-test.txt",
    ):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".setup", tmp_path / ".setup")

    def run_make(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "VENV"}
        env = {name: value for name, value in os.environ.items() if name not in outer} | variables
        return subprocess.run(
            ["make", *arguments],
            check=False,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    run_make.folder = tmp_path
    return run_make


@pytest.fixture
def make_as_nobody(make, monkeypatch):
    """Runs make on a copy of those files, as a user whom a folder's permissions bind."""
    if os.name == "nt" or (os.getuid() == 0 and not shutil.which("setpriv")):
        pytest.skip("no other user can be asked here")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(make.folder, folder, dirs_exist_ok=True)
        as_nobody = (
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
        )
        if as_nobody and subprocess.run([*as_nobody, "true"], check=False).returncode:
            pytest.skip("no other user can be asked here")

        def run_make(*arguments: str) -> subprocess.CompletedProcess:
            env = {
                name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
            }
            command = [*as_nobody, "make", *arguments]
            return subprocess.run(
                command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=60
            )

        run_make.folder = Path(folder)
        yield run_make
        for path in [run_make.folder, *run_make.folder.rglob("*")]:
            path.chmod(0o755)


def script(path: Path, body: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def the_line(result: subprocess.CompletedProcess) -> str:
    """The only line, beside make's own, that a failure prints."""
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    return line


def test_missing_python_is_said_in_one_line(make):
    line = the_line(make("lab", PYTHON="no-such-python"))
    assert line.startswith("No Python 3.11 or newer") and "no-such-python" in line


def test_old_python_is_said_in_one_line(make):
    old = script(make.folder / "old-python", "exit 1")
    assert the_line(make("lab", PYTHON=old)).startswith("No Python 3.11 or newer")


def test_first_python_that_is_new_enough_is_taken(make):
    old = script(make.folder / "old-python", "exit 1")
    new = script(
        make.folder / "new-python", 'echo "$0 $*" >> calls; [ "$2" != venv ] || { echo broken; exit 1; }'
    )
    line = the_line(make("setup", PYTHON=f"{old} {new}"))
    assert "broken" in line and "setup.log" in line
    assert f"{new} -m venv .venv" in (make.folder / "calls").read_text()


def test_no_network_is_said_in_one_line(make):
    script(make.folder / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
    (make.folder / "requirements.txt").write_text("a-package-that-nobody-has==1\n")
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    line = the_line(make("lab", PIP_FIND_LINKS="", **closed))
    assert "no package index" in line and "make lab" in line and "setup.log" in line
    assert not (make.folder / ".venv/.requirements").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build of torch==2.13.0"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "DO NOT MATCH THE HASHES"),
        ("ERROR: Exception:\nTraceback\nKeyError: 7", "KeyError: 7"),
    ],
)
def test_failing_pip_is_said_in_one_line(make, said, told):
    script(make.folder / ".venv/bin/python", f'[ "$3" != install ] || {{ printf "{said}\\n"; exit 1; }}')
    assert told in the_line(make("test"))
    assert not (make.folder / ".venv/.requirements").exists()


NO_NETWORK = """WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')'
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0"""
NO_BUILD = """ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: 2)
ERROR: No matching distribution found for torch==2.13.0"""
DISK_FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
HASHES = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
EXCEPTION = "ERROR: Exception:\nTraceback (most recent call last):\nKeyError: 7\n\n"

MAKE_ROOM = "the disk is full. Make room (README.md says how much)"
INSTALL_VENV = "this Python comes without venv. Install it (Debian, Ubuntu: apt install python3-venv)"
CHECK_NETWORK = "pip reached no package index. Check the network"
OTHER_PYTHON = "Run 'make clean', name another Python (make PYTHON=python3.12 setup)"
MEND = "Mend that or run 'make clean'"

DIAGNOSES = {
    "disk": (DISK_FULL, MAKE_ROOM),
    "disk and network": (f"{NO_NETWORK}\n{DISK_FULL}", MAKE_ROOM),
    "venv": ("The virtual environment was not created because ensurepip is not\navailable.", INSTALL_VENV),
    "proxy": (NO_NETWORK, CHECK_NETWORK),
    "timeout": ("WARNING: Connection timed out while downloading.", CHECK_NETWORK),
    "name": ("WARNING: Retrying after: Temporary failure in name resolution", CHECK_NETWORK),
    "no build": (NO_BUILD, f"this Python and machine have no build of torch==2.13.0. {OTHER_PYTHON}"),
    "error": (f"Collecting torch\n{HASHES}\n    Expected sha256 0123", f"{HASHES}. {MEND}"),
    "last of two errors": (f"ERROR: the first\n{HASHES}", f"{HASHES}. {MEND}"),
    "exception": (EXCEPTION, f"KeyError: 7. {MEND}"),
    "another program": ("Signing notebook: 00.ipynb\nPermission denied", f"Permission denied. {MEND}"),
    "long line": (f"ERROR: {'x' * 300}", f"ERROR: {'x' * 153}. {MEND}"),
    "nothing": ("", f"the failing program printed nothing. {MEND}"),
}


def explain(folder: Path, *arguments: str, free: int = 10_000_000) -> subprocess.CompletedProcess:
    """Run the script on the log in `folder`, with `free` kilobytes left on the disk."""
    script(
        folder / "bin" / "df", f'echo "Filesystem 1024-blocks Used Available"; echo "disk 20000000 1 {free}"'
    )
    env = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["sh", str(ROOT / ".setup" / "explain.sh"), "setup.log", *arguments]
    return subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


needs_sh = pytest.mark.skipif(not shutil.which("sh"), reason="there is no POSIX shell here")


@needs_sh
@pytest.mark.parametrize("name", DIAGNOSES)
def test_each_failure_is_explained_from_its_log(tmp_path, name):
    log, why = DIAGNOSES[name]
    (tmp_path / "setup.log").write_text(log)
    result = explain(tmp_path, "lab")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Set-up stopped: {why}, then run 'make lab' again (details: setup.log).\n"


@needs_sh
def test_a_full_disk_is_seen_whatever_the_log_holds(tmp_path):
    assert "the failing program printed nothing" in explain(tmp_path).stderr, "there need not be a log"
    (tmp_path / "setup.log").write_text(HASHES)
    assert "the disk is full" in explain(tmp_path, free=102_399).stderr
    assert "DO NOT MATCH" in explain(tmp_path, free=102_400).stderr
    assert "then run 'make setup' again" in explain(tmp_path).stderr


STALE = "ERROR: No matching distribution found for torch==2.13.0"


@pytest.mark.parametrize("target", ["setup", "lab"])
@pytest.mark.parametrize("stale", ["", STALE])
def test_a_read_only_folder_is_named_and_no_log_of_an_earlier_run_is_explained(make_as_nobody, stale, target):
    folder = make_as_nobody.folder
    if stale:
        (folder / "setup.log").write_text(stale)
    folder.chmod(0o555)
    assert the_line(make_as_nobody(target)) == (
        f"Set-up stopped: nothing can be written in the folder {folder}. "
        f"Copy the course into a folder of your own, then run 'make {target}' again."
    )
    assert sorted(path.name for path in folder.glob("setup.log")) == (["setup.log"] if stale else [])


@pytest.mark.parametrize("installed", [False, True])
def test_lab_in_a_folder_that_became_read_only_after_the_set_up(make_as_nobody, installed):
    """Another user set the course up, all of it or up to the packages."""
    folder = make_as_nobody.folder
    script(folder / ".venv/bin/python", "exit 0")
    script(folder / ".venv/bin/jupyter-trust", "exit 0")
    for stamp in ("python", "requirements", "models", "course")[: 4 if installed else 2]:
        (folder / ".venv" / f".{stamp}").touch()
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "the_start_here.ipynb").touch()
    (folder / "setup.log").write_text(STALE)
    for path in (folder / ".venv", folder):
        path.chmod(0o555)
    assert f"nothing can be written in the folder {folder}. Copy" in the_line(make_as_nobody("lab"))


def test_an_environment_of_another_user_is_named(make_as_nobody):
    folder = make_as_nobody.folder
    script(folder / ".venv/bin/python", "exit 0")
    (folder / ".venv/.python").touch()
    (folder / ".venv").chmod(0o555)
    folder.chmod(0o777)
    (folder / "setup.log").write_text(STALE)
    line = the_line(make_as_nobody("lab"))
    assert line.startswith(
        f"Set-up stopped: {folder}/.venv can't be written: another user made it. Delete it"
    )
    assert line.endswith("then run 'make lab' again.")


def test_a_log_of_an_earlier_run_is_not_explained(make):
    """Here venv fails without a word, and jupyter, too."""
    (make.folder / "setup.log").write_text(STALE)
    silent = script(make.folder / "silent-python", '[ "$2" != venv ]')
    assert "the failing program printed nothing" in the_line(make("setup", PYTHON=silent))
    (make.folder / "setup.log").write_text(STALE)
    script(make.folder / ".venv/bin/python", '[ "$3" != install ]')
    assert "the failing program printed nothing" in the_line(make("setup"))


@needs_sh
@pytest.mark.parametrize("name", ["the folder", "the environment", "the log"])
def test_what_cannot_be_written_is_said_before_the_log_is_read(tmp_path, name):
    """`[ -w … ]` is answered by a script here, since permissions don't bind root."""
    (tmp_path / "setup.log").write_text(STALE)
    (tmp_path / ".venv").mkdir()
    refused = {"the folder": ".", "the environment": ".venv", "the log": "setup.log"}[name]
    text = (ROOT / ".setup" / "explain.sh").read_text()
    asked = text.replace('[ -w "$path" ]', f'[ "$path" != {refused} ]')
    assert asked != text
    (tmp_path / "explain.sh").write_text(asked)
    result = subprocess.run(
        ["sh", "explain.sh", "setup.log", "lab"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    named = tmp_path if refused == "." else tmp_path / refused
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert str(named) in result.stderr and "can" in result.stderr and "torch" not in result.stderr


def test_setup_installs_once_and_again_when_a_pin_changes(make):
    script(make.folder / ".venv/bin/python", 'case "$*" in *install*) echo "$*" >> calls;; esac')

    def installed() -> int:
        return (make.folder / "calls").read_text().count("\n")

    assert make("setup").returncode == 0 and installed() == 3
    assert make("-j4", "setup").returncode == 0 and installed() == 3
    with (make.folder / "requirements-models.txt").open("a") as file:
        file.write("# another model\n")
    assert make("setup").returncode == 0 and installed() == 5
