"""Byte-pair encoding as in `bpe`, with the same results and far less work.

`bpe` counts every pair again after every merge, which costs a pass over the text for each token of the
vocabulary. Here each distinct piece is stored once with the number of its occurrences, a merge touches only
the pieces that contain the pair, and a heap finds the next pair: a second for a megabyte, not an hour.

    learn_merges    train: merges from counted pieces
    replay_merges   encode: the tokens of one piece
    PieceCache      the tokens of pieces that recur
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from course_lib.text.bpe import Pair
from course_lib.text.checks import check_pieces

TieRule = Callable[[Pair, bytes, bytes], Any]

# Which of two equally frequent pairs is merged first: the one with the smaller key. left and right are the
# bytes of the two tokens. "alphabetical" compares the left tokens byte by byte, and then the right ones.
TIE_RULES: dict[str, TieRule] = {
    "lowest ids": lambda pair, left, right: pair,
    "alphabetical": lambda pair, left, right: (left, right),
}
MERGED_AWAY = -1
MAX_CACHED_PIECES = 1 << 18
LONGEST_CACHED = 100  # characters of a piece


def learn_merges(
    pieces: dict[tuple[int, ...], int],
    vocabulary: list[bytes],
    vocab_size: int,
    ties: str | TieRule = "lowest ids",
) -> dict[Pair, int]:
    """Learn merges, pair → the id of the token that it becomes, in the order learned.

    Stops when `vocabulary` has `vocab_size` tokens or no pair is left. pieces: the token ids of each distinct
    piece → how often the piece occurs. vocabulary: the bytes of each token id; it is extended in place. ties:
    which of two equally frequent pairs is merged first, as in `find_tie_rule`. Raises ValueError or TypeError
    for an unknown rule, and for pieces or a vocabulary of another kind.

    >>> vocabulary = [bytes([b]) for b in range(256)]
    >>> learn_merges({tuple(b"hug"): 10, tuple(b"pug"): 5, tuple(b"hugs"): 5}, vocabulary, 258)
    {(117, 103): 256, (104, 256): 257}
    >>> vocabulary[256:]
    [b'ug', b'hug']
    """
    check_pieces(pieces, vocabulary, vocab_size)
    counted, ids, merges = CountedPieces(pieces), {token: i for i, token in enumerate(vocabulary)}, {}
    queue = PairQueue(counted.pair_counts, vocabulary, find_tie_rule(ties))
    while len(vocabulary) < vocab_size and (pair := queue.pop()):
        token = vocabulary[pair[0]] + vocabulary[pair[1]]
        merges[pair] = ids.setdefault(token, len(vocabulary))
        if merges[pair] == len(vocabulary):
            vocabulary.append(token)
        for more_frequent in counted.merge(pair, merges[pair]):
            queue.push(more_frequent)
    return merges


def find_tie_rule(ties: str | TieRule) -> TieRule:
    """Return the tie rule of a name in `TIE_RULES`; a function of the caller's own is returned as it is.

    Such a function takes (pair, left, right), where left and right are the bytes of the pair's tokens, and
    returns the same sort key for a pair each time. Pairs of equal keys go by lowest ids. Raises ValueError
    for anything else.
    """
    if callable(ties):
        return ties
    if not isinstance(ties, str) or ties not in TIE_RULES:
        raise ValueError(f"ties must be one of {list(TIE_RULES)} or a function, not {ties!r}")
    return TIE_RULES[ties]


class CountedPieces:
    """Distinct pieces as token ids, with how often each pair of neighbours occurs, and in which pieces."""

    def __init__(self, pieces: dict[tuple[int, ...], int]):
        counts = {piece: count for piece, count in pieces.items() if count}  # without those that never occur
        self.pieces, self.piece_counts = [list(piece) for piece in counts], list(counts.values())
        self.pair_counts: Counter[Pair] = Counter()
        self.pieces_with: dict[Pair, set[int]] = defaultdict(set)
        for i, piece in enumerate(self.pieces):
            for pair in pairwise(piece):
                self.pair_counts[pair] += self.piece_counts[i]
                self.pieces_with[pair].add(i)

    def merge(self, pair: Pair, new: int) -> list[Pair]:
        """Replace `pair` by `new` in every piece, and return the pairs that now occur more often."""
        changes: Counter[Pair] = Counter()
        for i in self.pieces_with.pop(pair):
            for neighbours, change in merge_in_place(self.pieces[i], pair, new).items():
                changes[neighbours] += change * self.piece_counts[i]
                if change > 0:
                    self.pieces_with[neighbours].add(i)
        for neighbours, change in changes.items():
            self.pair_counts[neighbours] += change
        del self.pair_counts[pair]
        return [neighbours for neighbours, change in changes.items() if change > 0]


def merge_in_place(piece: list[int], pair: Pair, new: int) -> dict[Pair, int]:
    """Replace `pair` by `new` in one piece, and return how the counts of the pairs next to it change.

    >>> piece = [1, 2, 3]
    >>> dict(merge_in_place(piece, (1, 2), 9)), piece
    ({(2, 3): -1, (9, 3): 1}, [9, 3])
    """
    changes: dict[Pair, int] = defaultdict(int)
    i = 0
    while i < len(piece) - 1:
        if (piece[i], piece[i + 1]) == pair:
            if i > 0:
                changes[piece[i - 1], pair[0]] -= 1
                changes[piece[i - 1], new] += 1
            if i + 2 < len(piece):
                changes[pair[1], piece[i + 2]] -= 1
                changes[new, piece[i + 2]] += 1
            piece[i : i + 2] = [new]
        i += 1
    return changes


class PairQueue:
    """A heap of pairs: the highest count first, equal counts by the tie rule, and equal keys by lowest ids.

    A change of `counts` leaves the heap as it is. An entry whose count is out of date is put back with the
    present count when it comes up; a pair whose count rises must be pushed, since its old entry would come up
    too late.
    """

    def __init__(self, counts: Counter[Pair], vocabulary: list[bytes], tie_rule: TieRule):
        self.counts, self.vocabulary, self.tie_rule = counts, vocabulary, tie_rule
        self.heap = [self.entry(pair) for pair in counts]
        heapq.heapify(self.heap)

    def entry(self, pair: Pair) -> tuple[int, Any, Pair]:
        """Return (-count, tie key, pair), which the heap sorts by."""
        left, right = self.vocabulary[pair[0]], self.vocabulary[pair[1]]
        return -self.counts[pair], self.tie_rule(pair, left, right), pair

    def push(self, pair: Pair) -> None:
        """Add a pair with its present count."""
        heapq.heappush(self.heap, self.entry(pair))

    def pop(self) -> Pair | None:
        """Remove and return the pair to merge next; None if no pair is left."""
        while self.heap:
            negative_count, _, pair = heapq.heappop(self.heap)
            if -negative_count == self.counts[pair]:
                return pair
            if self.counts[pair] > 0:
                self.push(pair)
        return None


def replay_merges(ids: list[int], ranks: dict[Pair, tuple[int, int]]) -> list[int]:
    """Merge the tokens of one piece as `bpe.encode` does: the pair learned earliest first.

    The piece is a linked list and a heap holds its known pairs, so n bytes take n log n steps. Searching for
    the next pair again after each merge takes n²: nothing for a word, hours for a megabyte without a space.

    ranks: pair → (its rank in the order learned, the token it becomes).

    >>> replay_merges(list(b"hugs"), {(117, 103): (0, 256), (104, 256): (1, 257)})
    [257, 115]
    """
    ids, end = list(ids), len(ids)
    previous, following = list(range(-1, end - 1)), list(range(1, end + 1))
    heap = [(*ranks[pair], i, pair) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, new, i, pair = heapq.heappop(heap)
        j = following[i]
        if j == end or (ids[i], ids[j]) != pair:
            continue  # an earlier merge has replaced one of the two
        ids[i], ids[j], following[i] = new, MERGED_AWAY, following[j]
        if following[i] < end:
            previous[following[i]] = i
        for k in (previous[i], i):
            if k >= 0 and following[k] < end and (pair := (ids[k], ids[following[k]])) in ranks:
                heapq.heappush(heap, (*ranks[pair], k, pair))
    return [i for i in ids if i != MERGED_AWAY]


class PieceCache(dict):
    """piece → its token ids, computed at the first lookup. Pieces recur in a text, so few are computed.

    Long pieces hardly ever recur, and would fill the memory: they aren't kept.
    """

    def __init__(self, encode_piece: Callable[[str], list[int]]):
        super().__init__()
        self.encode_piece = encode_piece

    def __missing__(self, piece: str) -> list[int]:
        ids = self.encode_piece(piece)
        if len(self) < MAX_CACHED_PIECES and len(piece) <= LONGEST_CACHED:
            self[piece] = ids
        return ids
