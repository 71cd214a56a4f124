"""A megabyte of real English that is part of every Python: the topics of its manual and its docstrings."""

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

SIZE = 1_000_000


@cache
def english() -> str:
    """Return the first SIZE bytes of it. Raises RuntimeError for a Python without its library's sources."""
    text, size = [], 0
    for part in _parts():
        text.append(part)
        size += len(part.encode()) + 2
        if size >= SIZE:
            return "\n\n".join(text).encode()[:SIZE].decode(errors="ignore")
    raise RuntimeError(f"this Python brings only {size} bytes of documentation along; {SIZE} are needed")


def _parts() -> Iterator[str]:
    yield from topics.values()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                yield text
