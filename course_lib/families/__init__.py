"""Published models, read from their files into the course's own decoder."""

from course_lib.families.gguf_file import LanguageModel, read_gguf
from course_lib.families.smollm2 import find_smollm2, load_smollm2

__all__ = ["LanguageModel", "find_smollm2", "load_smollm2", "read_gguf"]
