"""The sweep: every public function gets valid arguments, of which one at a time is replaced by an odd value.

    CALLS = {
        "soft_cap": Call(soft_cap, {"x": torch.randn(2, 3), "cap": 2.0}, fine={
            "cap is None": "None means no cap",
            "x has one more dimension": "any shape is right",
        }),
        "KVCache.update": Call(KVCache.update, {"self": cache, "layer": 0, …}),
    }
    EXEMPT = {"Loss": "a type, not called"}

    test_every_entry_is_swept, test_sweep = sweep("course_lib.model", CALLS, EXEMPT)

Every name in the room's `__all__` needs a call or an exemption; further calls, such as methods, have any
names ("Class.method"). The arguments are copied deeply for each call, and random numbers are seeded. `self`
and the arguments named in `keep` aren't replaced.

What may come of an odd value:

    an error that the course raises      a `raise` in course_lib, of ERRORS
    Python's own TypeError or            only where the type is plainly wrong (None or an object for a number,
    AttributeError                       a tensor or a model …)
    the same result as without it        a list for a tensor, an iterator for a list, another dtype
    a result that holds NaN              where the odd value held NaN or ±inf
    an empty result                      where the odd value was empty
    a result that the table says is      `fine`: "argument odd" → why it is right. A reason that isn't needed
    right                                fails, too.
    PyTorch's error about shapes         only where the call's `torch_errors` says why that is good enough: a
    and dtypes                           layer deep inside a model, a function of three lines

Everything else is a failure: another exception (such as PyTorch's own), a call that takes longer than SECONDS
(a guard against hanging), memory that runs out, or a result that nobody vouches for.
"""

import copy
import importlib
import inspect
import io
import linecache
import math
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

ERRORS = (ValueError, TypeError, IndexError, FileNotFoundError, FloatingPointError)
SECONDS = 30
HUGE = 2**62
INTERNAL = ("INTERNAL ASSERT", "allocate", "out of memory")  # in errors of PyTorch that are never good enough
MOST_ITEMS = 200  # of an iterator that a call returns


@dataclass
class Call:
    """A valid call.

    fine: "argument odd" → why the result is right. keep: arguments that aren't replaced. torch_errors: why
    PyTorch may complain of shapes and dtypes itself.
    """

    function: Callable
    arguments: dict[str, object]
    fine: dict[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    torch_errors: str = ""


@dataclass
class Odd:
    """An odd value. says: "is None".

    plain: of a plainly wrong type. same: right if the result is the same. form: a shape or dtype is odd.
    """

    says: str
    value: object
    plain: bool = False
    same: bool = False
    form: bool = False
    nan: bool = False
    empty: bool = False


class Hanging(BaseException):
    """A call took longer than SECONDS. (No Exception, so that nothing catches it on the way.)"""


def sweep(room: str, calls: Mapping[str, Call], exempt: Mapping[str, str] = {}) -> tuple[Callable, Callable]:
    """Return two tests for a room: that every entry is swept, and the sweep itself."""

    def test_every_entry_is_swept():
        public = set(importlib.import_module(room).__all__)
        assert public == public & (calls.keys() | exempt.keys())
        assert not calls.keys() & exempt.keys()
        assert all(name in public for name in exempt)

    @pytest.mark.parametrize("name", calls)
    def test_sweep(name):
        problems = find_problems(calls[name])
        assert not problems, "\n".join([f"{name}:", *problems])

    return test_every_entry_is_swept, test_sweep


def find_problems(call: Call) -> list[str]:
    """Return what went wrong under odd values, a line each."""
    expected = _outcome(call, {})
    if isinstance(expected, _Raised):
        return [f"the valid call fails: {expected.says}"]
    optional = _optional(call.function)
    problems, unneeded = [], dict(call.fine)
    for name, value in call.arguments.items():
        for odd in odd_values(value) if name != "self" and name not in call.keep else ():
            title = f"{name} {odd.says}"
            if odd.value is None and name in optional:
                continue
            outcome = _outcome(call, {name: odd.value})
            problem = _problem(odd, outcome, expected.result, bool(call.torch_errors))
            if problem and title in call.fine and isinstance(outcome, _Returned):
                del unneeded[title]
            elif problem:
                problems.append(f"  {title}: {problem}")
    return problems + [f"  {title}: is refused or right without the table's reason" for title in unneeded]


def odd_values(value: object) -> Iterator[Odd]:
    """Yield what may stand in the place of a valid value by mistake."""
    yield Odd("is None", None, plain=True)
    yield Odd("is an object", object(), plain=True)
    match value:
        case bool():
            yield Odd("is a word", "yes")
        case int():
            for odd in (-1, 0, HUGE, 1.5, math.nan, "3"):
                yield Odd(f"is {odd!r}", odd)
            yield Odd("is True", True)
        case float():
            for odd in (-1.0, 0.0, -math.inf, "0.5"):
                yield Odd(f"is {odd!r}", odd)
            yield Odd("is nan", math.nan, nan=True)
            yield Odd("is inf", math.inf, nan=True)
        case str():
            yield Odd("is empty", "", empty=True)
            yield Odd("is half a character", "\ud800")
            yield Odd("is an unknown word", "no such thing")
            yield Odd("is bytes", b"bytes", plain=True)
            yield Odd("is a number", 3, plain=True)
        case Tensor():
            yield from _odd_tensors(value)
        case Mapping():
            yield Odd("is empty", {}, empty=True)
            yield Odd("holds an unknown name", {**value, "no such thing": 1})
            yield Odd("is a number", 3, plain=True)
        case Sequence():
            yield Odd("is empty", type(value)(), empty=True)
            yield Odd("is an iterator", iter(copy.deepcopy(value)), same=True)
            yield Odd("holds None", [*value, None])
            yield Odd("is a word", "word")
            yield Odd("is a number", 3, plain=True)
            if value and all(type(x) is int for x in value):
                yield Odd("holds -1", [-1, *value[1:]])
                yield Odd("holds a huge number", [HUGE, *value[1:]])
                yield Odd("holds a fraction", [value[0] + 0.5, *value[1:]])
                yield Odd("is an array", np.array(value), same=True)
                yield Odd("is a tensor", torch.tensor(value), same=True)
            if value and all(type(x) is float for x in value):
                yield Odd("holds nan", [math.nan, *value[1:]], nan=True)
                yield Odd("holds inf", [math.inf, *value[1:]], nan=True)
        case nn.Module():
            yield Odd("is another module", nn.Identity(), plain=True)
        case _ if callable(value):
            yield Odd("gives None", lambda *_, **__: None)
            yield Odd("is a number", 3, plain=True)


def _odd_tensors(x: Tensor) -> Iterator[Odd]:
    yield Odd("is a word", "word", plain=True)
    yield Odd("is a number", 3, plain=True)
    yield Odd("is a list", x.tolist(), plain=True, same=True)
    yield Odd("has one more dimension", x[None], form=True)
    if x.dim():
        yield Odd("has one dimension less", x[0], form=True)
        yield Odd("is empty", x[:0], empty=True, form=True)
        yield Odd("has no columns", x[..., :0], empty=True, form=True)
        yield Odd("is shorter", x[:-1], form=True)
        yield Odd("is narrower", x[..., :-1], form=True)
    if x.is_floating_point():
        yield Odd("holds nan", _replaced(x, math.nan), nan=True)
        yield Odd("holds inf", _replaced(x, math.inf), nan=True)
        yield Odd("holds whole numbers", x.long(), form=True)
        yield Odd("is of 64 bits", x.double(), same=True, form=True)
    elif x.dtype == torch.bool:
        yield Odd("holds whole numbers", x.long(), same=True)
        yield Odd("holds fractions", x.float(), form=True)
    else:
        yield Odd("holds -1", _replaced(x, -1))
        yield Odd("holds a huge number", _replaced(x.long(), HUGE))
        yield Odd("holds fractions", x + 0.5, form=True)
        yield Odd("holds Booleans", x.bool(), form=True)
        yield Odd("is of int32", x.to(torch.int32), same=True, form=True)
        yield Odd("is of uint16", x.to(torch.uint16), same=True, form=True)


def _replaced(x: Tensor, value: float) -> Tensor:
    """Return a copy of x whose first element is `value`."""
    x = x.detach().clone()
    x.view(-1)[:1] = value
    return x


def printed(function: Callable) -> Callable:
    """Return the function, with what it prints as its result."""

    def call(**arguments):
        with redirect_stdout(io.StringIO()) as said:
            function(**arguments)
        return said.getvalue()

    call.__wrapped__ = function
    return call


# What came of a call


@dataclass
class _Returned:
    result: list


@dataclass
class _Raised:
    says: str
    ours: bool
    own: bool  # Python's own TypeError or AttributeError
    torch: bool = False  # PyTorch's error about shapes or dtypes


def _outcome(call: Call, replaced: dict[str, object]) -> _Returned | _Raised:
    arguments = copy.deepcopy({name: x for name, x in call.arguments.items() if name not in replaced})
    arguments = {name: replaced.get(name, arguments.get(name)) for name in call.arguments}
    torch.manual_seed(0)
    try:
        with _deadline(), redirect_stdout(io.StringIO()):
            positional = [arguments.pop("self")] if "self" in arguments else []
            result = list(_leaves(call.function(*positional, **arguments)))
            return _Returned(result)
    except Hanging:
        return _Raised(f"hangs: no end within {SECONDS} s", ours=False, own=False)
    except Exception as error:  # noqa: BLE001 - whatever comes of it is judged
        last = traceback.extract_tb(error.__traceback__)[-1]
        raises = linecache.getline(last.filename, last.lineno).lstrip().startswith("raise")
        ours = isinstance(error, ERRORS) and raises and "course_lib" in last.filename
        own = isinstance(error, (TypeError, AttributeError))
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        torchs = isinstance(error, (RuntimeError, IndexError, TypeError)) and not raises
        torchs = torchs and not any(word in str(error) for word in INTERNAL)
        return _Raised(f"{type(error).__name__} at {where}: {str(error)[:150]}", ours, own, torchs)


def _problem(odd: Odd, outcome: _Returned | _Raised, expected: list, torch_errors: bool) -> str | None:
    """Return what is wrong with an outcome; None if nothing is."""
    if isinstance(outcome, _Raised):
        right = outcome.ours or (odd.plain and outcome.own) or (odd.form and torch_errors and outcome.torch)
        return None if right else outcome.says
    result = outcome.result
    if odd.same and _same(result, expected):
        return None
    if odd.nan and any(map(_has_nan, result)):
        return None
    if odd.empty and not any(map(_holds_something, result)):
        return None
    return f"returns {str(result)[:150]}"


@contextmanager
def _deadline() -> Iterator[None]:
    def hang(*_):
        raise Hanging

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _optional(function: Callable) -> set[str]:
    """Return the arguments that may be None: their default is."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return set()
    return {name for name, parameter in parameters.items() if parameter.default is None}


def _leaves(result: object) -> Iterator[object]:
    """Yield the numbers, strings, tensors and other objects that a result is made of."""
    match result:
        case str() | bytes() | Tensor() | nn.Module():
            yield result
        case Mapping():
            for key, value in result.items():
                yield key
                yield from _leaves(value)
        case list() | tuple() | set() | frozenset():
            for each in result:
                yield from _leaves(each)
        case Iterator():
            for _, each in zip(range(MOST_ITEMS), result, strict=False):
                yield from _leaves(each)
        case _ if is_dataclass(result) and not isinstance(result, type):
            for each in fields(result):
                yield from _leaves(getattr(result, each.name))
        case _:
            yield result


def _same(result: list, expected: list) -> bool:
    return len(result) == len(expected) and all(map(_equal, result, expected))


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        close = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), **close)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape:
            return False
        return bool((np.isclose(a, b, rtol=1e-4, atol=1e-5) if a.dtype.kind == "f" else a == b).all())
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        a, b = a.state_dict(), b.state_dict()
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    simple = isinstance(a, (int, float, str, bytes, type(None)))
    return type(a) is type(b) and (not simple or repr(a) == repr(b))


def _has_nan(x: object) -> bool:
    if isinstance(x, Tensor):
        return x.is_floating_point() and not bool(x.isfinite().all())
    if isinstance(x, np.ndarray):
        return x.dtype.kind == "f" and not np.isfinite(x).all()
    return isinstance(x, float) and not math.isfinite(x)


def _holds_something(x: object) -> bool:
    return x.numel() > 0 if isinstance(x, Tensor) else x not in ("", b"", 0)
