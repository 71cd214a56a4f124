"""A vocabulary in files: the strings of GPT-2's files (also inside GGUF files), and the course's own JSON.

`Tokenizer.from_gpt2_strings`, `Tokenizer.save` and `Tokenizer.load` call these functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from course_lib.text.bpe import Pair
from course_lib.text.checks import check_text
from course_lib.text.ids import check_id
from course_lib.whole_files import replacing

if TYPE_CHECKING:
    from course_lib.text.tokenizer import Tokenizer

Token = TypeVar("Token", bytes, str)

# Names the format in the JSON itself: this project's name, the algorithm, the version of the format.
FORMAT = "thirsty-tiger-bpe-1"


def tokens_by_id(tokens: Sequence[Token | None] | Mapping[Token, int]) -> list[Token | None]:
    """Return a vocabulary as a list, the token of each id, with None for an id that no token has.

    tokens: such a list, or token → id. Raises ValueError for a value that is no id, and for two tokens of the
    same id, TypeError for a word.

    >>> tokens_by_id({b"a": 0, b"b": 2})
    [b'a', None, b'b']
    """
    if isinstance(tokens, (str, bytes)):
        raise TypeError(f"a vocabulary is a list of tokens, or token → id, not {tokens!r}")
    if not isinstance(tokens, Mapping):
        return list(tokens)
    ids = [check_id(i) for i in tokens.values()]
    listed: list[Token | None] = [None] * (max(ids, default=-1) + 1)
    for token, i in zip(tokens, ids, strict=True):
        if listed[i] is not None:
            raise ValueError(f"{listed[i]!r} and {token!r} have the same id {i}")
        listed[i] = token
    return listed


def gpt2_characters() -> dict[int, str]:
    """Return byte → the visible character that stands for it in GPT-2's vocabulary files.

    As `bytes_to_unicode` in its encoder.py has it. Printable bytes stand for themselves; the other 68 take
    the characters from U+0100 on, so a space is Ġ (U+0120).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(0x100 + len(characters) - len(printable))
    return characters


def read_gpt2_strings(
    tokens: Sequence[str | None] | Mapping[str, int],
    merges: Sequence[str],
    special_ids: Iterable[int],
    added_ids: Iterable[int] = (),
) -> tuple[list[bytes | None], dict[Pair, int], dict[str, int], dict[str, int]]:
    """Return a `Tokenizer`'s `tokens`, `merges`, `special` and `added` from a GPT-2 vocabulary's strings.

    tokens: the token of each id, or token → id. merges: such as "Ġ t". special_ids, added_ids: the ids of the
    special and the added tokens, whose names are plain text.

    Raises ValueError for a merge or one of these ids without a token, and for a character that stands for no
    byte.
    """
    tokens = tokens_by_id(tokens)
    special, added = _names(tokens, special_ids, "special"), _names(tokens, added_ids, "added")
    byte_of = {character: byte for byte, character in gpt2_characters().items()}
    plain = special | added
    raw = [token.encode() if token in plain else _spell(token, byte_of) for token in tokens]
    return raw, _read_merges(tokens, merges), special, added


def _names(tokens: Sequence[str | None], ids: Iterable[int], kind: str) -> dict[str, int]:
    """Return name → id for the ids of special or added tokens."""
    names = {}
    for i in ids:
        i = check_id(i)
        if i >= len(tokens) or tokens[i] is None:
            raise ValueError(f"the {kind} token's id {i} is no token of the vocabulary")
        names[check_text(tokens[i])] = i
    return names


def _spell(token: str | None, byte_of: Mapping[str, int]) -> bytes | None:
    """Return the bytes that the characters of a token stand for; None for a gap."""
    if token is None:
        return None
    for character in token:
        if character not in byte_of:
            raise ValueError(
                f"the token {token!r} holds {character!r}, which stands for no byte in GPT-2's files"
            )
    return bytes(byte_of[character] for character in token)


def _read_merges(tokens: Sequence[str | None], merges: Sequence[str]) -> dict[Pair, int]:
    """Return pair → the id of the token it becomes, for merges such as "Ġ t"."""
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = {}
    for merge in merges:
        left, space, right = merge.partition(" ") if isinstance(merge, str) else (merge, "", "")
        if not space or " " in right:
            raise ValueError(f"the merge {merge!r} must be two tokens with one space between them")
        for token in (left, right, left + right):
            if token not in ids:
                raise ValueError(f"the merge {merge!r} needs {token!r}, which is no token of the vocabulary")
        pairs[ids[left], ids[right]] = ids[left + right]
    return pairs


def save_tokenizer(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a tokenizer as JSON: merges by id, bytes in hexadecimal, gaps as null.

    The file is replaced whole or not at all.
    """
    fields = {
        "format": FORMAT,
        "pattern": tokenizer.pattern,
        "special": tokenizer.special,
        "added": tokenizer.added,
        "unknown": tokenizer.unknown,
        "tokens": [None if token is None else token.hex() for token in tokenizer.tokens],
        "merges": [[left, right, new] for (left, right), new in tokenizer.merges.items()],
    }
    with replacing(path) as file:
        file.write_text(json.dumps(fields), encoding="utf-8")


def load_tokenizer(path: str | os.PathLike, make: Callable[..., Tokenizer]) -> Tokenizer:
    """Read what `save_tokenizer` wrote and return `make(tokens, merges, pattern, special, unknown, added)`.

    A file from before there were added tokens has none. Raises FileNotFoundError if there is no file, and
    ValueError, which names the file, if it holds anything else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; `Tokenizer.save` writes one")
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"unknown format {fields['format']!r}")
        tokens = [None if token is None else bytes.fromhex(token) for token in fields["tokens"]]
        merges = {(left, right): new for left, right, new in fields["merges"]}
        named = fields["special"], fields["unknown"], fields.get("added", {})
        return make(tokens, merges, fields["pattern"], *named)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a tokenizer that this course saved ({error})") from error
