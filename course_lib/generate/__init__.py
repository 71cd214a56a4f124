"""Logits → text.

Read in this order: `sampling` (logits → one token), `decode` (the loop that writes one text or many), `best_of` (the best of several
texts) and `pack` (the same model with its weights laid out for speed).
"""

from course_lib.generate.best_of import best_of
from course_lib.generate.decode import Batch, Request, complete, continuations, decode, generate, read, write
from course_lib.generate.pack import pack, packed_parts
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
    "greedy",
    "min_p",
    "pack",
    "packed_parts",
    "presence_penalty",
    "probabilities",
    "read",
    "repetition_penalty",
    "sample",
    "temperature",
    "top_k",
    "top_p",
    "write",
]
