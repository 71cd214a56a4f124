"""The loop that writes: read the prompt, choose a token, read it, choose the next."""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from course_lib.families import LanguageModel
from course_lib.generate.cache import KVCache
from course_lib.generate.sampling import sample
from course_lib.model import Decoder, Memory

Choose = Callable[[Tensor], Tensor]
Adjust = Callable[[Tensor, Tensor], Tensor]


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

    choose: logits (1, vocab_size) → token (1,); greedy unless told otherwise, e.g. `partial(sample, temperature=0.8)`.
    Ends before a token of `stop`, after `max_new_tokens`, or when the context is full. cached=False reads everything again for
    each token: the same tokens, slowly. memory: an encoder's states, for the decoder of an `EncoderDecoder`.
    adjust: logits (1, vocab_size) and all tokens so far, the prompt's first (1, time) → logits, before `choose` sees them; for
    penalties, which must know what has been written.
    Raises ValueError for an empty prompt or one longer than the context; and, while it writes, for logits adjusted to another shape.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give the model at least one token to go on from")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or more, not {max_new_tokens}")
    room = model.config.context - len(prompt)
    if room < 0:
        raise ValueError(f"the prompt's {len(prompt)} tokens don't fit the context of {model.config.context}")
    # Checked above and here, at the call; what follows runs when the first token is asked for.
    return _write(model, list(prompt), min(max_new_tokens, room + 1), choose, set(stop), cached, memory, adjust)


@torch.inference_mode()
def _write(
    model: Decoder,
    text: list[int],
    n: int,
    choose: Choose,
    stop: set[int],
    cached: bool,
    memory: Memory | None,
    adjust: Adjust | None,
) -> Iterator[int]:
    weight = model.embedding.weight
    capacity = min(len(text) + n, model.config.context)
    cache = KVCache(model.config, capacity, dtype=weight.dtype, device=weight.device) if cached else None
    unread = text
    for _ in range(n):
        read = unread if cached else text
        hidden = model.hidden(torch.tensor([read], device=weight.device), cache, memory=memory)
        logits = model.head(hidden[:, -1])
        if adjust is not None:
            logits = adjusted(logits, torch.tensor([text], device=weight.device), adjust)
        token = int(choose(logits))
        if token in stop:
            return
        yield token
        text, unread = [*text, token], [token]


def adjusted(logits: Tensor, tokens: Tensor, adjust: Adjust) -> Tensor:
    """What `adjust` makes of logits (rows, vocab_size) after tokens (rows, time). Raises ValueError for another shape."""
    new = adjust(logits, tokens)
    if new.shape != logits.shape:
        raise ValueError(f"adjust was given logits {tuple(logits.shape)} and must give as many back, not {tuple(new.shape)}")
    return new


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
