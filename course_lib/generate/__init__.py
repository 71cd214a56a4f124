"""Logits → text.

Read in this order: `cache` (what was read need not be read again), `sampling` (logits → one token), `decode` (the loop),
`best_of` (several continuations, and the best of them), `measures` (what can be counted about a text) and `pack` (the same
model with its weights laid out for speed).
"""

from course_lib.generate.best_of import best_of, continuations, expected_best, log_likelihood
from course_lib.generate.cache import KVCache
from course_lib.generate.decode import complete, generate
from course_lib.generate.measures import distinct, entropy, find_loop, ngrams, repeated
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
    "KVCache",
    "best_of",
    "complete",
    "continuations",
    "distinct",
    "draw",
    "entropy",
    "expected_best",
    "find_loop",
    "frequency_penalty",
    "generate",
    "greedy",
    "log_likelihood",
    "min_p",
    "ngrams",
    "pack",
    "packed_parts",
    "presence_penalty",
    "probabilities",
    "repeated",
    "repetition_penalty",
    "sample",
    "temperature",
    "top_k",
    "top_p",
]
