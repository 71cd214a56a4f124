"""Measures of repetition in a text, and the entropy of the distribution that a token was chosen from."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from course_lib.arguments import listed, whole


def entropy(logits: Tensor) -> Tensor:
    """Return the Shannon entropy of the next token, in nats: (…, vocab_size) → (…).

    It is 0 if one token is certain, and ln n if n tokens are equally likely; NaN for logits that are NaN or
    +∞. Raises ValueError for a vocabulary of no tokens.
    """
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have one for each token, (…, vocab_size), not {tuple(logits.shape)}")
    probabilities = logits.double().softmax(dim=-1)  # (…, vocab_size)
    return torch.special.entr(probabilities).sum(dim=-1)


def ngrams(tokens: Sequence[Hashable] | Tensor, n: int) -> list[tuple[Hashable, ...]]:
    """Return all n-grams (runs of n tokens), in order.

    The tokens of a string are its characters. Raises ValueError for n below 1, TypeError for what is no list
    of tokens.
    """
    n = whole("n", n)
    if n < 1:
        raise ValueError(f"an n-gram has 1 token or more, not {n}")
    tokens = _tokens(tokens)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _tokens(tokens: Iterable[Hashable] | Tensor) -> list[Hashable]:
    """Return tokens as a list of what a set can hold and compare."""
    if isinstance(tokens, str):
        return list(tokens)
    return [_token(token) for token in listed("tokens", tokens, "a list of tokens")]


def _token(token: Hashable | Tensor) -> Hashable:
    """Return a token; of a tensor its number, since a set would compare tensors by identity."""
    token = token.tolist() if isinstance(token, Tensor | np.ndarray) else token
    try:
        hash(token)
    except TypeError:
        raise TypeError(
            "each token must be a number or a word, and here one is a list: give one text's tokens"
        ) from None
    return token


def repeated(tokens: Sequence[Hashable] | Tensor, n: int = 4) -> float:
    """Return the share of n-grams that occur earlier in the same text: seq-rep-n of Welleck et al. (2020).

    It is 0 for a text with fewer than n tokens.

    >>> round(repeated("to be or not to be or not to be".split(), n=4), 2)  # 3 of 7
    0.43
    """
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Iterable[Sequence[Hashable] | Tensor], n: int = 2) -> float:
    """Return the number of different n-grams in all texts, divided by the number of tokens.

    This is distinct-n of Li et al. (2016). It is close to 1 for long texts in which almost no n-gram occurs
    twice, within a text or across texts. A text of m tokens has only m − n + 1 n-grams, so short texts have
    less: two texts of two tokens have 0.5 at most for n = 2. It is 0 if there are no tokens.

    >>> round(distinct(["a tiger ran".split(), "a tiger slept".split()], n=1), 2)  # 4 of 6
    0.67
    """
    texts = [_tokens(text) for text in listed("texts", texts, "a list of texts, each a list of tokens")]
    total = sum(map(len, texts))
    grams = {gram for text in texts for gram in ngrams(text, n)}
    return len(grams) / total if total else 0.0


def find_loop(tokens: Sequence[Hashable], rounds: int = 3) -> tuple[int, int] | None:
    """Return where a loop begins that lasts until the end of the text, and its period: (start, period).

    rounds: how often the loop must go round at least. If several periods fit, the shortest one is returned.
    If there is no loop, the result is None. Raises ValueError for fewer than 2 rounds, TypeError as `ngrams`.

    >>> find_loop("once a b c a b c a b c a".split())
    (1, 3)
    """
    tokens = _tokens(tokens)
    rounds = whole("rounds", rounds)
    if rounds < 2:
        raise ValueError(f"a loop goes round 2 times or more, not {rounds}")
    for period in range(1, len(tokens) // rounds + 1):
        start = len(tokens) - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if len(tokens) - start >= rounds * period:
            return start, period
    return None
