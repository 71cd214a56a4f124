"""Models from files: published ones read into the course's own decoder, and the course's own."""

from course_lib.families.family import FAMILIES, LLAMA, Family
from course_lib.families.gguf_file import read_gguf
from course_lib.families.smollm2 import find_smollm2, load_smollm2
from course_lib.families.weights import load_model, load_world, save_model

__all__ = [
    "FAMILIES",
    "LLAMA",
    "Family",
    "find_smollm2",
    "load_model",
    "load_smollm2",
    "load_world",
    "read_gguf",
    "save_model",
]
