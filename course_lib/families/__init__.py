"""Models from files: published ones read into the course's own decoder, and the course's own.

Read in this order:

    tensor_file       tensors and facts in one safetensors file
    weights           a trained model of the course in such a file
    family            what the models of a published family share, as a table
    gguf_reader       what a GGUF file holds: its settings, and where each tensor lies
    gguf_vocabulary   its vocabulary and chat template
    gguf_file         a published model from such a file, by the table of its family
    smollm2           where the course's published model lies, and loading it
"""

from course_lib.families.family import FAMILIES, LLAMA, Family
from course_lib.families.gguf_file import read_gguf
from course_lib.families.smollm2 import find_smollm2, load_smollm2
from course_lib.families.weights import load_model, load_world, load_world_base, save_model

__all__ = [
    "FAMILIES",
    "LLAMA",
    "Family",
    "find_smollm2",
    "load_model",
    "load_smollm2",
    "load_world",
    "load_world_base",
    "read_gguf",
    "save_model",
]
