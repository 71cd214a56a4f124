"""Token ids → batches.

A batch depends on its step and on the seed only, so that training can stop anywhere and resume exactly there:
no random state needs to be kept. The data is read in epochs, each shuffled anew, one after another without
end.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.arguments import short
from course_lib.generate.request_checks import LARGEST, check_callable, to_whole_tensor
from course_lib.model.checks import require, require_kind
from course_lib.train.checks import own_whole
from course_lib.train.data_checks import (
    check_examples,
    check_windows,
    own_rows,
    own_step,
    to_pairs,
    tokens_of,
)
from course_lib.train.loss import IGNORE

# The targets are the last part, or the one named so. The losses of `loss` take no dictionaries.
Batch = tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]

# Each kind of draw has a stream of random numbers of its own: the seed of an epoch's order is (seed, epoch),
# and the seeds of other draws end in one of these numbers.
OFFSET_STREAM, ANSWER_STREAM = 1, 2


class Source(Protocol):
    """A function from a step to its batch.

    If a batch depends on the step alone, or on the step and on the trained weights, a run can stop anywhere
    and resume bit for bit (`checkpoint`). A source that carries further state from one batch to the next has
    to save that state itself.
    """

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""


def join(documents: Iterable[Sequence[int]], end: int) -> Tensor:
    """Concatenate documents into one sequence of ids, (length,), each followed by the end-of-text id `end`.

    >>> join([[5, 6], [7]], end=0)
    tensor([5, 6, 0, 7, 0])

    Raises ValueError for documents or an end that aren't ids (text, for example).
    """
    end = own_whole("end", end, 0)
    return to_whole_tensor("documents", tokens_of(documents, end))


class Windows:
    """Batches (tokens, targets) from one long sequence of ids: each token's target is the next token.

    Each epoch starts at a random offset and cuts the text, joined end to start, into windows. Fewer than
    `time` targets are unused. Both tokens and targets are (batch, time).

    ids: (length,), whole numbers in a tensor, a list or a NumPy array. An array of fewer bits, such as one of
        uint16 that is mapped from a file, stays where it is; the batches have 64 bits.
    time: tokens per window.
    batch: windows per batch.
    seed: of the offsets and of the windows' order.
    wrap: whether a window may go on from the text's end to its start. If False, the offset is below `time`.

    Raises ValueError for ids that are no whole numbers, or fewer than `time` + 1.
    """

    def __init__(self, ids: Tensor, time: int, batch: int, seed: int = 0, wrap: bool = True):
        ids = ids if isinstance(ids, Tensor) else _as_tensor(ids)
        self.time, self.batch = own_whole("time", time, 1), own_rows("batch", batch)
        check_windows(ids, self.time)
        require_kind("wrap", wrap, bool)
        self.ids, self.seed, self.wrap = ids, own_whole("seed", seed, 0), wrap

    def __call__(self, step: int) -> Batch:
        step = own_step(step)
        n_targets = len(self.ids) if self.wrap else len(self.ids) - 1
        n_offsets = n_targets if self.wrap else n_targets % self.time + 1
        starts = [
            _random_offset(n_offsets, self.seed, epoch) + self.time * window
            for epoch, window in _shuffled_items(n_targets // self.time, self.batch, self.seed, step)
        ]
        positions = torch.tensor(starts).unsqueeze(1) + torch.arange(self.time + 1)  # (batch, time + 1)
        windows = self.ids[(positions % len(self.ids)).to(self.ids.device)].long()  # (batch, time + 1)
        return windows[:, :-1], windows[:, 1:]


class Examples:
    """Batches of separate examples, each of them once per epoch.

        Examples(questions_and_answers, batch=16, collate=answer_only)

    examples: of any type that `collate` reads; what can't be indexed is made a list.
    batch: examples per batch.
    collate: a list of examples → a batch of tensors.
    seed: of the examples' order.

    Raises ValueError where there is no example, and for a batch or a seed that isn't a whole number.
    """

    def __init__(self, examples: Sequence, batch: int, collate: Callable[[list], Batch], seed: int = 0):
        self.examples = examples if hasattr(examples, "__getitem__") else list(examples)
        check_examples(self.examples)
        check_callable("collate", collate)
        self.batch, self.collate, self.seed = own_rows("batch", batch), collate, own_whole("seed", seed, 0)

    def __call__(self, step: int) -> Batch:
        step = own_step(step)
        check_examples(self.examples)  # the list may have been emptied since
        chosen = _shuffled_items(len(self.examples), self.batch, self.seed, step)
        return self.collate([self.examples[i] for _, i in chosen])


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows of different lengths with `value` on the right, to (rows, longest).

    >>> pad([[1, 2, 3], [4]], value=0)
    tensor([[1, 2, 3],
            [4, 0, 0]])

    Raises ValueError where there are no rows, and for what isn't whole numbers.
    """
    value = own_whole("value", value, -LARGEST)
    rows = [list(row) if isinstance(row, Iterable) else row for row in rows]
    require(bool(rows), "there are no rows to pad: give at least one example")
    if not all(isinstance(row, list) for row in rows):
        raise ValueError(f"each row must be a list of whole numbers, not {short(rows)}")
    longest = max(map(len, rows))
    return to_whole_tensor("rows", [[*row, *[value] * (longest - len(row))] for row in rows])


def answer_only(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], padding: int = 0) -> Batch:
    """Return (tokens, targets) of (prompt, answer) pairs for a decoder, both (batch, time).

    The model reads prompt and answer; only the answer's tokens are targets, and all other targets are IGNORE.

    padding: any id of the vocabulary, since no target is there and a causal model doesn't attend to later
        tokens.

    >>> answer_only([([5, 6], [7, 8])])
    (tensor([[5, 6, 7]]), tensor([[-100,    7,    8]]))

    Raises ValueError for what isn't pairs of ids (text, for example).
    """
    padding = own_whole("padding", padding, 0)
    pairs = to_pairs(pairs)
    tokens = [[*prompt, *answer] for prompt, answer in pairs]
    targets = [[*[IGNORE] * len(prompt), *answer] for prompt, answer in pairs]
    return pad([row[:-1] for row in tokens], padding), pad([row[1:] for row in targets], IGNORE)


def source_and_target(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], start: int, padding: int
) -> Batch:
    """Return (source, tokens, real, targets) of (source, target) pairs, for an encoder-decoder.

    source: (batch, source time), what the encoder reads.
    tokens: (batch, target time), what the decoder reads. Its padding comes after all that counts, where a
        causal model doesn't attend to it.
    real: (batch, source time), False at the source's padding, which the encoder masks.
    targets: (batch, target time). Each is predicted from the tokens before it.

    start: the first id that the decoder reads.
    padding: any id of the vocabulary.

    >>> source_and_target([([5, 6], [7, 8]), ([9], [7])], start=1, padding=0)[2]
    tensor([[ True,  True],
            [ True, False]])

    Raises ValueError for what isn't pairs of ids (text, for example).
    """
    start, padding = own_whole("start", start, 0), own_whole("padding", padding, 0)
    pairs = to_pairs(pairs)
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    tokens = [[start, *target[:-1]] for target in targets]
    real = pad([[1] * len(source) for source in sources], 0).bool()
    return pad(sources, padding), pad(tokens, padding), real, pad(targets, IGNORE)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device.

    batch: a tensor, or a tuple (named or not), list or dictionary of batches. Anything else is returned as it
        is.
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [to_device(part, device) for part in batch]
        if isinstance(batch, list):
            return parts
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def count_targets(batch: Batch) -> int:
    """Return the number of a batch's targets: the elements of its last part, or of the one named so.

    Raises ValueError for a batch without parts.
    """
    if isinstance(batch, Mapping | tuple | list) and not batch:
        raise ValueError("the source gave an empty batch: it must hold the inputs, and the targets last")
    if isinstance(batch, Mapping):
        batch = batch.get("targets", list(batch.values())[-1])
    batch = getattr(batch, "targets", batch)
    last = batch[-1] if isinstance(batch, tuple | list) else batch
    return last.numel() if isinstance(last, Tensor) else 0


def _as_tensor(ids: np.ndarray | Sequence[int]) -> Tensor:
    """Return ids as a tensor. That of an array of whole numbers has its memory and dtype."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or not ids.dtype.isnative:
        return to_whole_tensor("ids", ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the array may be read-only: nothing is written here
        return torch.from_numpy(np.ascontiguousarray(ids))


def _shuffled_items(items: int, batch: int, seed: int, step: int) -> list[tuple[int, int]]:
    """Return (epoch, item) for each row of a step's batch."""
    draws = (divmod(draw, items) for draw in range(step * batch, (step + 1) * batch))
    return [(epoch, int(_permutation(items, seed, epoch)[i])) for epoch, i in draws]


@lru_cache(maxsize=8)
def _permutation(items: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(items)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def _random_offset(n_offsets: int, seed: int, epoch: int) -> int:
    return int(np.random.default_rng((seed, epoch, OFFSET_STREAM)).integers(n_offsets))
