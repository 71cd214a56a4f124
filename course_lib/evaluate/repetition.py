"""How much a text repeats itself, and how sure the choice was that led to each of its tokens."""

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the next token, in nats: (…, vocab_size) → (…). 0 when it is certain, ln n for n
    equally likely."""
    chances = logits.double().softmax(dim=-1)
    return torch.special.entr(chances).sum(dim=-1)


def ngrams(tokens: Sequence[Hashable] | Tensor, n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n tokens, in order. Raises ValueError for n below 1."""
    if n < 1:
        raise ValueError(f"an n-gram has 1 token or more, not {n}")
    # Equal tensors are not the same to a set.
    tokens = tokens.tolist() if isinstance(tokens, Tensor) else tokens
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def repeated(tokens: Sequence[Hashable] | Tensor, n: int = 4) -> float:
    """Share of the n-grams that occurred before in the same text: seq-rep-n of Welleck et al. (2020).

    0 for a text with fewer than n tokens.

    >>> round(repeated("to be or not to be or not to be".split(), n=4), 2)  # 3 of 7
    0.43
    """
    found = ngrams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(texts: Iterable[Sequence[Hashable] | Tensor], n: int = 2) -> float:
    """Different n-grams of all texts together, divided by their tokens: distinct-n of Li et al. (2016).

    1 means that next to nothing occurs twice, in any of them. 0 for no tokens.

    >>> round(distinct(["a tiger ran".split(), "a tiger slept".split()], n=1), 2)  # 4 of 6
    0.67
    """
    texts = list(texts)
    total = sum(map(len, texts))
    return len({gram for text in texts for gram in ngrams(text, n)}) / total if total else 0.0


def find_loop(tokens: Sequence[Hashable], rounds: int = 3) -> tuple[int, int] | None:
    """Where a text begins to go in circles to its end, and how many tokens a round takes: (start, period), or
    None.

    A loop goes round at least so many times. Of several periods it is the shortest.

    >>> find_loop("once a b c a b c a b c a".split())
    (1, 3)
    """
    if rounds < 2:
        raise ValueError(f"a loop goes round 2 times or more, not {rounds}")
    for period in range(1, len(tokens) // rounds + 1):
        start = len(tokens) - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if len(tokens) - start >= rounds * period:
            return start, period
    return None
