"""Loading SmolLM2 from the same file: the course's reader and transformers'."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.measure import peak_memory, profile, race, seconds
from benchmarks.report import Row, comparison, memory
from course_lib.families import find_smollm2, load_smollm2
from course_lib.model import LanguageModel

WHAT = "load SmolLM2 (ours with its tokenizer)"


def ours(dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return the weights, the tokenizer and the chat template."""
    return load_smollm2(dtype)


def theirs(dtype: torch.dtype = torch.float32):
    """Return the weights alone, in transformers' model."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    path = find_smollm2()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


def measure(rounds: int) -> Iterator[Row]:
    times = race({"ours": partial(seconds, ours), "theirs": partial(seconds, theirs)}, min(rounds, 3))
    yield comparison(WHAT, times["ours"], "transformers", times["theirs"], 5.0, partial(profile, ours))
    yield from memory(WHAT, peak_memory(ours), "transformers", peak_memory(theirs))
