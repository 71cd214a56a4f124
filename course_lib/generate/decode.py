"""The loop that writes: read, choose a token for each text, read what was chosen, choose the next.

    generate(model, prompt)                  one text, token by token
    continuations(model, prompt, n)          n texts that go on from one prompt
    decode(model, [Request(…), …])           any number of texts side by side, each with its own prompt, length, sampler and end

All three are the same loop, `Batch`: the texts are the rows of a batch, of different lengths, and a text that has ended leaves it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.generate.sampling import sample
from course_lib.model import Cache, Decoder, KVCache, LanguageModel, Memory, ProjectedMemory

Choose = Callable[[Tensor], Tensor]
Adjust = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Request:
    """A text to be written: what stands before it, and how to write it.

    choose: logits (rows, vocab_size) → tokens (rows,); greedy unless told otherwise, e.g. `partial(sample, temperature=0.8)`. Requests
    with the very same `choose` are given to it together, in one row each, also those that have ended: so what one of them draws
    doesn't depend on when others end. adjust: logits (rows, vocab_size) and all tokens so far, the prompt's first (rows, time) → logits,
    before `choose` sees them; for penalties, which must know what has been written. stop: the text ends before its first of these.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 100
    choose: Choose = sample
    stop: Collection[int] = ()
    adjust: Adjust | None = None

    def room(self, context: int) -> int:
        """How many tokens can be written: the last may be one beyond the context, for nothing need be read after it.

        Raises ValueError for an empty prompt, one longer than the context, or a max_new_tokens below 0.
        """
        if len(self.prompt) == 0:
            raise ValueError("the prompt is empty; give the model at least one token to go on from")
        if len(self.prompt) > context:
            raise ValueError(f"the prompt's {len(self.prompt)} tokens don't fit the context of {context}")
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be 0 or more, not {self.max_new_tokens}")
        return min(self.max_new_tokens, context - len(self.prompt) + 1)


class Batch:
    """Requests being written side by side: `step` after `step`, until none is left in `active`.

    texts: each request's prompt with what has been written. active: the requests still being written, by their numbers, which
    are also the rows of the cache. cached=False keeps nothing, and reads everything again for each token. memory: an encoder's
    states, a sequence for each request, for the decoder of an `EncoderDecoder`.

    Raises ValueError for no request, and where one doesn't fit the model (`Request.room`).
    """

    def __init__(
        self, model: Decoder, requests: Sequence[Request], cached: bool = True, memory: Memory | None = None
    ):
        if not requests:
            raise ValueError("there is nothing to write: give at least one request")
        self.model, self.requests, self.cached = model, list(requests), cached
        self.left = [request.room(model.config.context) for request in requests]
        self.texts = [list(request.prompt) for request in requests]
        self.active = [i for i, left in enumerate(self.left) if left]
        self.memory = None if memory is None else model.project_memory(memory)
        self.cache: KVCache | None = None
        self.logits: dict[int, Tensor] = {}  # request → (vocab_size,), what its last token was chosen from

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Write a token of each active request: (request, token) for those that didn't end with it."""
        hidden = self._read_on() if self.cache is not None else self._read_all()
        self.logits |= zip(self.active, self._adjusted(self.model.logits(hidden)), strict=True)
        return self._append(self._chosen())

    def _read_all(self) -> Tensor:
        """What the head reads after each active text, (active, d_model). Equal prompts are read once."""
        texts = [self.texts[i] for i in self.active]
        if not self.cached:
            return read(self.model, texts, memory=self._memory_of(self.active))
        apart = texts if self.memory is not None else list(dict.fromkeys(map(tuple, texts)))
        rows = [apart.index(tuple(text)) for text in texts] if self.memory is None else []
        most = min(max(len(self.texts[i]) + self.left[i] for i in self.active), self.model.config.context)
        shared = len(apart) < len(texts)
        self.cache = self.model.new_cache(max(map(len, apart)) if shared else most, len(apart))
        hidden = read(self.model, apart, self.cache, self._memory_of(self.active))
        if shared:
            self.cache, hidden = self.cache.select(rows, most), hidden[rows]
        return hidden

    def _read_on(self) -> Tensor:
        """The same where all but the last token of each text was read before."""
        return read(
            self.model, [self.texts[i][-1:] for i in self.active], self.cache, self._memory_of(self.active)
        )

    def _memory_of(self, requests: list[int]) -> ProjectedMemory | None:
        return (
            self.memory
            if self.memory is None or len(requests) == len(self.requests)
            else self.memory.select(requests)
        )

    def _adjusted(self, logits: Tensor) -> list[Tensor]:
        """Of (active, vocab_size) each row, (vocab_size,), as its request's `adjust` wants it: together, those that can be."""
        rows, groups = list(logits), {}
        for row, i in enumerate(self.active):
            if self.requests[i].adjust is not None:
                groups.setdefault((id(self.requests[i].adjust), len(self.texts[i])), []).append(row)
        for members in groups.values():
            texts = [self.texts[self.active[row]] for row in members]
            before, tokens = logits[members], torch.tensor(texts, device=logits.device)
            after = _expect_same_shape(before, self.requests[self.active[members[0]]].adjust(before, tokens))
            for row, adjusted in zip(members, after, strict=True):
                rows[row] = adjusted
        return rows

    def _chosen(self) -> dict[int, int]:
        """Each active request's next token. Those that share a `choose` are given to it together, also those that have ended."""
        groups: dict[int, list[int]] = {}
        for i in sorted(self.logits):
            groups.setdefault(id(self.requests[i].choose), []).append(i)
        tokens = {}
        for members in groups.values():
            if not set(members).isdisjoint(self.active):
                logits = torch.stack([self.logits[i] for i in members])
                tokens |= zip(
                    members,
                    _expect_tokens(self.requests[members[0]].choose(logits), len(members)),
                    strict=True,
                )
        return {i: tokens[i] for i in self.active}

    def _append(self, tokens: dict[int, int]) -> list[tuple[int, int]]:
        """Write the tokens, and let those requests go that end with them."""
        written = [(i, token) for i, token in tokens.items() if token not in self.requests[i].stop]
        for i, token in written:
            self.texts[i].append(token)
            self.left[i] -= 1
        self._keep([i for i, _ in written if self.left[i]])
        return written

    def _keep(self, active: list[int]) -> None:
        if active and self.cache is not None and len(active) < len(self.active):
            self.cache = self.cache.select([self.active.index(i) for i in active])
        self.active = active


def read(
    model: Decoder,
    unread: Sequence[Sequence[int]],
    cache: Cache | None = None,
    memory: ProjectedMemory | None = None,
) -> Tensor:
    """Read new tokens of each row, of different number; what the head reads after the last of each, (rows, d_model)."""
    counts = list(map(len, unread))
    longest = max(counts)
    padded = [[*row, *[0] * (longest - len(row))] for row in unread]
    tokens = torch.tensor(padded, device=model.embedding.weight.device)
    if min(counts) == longest:
        return model.last_hidden_state(tokens, cache, memory=memory)[:, -1]
    hidden = model.last_hidden_state(tokens, cache, memory=memory, counts=counts)
    return hidden[torch.arange(len(counts)), torch.tensor(counts) - 1]


def decode(
    model: Decoder, requests: Sequence[Request], cached: bool = True, memory: Memory | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Write several texts side by side: in each step a list of (request's number, token), one for each that goes on.

    Arguments and errors as in `Batch`, the errors at the call; while it writes, ValueError for logits adjusted to another shape, and for a
    `choose` that gives other than one token a row.
    """
    batch = Batch(model, requests, cached, memory)
    return iter(lambda: batch.step() if batch.active else None, None)


def generate(
    model: Decoder,
    prompt: Sequence[int],
    max_new_tokens: int = 100,
    choose: Choose = sample,
    stop: Collection[int] = (),
    cached: bool = True,
    memory: Memory | None = None,
    adjust: Adjust | None = None,
) -> Iterator[int]:
    """Token ids that follow `prompt`, one at a time as they are chosen.

    choose, stop, adjust: as in `Request`, for one row. Ends before a token of `stop`, after `max_new_tokens`, or when the context is
    full. cached=False reads everything again for each token: the same tokens, slowly. memory: an encoder's states, for the decoder of
    an `EncoderDecoder`. Errors as in `decode`.
    """
    steps = decode(model, [Request(prompt, max_new_tokens, choose, stop, adjust)], cached, memory)
    return (token for step in steps for _, token in step)


def continuations(
    model: Decoder,
    prompt: Sequence[int],
    n: int,
    max_new_tokens: int = 100,
    choose: Choose = sample,
    adjust: Adjust | None = None,
    stop: Collection[int] = (),
) -> list[list[int]]:
    """`n` continuations of a prompt that is read once: lists of token ids, each as `generate` would write it.

    choose: logits (n, vocab_size) → tokens (n,). adjust: logits (rows, vocab_size), tokens so far (rows, time) → logits. Each text ends
    before its own first token of `stop`; all end after `max_new_tokens`, or when the context is full. Raises ValueError for n below 1,
    and as `decode` does.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    return write(model, [Request(prompt, max_new_tokens, choose, stop, adjust)] * n)


def write(model: Decoder, requests: Sequence[Request]) -> list[list[int]]:
    """What `decode` writes for each request, when all are done."""
    texts: list[list[int]] = [[] for _ in requests]
    for step in decode(model, requests):
        for i, token in step:
            texts[i].append(token)
    return texts


def complete(
    lm: LanguageModel,
    prompt: str,
    max_new_tokens: int = 100,
    choose: Choose = sample,
    chat: bool = True,
    adjust: Adjust | None = None,
) -> Iterator[str]:
    """The text that answers `prompt` (through the chat template) or goes on from it (chat=False), piece by piece.

    for piece in complete(lm, "What is the capital of France?"):
        print(piece, end="")
    """
    if chat and lm.chat is None:
        raise ValueError(f"{lm.name} has no chat template, so it can only go on from a text: pass chat=False")
    ids = lm.chat.encode(prompt) if chat else lm.tokenizer.encode(prompt)
    written = generate(lm.model, ids, max_new_tokens, choose, lm.tokenizer.special.values(), adjust=adjust)
    return lm.tokenizer.decode_stream(written)


def _expect_same_shape(logits: Tensor, adjusted: Tensor) -> Tensor:
    if adjusted.shape != logits.shape:
        raise ValueError(
            f"adjust was given logits {tuple(logits.shape)} and must give as many back, not {tuple(adjusted.shape)}"
        )
    return adjusted


def _expect_tokens(chosen: Tensor | int, rows: int) -> list[int]:
    tokens = torch.as_tensor(chosen).reshape(-1).tolist()
    if len(tokens) != rows:
        raise ValueError(
            f"choose was given {rows} rows of logits and must give one token for each, not {len(tokens)}"
        )
    return tokens
