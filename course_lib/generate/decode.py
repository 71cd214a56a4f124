"""Writing texts: token by token, with a cache, one or many at a time.

    complete(lm, "Hello")                    text → text, through the tokenizer and the chat template
    generate(model, prompt)                  token ids that follow a prompt, one by one
    continuations(model, prompt, n)          n texts that follow one prompt
    write(model, [Request(…), …])            a text for each request, of its own length, sampler and end
    decode(model, [Request(…), …])           the same, step by step

All of them run one loop, `Batch.step`. `plain_loop` has it in its shortest form.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from course_lib.generate.batch import Adjust, Batch, Choose, Request
from course_lib.generate.request_checks import check_whole
from course_lib.generate.sampling import sample
from course_lib.model import Decoder, LanguageModel, Memory
from course_lib.model.checks import require_kind

MOST_TEXTS = 1_000_000  # at once; the memory ends long before


def decode(
    model: Decoder, requests: Iterable[Request], cached: bool = True, memory: Memory | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Write texts side by side; yield for each step a list of (request's number, token), but for stop tokens.

    Arguments and errors as in `Batch`; these errors are raised at the call. While it runs, ValueError for an
    `adjust` that returns another shape, for a `choose` that doesn't return one token of the vocabulary a row,
    and for logits that hold NaN.
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
    """Yield the token ids that follow the prompt, each as soon as it is chosen.

    choose, stop, adjust: as in `Request`, for one row. The text ends before a token of `stop`, after
    `max_new_tokens`, or when the context is full. cached: False computes the whole text again for each token,
    with the same tokens as the result. memory: an encoder's output, for the decoder of an `EncoderDecoder`.
    Errors as in `Request` and `decode`.
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
    """Return `n` continuations of a prompt, which is read once: lists of token ids.

    choose: logits (n, vocab_size) → tokens (n,). adjust: logits (rows, vocab_size) and tokens so far (rows,
    time) → logits. Each text ends before its own first token of `stop`, after `max_new_tokens`, or when the
    context is full. Raises ValueError for an n that isn't a whole number from 1 to a million, and as
    `generate` does.
    """
    check_whole("n", n, 1, MOST_TEXTS)
    return write(model, [Request(prompt, max_new_tokens, choose, stop, adjust)] * n)


def write(model: Decoder, requests: Iterable[Request]) -> list[list[int]]:
    """Return what `decode` writes for each request: lists of token ids."""
    requests = list(requests)
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
    """Yield the text that answers the prompt (chat) or continues it (chat=False), a token's text at a time.

    Raises ValueError where chat is asked of a model without a chat template, and as `decode` does.

        for text in complete(lm, "What is the capital of France?"):
            print(text, end="")
    """
    require_kind("chat", chat, bool)
    if chat and lm.chat is None:
        raise ValueError(f"{lm.name} has no chat template, so it can only go on from a text: pass chat=False")
    ids = lm.chat.encode(prompt) if chat else lm.tokenizer.encode(prompt)
    written = generate(lm.model, ids, max_new_tokens, choose, lm.tokenizer.special.values(), adjust=adjust)
    return lm.tokenizer.decode_stream(written)
