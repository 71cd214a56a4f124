"""Reading a learner's answer: short texts for values and exceptions, and tests for untouched stubs."""

import ast
import dis
import inspect
import os
import reprlib
import sys
import textwrap
import traceback
import types
from typing import Any

from course_lib.course.order import hint_for

COURSE_LIB = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def shown(value: Any) -> str:
    """Return a short text for a value, the same in every run and on every machine."""
    text = _ShortRepr().repr(value)
    return text if len(text) <= 120 else text[:119] + "…"


class _ShortRepr(reprlib.Repr):
    """A `repr` that cuts long values, rounds floats, and shows no memory addresses and no array elements."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 6
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.6g}"

    def repr_instance(self, value: Any, level: int) -> str:
        if isinstance(value, dict):
            return self.repr_dict(value, level)
        if isinstance(value, (bool, bytes, type(None), type(...))):
            return super().repr_instance(value, level)
        if getattr(value, "shape", None) == ():
            return self.repr1(value.item(), level)
        if getattr(value, "shape", None) is not None:
            return f"an array of shape {shape(value)}"
        name = getattr(value, "__name__", None)
        return f"the function {name}" if name and callable(value) else f"a {type(value).__name__}"


def short_call(function: Any, args: tuple) -> str:
    """Return a call as a learner would write it, with a parameter's name in place of a long value."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    texts = [_short(value, names[i] if i < len(names) else "…") for i, value in enumerate(args)]
    return f"{getattr(function, '__name__', 'it')}({', '.join(texts)})"


def _short(value: Any, name: str) -> str:
    if hasattr(value, "tolist") and getattr(value, "ndim", 9) < 3 and 0 not in value.shape:
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:g}"
    plain = isinstance(value, int | str | bytes | list | tuple | dict | set | type(None))
    return text if plain and len(text := repr(value)) <= 40 else name


def calls_in(function: Any) -> set[str]:
    """Return the names of methods, and of functions from elsewhere, that a function and those in it use."""
    function = inspect.unwrap(function)
    codes = [code] if (code := getattr(function, "__code__", None)) else []
    for code in codes:  # which grows meanwhile
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    steps = [step for code in codes for step in dis.get_instructions(code)]
    found = {step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")}
    used = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    return found | {name for name in used if not _is_defined_beside(name, function)}


def _is_defined_beside(name: str, function: Any) -> bool:
    """Return whether a name that a function uses is a function of the same notebook."""
    value = getattr(function, "__globals__", {}).get(name)
    return getattr(value, "__module__", None) == function.__module__


def shape(array: Any) -> str:
    return str(tuple(array.shape))


def describe(error: BaseException) -> str:
    """Return an exception's type and message, and the line of the learner's cell that raised it.

    For a name that a cell further up makes, it also says which cells to run first.
    """
    text = f"{type(error).__name__}: {error}".strip().split("\n")[0].removesuffix(":")
    text = text if len(text) <= 160 else text[:159] + "…"
    if "torch.return_types" in text:
        text += ". (topk, sort, and max or min with a dim, give two things: values and indices)"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_learners(frame.filename)]
    if not frames:
        return text
    if frames[-1].filename.endswith("my_model.py"):
        return f"{text}\n  line {frames[-1].lineno} of my_model.py: {frames[-1].line}"
    hint = hint_for(error)
    return f"{text}\n  line {frames[-1].lineno} of your cell: {frames[-1].line}" + (hint and f"\n  {hint}")


def _is_learners(filename: str) -> bool:
    installed = (COURSE_LIB, sys.prefix, sys.base_prefix, "<frozen")
    filename = filename if filename.startswith("<") else os.path.abspath(filename)
    return not (filename.startswith(installed) or "site-packages" in filename or "dist-packages" in filename)


def is_blank(answer: Any) -> bool:
    """Return whether an answer is still empty: `None`, `...`, or a list, tuple or dict that has a `...`."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return any(item is ... for item in answer)
    return answer is None or answer is ...


def is_untouched(function: Any) -> bool:
    """Return whether a function's body is still empty, or a value in it is still the `...` of the stub.

    An index such as `x[..., 0]` isn't a stub, nor is a `...` that is left on a line of its own after real
    code.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return False
    nodes = list(ast.walk(tree))
    allowed = {node.value for node in nodes if isinstance(node, ast.Expr)}
    allowed |= {part for node in nodes if isinstance(node, ast.Subscript) for part in ast.walk(node.slice)}
    return _does_nothing(tree) or any(_is_ellipsis(node) and node not in allowed for node in nodes)


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _does_nothing(tree: ast.AST) -> bool:
    body = getattr(tree, "body", None)
    return isinstance(body, list) and all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        or (isinstance(line, ast.Raise) and "NotImplementedError" in ast.unparse(line))
        for line in body
    )
