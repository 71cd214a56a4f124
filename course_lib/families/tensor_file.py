"""Tensors and facts about them in one safetensors file, which can hold no code to run."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MARK = "thirsty-tiger"  # the header's one entry: facts as JSON, so that equal contents make equal files


def write_tensors(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """All or nothing: a file that was there is replaced only once the new one is whole.

    Raises FileNotFoundError where the folder is missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into: make it first")
    partial = path.with_name(path.name + ".partial")
    try:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, {MARK: json.dumps(facts, sort_keys=True)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and facts. Raises FileNotFoundError, and ValueError for a file that is damaged, or that doesn't say it is a
    `kind`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(MARK, "{}"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); copy or make it anew"
        ) from None
    if not isinstance(facts, dict) or facts.get("kind") != kind:
        raise ValueError(f"{path} is a safetensors file, but not a {kind} of this course")
    return tensors, facts


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by name, each tied parameter once, under its first name."""
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = every.keys() - dict(model.named_parameters()).keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def require_same(what: str, stored: dict, wanted: dict) -> None:
    """Raise ValueError, naming the entries, unless the file's are as wanted."""
    stored = stored if isinstance(stored, dict) else {}
    names = [name for name in (wanted | stored) if stored.get(name) != wanted.get(name)]
    if names:
        differences = (
            f"{name} is {stored.get(name)} in the file and {wanted.get(name)} here" for name in names[:3]
        )
        raise ValueError(f"{what} differs: {'; '.join(differences)} ({len(names)} in all)")


def layout(tensors: dict[str, Tensor]) -> dict[str, tuple]:
    """Shape and precision of each."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
