"""A sandbox for chat templates with limits, so that each of them comes to an end.

A template is a program from a file, and a short one can run for years: `range(99999)` inside
`range(99999)`, or `10 ** 100000000`. Here everything that may take long is counted before it is done:

    steps         the items that loops go over, and the calls: at most `MAX_STEPS`
    sizes         each text, list or number that is written or made by an operator, a filter or a method of a
                  text: at most `MAX_SIZE`
    characters    all these together: at most `MAX_CHARACTERS`

Counts, and no clock: the same template ends at the same place on every machine. For the loops, the program is
rewritten after Jinja has read it: `{% for x in items %}` becomes `{% for x in counted(items) %}`.

Not handled: a template that is made to be slow within these limits, such as one that compares two lists of
lists of lists, each of which holds the same list twice.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import wraps
from math import prod
from typing import Any

from jinja2 import Environment, Template, TemplateRuntimeError, nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000
MAX_SIZE = 5_000_000  # characters, items, or the bits of a whole number
MAX_CHARACTERS = 1_000_000_000  # of all that is made

# The filters and the methods of texts that may make much more than they are given.
GROWING = {"batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace"}
GROWING |= {"rjust", "slice", "tojson", "zfill"}
FORMATS = {"%", "format", "format_map"}
COMPUTED_WIDTH = re.compile(r"%[^a-zA-Z%]*\*|\{[^}]*\{")  # as in "%*d" and "{:{}}"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which a template that exceeds a limit raises TemplateRuntimeError."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, filters: Mapping[str, Callable], **options):
        super().__init__(optimized=False, **options)  # optimizing would compute constants before any limit
        del self.globals["lipsum"]  # filler text of any length
        self.filters = {name: self._limit(name, made) for name, made in (self.filters | filters).items()}
        self._used = _Used()

    def compile_limited(self, source: str) -> Template:
        """Return the template of a program, in which loops and texts are counted."""
        return self.from_string(_Counting().visit(self.parse(source)))

    def start(self) -> None:
        """Begin to count anew."""
        self._used.steps = self._used.characters = 0

    def count_steps(self, items: Any = None) -> Any:
        """Return `items`, which a loop goes over, and count them."""
        self._used.steps += 1 + (len(items) if isinstance(items, Sized) else 0)
        if self._used.steps > MAX_STEPS:
            raise TemplateRuntimeError(f"it takes more than {MAX_STEPS:,} steps")
        return items

    def count_characters(self, value: Any) -> Any:
        """Return `value`, which is written, and count its characters."""
        self._count_made("the text", _size(value))
        return value

    def concatenate(self, *values: Any) -> str:
        """Compute the operator ~."""
        self._count_made("~", sum(map(_size, values)))
        return "".join(map(str, values))

    def call(*args, **kwargs) -> Any:
        """Call a function for a template: the arguments are self, the context, the function, and its own."""
        self, context, function, *own = args
        self.count_steps(own[0] if isinstance(function, LoopContext) and own else None)
        text = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(text, str) and function.__name__ in GROWING:
            own = [list(value) if isinstance(value, Iterator) else value for value in own]
            self._count_made(
                function.__name__, _largest_result(function.__name__, [text, *own, *kwargs.values()])
            )
        return ImmutableSandboxedEnvironment.call(self, context, function, *own, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute one of `intercepted_binops`."""
        if operator == "%" and isinstance(left, str):
            self._count_made(operator, _largest_result(operator, [left, right]))
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length(), right.bit_length()
            self._count_made(operator, {"**": bits[0] * max(right, 0), "*": sum(bits)}.get(operator, 0))
        elif operator == "*":
            self._count_made(operator, _length(left) * _length(right))
        elif operator == "+":
            self._count_made(operator, _length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def _limit(self, name: str, function: Callable) -> Callable:
        """Return a filter that counts what it is given and what it may make."""

        @wraps(function)  # keeps also the mark by which Jinja passes the environment or a context first
        def limited(*args, **kwargs):
            args = [list(value) if isinstance(value, Iterator) else value for value in args]
            values = [value for value in args if not isinstance(value, (Context, EvalContext, Environment))]
            self.count_steps(None if isinstance(values[0], str) else values[0])
            growing = name in GROWING
            size = _largest_result(name, [*values, *kwargs.values()]) if growing else _size(values[0])
            self._count_made(name, size)
            return function(*args, **kwargs)

        return limited

    def _count_made(self, name: str, size: int) -> None:
        if size > MAX_SIZE:
            raise TemplateRuntimeError(f"{name} would have more than {MAX_SIZE:,} characters, items or bits")
        self._used.characters += size
        if self._used.characters > MAX_CHARACTERS:
            raise TemplateRuntimeError(f"it makes more than {MAX_CHARACTERS:,} characters")


class _Used(threading.local):
    """What a template has used so far; each thread counts its own."""

    steps = 0
    characters = 0


class _Counting(NodeTransformer):
    """Rewrites a program: what loops go over, what is written, and ~ go through the environment's methods."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _call("count_steps", [node.iter], node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        for i, part in enumerate(node.nodes):
            if not isinstance(part, nodes.TemplateData):
                node.nodes[i] = _call("count_characters", [part], node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node.lineno)


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None).set_lineno(line)


def _length(value: Any) -> int:
    """The number of characters or items; a number is what it repeats them by."""
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, Sized) else 1


def _size(value: Any) -> int:
    """Return about how many characters a value with everything in it has; beyond the limit, any more."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_SIZE:
        value = waiting.pop()
        size += len(value) if isinstance(value, str) else 1
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            waiting += value
    return size


def _largest_result(name: str, values: list) -> int:
    """How large the result of one of `GROWING` can become: the product of the two largest arguments."""
    if name not in FORMATS:
        sizes = [_length(value) if isinstance(value, int) else _size(value) for value in values]
    elif COMPUTED_WIDTH.search(form := str(values[0])):
        raise TemplateRuntimeError(f"the format {form[:40]!r} computes a width, which is not handled")
    else:
        sizes = [*map(_size, values), *map(int, re.findall(r"\d+", form))]
    return prod(sorted(sizes)[-2:])
