"""A function's source with all that it uses, so that it can stand in a file of its own."""

import ast
import builtins
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


class NotAlone(Exception):
    """A function can't be taken out of its notebook. The message says why."""


def collect(function: Any, name: str, parts: set[str]) -> tuple[str, set[str]]:
    """Return a text that defines a function or class as `name`, and the names of the parts that it uses.

    The text has the imports, constants and helpers that the function uses; they are looked up where it was
    defined. parts: the names of all parts, which have places of their own and aren't copied.

    Raises NotAlone if the source can't be found, or for a value that can't be written as text.
    """
    collector = _Collector(function, parts - {name})
    body = collector.source(function)
    own = getattr(function, "__name__", "")
    rename = "" if own == name else f"\n\n{name} = {own}\n"
    blocks = ["\n".join(sorted(collector.imports)), "\n".join(collector.constants), *collector.helpers, body]
    return "\n\n\n".join(block.strip("\n") for block in blocks if block) + "\n" + rename, collector.parts_used


def names_defined(text: str) -> set[str]:
    """Return the functions, classes and variables that a text defines at its top level."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def run_section(text: str, names: dict[str, Any], file: Path, line: int) -> None:
    """Run a section of a file as if it stood at that line, so that errors and sources are found there."""
    exec(compile("\n" * line + text, str(file), "exec"), names)  # noqa: S102  the learner's own, in their kernel


class _Collector:
    """What one function uses, found by following its free names."""

    def __init__(self, function: Any, parts: set[str]) -> None:
        self.names = _globals_of(function)
        self.parts = parts
        self.imports: set[str] = set()
        self.constants: list[str] = []
        self.helpers: list[str] = []
        self.parts_used: set[str] = set()
        self._seen = {getattr(function, "__name__", "")}

    def source(self, function: Any) -> str:
        """Return the source of a function, after taking note of everything that it uses."""
        try:
            text = textwrap.dedent(inspect.getsource(function)).rstrip() + "\n"
            tree = ast.parse(text)
        except (OSError, TypeError, SyntaxError):
            raise NotAlone("its source can't be found; write it with def or class, in a cell") from None
        if not isinstance(tree.body[0], ast.FunctionDef | ast.ClassDef):
            raise NotAlone("write it with def or class")
        if getattr(function, "__closure__", None):
            raise NotAlone("it uses variables of a function around it; write it at the top of a cell")
        for name in free_names(tree):
            if name not in self._seen and name in self.names:
                self._seen.add(name)
                self._add(name, self.names[name])
        return text

    def _add(self, name: str, value: Any) -> None:
        home = getattr(value, "__module__", None)
        if name in self.parts:
            self.parts_used.add(name)
        elif isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        elif callable(value) and home == self.names.get("__name__"):
            self.helpers.append(self.source(value))
        elif callable(value) and home and (own := getattr(value, "__name__", "")).isidentifier():
            self.imports.add(f"from {home} import {own}" + (f" as {name}" if name != own else ""))
        elif _is_literal(value):
            self.constants.append(f"{name} = {value!r}")
        else:
            raise NotAlone(f"it uses {name} from another cell; give it as an argument, or make it inside")


def _globals_of(function: Any) -> dict[str, Any]:
    """Return the names of the notebook, or of the module, in which a function or class was defined."""
    if isinstance(function, type):
        methods = [value for value in vars(function).values() if inspect.isfunction(value)]
        function = methods[0] if methods else None
    return getattr(inspect.unwrap(function) if function else None, "__globals__", {})


def free_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a source reads and doesn't bind anywhere, in the order in which they come."""
    nodes = list(ast.walk(tree))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound |= {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in bound and not hasattr(builtins, node.id):
            yield node.id


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return False
