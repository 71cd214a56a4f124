"""Checks of the arguments of `Tokenizer` and `ChatTemplate`. They run once, where the argument comes in."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

from course_lib.arguments import whole
from course_lib.text.bpe import Pair
from course_lib.text.template_sizes import depth_of

LONGEST_NAME = 1000  # characters of a special or added token's name
MOST_NESTED = 100  # lists and dicts in one another, in a message


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


def check_texts(texts: Iterable[str]) -> Iterable[str]:
    """Return `texts`. Raises TypeError for a dict, of which only the keys would be read."""
    if isinstance(texts, Mapping):
        raise TypeError("texts must be strings, one after another, not a dict: perhaps its values()?")
    return texts


def check_dict(name: str, value: Mapping) -> dict:
    """Return a copy of a dict. Raises TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {value!r}")
    return dict(value)


def check_allowed(allowed: bool | Collection[str], special: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the special tokens that are allowed: all, none, or those of a collection."""
    if isinstance(allowed, bool):
        return tuple(special) if allowed else ()
    if isinstance(allowed, str) or not isinstance(allowed, Collection):
        raise TypeError(
            f"allow_special must be True, False or a collection of special tokens' names, not {allowed!r}"
        )
    for name in allowed:
        if not isinstance(name, str) or name not in special:
            raise ValueError(f"allow_special names {name!r}, which is no special token of this vocabulary")
    return tuple(name for name in special if name in allowed)


def check_training(vocab_size: int, special: Sequence[str], byte_order: Sequence[int]) -> None:
    """Raise ValueError for arguments that `Tokenizer.train` can't use, TypeError if the size is no number."""
    whole("vocab_size", vocab_size)
    if set(map(type, byte_order)) != {int} or sorted(byte_order) != list(range(256)):
        raise ValueError("byte_order must name each of the 256 bytes once")
    named = not isinstance(special, (str, Mapping)) and all(
        isinstance(name, str) and 0 < len(check_text(name)) <= LONGEST_NAME for name in special
    )
    if not named or len(set(special)) < len(special):
        raise ValueError(
            f"special tokens need a list of distinct, non-empty strings, not {special!r:.200}, "
            f"and none longer than {LONGEST_NAME:,} characters"
        )
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


def check_vocabulary(
    tokens: Sequence[bytes | None],
    merges: Mapping[Pair, int],
    special: Mapping[str, int],
    added: Mapping[str, int],
    unknown: int | None,
) -> None:
    """Raise ValueError for a vocabulary that contradicts itself.

    Every token must be bytes, and every id in `merges`, `special`, `added` and `unknown` must have a token. A
    merge must make the bytes of the token that it names, and a special or added token must be the bytes of
    its name.
    """
    kinds = set(map(type, tokens))
    if not kinds <= {bytes, NoneType}:
        raise ValueError(f"a vocabulary's tokens must be bytes, not {[kind.__name__ for kind in kinds]}")
    _check_merges(tokens, merges)
    for kind, named in (("special", special), ("added", added)):
        for name, i in named.items():
            if len(check_text(name)) > LONGEST_NAME:
                raise ValueError(
                    f"the {kind} token {name[:40]!r}… is longer than {LONGEST_NAME:,} characters"
                )
            if not name or not _has_token(tokens, i) or tokens[i] != name.encode():
                raise ValueError(f"the {kind} token {name!r} is not token {i!r} of the vocabulary")
    if both := special.keys() & added.keys():
        raise ValueError(f"the token {min(both)!r} can't be both a special and an added one")
    if unknown is not None and not _has_token(tokens, unknown):
        raise ValueError(f"the unknown token's id {unknown!r} is no token of the vocabulary")


def _check_merges(tokens: Sequence[bytes | None], merges: Mapping[Pair, int]) -> None:
    for pair, new in merges.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ValueError(f"a merge joins two tokens, as (left id, right id) does; {pair!r} names no two")
        left, right = pair
        for i in (left, right, new):
            if not _has_token(tokens, i):
                raise ValueError(f"a merge names {i!r}, which is no token of the vocabulary")
        if tokens[left] + tokens[right] != tokens[new]:
            raise ValueError(f"merge {left} + {right} does not make token {new}")


def check_pieces(pieces: Mapping[tuple[int, ...], int], vocabulary: list[bytes], vocab_size: int) -> None:
    """Raise ValueError or TypeError for what `learn_merges` can't learn from."""
    whole("vocab_size", vocab_size)
    if not isinstance(vocabulary, list) or not all(isinstance(token, bytes) for token in vocabulary):
        raise TypeError(
            "the vocabulary must be a list of bytes, the token of each id; it is extended in place"
        )
    if not isinstance(pieces, Mapping):
        raise TypeError(f"pieces must be a dict, ids → how often they occur, not {type(pieces).__name__}")
    if vocab_size < 0:
        raise ValueError(f"vocab_size={vocab_size} is no size: a vocabulary has 0 tokens or more")
    for piece, times in pieces.items():
        if not isinstance(piece, tuple) or not all(_has_token(vocabulary, i) for i in piece):
            raise ValueError(f"the piece {piece!r} must be a tuple of ids from 0 to {len(vocabulary) - 1}")
        if not isinstance(times, int) or times < 0:
            raise ValueError(f"the piece {piece!r} must occur a whole number of times, not {times!r}")


def _has_token(tokens: Sequence[bytes | None], i: object) -> bool:
    is_id = isinstance(i, int) and not isinstance(i, bool)
    return is_id and 0 <= i < len(tokens) and tokens[i] is not None


def missing_token_error(i: int, vocab_size: int) -> ValueError:
    """Return the error for an id without a token, which is beyond the vocabulary or in one of its gaps."""
    if 0 <= i < vocab_size:
        return ValueError(f"token id {i} is in a gap of the vocabulary: no token has it")
    return ValueError(f"token id {i} is outside the vocabulary of {vocab_size}")


def missing_byte_error(piece: str, byte_ids: Sequence[int | None]) -> ValueError:
    """Return the error for a piece of text with a byte that the vocabulary has no token for."""
    missing = next(mark for mark in piece if any(byte_ids[byte] is None for byte in mark.encode()))
    return ValueError(
        f"the vocabulary has no token for {missing!r} (U+{ord(missing):04X}), nor an unknown token that may "
        f"stand in plain text. Take it out first, for instance with text.replace({missing!r}, '')"
    )


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Return a conversation as a list of dicts that hold nothing but texts, numbers, lists and dicts.

    messages: a string is one user message. Raises ValueError for no messages, and for one without a role or
    content, that holds anything else, or that is nested too deep.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    messages = list(messages)
    if not messages:
        raise ValueError("a conversation needs at least one message")
    return [_check_message(i, message) for i, message in enumerate(messages)]


def _check_message(i: int, message: Any) -> dict[str, Any]:
    fields = [message.get(key) if isinstance(message, dict) else None for key in ("role", "content")]
    if not all(isinstance(field, str) for field in fields):
        raise ValueError(
            f"message {i} must be a dict with a 'role' and a 'content', both strings, not {message!r}; "
            "a conversation is a list of such dicts"
        )
    try:
        message = json.loads(json.dumps(message, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"message {i} holds more than texts, numbers, lists and dicts: {error}") from error
    if depth_of(message) > MOST_NESTED + 1:  # what the innermost list holds is a level too
        raise ValueError(f"message {i} holds lists and dicts nested more than {MOST_NESTED} deep")
    return message
