"""Byte-level byte-pair encoding: pieces → tokens, and back.

Start with the 256 bytes. Find the pair of neighbours that occurs most often, make it a new token, put it in place of the
pair everywhere, and again, until the vocabulary is as large as wanted (Sennrich et al. 2016, algorithm 1; over bytes:
Radford et al. 2019, section 2.2). The list of merges *is* the tokenizer: to encode, replay it.

    learn_merges    the training loop, on counted pieces
    replay_merges   encoding one piece
    Tokenizer       train, encode, decode, special tokens, save, load

Counting every pair again after every merge is the obvious way, and costs a pass over the text for each token of the
vocabulary. Here a merge touches only the words that contain the pair, and a heap whose entries may be out of date (a stale
one is put back with its present count when it comes up) finds the next pair: a second for a megabyte, not an hour.

Not handled: Unicode normalisation, byte fallback, dropout, and merges across pieces.
"""

import codecs
import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from course_lib.text.pretokenize import GPT2, Marks, split

Pair = tuple[int, int]
TieRule = Callable[[Pair, bytes, bytes], Any]
Token = TypeVar("Token", bytes, str)

REMEMBERED_PIECES = 1 << 18
LARGEST_ID = 1 << 24
GONE = -1

# How many pieces at the end of a text that still goes on have to wait. What comes next changes at most the
# last two, with GPT-2's and SmolLM2's patterns; the others leave room for patterns that look further.
HELD_BACK = 8

# Which of two equally frequent pairs is merged first: a sort key, smallest wins, from the pair and its two tokens' bytes.
TIE_RULES: dict[str, TieRule] = {
    "lowest ids": lambda pair, left, right: pair,
    "alphabetical": lambda pair, left, right: (left, right),
}


def learn_merges(
    words: dict[tuple[int, ...], int],
    vocabulary: list[bytes],
    vocab_size: int,
    ties: str | TieRule = "lowest ids",
) -> dict[Pair, int]:
    """Learn merges until `vocabulary` (the bytes of each token id, extended in place) holds `vocab_size` tokens.

    words: the token ids of each distinct piece → how often the piece occurs. Returns pair → id of the token it becomes,
    in the order learned. The highest count goes first; among equals `ties` decides: a name in `TIE_RULES`,
    or such a function of your own, which gives a pair the same key each time. Pairs of equal keys go by
    lowest ids. Stops early when no pair is left to merge. Raises ValueError for a tie rule that is neither.

    >>> vocabulary = [bytes([b]) for b in range(256)]
    >>> learn_merges({tuple(b"hug"): 10, tuple(b"pug"): 5, tuple(b"hugs"): 5}, vocabulary, 258)
    {(117, 103): 256, (104, 256): 257}
    >>> vocabulary[256:]
    [b'ug', b'hug']
    """
    tie_key, known = _tie_rule(ties), {token: i for i, token in enumerate(vocabulary)}
    tokens, counts = [list(word) for word in words], list(words.values())
    pair_counts, where = Counter(), defaultdict(set)
    for i, word in enumerate(tokens):
        for pair in pairwise(word):
            pair_counts[pair] += counts[i]
            where[pair].add(i)

    def entry(pair: Pair) -> tuple:
        return -pair_counts[pair], tie_key(pair, vocabulary[pair[0]], vocabulary[pair[1]]), pair

    heap = [entry(pair) for pair in pair_counts]
    heapq.heapify(heap)
    merges = {}
    while heap and len(vocabulary) < vocab_size:
        count, _, pair = heapq.heappop(heap)
        if -count != pair_counts[pair]:
            if pair_counts[pair] > 0:
                heapq.heappush(heap, entry(pair))
            continue
        merged = vocabulary[pair[0]] + vocabulary[pair[1]]
        new = merges[pair] = known.setdefault(merged, len(vocabulary))
        if new == len(vocabulary):
            vocabulary.append(merged)
        changes = Counter()
        for i in where.pop(pair):
            for neighbours, times in _merge_in_word(tokens[i], pair, new).items():
                changes[neighbours] += times * counts[i]
                if times > 0:
                    where[neighbours].add(i)
        for neighbours, change in changes.items():
            pair_counts[neighbours] += change
        del pair_counts[pair]
        for neighbours, change in changes.items():
            if change > 0:
                heapq.heappush(heap, entry(neighbours))
    return merges


def _tie_rule(ties: str | TieRule) -> TieRule:
    if callable(ties):
        return ties
    if not isinstance(ties, str) or ties not in TIE_RULES:
        raise ValueError(f"ties must be one of {list(TIE_RULES)} or a function, not {ties!r}")
    return TIE_RULES[ties]


def _merge_in_word(word: list[int], pair: Pair, new: int) -> dict[Pair, int]:
    """Put `new` in place of `pair` in one word, and return how the counts of the pairs beside it change."""
    changes: dict[Pair, int] = defaultdict(int)
    i = 0
    while i < len(word) - 1:
        if (word[i], word[i + 1]) == pair:
            if i > 0:
                changes[word[i - 1], pair[0]] -= 1
                changes[word[i - 1], new] += 1
            if i + 2 < len(word):
                changes[pair[1], word[i + 2]] -= 1
                changes[new, word[i + 2]] += 1
            word[i : i + 2] = [new]
        i += 1
    return changes


def replay_merges(ids: list[int], ranks: dict[Pair, tuple[int, int]]) -> list[int]:
    """Merge one piece's tokens as training would have: the earliest-learned pair first, until none is left.

    A heap keeps the pairs in that order, so a piece of n bytes takes n log n steps (looking for the next pair afresh each
    time takes n²: nothing for a word, hours for a megabyte without a space).

    ranks: pair → (its place in the order learned, the token it becomes).

    >>> replay_merges(list(b"hugs"), {(117, 103): (0, 256), (104, 256): (1, 257)})
    [257, 115]
    """
    ids, end = list(ids), len(ids)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    heap = [(*ranks[pair], i, pair) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, new, i, pair = heapq.heappop(heap)
        j = after[i]
        if j == end or (ids[i], ids[j]) != pair:
            continue  # an earlier merge has taken one of the two
        ids[i], ids[j], after[i] = new, GONE, after[j]
        if after[i] < end:
            before[after[i]] = i
        for k in (before[i], i):
            if k >= 0 and after[k] < end and (pair := (ids[k], ids[after[k]])) in ranks:
                heapq.heappush(heap, (*ranks[pair], k, pair))
    return [i for i in ids if i != GONE]


class _Remembered(dict):
    """piece → its tokens, worked out when first asked for. Text repeats its words, so most are asked for often."""

    def __init__(self, encode_piece: Callable[[str], list[int]]):
        super().__init__()
        self.encode_piece = encode_piece

    def __missing__(self, piece: str) -> list[int]:
        ids = self.encode_piece(piece)
        if len(self) < REMEMBERED_PIECES:
            self[piece] = ids
        return ids


class Tokenizer:
    """Text ↔ token ids.

    tokens: the bytes of each id, as a list, None for an id that no token has; or a dict bytes → id, whose
    ids may have gaps, too. merges: pair → the id it becomes, in the order learned. pattern: how text is cut
    into pieces first. special: tokens that stand for no text, such as the end of a turn, → their ids; their
    names are among the tokens. unknown: the id for a byte that the vocabulary lacks; without it such a byte
    is an error. Raises ValueError for tokens that are not bytes, and for ids that contradict each other.

    >>> tokenizer = Tokenizer.train("low low low lower lowest", vocab_size=260)
    >>> [tokenizer.token_text(i) for i in tokenizer.encode("low slow")]
    ['low', ' ', 's', 'low']
    """

    def __init__(
        self,
        tokens: Sequence[bytes | None] | Mapping[bytes, int],
        merges: dict[Pair, int],
        pattern: str = GPT2,
        special: dict[str, int] | None = None,
        unknown: int | None = None,
    ):
        self.tokens, self.merges, self.pattern, self.unknown = _by_id(tokens), dict(merges), pattern, unknown
        self.special = dict(special or {})
        self._check()
        self._ranks = {pair: (rank, new) for rank, (pair, new) in enumerate(self.merges.items())}
        ids = {token: i for i, token in enumerate(self.tokens) if i not in self.special.values()}
        self._byte_ids = [ids.get(bytes([byte]), unknown) for byte in range(256)]
        self._remembered = _Remembered(self._encode_piece)
        self._marks = Marks(self.special)

    def _check(self) -> None:
        split("", self.pattern)
        kinds = set(map(type, self.tokens))
        if not kinds <= {bytes, NoneType}:
            raise ValueError(f"a vocabulary's tokens must be bytes, not {[kind.__name__ for kind in kinds]}")
        if NoneType in kinds:
            for i in chain.from_iterable((*pair, new) for pair, new in self.merges.items()):
                if not self._is_id(i):
                    raise ValueError(f"a merge names {i!r}, which is no token of the vocabulary")
        for name, i in self.special.items():
            if not name or not self._is_id(i) or self.tokens[i] != name.encode():
                raise ValueError(f"the special token {name!r} is not token {i!r} of the vocabulary")
        if self.unknown is not None and not self._is_id(self.unknown):
            raise ValueError(f"the unknown token's id {self.unknown!r} is no token of the vocabulary")

    def _is_id(self, i: object) -> bool:
        return isinstance(i, int) and 0 <= i < len(self.tokens) and self.tokens[i] is not None

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int,
        pattern: str = GPT2,
        special: Sequence[str] = (),
        ties: str | TieRule = "lowest ids",
        byte_order: Iterable[int] = range(256),
    ) -> "Tokenizer":
        """Learn a vocabulary of `vocab_size` tokens from a text or several: the 256 bytes, the merges, the special tokens.

        Each text is cut at the special tokens' names before anything is counted: no merge is learned inside
        a name or across it. Texts may come from an iterator; only their counted pieces are kept, and a name
        that begins in one and ends in the next isn't seen. ties: which of two equally frequent pairs goes
        first, as in `learn_merges`. byte_order: which byte has which of the first 256 ids (this decides
        some ties).

        Raises ValueError for a vocab_size that doesn't even hold the bytes and the special tokens, and for
        a tie rule that is unknown or whose keys cannot be compared; TypeError for a text that is not a
        string.
        """
        byte_order = list(byte_order)
        if sorted(byte_order) != list(range(256)):
            raise ValueError("byte_order must name each of the 256 bytes once")
        _tie_rule(ties)
        _require_names(special)
        if vocab_size < 256 + len(special):
            raise ValueError(
                f"vocab_size={vocab_size} is too small: the 256 bytes and {len(special)} special tokens "
                f"need {256 + len(special)}"
            )
        texts, marks = [text] if isinstance(text, str) else text, Marks(special)
        pieces = Counter(
            chain.from_iterable(split(part, pattern) for t in texts for part in marks.split(_text(t))[::2])
        )
        ids = {byte: i for i, byte in enumerate(byte_order)}
        words: dict[tuple[int, ...], int] = {
            tuple(ids[byte] for byte in _utf8(piece)): count for piece, count in pieces.items()
        }
        tokens = [bytes([byte]) for byte in byte_order]
        try:
            merges = learn_merges(words, tokens, vocab_size - len(special), ties)
        except TypeError as error:
            raise ValueError(
                f"the tie rule {ties!r} must take (pair, left, right) and give keys that compare: {error}"
            ) from error
        first = len(tokens)
        tokens += [name.encode() for name in special]
        return cls(tokens, merges, pattern, {name: first + i for i, name in enumerate(special)})

    @classmethod
    def from_gpt2_strings(
        cls,
        tokens: Sequence[str | None] | Mapping[str, int],
        merges: Sequence[str],
        special_ids: Iterable[int],
        **options,
    ) -> "Tokenizer":
        """From a vocabulary file of GPT-2's kind, where a byte is a visible character (a space is Ġ).

        tokens: the token of each id, or a dict token → id; gaps are as in `Tokenizer`. merges: such as "Ġ t".
        """
        byte_of = {character: byte for byte, character in gpt2_characters().items()}
        tokens = _by_id(tokens)
        special = {tokens[i]: i for i in special_ids}

        def raw(token: str | None) -> bytes | None:
            if token is None:
                return None
            return token.encode() if token in special else bytes(byte_of[c] for c in token)

        id_of = {t: i for i, t in enumerate(tokens)}
        pairs = [merge.split(" ") for merge in merges]
        learned = {(id_of[left], id_of[right]): id_of[left + right] for left, right in pairs}
        return cls(list(map(raw, tokens)), learned, special=special, **options)

    @property
    def vocab_size(self) -> int:
        """The highest id + 1: how many rows a model's embedding needs. Ids that no token has count, too."""
        return len(self.tokens)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids of `text`.

        allow_special: read "<|im_end|>" and its like as the one token that they name. Off by default: whoever types those
        characters in a chat should not be able to end the model's turn. Raises ValueError for a lone surrogate (half of
        a character, which has no UTF-8 bytes), TypeError for anything but a string.
        """
        _utf8(_text(text))
        if not allow_special:
            return self._encode_pieces(split(text, self.pattern))
        return self._encode_parts(self._marks.split(text))

    def encode_iterable(self, texts: Iterable[str], allow_special: bool = False) -> Iterator[int]:
        """The token ids of a long text that comes in pieces, such as the lines of an open file, one by one.

        The same ids as `encode("".join(texts), allow_special)`, wherever the text is cut, but in little
        memory: all that is kept of the text is its end, which could still become other tokens. That is the
        last `HELD_BACK` pieces of the pattern, and with allow_special what may be the beginning of a
        special token: some dozens of characters as a rule. There is no bound for a text that is one endless
        piece, such as letters without a space. What had to wait is looked at again when twice as much has
        come.

        Two kinds of pattern are not handled, and may give other ids: those that look at what is before the
        piece (as `(?<=…)` and `^` do), and those where a piece depends on what comes more than `HELD_BACK`
        pieces later.

        Raises what `encode` raises, when that text comes; a position is then counted in that text alone.

        >>> tokenizer = Tokenizer.train("low low low lower lowest", vocab_size=260)
        >>> [tokenizer.token_text(i) for i in tokenizer.encode_iterable(["lo", "w slo", "w"])]
        ['low', ' ', 's', 'low']
        """
        return self._encode_stream(iter(texts), self._marks if allow_special else Marks(()))

    def _encode_stream(self, texts: Iterator[str], marks: Marks) -> Iterator[int]:
        held, enough = "", 0
        for text in texts:
            _utf8(_text(text))
            held += text
            if len(held) >= enough:
                ids, held = self._encode_settled(held, marks)
                yield from ids
                enough = 2 * len(held)
        yield from self._encode_parts(marks.split(held))

    def _encode_settled(self, text: str, marks: Marks) -> tuple[list[int], str]:
        """The ids that a text begins with, however it goes on, and the rest of the text."""
        settled = marks.settled(text)
        *parts, last = marks.split(text[:settled])
        pieces = split(last, self.pattern)
        ids = self._encode_parts(parts) + self._encode_pieces(pieces[:-HELD_BACK])
        return ids, text[settled - sum(map(len, pieces[-HELD_BACK:])) :]

    def _encode_parts(self, parts: Sequence[str]) -> list[int]:
        """parts: as `Marks.split` gives them, text and special tokens by turns."""
        ids = []
        for i, part in enumerate(parts):
            ids += [self.special[part]] if i % 2 else self._encode_pieces(split(part, self.pattern))
        return ids

    def _encode_pieces(self, pieces: Iterable[str]) -> list[int]:
        return list(chain.from_iterable(map(self._remembered.__getitem__, pieces)))

    def _encode_piece(self, piece: str) -> list[int]:
        ids = [self._byte_ids[byte] for byte in piece.encode()]
        if None in ids:
            raise ValueError(f"the vocabulary has no token for a byte of {piece!r}, and no unknown token")
        return replay_merges(ids, self._ranks)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`. Bytes that are no UTF-8 (half a character, say) show as �. Raises ValueError for an id
        outside the vocabulary or in one of its gaps."""
        return b"".join(self._bytes_of(ids, skip_special)).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int], skip_special: bool = False) -> Iterator[str]:
        """The same text as `decode`, a token at a time, holding back a character until all its bytes have come."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in self._bytes_of(ids, skip_special):
            yield decoder.decode(token)
        yield decoder.decode(b"", final=True)

    def _bytes_of(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        hidden = set(self.special.values()) if skip_special else ()
        for i in ids:
            token = self.tokens[i] if 0 <= i < len(self.tokens) else None
            if token is None:
                raise ValueError(self._why_not(i))
            if i not in hidden:
                yield token

    def _why_not(self, i: int) -> str:
        if 0 <= i < len(self.tokens):
            return f"token id {i} is in a gap of the vocabulary: no token has it"
        return f"token id {i} is outside the vocabulary of {len(self.tokens)}"

    def token_text(self, i: int) -> str:
        """One token, printable: bytes that are only part of a character are written \\xNN. Raises ValueError for an id
        outside the vocabulary or in one of its gaps."""
        return b"".join(self._bytes_of([i], skip_special=False)).decode(errors="backslashreplace")

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer as JSON: merges by id, bytes in hexadecimal, gaps as null.

        The file is replaced whole or not at all.
        """
        path = Path(path)
        fields = {
            "format": "thirsty-tiger-bpe-1",
            "pattern": self.pattern,
            "special": self.special,
            "unknown": self.unknown,
            "tokens": [None if token is None else token.hex() for token in self.tokens],
            "merges": [[left, right, new] for (left, right), new in self.merges.items()],
        }
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(fields), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read what `save` wrote. Raises ValueError, naming the file, when it is anything else."""
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            if fields["format"] != "thirsty-tiger-bpe-1":
                raise ValueError(f"unknown format {fields['format']!r}")
            tokens = [None if token is None else bytes.fromhex(token) for token in fields["tokens"]]
            merges = {(left, right): new for left, right, new in fields["merges"]}
            for (left, right), new in merges.items():
                if (
                    not all(isinstance(i, int) and i >= 0 for i in (left, right, new))
                    or tokens[left] + tokens[right] != tokens[new]
                ):
                    raise ValueError(f"merge {left} + {right} does not make token {new}")
            return cls(tokens, merges, fields["pattern"], fields["special"], fields["unknown"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a tokenizer that this course saved ({error})") from error


def _by_id(tokens: Sequence[Token | None] | Mapping[Token, int]) -> list[Token | None]:
    """A vocabulary as a list, the token of each id, None for an id that no token has."""
    if not isinstance(tokens, Mapping):
        return list(tokens)
    listed: list[Token | None] = [None] * (max(map(_id, tokens.values()), default=-1) + 1)
    for token, i in tokens.items():
        if listed[i] is not None:
            raise ValueError(f"{listed[i]!r} and {token!r} have the same id {i}")
        listed[i] = token
    return listed


def _id(i: object) -> int:
    if not isinstance(i, int) or not 0 <= i <= LARGEST_ID:
        raise ValueError(f"{i!r} is no token id: those are whole numbers from 0 to {LARGEST_ID}")
    return i


def gpt2_characters() -> dict[int, str]:
    """byte → the visible character that stands for it in GPT-2's vocabulary files (its encoder.py, bytes_to_unicode).

    Printable bytes stand for themselves; the other 68 take the characters from U+0100 on, so a space is Ġ (U+0120).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(0x100 + len(characters) - len(printable))
    return characters


def _require_names(special: Sequence[str]) -> None:
    named = not isinstance(special, str) and all(isinstance(name, str) and name for name in special)
    if not named or len(set(special)) < len(special):
        raise ValueError(f"special tokens need a list of names, each its own, not {special!r}")


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a tokenizer takes a string, not {type(text).__name__}; decode bytes to text first")
    return text


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}: half a "
            "character, which has no bytes. Repair it first, with text.encode(errors='replace').decode() for instance"
        ) from None
