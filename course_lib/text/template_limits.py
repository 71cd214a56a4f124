"""A sandbox for chat templates with limits, so that each of them comes to an end.

A template is a program from a file, and a short one can run for years: `range(99999)` inside
`range(99999)`, or `10 ** 100000000`. Here everything that may take long is counted before it is done:

    steps         the items that loops go over, and the calls: at most `MAX_STEPS`
    sizes         each text, list or number that is written, compared, or made by an operator, a filter or a
                  method: at most `MAX_SIZE`
    characters    all these together: at most `MAX_CHARACTERS`

Counts, and no clock: the same template ends at the same place on every machine. For the loops, the program is
rewritten after Jinja has read it: `{% for x in items %}` becomes `{% for x in counted(items) %}`; in the same
way what is written, compared or sliced is counted.

Not handled: a template that is made to be slow within these limits, which may take some minutes, or that
keeps all it makes, which may be some gigabytes.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import wraps
from typing import Any

from jinja2 import Environment, Template, TemplateRuntimeError, nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from course_lib.text.template_sizes import MAX_SIZE, comparisons, growth, length_of, size_of

MAX_STEPS = 500_000
MAX_CHARACTERS = 100_000_000  # of all that is made or read
COPIED = 20  # characters are copied in the time in which one is read: + and ~ only copy

# What takes no longer for a larger value, what goes over items one by one, and which tests take longer.
INSTANT = {"count", "d", "default", "first", "last", "length"}
LAZY = {"batch", "in", "map", "reject", "rejectattr", "select", "selectattr", "slice", "unique"}
TESTS = {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan"}
TESTS |= {"lower", "lt", "ne", "upper"}


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which a template that exceeds a limit raises TemplateRuntimeError."""

    intercepted_binops = frozenset(["+", "-", "*", "**", "/", "//", "%"])

    def __init__(self, filters: Mapping[str, Callable], **options):
        super().__init__(optimized=False, **options)  # optimizing would compute constants before any limit
        del self.globals["lipsum"]  # filler text of any length
        self.filters = {name: self._limit(name, made) for name, made in (self.filters | filters).items()}
        self.tests |= {name: self._limit(name, self.tests[name]) for name in TESTS}
        self._used = _Used()

    def add_functions(self, *functions: Callable) -> None:
        """Let templates call these functions, by their names; what they are given is counted."""
        self.globals |= {each.__name__: self._limit(each.__name__, each) for each in functions}

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

    def count_characters(self, value: Any, name: str = "the text") -> Any:
        """Return `value`, which is written or compared, and count its characters."""
        self._count_made(name, size_of(value))
        return value

    def count_copied(self, value: Any) -> Any:
        """Return `value`, of which a slice is taken, and count it."""
        self._count_made("the slice", length_of(value), COPIED)
        return value

    def concatenate(self, *values: Any) -> str:
        """Compute the operator ~."""
        self._count_made("~", sum(map(size_of, values)), COPIED)
        return "".join(map(str, values))

    def call(*args, **kwargs) -> Any:
        """Call a function for a template: the arguments are self, the context, the function, and its own."""
        self, context, function, *own = args
        self.count_steps(own[0] if isinstance(function, LoopContext) and own else None)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, bytes):
            raise TemplateRuntimeError("it calls a method of bytes, which is not handled")
        if isinstance(owner, (str, int, Sequence, Mapping, LoopContext)):
            own = [list(value) if isinstance(value, Iterator) else value for value in own]
            self._count_call(function.__name__, owner, own, kwargs)
        return ImmutableSandboxedEnvironment.call(self, context, function, *own, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute one of `intercepted_binops`."""
        if operator == "%" and isinstance(left, (str, bytes)):
            self._count_call(operator, left, [right], {})
        elif isinstance(left, int) and isinstance(right, int):
            bits, more = left.bit_length(), right.bit_length()
            made = bits * max(right, 0) if operator == "**" else bits + more
            self._count_made(operator, made)
            product = {"+": 0, "-": 0, "**": made * made}.get(operator, bits * more)
            self._count_work((made + product) // 1000)
        elif operator == "*":
            self._count_made(operator, length_of(left) * length_of(right))
        elif operator == "+":
            self._count_made(operator, length_of(left) + length_of(right), COPIED)
        return super().call_binop(context, operator, left, right)

    def _limit(self, name: str, function: Callable) -> Callable:
        """Return a filter or a test that counts what it is given and what it may make."""

        @wraps(function)  # keeps also the mark by which Jinja passes the environment or a context first
        def limited(*args, **kwargs):
            args = [self._read(name, value) if isinstance(value, Iterator) else value for value in args]
            own = [value for value in args if not isinstance(value, (Context, EvalContext, Environment))]
            first, *rest = own or [None]
            if name in INSTANT:
                self.count_steps()
            else:
                self.count_steps(first if isinstance(first, Sized) and not isinstance(first, str) else None)
                self._count_call("%" if name == "format" else name, first, rest, kwargs)
            return function(*args, **kwargs)

        return limited

    def _read(self, name: str, items: Iterator) -> Any:
        """Return items as a filter may get them: all at once, or counted one by one if it reads them so."""
        if name in INSTANT:
            return items
        return map(self.count_characters, map(self._count_step, items)) if name in LAZY else list(items)

    def _count_step(self, item: Any) -> Any:
        self.count_steps()
        return item

    def _count_call(self, name: str, value: Any, rest: list, named: Mapping[str, Any]) -> None:
        """Count a filter, a test or a method of `value`: all that it is given, and what it adds to that."""
        size = length_of(value) if isinstance(value, Mapping) and name == "get" else size_of(value)
        self._count_made(name, size + size_of(rest) + size_of(named))  # before anything is computed from them
        self._count_work(comparisons(name, value, rest, named))
        self._count_made(name, growth(name, value, rest, named))

    def _count_made(self, name: str, size: int, copied: int = 1) -> None:
        if size > MAX_SIZE:
            raise TemplateRuntimeError(f"{name} would have more than {MAX_SIZE:,} characters, items or bits")
        self._count_work(size // copied)

    def _count_work(self, characters: int) -> None:
        self._used.characters += characters
        if self._used.characters > MAX_CHARACTERS:
            raise TemplateRuntimeError(f"it makes or reads more than {MAX_CHARACTERS:,} characters")


class _Used(threading.local):
    """What a template has used so far; each thread counts its own."""

    steps = 0
    characters = 0


class _Counting(NodeTransformer):
    """Rewrites a program: what is gone over, written, compared or sliced goes through the environment."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _call("count_steps", [node.iter], node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        parts = [nodes.Const(x.data) if isinstance(x, nodes.TemplateData) else x for x in node.nodes]
        node.nodes = [_call("count_characters", [part], node.lineno) for part in parts]
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> None:
        raise TemplateRuntimeError("it uses autoescape, which is for web pages and is not handled")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        for side in (node, *node.ops):
            side.expr = _counted(side.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("count_copied", [node.node], node.lineno)
        else:
            node.arg = _counted(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _counted(node.key)
        return node


def _counted(value: nodes.Expr) -> nodes.Expr:
    if isinstance(value, nodes.Const):
        return value
    return _call("count_characters", [value, nodes.Const("what is compared")], value.lineno)


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None).set_lineno(line)
