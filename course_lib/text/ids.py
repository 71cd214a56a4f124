"""Token ids: of any kind of whole number as they come in, Python's own inside a tokenizer."""

from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from reprlib import repr as short
from typing import Any

from course_lib.arguments import to_int

LARGEST_ID = 1 << 24


class FixedDict(dict):
    """A dict that can't be changed: a tokenizer that it belongs to wouldn't follow."""

    def _refuse(self, *_, **__):
        raise TypeError("a tokenizer's tables are fixed: make another one with Tokenizer(…)")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple:
        return FixedDict, (dict(self),)


def plain_id(i: object) -> object:
    """Return NumPy's whole numbers as Python's, and anything else as it is."""
    return int(i) if isinstance(i, Integral) and type(i) not in (int, bool) else i


def plain_ids(named: Mapping[Any, object]) -> dict[Any, object]:
    """Return name → id, the id as in `plain_id`."""
    return {name: plain_id(i) for name, i in named.items()}


def plain_merges(merges: Mapping[Any, object]) -> dict[Any, object]:
    """Return pair → id, all ids as in `plain_id`."""
    return {
        tuple(map(plain_id, pair)) if isinstance(pair, tuple) else pair: plain_id(new)
        for pair, new in merges.items()
    }


def check_id(i: object) -> int:
    """Return `i` as Python's whole number. Raises ValueError if it can't be a token id."""
    i = plain_id(i)
    if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i <= LARGEST_ID:
        raise ValueError(f"{i!r} is no token id: those are whole numbers from 0 to {LARGEST_ID}")
    return i


def check_ids(ids: Iterable[Any]) -> Iterator[int]:
    """Yield ids as Python's whole numbers, as they come. Raises TypeError for anything else.

    ids: of any kind of whole number, also an array or a tensor with one dimension.
    """
    try:
        each = iter(ids.tolist() if hasattr(ids, "tolist") else ids)
    except (TypeError, RuntimeError):  # no list, or a tensor without values
        raise TypeError(f"token ids are whole numbers, one after another, not {short(ids)}") from None
    for i in each:
        yield i if type(i) is int else _whole_id(i)


def _whole_id(i: Any) -> int:
    try:
        return to_int(i.item() if hasattr(i, "item") else i)
    except (TypeError, ValueError, RuntimeError):  # Python's, NumPy's or PyTorch's
        raise TypeError(f"token ids are whole numbers, one after another; {short(i)} is none") from None
