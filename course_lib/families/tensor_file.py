"""Tensors and facts about them in one safetensors file, a format that can't contain executable code."""

import json
import reprlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from course_lib.interrupts import uninterrupted
from course_lib.model import ModelConfig
from course_lib.whole_files import replacing

# The key of the header's one entry, named after the course; it marks the course's files. The value is all
# facts as JSON with sorted keys, so that equal contents give equal files.
MARK = "thirsty-tiger"


def write_tensors(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write tensors, by name, and facts that JSON can hold.

    An existing file is replaced whole or not at all. Raises the errors of `whole_files.replacing` for a path
    where none can be written.
    """
    with replacing(path) as file:
        save_file(_separate(tensors), file, {MARK: json.dumps(facts, sort_keys=True)})


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, each contiguous and in memory of its own, as safetensors wants them."""
    separate, used = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in used else tensor
        used.add(place)
    return separate


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors, by name, and the facts that `write_tensors` wrote.

    The file is read once, as a whole, so that another process may replace it meanwhile.

    Raises FileNotFoundError, and ValueError for a file that is damaged or that isn't of this kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        tensors, metadata = parse_tensors(Path(path).read_bytes())
        facts = json.loads(metadata.get(MARK, "{}"))
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); copy or make it anew"
        ) from None
    if not isinstance(facts, dict) or facts.get("kind") != kind:
        raise ValueError(f"{path} is a safetensors file, but not a {kind} of this course")
    return tensors, facts


def parse_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, by name, and the metadata of a safetensors file with this content."""
    tensors = load(content)
    header_size = int.from_bytes(content[:8], "little")
    return tensors, json.loads(content[8 : 8 + header_size]).get("__metadata__") or {}


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters and buffers by name, each tied parameter once, under its first name."""
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = every.keys() - dict(model.named_parameters()).keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def require_same(what: str, stored: dict, wanted: dict) -> None:
    """Raise ValueError, naming the entries that differ, unless the file's entries equal the wanted ones."""
    stored = stored if isinstance(stored, dict) else {}
    names = [name for name in (wanted | stored) if stored.get(name) != wanted.get(name)]
    if names:
        differences = (
            f"{brief(name)} is {brief(stored.get(name))} in the file and {brief(wanted.get(name))} here"
            for name in names[:3]
        )
        raise ValueError(f"{what} differs: {'; '.join(differences)} ({len(names)} in all)")


def brief(value: object) -> str:
    """Return a value for a message: whatever a file holds, a few words."""
    return value[:80] if isinstance(value, str) else reprlib.repr(value)


def copy_weights(weights: dict[str, Tensor], tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy tensors read from `source` into the weights of the same names, in the weights' dtype.

    Raises ValueError, changing nothing, unless names and shapes agree and all values are finite floats.
    """
    shapes = ({name: tuple(tensor.shape) for name, tensor in some.items()} for some in (tensors, weights))
    require_same(f"what {source} holds", *shapes)
    for name, weight in weights.items():
        tensor = tensors[name]
        if not (tensor.is_floating_point() and tensor.to(weight.dtype).isfinite().all()):
            raise ValueError(f"{name} in {source} isn't made of finite numbers")
    with torch.no_grad(), uninterrupted():
        for name, weight in weights.items():
            weight.copy_(tensors[name])


def layout(tensors: dict[str, Tensor]) -> dict[str, tuple]:
    """Return each tensor's shape and dtype, by name."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def build_empty(build: Callable[[ModelConfig], nn.Module], config: ModelConfig, n_tensors: int) -> nn.Module:
    """Build a model whose weights have shapes, but no memory: those of a file with so many tensors.

    Raises ValueError for sizes that no such file can have. Each layer, and each expert in it, would take a
    while even without memory, and has at least one tensor.
    """
    n_parts = config.n_layers * (config.experts.n_experts if config.experts else 1)
    if n_parts > n_tensors:
        raise ValueError(f"it says {n_parts} layers or experts, and the file has {n_tensors} tensors in all")
    try:
        with torch.device("meta"):
            return build(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # PyTorch's errors for sizes beyond 2⁶³
        sizes = ", ".join(f"{name}={value}" for name, value in vars(config).items() if type(value) is int)
        raise ValueError(f"no model of these sizes can be built: {sizes}") from error


def require_finite(refusal: str, weights: dict[str, Tensor]) -> None:
    """Raise ValueError, with the refusal and the name of the first one, for weights that aren't finite."""
    for name, weight in weights.items():
        if not is_finite(weight):
            raise ValueError(f"{refusal}: {name} holds values that are not finite in {weight.dtype}")


def is_finite(weight: Tensor) -> bool:
    """Return whether all values are finite. The sum is quick; it may overflow where all of them are."""
    return bool(weight.sum().isfinite() or weight.isfinite().all())


def check_dtype(dtype: object) -> None:
    """Raise ValueError unless a model can compute in this dtype."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"a model's weights are torch.float32, bfloat16, float16 or float64, not {dtype!r}")
