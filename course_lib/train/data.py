"""Token ids → batches.

Batch number `step` is a function of the seed and of nothing else, so that training can stop anywhere and go on exactly there:
no random state needs to be kept. The data is read in epochs, each a shuffle of its own, one after another without end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.train.loss import IGNORE

Batch = tuple[Tensor, ...] | Mapping[str, Tensor]  # the last part, or the one called so, holds the targets


class Source(Protocol):
    """Where batches come from.

    A batch that depends on the step alone, or on the step and on the weights of the model that learns, lets a run stop anywhere and go on
    bit for bit (`checkpoint`). A source that keeps something of its own from one batch to the next has to keep it itself.
    """

    def __call__(self, step: int) -> Batch:
        """The batch to learn from in a step, counted from 0."""


def join(documents: Iterable[Sequence[int]], end: int) -> Tensor:
    """All documents in one long row of ids, (length,), each with the end-of-text id `end` behind it.

    >>> join([[5, 6], [7]], end=0)
    tensor([5, 6, 0, 7, 0])
    """
    return torch.tensor([token for document in documents for token in (*document, end)], dtype=torch.long)


class Windows:
    """Batches (tokens, targets), both (batch, time), from one long row of ids: a target is the token that comes next.

    The row is bent into a circle and cut into windows of `time` tokens, in each epoch from another point on. So each token is
    a target at most once an epoch, and fewer than `time` of them are left out. wrap=False leaves the row straight: no window goes on at
    its beginning, and where the first one begins changes by fewer than `time` tokens. Raises ValueError for a row too short to cut.
    """

    def __init__(self, ids: Tensor, time: int, batch: int, seed: int = 0, wrap: bool = True):
        _require_positive(time=time, batch=batch)
        if ids.dim() != 1 or len(ids) <= time:
            raise ValueError(
                f"windows of {time} tokens need one row of at least {time + 1} ids, not {tuple(ids.shape)}"
            )
        self.ids, self.time, self.batch, self.seed, self.wrap = ids, time, batch, seed, wrap

    def __call__(self, step: int) -> Batch:
        length = len(self.ids) if self.wrap else len(self.ids) - 1  # of all targets
        beginnings = length if self.wrap else length % self.time + 1
        starts = [
            _offset(beginnings, self.seed, epoch) + self.time * window
            for epoch, window in _draw(length // self.time, self.batch, self.seed, step)
        ]
        places = torch.tensor(starts).unsqueeze(1) + torch.arange(self.time + 1)
        windows = self.ids[(places % len(self.ids)).to(self.ids.device)]
        return windows[:, :-1], windows[:, 1:]


class Examples:
    """Batches of separate examples, each once an epoch, put together by `collate` (a list of examples → tensors).

        Examples(questions_and_answers, batch=16, collate=answer_only)

    Raises ValueError where there is no example.
    """

    def __init__(self, examples: Sequence, batch: int, collate: Callable[[list], Batch], seed: int = 0):
        _require_positive(examples=len(examples), batch=batch)
        self.examples, self.batch, self.collate, self.seed = examples, batch, collate, seed

    def __call__(self, step: int) -> Batch:
        chosen = _draw(len(self.examples), self.batch, self.seed, step)
        return self.collate([self.examples[i] for _, i in chosen])


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths, filled up on the right: (rows, longest).

    >>> pad([[1, 2, 3], [4]], value=0)
    tensor([[1, 2, 3],
            [4, 0, 0]])
    """
    if not rows:
        raise ValueError("there are no rows to pad: give at least one example")
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def answer_only(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], padding: int = 0) -> Batch:
    """(prompt, answer) pairs for a decoder → (tokens, targets): the model reads both, and only the answer counts.

    padding: any id of the vocabulary, for no target is there and a causal model doesn't look ahead.

    >>> answer_only([([5, 6], [7, 8])])
    (tensor([[5, 6, 7]]), tensor([[-100,    7,    8]]))
    """
    tokens = [[*prompt, *answer] for prompt, answer in pairs]
    targets = [[*[IGNORE] * len(prompt), *answer] for prompt, answer in pairs]
    return pad([row[:-1] for row in tokens], padding), pad([row[1:] for row in targets], IGNORE)


def source_and_target(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], start: int, padding: int
) -> Batch:
    """(source, target) pairs for an encoder-decoder → (source, tokens, real, targets): each target token from those before it.

    start: what the decoder reads first. padding: any id of the vocabulary. real: false at the source's padding, which the
    encoder then hides (the target's stands behind what counts, where nobody looks).

    >>> source_and_target([([5, 6], [7, 8]), ([9], [7])], start=1, padding=0)[2]
    tensor([[ True,  True],
            [ True, False]])
    """
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    tokens = [[start, *target[:-1]] for target in targets]
    real = pad([[1] * len(source) for source in sources], 0).bool()
    return pad(sources, padding), pad(tokens, padding), real, pad(targets, IGNORE)


def _draw(items: int, batch: int, seed: int, step: int) -> list[tuple[int, int]]:
    """(epoch, item) for each place in batch `step` of the shuffled epochs."""
    places = (divmod(place, items) for place in range(step * batch, (step + 1) * batch))
    return [(epoch, int(_order(items, seed, epoch)[i])) for epoch, i in places]


@lru_cache(maxsize=8)
def _order(items: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(items)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def _offset(length: int, seed: int, epoch: int) -> int:
    return int(np.random.default_rng((seed, epoch, 1)).integers(length))


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
