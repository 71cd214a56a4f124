"""Small changes of a function's source, each of them a mistake that a learner might make.

`mutants_of(function)` yields the changed functions with a description of each change.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


def mutants_of(function: Callable) -> Iterator[tuple[str, Callable]]:
    """Yield every mutant of a function with what was changed, such as "2: i += 2  →  i += 3".

    The number is that of the line in the function, the texts are the line's statement before and after.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    said = {ast.unparse(tree)}
    for place, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            mutant = copy.deepcopy(tree)
            line = _apply(mutant, place, change)
            ast.fix_missing_locations(mutant)
            if (text := ast.unparse(mutant)) not in said:
                said.add(text)
                yield f"{line}: {_difference(tree, mutant)}", _build(function, mutant)


def _changes(node: ast.AST) -> Iterator[Callable[[ast.AST], ast.AST | None]]:
    """Yield functions that return what is to stand in the node's place, or None if they changed it."""
    match node:
        case ast.BinOp() | ast.AugAssign():
            for other in OPERATORS.get(type(node.op), ()):
                yield lambda it, other=other: setattr(it, "op", other())
        case ast.BoolOp():
            yield lambda it: setattr(it, "op", OPERATORS[type(it.op)][0]())
            for i in range(2):  # one side left out
                yield lambda it, i=i: it.values[i] if len(it.values) == 2 else it.values.pop(i) and None
        case ast.Compare():
            for other in OPERATORS[type(node.ops[0])]:
                yield lambda it, other=other: it.ops.__setitem__(0, other())
        case ast.UnaryOp():
            yield lambda it: it.operand
        case ast.Constant(value=bool()):
            yield lambda it: ast.Constant(not it.value)
        case ast.Constant(value=int() | float()):
            for step in (1, -1):
                yield lambda it, step=step: _number(it.value + step)
        case ast.IfExp():
            yield lambda it: it.body
            yield lambda it: it.orelse
    yield from _changes_of_structure(node)


def _changes_of_structure(node: ast.AST) -> Iterator[Callable[[ast.AST], ast.AST | None]]:
    match node:
        case ast.Call():
            if isinstance(node.func, ast.Attribute):  # x.softmax(…) → x
                yield lambda it: it.func.value
            elif node.args:  # f(x) → x
                yield lambda it: it.args[0]
            for i in range(len(node.keywords)):
                yield lambda it, i=i: it.keywords.pop(i) and None
            if len(node.args) == 2:
                yield lambda it: it.args.reverse()
        case ast.Slice():
            for bound in ("lower", "upper", "step"):
                if getattr(node, bound):
                    yield lambda it, bound=bound: setattr(it, bound, None)
        case ast.BinOp() if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.MatMult | ast.Pow):
            yield lambda it: ast.BinOp(it.right, it.op, it.left)
        case ast.comprehension() if node.ifs:
            yield lambda it: it.ifs.clear()
    if isinstance(node, ast.BinOp):  # one side left out
        yield lambda it: it.left
        yield lambda it: it.right
    for field in ("body", "orelse"):  # a statement left out
        statements = getattr(node, field, None)
        if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
            for i, statement in enumerate(statements):
                if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                    yield lambda it, i=i, field=field: getattr(it, field).__setitem__(i, ast.Pass())


def _number(value: float) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _apply(tree: ast.AST, place: int, change: Callable) -> int:
    """Make a change at the node of this place. Return its line."""
    target = list(ast.walk(tree))[place]
    new = change(target)
    if new is not None:
        for parent in ast.walk(tree):
            for field, value in ast.iter_fields(parent):
                if value is target:
                    setattr(parent, field, new)
                elif isinstance(value, list) and any(item is target for item in value):
                    value[:] = [new if item is target else item for item in value]
    return next(node.lineno for node in (target, *ast.walk(tree)) if hasattr(node, "lineno"))


def _difference(before: ast.AST, after: ast.AST) -> str:
    old, new = ast.unparse(before).splitlines(), ast.unparse(after).splitlines()
    start = next(
        i for i, lines in enumerate(zip([*old, ""], [*new, ""], strict=False)) if lines[0] != lines[1]
    )
    end = next(
        i
        for i, lines in enumerate(zip(old[::-1] + [""], new[::-1] + [""], strict=False))
        if lines[0] != lines[1]
    )
    texts = (" ".join(map(str.strip, lines[start : len(lines) - end])) for lines in (old, new))
    return "  →  ".join(texts)


def _build(function: Callable, tree: ast.AST) -> Callable:
    name = function.__name__
    names = dict(function.__globals__)
    exec(compile(tree, f"<mutant of {name}>", "exec"), names)  # noqa: S102
    return names[name]
