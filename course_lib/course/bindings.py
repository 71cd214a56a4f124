"""Which names a piece of Python binds, and which it takes from elsewhere."""

import ast
import symtable
from collections.abc import Iterator

# What Python's parser raises: also for a zero byte, and for what is nested too deeply.
NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


def bindings(text: str) -> dict[str, str]:
    """Return what a text binds at its top level: each name with the statement that does it, in plain form."""
    found = {}
    for statement in parse(text).body:
        for name, plain in bound_by(statement):
            found[name] = plain
    return found


def bound_names(text: str) -> set[str]:
    """Return all names that a text binds at its top level. Nothing for a text that isn't Python."""
    try:
        top = symtable.symtable(text, "<text>", "exec")
    except NOT_PYTHON:
        return set()
    return {symbol.get_name() for symbol in top.get_symbols() if _is_bound(symbol)}


def free_names(text: str) -> set[str]:
    """Return the names that a text uses and doesn't bind itself. Nothing for a text that isn't Python."""
    try:
        top = symtable.symtable(text, "<text>", "exec")
    except NOT_PYTHON:
        return set()
    return set(_global_names(top)) - {symbol.get_name() for symbol in top.get_symbols() if _is_bound(symbol)}


def parse(text: str) -> ast.Module:
    """Return a text's syntax tree, and an empty one for a text that isn't Python."""
    try:
        return ast.parse(text)
    except NOT_PYTHON:
        return ast.Module([], [])


def bound_by(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement binds, each with the statement in plain form."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name, ast.dump(statement)
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias_name(alias), _imported(statement, alias)
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = getattr(statement, "targets", None) or [statement.target]
        for node in (node for target in targets for node in ast.walk(target)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, ast.dump(statement)
    else:
        for inner in (*getattr(statement, "body", ()), *getattr(statement, "orelse", ())):
            yield from bound_by(inner) if isinstance(inner, ast.stmt) else ()


def _imported(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """Return what an import binds a name to, however it is written: "torch.nn.functional"."""
    if isinstance(statement, ast.ImportFrom):
        return f"import {'.' * statement.level}{statement.module or ''}.{alias.name}"
    return f"import {alias.name if alias.asname else alias.name.partition('.')[0]}"


def alias_name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def with_one_alias(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    if isinstance(statement, ast.Import):
        return ast.Import([alias])
    return ast.ImportFrom(statement.module, [alias], statement.level)


def lines_of(text: str, node: ast.stmt) -> str:
    start = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return "\n".join(text.split("\n")[start - 1 : node.end_lineno]) + "\n"


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Yield the names that are looked up outside of every function and class of a text."""
    for symbol in table.get_symbols():
        if table.get_type() == "module" and symbol.is_referenced() or symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child)


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
