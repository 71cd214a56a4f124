"""What the library's readers can count on: short files, short functions, one way to write code in prose."""

import ast
from pathlib import Path

import pytest

import course_lib

ROOT = Path(course_lib.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def functions(path: Path):
    """All functions of a file, but for GPU kernels."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and "triton.jit" not in map(ast.unparse, node.decorator_list):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    longest = 350 if path.name == "exercises.py" else 250  # a lesson's exercises are a list of their own
    assert len(path.read_text("utf-8").splitlines()) <= longest
    assert not [node.name for node in functions(path) if node.end_lineno - node.lineno + 1 > 30]


@pytest.mark.parametrize("folder", ["course_lib", "tests", "benchmarks"])
def test_code_in_prose_stands_in_single_backticks(folder):
    doubled = "`" * 2
    files = (ROOT.parent / folder).rglob("*.py")
    assert not [str(path) for path in files if doubled in path.read_text("utf-8").replace(doubled + "`", "")]
