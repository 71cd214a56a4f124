"""How large the values in a chat template are, and how large what is made of them can become."""

import re
from collections.abc import Mapping, Sequence, Sized, ValuesView
from string import Formatter
from types import NoneType
from typing import Any

import regex
from jinja2 import TemplateRuntimeError

MAX_SIZE = 5_000_000  # characters, items, or the bits of a whole number

# What an argument adds or multiplies in filters and in methods of texts.
FORMATS = {"%", "format", "format_map"}
WIDTHS = {"batch", "center", "ljust", "rjust", "slice", "to_bytes", "zfill"}
MULTIPLY = {"expandtabs", "indent", "join", "tojson", "translate", "wordwrap"}
# Methods and filters that may compare each character of a text with each one of their argument.
SEARCHES = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip", "trim"}
DATE = 100  # characters that a part of a date, such as %c, may take at most
PERCENT = regex.compile(r"(?s)%(\((?:[^()]++|(?1))*+\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?(.)")


def length_of(value: Any) -> int:
    """The number of characters or items; a number is what it repeats them by."""
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, Sized) else 1


def size_of(value: Any) -> int:
    """Return about how many characters a value with everything in it has; beyond the limit, any more."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_SIZE:
        value = waiting.pop()
        size += len(value) if isinstance(value, (str, bytes)) else 1
        if isinstance(value, int):
            size += value.bit_length() // 8
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            waiting += value
    return size


def growth(name: str, value: Any, rest: list, named: Mapping[str, Any]) -> int:
    """How much larger than all its arguments the result of a filter or a method of `value` can become."""
    rest = [*rest, *(named[key] for key in sorted(named, reverse=True))]  # reverse: old=…, new=…
    numbers = sum(map(length_of, [x for x in rest if isinstance(x, int)]))
    if name == "strftime_now":
        return str(value).count("%") * DATE + sum(map(int, re.findall(r"\d+", str(value))))
    if name in FORMATS:
        return _format_growth(name, value, max(map(size_of, rest), default=0))
    if name == "replace" and len(rest) > 1:
        return str(value).count(str(rest[0])) * len(str(rest[1]))
    if name in WIDTHS:
        return numbers
    if name in ("int", "round"):  # both may compute a power
        return (numbers + size_of(value)) ** 2 // 100
    if name == "sum" and not all(isinstance(x, (str, int, float, NoneType)) for x in rest):
        raise TemplateRuntimeError("sum begins with something other than a number, which is not handled")
    if name not in MULTIPLY:
        return 0
    each = sum(map(size_of, [x for x in rest if not isinstance(x, int)]))
    if name == "join":
        return length_of(value) * each
    if name in ("expandtabs", "indent"):
        return (1 + str(value).count("\t" if name == "expandtabs" else "\n")) * (numbers + each)
    return size_of(value) * (each + numbers) * depth_of(value) if name == "tojson" else size_of(value) * each


def comparisons(name: str, value: Any, rest: list, named: Mapping[str, Any]) -> int:
    """How many characters a filter or a method of a text may compare."""
    if name not in SEARCHES or not isinstance(value, str):
        return 0
    return len(value) * max((len(x) for x in [*rest, *named.values()] if isinstance(x, str)), default=0)


def _format_growth(name: str, value: Any, largest: int) -> int:
    """What formatting adds: the widths, and the largest argument as often as it may be written."""
    form = str(value)
    if name == "%":
        fields = [width + "." + digits for _, width, digits, kind in PERCENT.findall(form) if kind != "%"]
    else:
        fields = [spec for _, field, spec, _ in Formatter().parse(form) if field is not None]
    if any(re.search("[*{]" if name == "%" else "{", field) for field in fields):
        raise TemplateRuntimeError(f"the format {form[:40]!r} computes a width, which is not handled")
    return len(fields) * largest + sum(int(width) for field in fields for width in re.findall(r"\d+", field))


def depth_of(value: Any) -> int:
    """How many lists and dicts stand inside one another."""
    depth, level = 0, [value]
    while level:
        level = [x.values() if isinstance(x, Mapping) else x for x in level]
        level = [y for x in level if isinstance(x, (list, tuple, ValuesView)) for y in x]
        depth += 1
    return depth
