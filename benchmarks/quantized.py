"""Generation with SmolLM2 in 8 and 4 bits: bytes, speed and perplexity.

The rivals are transformers, and llama.cpp where it is installed. Each contestant is timed with one thread and
with all, and judged by the faster: one thread can finish the small products of a model in 4 bits sooner than
two threads can be woken.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import loading
from benchmarks.decoding import LONG_PROMPT, NEW_TOKENS, PROMPT, packed, theirs, write
from benchmarks.measure import Times, profile, race, seconds
from benchmarks.report import Row, comparison, rate
from course_lib.evaluate import evaluation_text, perplexity
from course_lib.families import find_smollm2, load_smollm2
from course_lib.generate import pack
from course_lib.model import Decoder
from course_lib.quantize import Uniform, model_bytes, quantize_linears

TABLE = "SmolLM2 by bits (each with the number of threads that suits it)"
LLAMA_CPP = "llama.cpp, the same file"


def in_8_bits() -> Decoder:
    return quantize_linears(load_smollm2(torch.bfloat16).model, Uniform(8))


def in_4_bits() -> Decoder:
    """Return the model with the weights of the file, which are in 4 bits."""
    return load_smollm2(torch.bfloat16, quantized=True).model


class LlamaCpp:
    """llama.cpp by its Python bindings: `pip install llama-cpp-python`, which builds for nine minutes."""

    def __init__(self):
        from llama_cpp import Llama

        path = str(find_smollm2())
        self.models = {
            n: Llama(path, n_ctx=1024, n_threads=n, n_threads_batch=n, n_batch=512, verbose=False)
            for n in _threads()
        }

    def write(self, prompt: list[int], n: int) -> list[int]:
        model, written = self.models[torch.get_num_threads()], []
        model.reset()
        model.eval(prompt)
        while len(written) < n:
            written.append(model.sample(temp=0.0))
            if len(written) < n:
                model.eval(written[-1:])
        return written


def measure(rounds: int) -> Iterator[Row]:
    prompt = loading.ours().tokenizer.encode(PROMPT)
    plain = {"8": in_8_bits(), "4": in_4_bits()}
    sizes = {"32": loading.ours().model, "16": loading.ours(torch.bfloat16).model} | plain
    sizes = {bits: model_bytes(model) for bits, model in sizes.items()}
    models = {"32": packed("fp32"), "16": packed("bf16")} | {
        bits: pack(model) for bits, model in plain.items()
    }
    models |= {"transformers, fp32": theirs("fp32"), "transformers, bf16": theirs("bf16")}
    writers = {name: partial(write, model) for name, model in models.items()}
    if importlib.util.find_spec("llama_cpp"):
        writers[LLAMA_CPP] = LlamaCpp().write
    decoded = _best(race(_runs(writers, prompt, NEW_TOKENS), rounds))
    read = _best(race(_runs(writers, LONG_PROMPT, 1), rounds))
    yield from _compare(decoded, read, models, prompt)
    ids = loading.ours().tokenizer.encode(evaluation_text())
    surprise = {bits: perplexity(models[bits], ids) for bits in sizes}
    for name in writers:
        size = f"{sizes[name] / 1e6:.0f} MB" if name in sizes else ""
        rise = f"{surprise[name]:.2f} ({surprise[name] / surprise['32'] - 1:+.1%})" if name in sizes else ""
        speeds = (rate(times[name], n, "") for times, n in ((decoded, NEW_TOKENS), (read, len(LONG_PROMPT))))
        yield Row(TABLE, (name, size, rise, *speeds))


def _compare(decoded: dict, read: dict, models: dict, prompt: list[int]) -> Iterator[Row]:
    rivals = [
        ("transformers, fp32", "4", 4.0),
        ("transformers, bf16", "4", 2.0),
        ("transformers, fp32", "8", 1.0),
    ]
    rivals += [(LLAMA_CPP, "4", 0.8)] if LLAMA_CPP in decoded else []
    for rival, bits, goal in rivals:
        what = f"decode {NEW_TOKENS} tokens, {bits} bits"
        why = partial(profile, write, models[bits], prompt, NEW_TOKENS)
        yield comparison(what, decoded[bits], rival, decoded[rival], goal, why, NEW_TOKENS, "tokens/s")
    if LLAMA_CPP in read:
        what, n = f"prefill {len(LONG_PROMPT)} tokens, 4 bits", len(LONG_PROMPT)
        why = partial(profile, write, models["4"], LONG_PROMPT, 1)
        yield comparison(what, read["4"], LLAMA_CPP, read[LLAMA_CPP], 4.0, why, n, "tokens/s")


def _threads() -> tuple[int, ...]:
    return tuple(sorted({1, torch.get_num_threads()}))


def _runs(
    writers: dict[str, Callable], prompt: list[int], n: int
) -> dict[tuple[str, int], Callable[[], float]]:
    return {
        (name, threads): partial(_with_threads, threads, seconds, writer, prompt, n)
        for name, writer in writers.items()
        for threads in _threads()
    }


def _with_threads(threads: int, f: Callable, *arguments):
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return f(*arguments)
    finally:
        torch.set_num_threads(usual)


def _best(times: dict[tuple[str, int], Times]) -> dict[str, Times]:
    """Return each contestant's times with the number of threads whose median is lowest."""
    names = dict.fromkeys(name for name, _ in times)
    return {
        name: min((t for (who, _), t in times.items() if who == name), key=lambda t: t.median)
        for name in names
    }
