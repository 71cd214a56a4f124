"""Writing with SmolLM2: the course's decoder beside transformers' `generate`, and beside what the memory allows."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch

from benchmarks import loading
from benchmarks.measure import Times, peak_memory, profile, race, seconds
from benchmarks.report import Row, comparison, memory
from course_lib.generate import generate, pack
from course_lib.model import Decoder

PROMPT = "The tiger jumped out of a tree to get a drink because it was thirsty. The"
LONG_PROMPT = list(range(1000, 1256))
NEW_TOKENS = 64
CONTEXTS = 120, 500
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DECODE_GOALS, PREFILL_GOALS = {"fp32": 1.0, "bf16": 1.5}, {"fp32": 1.0, "bf16": 1.0}


def plain(precision: str) -> Decoder:
    return loading.ours(DTYPES[precision]).model


def packed(precision: str) -> Decoder:
    return pack(plain(precision))


def theirs(precision: str):
    model = loading.theirs(DTYPES[precision])
    model.generation_config.eos_token_id = None  # always write as many tokens as were asked for
    return model


def write(model, prompt: list[int], n: int) -> list[int]:
    """n tokens behind the prompt, the likeliest each time, by either library's `generate`."""
    if isinstance(model, Decoder):
        return list(generate(model, prompt, n))
    return model.generate(torch.tensor([prompt]), max_new_tokens=n, do_sample=False)[0, len(prompt) :].tolist()


def load_and_write(load: Callable, precision: str) -> None:
    write(load(precision), LONG_PROMPT, 8)


def later_tokens(model: Decoder, context: int, cached: bool) -> float:
    """Seconds to write four more tokens behind a context that has been read and one token."""
    written = generate(model, LONG_PROMPT[:1] * context, 5, cached=cached)
    next(written)
    return seconds(list, islice(written, 4))


def measure(rounds: int) -> Iterator[Row]:
    prompt = loading.ours().tokenizer.encode(PROMPT)
    models = {(load.__name__, precision): load(precision) for precision in DTYPES for load in (theirs, plain, packed)}
    written = [write(models[name, "fp32"], prompt, NEW_TOKENS) for name in ("theirs", "plain", "packed")]
    if not written[0] == written[1] == written[2]:
        raise SystemExit("in fp32 the models write different tokens: there is nothing to compare")

    numbers = torch.ones(1 << 27)
    decode = {key: partial(seconds, write, model, prompt, NEW_TOKENS) for key, model in models.items()}
    decode = race({**decode, "stream": partial(seconds, numbers.sum)}, rounds)
    prefill = race({key: partial(seconds, write, model, LONG_PROMPT, 1) for key, model in models.items()}, rounds)
    for name, times, goals, task in (
        ("decode", decode, DECODE_GOALS, (prompt, NEW_TOKENS)),
        ("prefill", prefill, PREFILL_GOALS, (LONG_PROMPT, 1)),
    ):
        for precision, goal in goals.items():
            why = partial(profile, write, models["packed", precision], *task)
            amount = NEW_TOKENS if name == "decode" else len(LONG_PROMPT)
            yield comparison(
                f"{name} {amount} tokens, {precision}", times["packed", precision], "transformers",
                times["theirs", precision], goal, why, amount, "tokens/s",
            )
    for precision in DTYPES:
        yield _limit(precision, decode, models["plain", precision], numbers.nbytes)
    yield from _cache_gain(models["packed", "bf16"], rounds)
    for precision in DTYPES:
        ours, other = (peak_memory(load_and_write, load, precision) for load in (packed, theirs))
        yield from memory(f"load and write, {precision}", ours, "transformers", other)


def _limit(precision: str, decode: dict, model: Decoder, streamed: int) -> Row:
    """Each token reads every weight once (the embedding table as the head), so the memory's speed sets a limit."""
    bandwidth, read = streamed / decode["stream"].median, sum(weight.nbytes for weight in model.parameters())
    limit = bandwidth / read
    speeds = [NEW_TOKENS / decode[name, precision].median for name in ("theirs", "plain", "packed")]
    cells = (precision, *(f"{speed:.1f}" for speed in (*speeds, limit)), f"{speeds[-1] / limit:.0%}")
    return Row("Decoding (tokens/s) and the memory's limit", (*cells, f"{bandwidth / 1e9:.1f} GB/s ÷ {read / 1e6:.0f} MB"))


def _cache_gain(model: Decoder, rounds: int) -> Iterator[Row]:
    runs = {(n, cached): partial(later_tokens, model, n, cached) for n in CONTEXTS for cached in (True, False)}
    times: dict[tuple[int, bool], Times] = race(runs, rounds)
    for n in CONTEXTS:
        ms = [times[n, cached].median / 4 * 1e3 for cached in (True, False)]
        yield Row("What the key-value cache gains (packed, bf16)", (f"{n} tokens", *(f"{x:.1f} ms a token" for x in ms), f"{ms[1] / ms[0]:.1f}"))
