"""The tokenizer: text ↔ token ids, with everything that a real model's vocabulary needs.

    text
      → segments, cut at special tokens    `special_tokens`
      → pieces                             `pretokenize`
      → bytes → tokens                     `fast_bpe`

Plain text never becomes a special token. (In `tokenizers` it may: SmolLM2 has no token for some control
characters, and its unknown token is <|endoftext|>, the end of a text. Here such a character is an error.)

Not handled: Unicode normalisation, byte fallback, dropout, and merges across pieces.
"""

import codecs
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from course_lib.arguments import check_flag
from course_lib.text.bpe import Pair
from course_lib.text.checks import (
    check_allowed,
    check_dict,
    check_text,
    check_texts,
    check_training,
    check_vocabulary,
    comparable_keys,
    missing_byte_error,
    missing_token_error,
)
from course_lib.text.fast_bpe import PieceCache, TieRule, find_tie_rule, learn_merges, replay_merges
from course_lib.text.ids import FixedDict, check_ids, plain_id, plain_ids, plain_merges
from course_lib.text.pretokenize import GPT2, compile_pattern, split
from course_lib.text.special_tokens import SpecialSplitter
from course_lib.text.streaming import encode_stream
from course_lib.text.vocabulary_files import load_tokenizer, read_gpt2_strings, save_tokenizer, tokens_by_id


class Tokenizer:
    """Text ↔ token ids.

    tokens: the bytes of each id, as a list, with None for an id that no token has; or bytes → id, where ids
    may have gaps too. merges: pair → the id of the token it becomes, in the order learned. pattern: how text
    is cut into pieces first. special: the names of special tokens, which stand for no text, → their ids; the
    names are among the tokens. unknown: the id for a byte that the vocabulary lacks; without it, or if it is
    a special token's, such a byte is an error. added: the names of tokens that are never cut, as "<think>" in
    some vocabularies, → their ids; they are text. Merges that make a special token aren't used. Raises
    ValueError for tokens that are not bytes, for ids without a token, and for a merge that doesn't make the
    bytes of its token.

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
        added: dict[str, int] | None = None,
    ):
        self.tokens, self.merges = tokens_by_id(tokens), FixedDict(plain_merges(check_dict("merges", merges)))
        self.special = FixedDict(plain_ids(check_dict("special", {} if special is None else special)))
        self.added = FixedDict(plain_ids(check_dict("added", {} if added is None else added)))
        self.pattern, self.unknown = pattern, plain_id(unknown)
        compile_pattern(pattern)
        check_vocabulary(self.tokens, self.merges, self.special, self.added, self.unknown)
        hidden = set(self.special.values())
        ids = {token: i for i, token in enumerate(self.tokens) if i not in hidden}
        spare = None if self.unknown in hidden else self.unknown
        self._byte_ids = [ids.get(bytes([byte]), spare) for byte in range(256)]
        ranked = enumerate(self.merges.items())
        self._ranks = {pair: (rank, new) for rank, (pair, new) in ranked if new not in hidden}
        self._cache, self._named = PieceCache(self._encode_piece), self.added | self.special
        self._splitters = {names: SpecialSplitter({*names, *self.added}) for names in ((), (*self.special,))}

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
        """Learn a vocabulary of `vocab_size` tokens: the 256 bytes, the merges, the special tokens.

        text: one or several, also from an iterator; only counted pieces are kept. A special token that begins
        in one text and ends in the next isn't recognised. ties: which of two equally frequent pairs is merged
        first, as in `find_tie_rule`. byte_order: the bytes of the ids 0 to 255, which decides some ties.
        Raises ValueError for a vocab_size below the bytes and special tokens, for a tie rule that is unknown
        or whose keys can't be compared, and what `encode` raises.
        """
        byte_order, tie_rule = [plain_id(byte) for byte in byte_order], find_tie_rule(ties)
        special = special if isinstance(special, (str, Mapping)) else list(special)
        check_training(vocab_size, special, byte_order)
        pieces = _count_pieces([text] if isinstance(text, str) else text, pattern, special, byte_order)
        tokens = [bytes([byte]) for byte in byte_order]
        with comparable_keys(ties):
            merges = learn_merges(pieces, tokens, vocab_size - len(special), tie_rule)
        special_ids = {name: i for i, name in enumerate(special, start=len(tokens))}
        return cls(tokens + [name.encode() for name in special], merges, pattern, special_ids)

    @classmethod
    def from_gpt2_strings(
        cls,
        tokens: Sequence[str | None] | Mapping[str, int],
        merges: Sequence[str],
        special_ids: Iterable[int],
        added_ids: Iterable[int] = (),
        **options,
    ) -> "Tokenizer":
        """Make a tokenizer from strings like GPT-2's, where a byte is a visible character (a space is Ġ).

        tokens: the token of each id, or token → id; gaps are as in `Tokenizer`. merges: such as "Ġ t".
        special_ids, added_ids: the ids of the special and the added tokens, whose names are plain text.
        options: the `pattern` and `unknown` of `Tokenizer`. Raises ValueError for a merge or one of these ids
        without a token, and for a character that stands for no byte.
        """
        tokens, merges, special, added = read_gpt2_strings(tokens, merges, special_ids, added_ids)
        return cls(tokens, merges, special=special, added=added, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer as JSON. The file is replaced whole or not at all."""
        save_tokenizer(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read what `save` wrote. Raises ValueError, which names the file, if it holds anything else."""
        return load_tokenizer(path, cls)

    @property
    def vocab_size(self) -> int:
        """The highest id + 1, ids that no token has included: how many rows a model's embedding needs."""
        return len(self.tokens)

    def encode(self, text: str, allow_special: bool | Collection[str] = False) -> list[int]:
        """Return the token ids of a text.

        allow_special: read the name of a special token, such as "<|im_end|>", as that token; or a collection
        of those names that are to be read so. Off by default: a user who types those characters in a chat
        should not be able to end the model's turn. Raises ValueError for a lone surrogate (half of a
        character, which has no UTF-8 bytes) and for a character that the vocabulary has no tokens for,
        TypeError for anything but a string.
        """
        return self.encode_segments(self.splitter(allow_special).split(check_text(text)))

    def encode_iterable(
        self, chunks: Iterable[str], allow_special: bool | Collection[str] = False
    ) -> Iterator[int]:
        """Yield the token ids of a long text that arrives in chunks, such as the lines of an open file.

        They are the ids of `encode("".join(chunks), allow_special)`, wherever the text is cut (`streaming`
        names the patterns for which this may fail), but in little memory: of the text only the end is kept,
        usually some dozens of characters, which could still become other tokens. There is no bound for a
        text that is one endless piece, such as letters without a space. Raises what `encode` raises: for a
        chunk that can't be text when it arrives, with the position in that chunk, and for a character that
        the vocabulary has no tokens for when its piece is encoded.

        >>> tokenizer = Tokenizer.train("low low low lower lowest", vocab_size=260)
        >>> [tokenizer.token_text(i) for i in tokenizer.encode_iterable(["lo", "w slo", "w"])]
        ['low', ' ', 's', 'low']
        """
        return encode_stream(self, iter(check_texts(chunks)), self.splitter(allow_special))

    def splitter(self, allow_special: bool | Collection[str]) -> SpecialSplitter:
        """Return what cuts a text at the added tokens, and at the special ones that are allowed."""
        names = check_allowed(allow_special, self.special)
        return self._splitters.get(names) or SpecialSplitter({*names, *self.added})

    def encode_segments(self, segments: Sequence[str]) -> list[int]:
        """Return the token ids of [text, name of a token, text, …], as a `splitter` returns them.

        Raises ValueError for a name that no special or added token has, and what `encode` raises.
        """
        ids = []
        for i, segment in enumerate(segments):
            if i % 2 and segment not in self._named:
                raise ValueError(f"{segment!r} is no special or added token of this vocabulary")
            ids += [self._named[segment]] if i % 2 else self.encode_pieces(split(segment, self.pattern))
        return ids

    def encode_pieces(self, pieces: Iterable[str]) -> list[int]:
        """Return the token ids of pieces, as `split` returns them. Raises what `encode` raises."""
        return list(chain.from_iterable(map(self._cache.__getitem__, pieces)))

    def _encode_piece(self, piece: str) -> list[int]:
        ids = [self._byte_ids[byte] for byte in check_text(piece).encode()]
        if None in ids:
            raise missing_byte_error(piece, self._byte_ids)
        return replay_merges(ids, self._ranks)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Return the text of token ids. Bytes that are not UTF-8, such as half a character, become �.

        ids: from a list, an array, a tensor … skip_special: leave special tokens out. Raises ValueError for
        an id outside the vocabulary or in one of its gaps, TypeError for what is no whole number.
        """
        return b"".join(self._decode_bytes(ids, skip_special)).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int], skip_special: bool = False) -> Iterator[str]:
        """Yield the same text as `decode` token by token; a character comes when all its bytes have come."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in self._decode_bytes(ids, skip_special):
            yield decoder.decode(token)
        yield decoder.decode(b"", final=True)

    def token_text(self, i: int) -> str:
        """Return a token as printable text, part of a character as \\xNN. Raises what `decode` raises."""
        return b"".join(self._decode_bytes([i], skip_special=False)).decode(errors="backslashreplace")

    def _decode_bytes(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        """Yield the bytes of each token."""
        check_flag("skip_special", skip_special)
        hidden = set(self.special.values()) if skip_special else ()
        for i in check_ids(ids):
            token = self.tokens[i] if 0 <= i < len(self.tokens) else None
            if token is None:
                raise missing_token_error(i, len(self.tokens))
            if i not in hidden:
                yield token


def _count_pieces(
    texts: Iterable[str], pattern: str, special: Sequence[str], byte_order: Sequence[int]
) -> dict[tuple[int, ...], int]:
    """Count the distinct pieces of texts, as the ids of their bytes, without the names of special tokens."""
    splitter, ids = SpecialSplitter(special), {byte: i for i, byte in enumerate(byte_order)}
    between = (segment for text in check_texts(texts) for segment in splitter.split(check_text(text))[::2])
    pieces = Counter(chain.from_iterable(split(segment, pattern) for segment in between))
    return {tuple(ids[byte] for byte in piece.encode()): count for piece, count in pieces.items()}
