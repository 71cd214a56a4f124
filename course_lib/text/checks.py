"""Checks of the arguments of `Tokenizer`. They run once, where the argument comes in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType

from course_lib.text.bpe import Pair

LARGEST_ID = 1 << 24


def check_text(text: object) -> str:
    """Return `text`. Raises TypeError if it isn't a string, ValueError if UTF-8 has no bytes for it."""
    if not isinstance(text, str):
        raise TypeError(f"a tokenizer takes a string, not {type(text).__name__}; decode bytes to text first")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}: "
            "half a character, which has no bytes. Repair it first, for instance with "
            "text.encode(errors='replace').decode()"
        ) from None
    return text


def check_training(vocab_size: int, special: Sequence[str], byte_order: Sequence[int]) -> None:
    """Raise ValueError for arguments that `Tokenizer.train` can't use."""
    if sorted(byte_order) != list(range(256)):
        raise ValueError("byte_order must name each of the 256 bytes once")
    named = not isinstance(special, str) and all(isinstance(name, str) and name for name in special)
    if not named or len(set(special)) < len(special):
        raise ValueError(f"special tokens need a list of distinct, non-empty strings, not {special!r}")
    if vocab_size < 256 + len(special):
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the 256 bytes and {len(special)} special tokens "
            f"need {256 + len(special)}"
        )


@contextmanager
def comparable_keys(ties: object) -> Iterator[None]:
    """Turn the TypeError of a tie rule whose keys can't be compared into a ValueError that names the rule."""
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f"the tie rule {ties!r} must take (pair, left, right) and give keys that compare: {error}"
        ) from error


def check_id(i: object) -> int:
    """Return `i`. Raises ValueError if it can't be a token id."""
    if not isinstance(i, int) or not 0 <= i <= LARGEST_ID:
        raise ValueError(f"{i!r} is no token id: those are whole numbers from 0 to {LARGEST_ID}")
    return i


def check_vocabulary(
    tokens: Sequence[bytes | None],
    merges: Mapping[Pair, int],
    special: Mapping[str, int],
    unknown: int | None,
) -> None:
    """Raise ValueError for a vocabulary that contradicts itself.

    Every token must be bytes, and every id in `merges`, `special` and `unknown` must have a token. A merge
    must make the bytes of the token that it names, and a special token must be the bytes of its name.
    """
    kinds = set(map(type, tokens))
    if not kinds <= {bytes, NoneType}:
        raise ValueError(f"a vocabulary's tokens must be bytes, not {[kind.__name__ for kind in kinds]}")
    _check_merges(tokens, merges)
    for name, i in special.items():
        if not name or not _has_token(tokens, i) or tokens[i] != name.encode():
            raise ValueError(f"the special token {name!r} is not token {i!r} of the vocabulary")
    if unknown is not None and not _has_token(tokens, unknown):
        raise ValueError(f"the unknown token's id {unknown!r} is no token of the vocabulary")


def _check_merges(tokens: Sequence[bytes | None], merges: Mapping[Pair, int]) -> None:
    for (left, right), new in merges.items():
        for i in (left, right, new):
            if not _has_token(tokens, i):
                raise ValueError(f"a merge names {i!r}, which is no token of the vocabulary")
        if tokens[left] + tokens[right] != tokens[new]:
            raise ValueError(f"merge {left} + {right} does not make token {new}")


def _has_token(tokens: Sequence[bytes | None], i: object) -> bool:
    return isinstance(i, int) and 0 <= i < len(tokens) and tokens[i] is not None


def missing_token_error(i: int, vocab_size: int) -> ValueError:
    """Return the error for an id without a token, which is beyond the vocabulary or in one of its gaps."""
    if 0 <= i < vocab_size:
        return ValueError(f"token id {i} is in a gap of the vocabulary: no token has it")
    return ValueError(f"token id {i} is outside the vocabulary of {vocab_size}")
