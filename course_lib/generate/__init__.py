"""Logits → text.

Read in this order: `samplers` (the formulas, two or three lines each), `plain_loop` (the loop that writes, in
its shortest form), `sampling` (the samplers with their arguments checked, and `sample`), `batch` and `decode`
(the loop with a cache, for one text or many), `best_of` (the best of several texts) and, after `quantize`,
`pack` (the same model, its weights laid out for a CPU).
"""

from course_lib.generate.batch import Batch, Request
from course_lib.generate.best_of import best_of
from course_lib.generate.decode import complete, continuations, decode, generate, write
from course_lib.generate.pack import pack, packed_parts
from course_lib.generate.plain_loop import generate_plainly
from course_lib.generate.sampling import (
    KNOBS,
    draw,
    frequency_penalty,
    greedy,
    min_p,
    presence_penalty,
    probabilities,
    repetition_penalty,
    sample,
    temperature,
    top_k,
    top_p,
)

__all__ = [
    "KNOBS",
    "Batch",
    "Request",
    "best_of",
    "complete",
    "continuations",
    "decode",
    "draw",
    "frequency_penalty",
    "generate",
    "generate_plainly",
    "greedy",
    "min_p",
    "pack",
    "packed_parts",
    "presence_penalty",
    "probabilities",
    "repetition_penalty",
    "sample",
    "temperature",
    "top_k",
    "top_p",
    "write",
]
