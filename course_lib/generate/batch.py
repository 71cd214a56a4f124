"""Texts that are written side by side, as the rows of a batch.

The rows have different lengths: each text has its own prompt, its own sampler and its own end. A step runs
the model once, for one new token of each text, and a text that has ended leaves the batch.

Not handled: requests that join a batch while it is running.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.generate.request_checks import (
    check_adjusted,
    check_callable,
    check_decoder,
    check_whole,
    checked_tokens,
    to_ids,
    to_stop,
)
from course_lib.generate.sampling import sample
from course_lib.generate.sampling_checks import check_no_nan
from course_lib.interrupts import uninterrupted
from course_lib.model import Cache, Decoder, KVCache, Memory, ProjectedMemory
from course_lib.model.checks import require, require_kind

Choose = Callable[[Tensor], Tensor]
Adjust = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Request:
    """A text to be written: its prompt, and how to go on.

    prompt: token ids, from a list, a tensor or anything else that yields them; kept as a list. choose: logits
    (rows, vocab_size) → tokens (rows,); by default the likeliest. For another sampler: `partial(sample,
    temperature=0.8)`. Requests with the same `choose` object are passed to it in one call; those that have
    ended keep their row, so that random draws don't depend on when others end. adjust: logits (rows,
    vocab_size) and all tokens so far, prompt first, (rows, time) → logits for `choose`; for penalties, which
    depend on what was written. stop: ids; the text ends before the first of these tokens.

    Raises ValueError for a prompt or a stop that isn't made of ids (text, for example), and for a
    max_new_tokens that isn't a whole number from 0 on.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 100
    choose: Choose = sample
    stop: Collection[int] = ()
    adjust: Adjust | None = None

    def __post_init__(self):
        object.__setattr__(self, "prompt", to_ids("the prompt", self.prompt))
        object.__setattr__(self, "stop", to_stop(self.stop))
        check_whole("max_new_tokens", self.max_new_tokens, 0)
        object.__setattr__(self, "max_new_tokens", int(self.max_new_tokens))  # it may be NumPy's
        check_callable("choose", self.choose)
        if self.adjust is not None:
            check_callable("adjust", self.adjust)

    def tokens_to_write(self, context: int) -> int:
        """Return how many tokens this request may write in a context of this size.

        The last token may be one beyond the context, since no other is computed from it. Raises ValueError
        for an empty prompt, and one longer than the context.
        """
        if len(self.prompt) == 0:
            raise ValueError("the prompt is empty; give the model at least one token to go on from")
        if len(self.prompt) > context:
            raise ValueError(f"the prompt's {len(self.prompt)} tokens don't fit the context of {context}")
        return min(self.max_new_tokens, context - len(self.prompt) + 1)


class Batch:
    """Requests that are written side by side: call `step` until `active` is empty.

    texts: each request's prompt and what was written so far. active: the numbers of the requests that haven't
    ended; they are the rows of the cache, in this order. cached: False computes the whole text again for each
    token. memory: an encoder's output, one sequence for each request, for the decoder of an `EncoderDecoder`.

    Raises ValueError for no request, and for one that doesn't fit the model (`Request.tokens_to_write`).
    """

    def __init__(
        self, model: Decoder, requests: Iterable[Request], cached: bool = True, memory: Memory | None = None
    ):
        self.model, self.requests, self.cached = model, list(requests), cached
        check_decoder(model)
        _check_requests(self.requests)
        require_kind("cached", cached, bool)
        self.remaining = [request.tokens_to_write(model.config.context) for request in self.requests]
        self.texts = [list(request.prompt) for request in self.requests]
        self.active = [i for i, remaining in enumerate(self.remaining) if remaining]
        projected = memory is None or isinstance(memory, ProjectedMemory)
        self.memory = memory if projected else model.project_memory(memory)
        self.cache: KVCache | None = None
        self.logits: dict[int, Tensor] = {}  # request → (vocab_size,), of its last token

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Choose a token for each active request; return (request, token), but for stop tokens.

        After an error or an interrupt, the next call does this step anew.
        """
        if not self.active:
            return []
        lengths = None if self.cache is None else self.cache.lengths
        try:
            states = self._run_whole_texts() if self.cache is None else self._run_last_tokens()
            logits = self.model.logits(states)  # (active, vocab_size)
            self.logits |= zip(self.active, self._adjust(logits), strict=True)
            tokens = self._choose()
        except BaseException:
            self._restore_cache(lengths)
            raise
        return self._append(tokens)

    def _restore_cache(self, lengths: list[int] | None) -> None:
        """Undo what a step did to the cache. lengths: those before it; None where there was no cache."""
        if lengths is None:
            self.cache = None
        else:
            self.cache.rewind(lengths)

    def _run_whole_texts(self) -> Tensor:
        """Run the model on each active text; return its state after the last token, (active, d_model).

        With a cache, equal prompts are run once (an encoder's output may make their states differ).
        """
        texts = [tuple(self.texts[i]) for i in self.active]
        if not self.cached:
            return last_states(self.model, texts, memory=self._active_memory())
        distinct = texts if self.memory is not None else list(dict.fromkeys(texts))
        lengths = [len(self.texts[i]) + self.remaining[i] for i in self.active]
        capacity = min(max(lengths), self.model.config.context)
        if len(distinct) == len(texts):
            self.cache = self.model.new_cache(capacity, len(texts))
            return last_states(self.model, texts, self.cache, self._active_memory())
        cache = self.model.new_cache(max(map(len, distinct)), len(distinct))
        states = last_states(self.model, distinct, cache)  # (distinct, d_model)
        rows = [distinct.index(text) for text in texts]
        self.cache = cache.select(rows, capacity)
        return states[rows]

    def _run_last_tokens(self) -> Tensor:
        """Run the model on the last token of each active text, (active, d_model)."""
        last = [self.texts[i][-1:] for i in self.active]
        return last_states(self.model, last, self.cache, self._active_memory())

    def _active_memory(self) -> ProjectedMemory | None:
        """Return the encoder's output for the active requests."""
        if self.memory is None or len(self.active) == len(self.requests):
            return self.memory
        return self.memory.select(self.active)

    def _adjust(self, logits: Tensor) -> list[Tensor]:
        """Return each row of (active, vocab_size), changed by its request's `adjust`.

        Requests that share an `adjust` and are equally long are passed to it together.
        """
        adjusted, groups = list(logits), {}
        for row, i in enumerate(self.active):
            if self.requests[i].adjust is not None:
                groups.setdefault((id(self.requests[i].adjust), len(self.texts[i])), []).append(row)
        for rows in groups.values():
            requests = [self.active[row] for row in rows]
            tokens = torch.tensor([self.texts[i] for i in requests], device=logits.device)  # (rows, time)
            new = self.requests[requests[0]].adjust(logits[rows], tokens)  # (rows, vocab_size)
            check_adjusted(logits[rows], new)
            for row, new_row in zip(rows, new, strict=True):
                adjusted[row] = new_row
        return adjusted

    def _choose(self) -> dict[int, int]:
        """Return each active request's next token, chosen together by those that share a `choose`."""
        groups: dict[int, list[int]] = {}
        for i in sorted(self.logits):
            groups.setdefault(id(self.requests[i].choose), []).append(i)
        tokens = {}
        for members in groups.values():
            if not set(members).isdisjoint(self.active):
                logits = torch.stack([self.logits[i] for i in members])  # (members, vocab_size)
                check_no_nan(logits)
                chosen = self.requests[members[0]].choose(logits)
                tokens |= zip(members, checked_tokens(chosen, logits), strict=True)
        return {i: tokens[i] for i in self.active}

    def _append(self, tokens: dict[int, int]) -> list[tuple[int, int]]:
        """Append the tokens to their texts, and drop the requests that end. An interrupt waits."""
        written = [(i, token) for i, token in tokens.items() if token not in self.requests[i].stop]
        with uninterrupted():
            for i, token in written:
                self.texts[i].append(token)
                self.remaining[i] -= 1
            active = [i for i, _ in written if self.remaining[i]]
            if active and self.cache is not None and len(active) < len(self.active):
                self.cache = self.cache.select([self.active.index(i) for i in active])
            self.active = active
        return written


def last_states(
    model: Decoder,
    texts: Sequence[Sequence[int]],
    cache: Cache | None = None,
    memory: ProjectedMemory | None = None,
) -> Tensor:
    """Run the model on new tokens of each row; return the state after each row's last, (rows, d_model).

    texts: token ids of each row, which may differ in number. cache, memory: as in `Decoder.forward`.
    """
    new_lengths = list(map(len, texts))
    longest = max(new_lengths)
    padded = [[*text, *[0] * (longest - len(text))] for text in texts]
    tokens = torch.tensor(padded, device=model.embedding.weight.device)  # (rows, longest)
    if min(new_lengths) == longest:
        return model.last_hidden_state(tokens, cache, memory=memory)[:, -1]
    states = model.last_hidden_state(tokens, cache, memory=memory, new_lengths=new_lengths)
    return states[torch.arange(len(new_lengths)), torch.tensor(new_lengths) - 1]


def _check_requests(requests: Sequence[Request]) -> None:
    require(bool(requests), "there is nothing to write: give at least one request")
    for request in requests:
        require(
            isinstance(request, Request),
            f"give a list of Request(prompt, …), not of {type(request).__name__}",
        )
