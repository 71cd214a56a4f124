"""Byte-pair encoding (BPE), the whole algorithm: text → token ids → text.

Start with the 256 bytes. Find the pair of neighbours that occurs most often, make it a new token, replace the
pair by it everywhere, and repeat until the vocabulary is as large as wanted (Sennrich et al. 2016, algorithm
1; over bytes: Radford et al. 2019, section 2.2). The list of merges *is* the tokenizer: to encode a text,
replay the merges on it.

Not handled here:
    pre-tokenization, without which merges run from one word into the next: `pretokenize`
    speed, since every merge here passes over the whole text: `fast_bpe`
    special tokens: `special_tokens`; files: `vocabulary_files`; all of it together: `tokenizer`
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Pair = tuple[int, int]


def most_frequent(ids: Sequence[int]) -> Pair:
    """Return the pair of neighbours that occurs most often, and of equally frequent pairs the lowest ids."""
    counts = Counter(pairwise(ids))
    return min(counts, key=lambda pair: (-counts[pair], pair))


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """Replace every occurrence of `pair`, read from left to right, by `new`.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 9)
    [9, 3, 9]
    """
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new if found else ids[i])
        i += 2 if found else 1
    return merged


def train(text: str, vocab_size: int) -> dict[Pair, int]:
    """Learn merges, pair → the id of the token that it becomes, in the order learned.

    Stops when there are `vocab_size` tokens or nothing is left to merge. Two pairs that spell the same bytes,
    such as a + bc and ab + c, become the same token.

    >>> train("hug pug hugs", vocab_size=258)
    {(117, 103): 256, (104, 256): 257}
    """
    ids, merges, tokens = list(text.encode()), {}, [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size and len(ids) > 1:
        left, right = pair = most_frequent(ids)
        token = tokens[left] + tokens[right]
        if token not in tokens:
            tokens.append(token)
        merges[pair] = tokens.index(token)
        ids = merge(ids, pair, merges[pair])
    return merges


def encode(text: str, merges: dict[Pair, int]) -> list[int]:
    """Return the token ids of a text: of the pairs in it, merge the one learned earliest, until none is left.

    >>> encode("hugs", {(117, 103): 256, (104, 256): 257})
    [257, 115]
    """
    ids, ranks = list(text.encode()), {pair: rank for rank, pair in enumerate(merges)}
    while known := [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]:
        _, i = min(known)
        ids[i : i + 2] = [merges[ids[i], ids[i + 1]]]
    return ids


def decode(ids: Iterable[int], merges: dict[Pair, int]) -> str:
    """Return the text of token ids. Bytes that are not UTF-8, such as half a character, become �.

    >>> decode([257, 115], {(117, 103): 256, (104, 256): 257})
    'hugs'
    """
    tokens = {byte: bytes([byte]) for byte in range(256)}
    for (left, right), new in merges.items():
        tokens[new] = tokens[left] + tokens[right]
    return b"".join(tokens[i] for i in ids).decode(errors="replace")
