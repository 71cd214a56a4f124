"""The source of a function or class with all that it uses, so that it can stand in a file of its own.

What a learner wrote may use helpers, imports and constants of other cells. They are found by name in the
notebook: in its namespace, and in the cells that were run (IPython keeps these in `In`).

Not handled: state that other cells changed, and names that are only made at run time (`exec`, `globals()`).
"""

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from course_lib.course.bindings import (
    alias_name,
    bindings,
    bound_by,
    free_names,
    lines_of,
    parse,
    with_one_alias,
)

NOTEBOOK_ONLY = (
    "display",
    "get_ipython",
    "exit",
    "quit",
)  # IPython's builtins, which a plain Python lacks or ends by
BINDS = (ast.Assign, ast.AnnAssign, ast.If, ast.Pass)  # statements that may be run again
DOES_MORE = (ast.Call, ast.NamedExpr)  # within a statement that binds
LONGEST = 2000  # characters of a constant that is copied


class NotAlone(Exception):
    """A function can't be taken out of its notebook. The message says why."""


def collect(function: Any, name: str, parts: Mapping[int, str]) -> tuple[str, set[str]]:
    """Return a text that defines a function or class as `name`, and the names of the parts that it uses.

    parts: the names of the model's parts, by the `id` of the course's solution of each. The other parts have
    places of their own, and aren't copied.

    Raises NotAlone if the source can't be found, or for a value that can't be written as text.
    """
    collector = _Collector(function, name, parts)
    body = collector.source_of(function, name)
    if name not in bindings(body):
        body += f"\n\n{name} = {parse(body).body[0].name}\n"
    blocks = ["\n".join(sorted(collector.imports)), *collector.definitions, body]
    return "\n\n\n".join(block.strip("\n") for block in blocks if block) + "\n", collector.parts_used


class _Collector:
    """What one function uses, found by following its free names."""

    def __init__(self, function: Any, name: str, parts: Mapping[int, str]) -> None:
        self.names = _namespace_of(function)
        self.cells = list(_cells(self.names))
        self.parts = {key: part for key, part in parts.items() if part != name}
        self.names_of_parts = set(self.parts.values())
        self.imports: set[str] = set()
        self.definitions: list[str] = []  # each after those that it uses
        self.parts_used: set[str] = set()
        self._seen = {name} | {key for key, value in self.names.items() if value is function}

    def source_of(self, function: Any, name: str) -> str:
        """Return the source of a function or class, after taking note of everything that it uses."""
        text = self._find_source(function, name)
        if text is None:
            raise NotAlone(f"the source of {name} can't be found; write it with def or class, in a cell")
        body = parse(text).body
        if not body or not isinstance(body[0], ast.FunctionDef | ast.ClassDef):
            raise NotAlone(f"write {name} with def or class")
        if getattr(_unwrapped(function), "__closure__", None) and "__class__" not in _free_variables(
            function
        ):
            raise NotAlone(f"{name} uses variables of a function around it; write it at the top of a cell")
        self._add_what_is_used(text)
        return text

    def _find_source(self, function: Any, name: str) -> str | None:
        """Return a function's source, or that of a class, which inspect doesn't find in a notebook."""
        if not isinstance(function, type) and (text := _source(function)):
            return text
        for cell in self.cells:
            for node in reversed(parse(cell).body):
                if getattr(node, "name", "") in (name, getattr(function, "__name__", name)):
                    return lines_of(cell, node)
        return _source(function)

    def _add_what_is_used(self, text: str) -> None:
        for name in sorted(free_names(text) - self._seen):
            self._seen.add(name)
            is_own = any(self._statements_that_bind(name))
            if name in NOTEBOOK_ONLY and not is_own:
                raise NotAlone(f"it uses {name}, which only a notebook has")
            if name in self.names and (is_own or not hasattr(builtins, name)):
                self._add(name, self.names[name])

    def _add(self, name: str, value: Any) -> None:
        own = name if name in self.names_of_parts else None
        if part := self.parts.get(id(value)) or self._part_from_my_model(value) or own:
            self.parts_used.add(part)
            if part != name:
                self.definitions.append(f"{name} = {part}")
        elif isinstance(value, ModuleType) or self._is_foreign(value):
            self.imports.add(self._import_of(name, value))
        elif callable(value) and not _is_instance(value):
            self.definitions.append(self.source_of(value, name))
        else:
            self._add_constant(name, value)

    def _part_from_my_model(self, value: Any) -> str | None:
        """Return the name of the part that `mine` brought from my_model.py, if a value is one."""
        if getattr(value, "__module__", None) != "my_model":
            return None
        if isinstance(value, type):
            return value.__name__ if value.__name__ in self.names_of_parts else None
        there = getattr(value, "__globals__", {})
        return next((part for part in self.names_of_parts if there.get(part) is value), None)

    def _is_foreign(self, value: Any) -> bool:
        """Return whether a function or class comes from a module, and not from the notebook."""
        home = getattr(value, "__module__", None)
        return callable(value) and not _is_instance(value) and home not in (None, self.names.get("__name__"))

    def _import_of(self, name: str, value: Any) -> str:
        """Return the import of a name as the notebook has it, or one made from what the name stands for."""
        for statement in self._statements_that_bind(name):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                alias = next(alias for alias in statement.names if alias_name(alias) == name)
                return ast.unparse(with_one_alias(statement, alias))
        if isinstance(value, ModuleType):
            return f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else "")
        own = getattr(value, "__qualname__", name)
        if "." in own or not own.isidentifier() or value.__module__ == "builtins":
            raise NotAlone(f"it uses {name} from another cell; import or define it there by name")
        return f"from {value.__module__} import {own}" + (f" as {name}" if name != own else "")

    def _add_constant(self, name: str, value: Any) -> None:
        """Add the statement that bound a constant, or its value where that statement may do more than bind.

        What the statement uses is added before it is run again. That refuses objects of the notebook's own
        classes, whose methods it might call.
        """
        statement = next(self._statements_that_bind(name), None)
        text = ast.unparse(statement) if statement else ""
        only_binds = statement is not None and _only_binds(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports.add(self._import_of(name, value))
            return
        if only_binds and len(text) < LONGEST:
            self._add_what_is_used(text)
            if self._gives(text, name, value):
                self.definitions.append(text)
                return
        elif not only_binds and _is_literal(value):
            self.definitions.append(f"{name} = {value!r}")
            return
        raise NotAlone(f"it uses {name}, which another cell made: make it inside the function")

    def _gives(self, text: str, name: str, value: Any) -> bool:
        """Return whether a statement of the notebook, run again, gives the value that a name has now."""
        names = dict(self.names)
        try:
            exec(compile(text, "<constant>", "exec"), names)  # noqa: S102  the learner's own, in their kernel
            return type(names[name]) is type(value) and bool(names[name] == value)
        except Exception:  # noqa: BLE001  a learner's code may raise anything
            return False

    def _statements_that_bind(self, name: str) -> Iterator[ast.stmt]:
        """Yield the top-level statements of the cells that bind a name, the latest first."""
        for cell in self.cells:
            for statement in reversed(parse(cell).body):
                if any(bound == name for bound, _ in bound_by(statement)):
                    yield statement


def _only_binds(statement: ast.stmt) -> bool:
    """Return whether a statement changes nothing but names, also where it is run a second time.

    A call might train a net, or take from a queue; `x += 1` and `x[0] = 1` might change an array.
    """
    for node in ast.walk(statement):
        acts = isinstance(node, ast.stmt) and not isinstance(node, BINDS)
        writes = isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store)
        if acts or writes or isinstance(node, DOES_MORE):
            return False
    return True


def _cells(names: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cells that were run in a notebook, the latest first. A cell under a magic is its inside."""
    cells = names.get("In", ())
    texts = [cell for cell in cells if isinstance(cell, str)] if isinstance(cells, list) else []
    for cell in reversed(texts):
        inside = re.fullmatch(r"get_ipython\(\)\.run_cell_magic\((.*)\)\n?", cell, re.DOTALL)
        try:
            yield ast.literal_eval(f"({inside[1]})")[2] if inside else cell
        except (ValueError, SyntaxError):
            continue


def _namespace_of(function: Any) -> dict[str, Any]:
    """Return the names of the notebook, or of the module, in which a function or class was defined."""
    if isinstance(function, type):
        return vars(sys.modules.get(function.__module__, ModuleType("")))
    return getattr(_unwrapped(function), "__globals__", {})


def _source(function: Any) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(function)).rstrip() + "\n"
    except (OSError, TypeError, SyntaxError):
        return None


def _unwrapped(function: Any) -> Any:
    return function if isinstance(function, type) else inspect.unwrap(function)


def _free_variables(function: Any) -> tuple[str, ...]:
    return getattr(getattr(_unwrapped(function), "__code__", None), "co_freevars", ())


def _is_instance(value: Any) -> bool:
    """Return whether something that can be called is an object with a state, such as a layer of a network."""
    return not (inspect.isroutine(value) or isinstance(value, type) or hasattr(value, "__wrapped__"))


def _is_literal(value: Any) -> bool:
    try:
        return len(repr(value)) < LONGEST and bool(ast.literal_eval(repr(value)) == value)
    except Exception:  # noqa: BLE001  a value's repr may raise anything
        return False
