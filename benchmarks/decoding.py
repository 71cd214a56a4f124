"""Generation with SmolLM2: the course's decoder, transformers' `generate`, and the limit of the memory."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import loading
from benchmarks.measure import peak_memory, profile, race, seconds
from benchmarks.report import Row, comparison, memory
from course_lib.generate import generate, pack
from course_lib.model import Decoder

PROMPT = "The tiger jumped out of a tree to get a drink because it was thirsty. The"
LONG_PROMPT = list(range(1000, 1256))
NEW_TOKENS = 64
STREAMS = 8
CONTEXTS, LATER = (120, 500), 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DECODE_GOALS, PREFILL_GOALS = {"fp32": 1.0, "bf16": 1.5}, {"fp32": 1.0, "bf16": 1.0}


def plain(precision: str) -> Decoder:
    return loading.ours(DTYPES[precision]).model


def packed(precision: str) -> Decoder:
    return pack(plain(precision))


def theirs(precision: str):
    model = loading.theirs(DTYPES[precision])
    model.generation_config.eos_token_id = None  # always generate max_new_tokens
    return model


def write(model, prompt: list[int], n: int) -> list[int]:
    """Return n tokens after the prompt, by greedy decoding with either library's `generate`."""
    if isinstance(model, Decoder):
        return list(generate(model, prompt, n))
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=n, do_sample=False)
    return ids[0, len(prompt) :].tolist()


def load_and_write(load: Callable, precision: str) -> None:
    write(load(precision), LONG_PROMPT, 8)


def later_tokens(model: Decoder, context: int, cached: bool) -> float:
    """Return the seconds to generate LATER tokens after the context has been read and one token generated."""
    written = generate(model, LONG_PROMPT[:1] * context, 1 + LATER, cached=cached)
    next(written)
    return seconds(list, written)


def stream(numbers: torch.Tensor) -> None:
    """Read the numbers from memory STREAMS times, enough to reach full speed, with the model's threads."""
    for _ in range(STREAMS):
        numbers.sum()


def measure(rounds: int) -> Iterator[Row]:
    prompt = loading.ours().tokenizer.encode(PROMPT)
    models = {(load.__name__, name): load(name) for name in DTYPES for load in (theirs, plain, packed)}
    written = [write(models[name, "fp32"], prompt, NEW_TOKENS) for name in ("theirs", "plain", "packed")]
    if not written[0] == written[1] == written[2]:
        raise SystemExit("in fp32 the models write different tokens: there is nothing to compare")

    # One token reads each weight once; a stream reads as much, so that caches help both alike.
    sizes = {name: sum(weight.nbytes for weight in models["plain", name].parameters()) for name in DTYPES}
    decode = {key: partial(seconds, write, model, prompt, NEW_TOKENS) for key, model in models.items()}
    streams = {
        ("stream", name): partial(seconds, stream, torch.ones(size // 4)) for name, size in sizes.items()
    }
    prefill = {key: partial(seconds, write, model, LONG_PROMPT, 1) for key, model in models.items()}
    decoded, prefilled = race(decode | streams, rounds), race(prefill, rounds)
    for name in DTYPES:
        why = partial(profile, write, models["packed", name], prompt, NEW_TOKENS)
        yield _compare(
            f"decode {NEW_TOKENS} tokens, {name}", decoded, name, DECODE_GOALS[name], why, NEW_TOKENS
        )
    for name in DTYPES:
        why, n = partial(profile, write, models["packed", name], LONG_PROMPT, 1), len(LONG_PROMPT)
        yield _compare(f"prefill {n} tokens, {name}", prefilled, name, PREFILL_GOALS[name], why, n)
    for name in DTYPES:
        yield _limit(name, decoded, sizes[name])
    yield from _cache_gain(models["packed", "bf16"], rounds)
    for name in DTYPES:
        ours, other = (peak_memory(load_and_write, load, name) for load in (packed, theirs))
        yield from memory(f"load, pack and write, {name}", ours, "transformers", other)


def _compare(what: str, times: dict, name: str, goal: float, why: Callable, tokens: int) -> Row:
    ours, other = times["packed", name], times["theirs", name]
    return comparison(what, ours, "transformers", other, goal, why, tokens, "tokens/s")


def _limit(name: str, times: dict, size: int) -> Row:
    limit = STREAMS / times["stream", name].median
    speeds = [NEW_TOKENS / times[who, name].median for who in ("theirs", "plain", "packed")]
    numbers = (f"{speed:.1f}" for speed in (*speeds, limit))
    reading = f"{size * limit / 1e9:.1f} GB/s ÷ {size / 1e6:.0f} MB"
    return Row(
        "Decoding (tokens/s) and the memory's limit", (name, *numbers, f"{speeds[-1] / limit:.0%}", reading)
    )


def _cache_gain(model: Decoder, rounds: int) -> Iterator[Row]:
    runs = {
        (n, cached): partial(later_tokens, model, n, cached) for n in CONTEXTS for cached in (True, False)
    }
    times = race(runs, rounds)
    for n in CONTEXTS:
        cached, again = (times[n, cached].median / LATER * 1e3 for cached in (True, False))
        cells = (
            f"{n} tokens",
            f"{cached:.1f} ms a token",
            f"{again:.1f} ms a token",
            f"{again / cached:.1f}",
        )
        yield Row("What the key-value cache gains (packed, bf16)", cells)
