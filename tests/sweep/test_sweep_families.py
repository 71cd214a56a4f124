"""Every entry of `course_lib.families` under odd arguments."""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import torch
from references import TINY, TINY_FIELDS, TINY_TOKENS, tiny_decoder, write_gguf
from sweep.frame import Call, sweep

from course_lib.families import (
    FAMILIES,
    LLAMA,
    Family,
    find_smollm2,
    load_model,
    load_smollm2,
    load_world,
    load_world_base,
    read_gguf,
    save_model,
)
from course_lib.model import Decoder

TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)
MODEL = tiny_decoder(torch.float32, **(TINY | {"vocab_size": len(TINY_TOKENS)}))
write_gguf(FOLDER / "tiny.gguf", MODEL)
save_model(FOLDER / "tiny.safetensors", MODEL)


def load_tiny_smollm2(dtype, quantized):
    """`load_smollm2`, of a small file."""
    with patch.dict(os.environ, SMOLLM2_GGUF=str(FOLDER / "tiny.gguf")):
        return load_smollm2(dtype, quantized)


def save_and_load(path, model, dtype, note):
    """`save_model` in the folder, and `load_model`: a file can't be compared, a model can."""
    path = FOLDER / path if path else path
    save_model(path, model, dtype, note=note)
    return load_model(path, type(model))


ANY_JSON = {
    f"note {odd}": "whatever JSON can hold is stored as it is"
    for odd in ("is None", "is half a character", "is an unknown word", "is a number")
}
READ = {"dtype": torch.float32, "quantized": False}

CALLS = {
    "Family": Call(
        Family,
        {
            "shared_config": {"norm": "rms"},
            "required_settings": {"norm_eps": "attention.layer_norm_rms_epsilon"},
            "optional_settings": {"attention.window": "attention.sliding_window"},
            "tensors": LLAMA.tensors,
            "block_tensors": LLAMA.block_tensors,
            "interleaved_rows": False,
            "pre_tokenizers": LLAMA.pre_tokenizers,
            "transformers_names": LLAMA.transformers_names,
        },
        fine={
            f"{name} is empty": "a family may have none"
            for name in (
                "shared_config",
                "required_settings",
                "optional_settings",
                "tensors",
                "block_tensors",
                "pre_tokenizers",
                "transformers_names",
            )
        },
    ),
    "Family.config": Call(
        LLAMA.config,
        {"architecture": "llama", "settings": TINY_FIELDS, "context": 32},
        fine={"settings holds an unknown name": "a file has many other settings"},
        keep=("context",),
    ),
    "Family.matches": Call(LLAMA.matches, {"config": MODEL.config}),
    "find_smollm2": Call(find_smollm2, {}),
    "load_model": Call(
        load_model, {"path": str(FOLDER / "tiny.safetensors"), "build": Decoder, "dtype": torch.float32}
    ),
    "load_smollm2": Call(load_tiny_smollm2, READ),
    "load_world": Call(load_world, {}),
    "load_world_base": Call(load_world_base, {}),
    "read_gguf": Call(read_gguf, {"path": str(FOLDER / "tiny.gguf")} | READ | {"families": FAMILIES}),
    "save_model": Call(
        save_and_load,
        {"path": "new", "model": MODEL, "dtype": torch.float32, "note": "a note"},
        fine={"path is an unknown word": "the name of a new file", "note is empty": "an empty note"}
        | ANY_JSON,
    ),
}
EXEMPT = {"FAMILIES": "a table", "LLAMA": "a row of it"}

test_every_entry_is_swept, test_sweep = sweep("course_lib.families", CALLS, EXEMPT)


def test_the_configuration_is_that_of_the_file():
    assert asdict(LLAMA.config("llama", TINY_FIELDS)) == asdict(MODEL.config)
