"""Logits → text.

Read in this order: `cache` (what was read need not be read again), `sampling` (logits → one token), `decode` (the loop), and
`pack` (the same model with its weights laid out for speed).
"""

from course_lib.generate.cache import KVCache
from course_lib.generate.decode import complete, generate
from course_lib.generate.pack import pack
from course_lib.generate.sampling import probabilities, sample

__all__ = ["KVCache", "complete", "generate", "pack", "probabilities", "sample"]
