"""A trained model in one file: its weights, its configuration, and facts about how it was made."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import NoneType

import torch
from torch import Tensor, nn

from course_lib import asset
from course_lib.families.tensor_file import (
    brief,
    build_empty,
    check_dtype,
    layout,
    read_tensors,
    require_finite,
    require_same,
    stored_weights,
    write_tensors,
)
from course_lib.model import Decoder, LanguageModel, ModelConfig
from course_lib.model.checks import require
from course_lib.model.exchange import replacement_kinds
from course_lib.world import world_tokenizer

KIND = "model"
MOST_NESTED = 100  # lists and dicts in one another, in a fact


def save_model(
    path: str | Path, model: nn.Module, dtype: torch.dtype = torch.float16, **facts: object
) -> None:
    """Write the model's weights in `dtype`, its `ModelConfig`, and facts about it that JSON can hold.

        save_model("tiger.safetensors", model, recipe="python -m …", seed=0, score=0.97)

    Tied weights are stored once. Raises ValueError for a weight that isn't finite in that precision or that a
    file can't hold, and for a model whose parts or configuration were replaced since it was built (quantized
    or packed, for example): `load_model` couldn't build it again. Raises TypeError for what isn't a model of
    the course, and for a fact that JSON can't hold. Tuples in facts are read back as lists.
    """
    check_dtype(dtype)
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise TypeError(f"a model that is built from a ModelConfig is stored, not a {type(model).__name__}")
    for name, fact in facts.items():
        _check_fact(name, fact)
    weights = _cast(stored_weights(model), dtype)
    for name, weight in weights.items():
        if weight.layout != torch.strided or weight.is_meta:
            raise ValueError(f"{name} is sparse or on the device meta: store a tensor that has all values")
    _require_as_built(model, weights, dtype)
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(
                f"{name} isn't finite in {dtype}: train anew, or store the model in torch.float32"
            )
    header = {"kind": KIND, "class": type(model).__name__, "config": asdict(model.config), "facts": facts}
    write_tensors(path, weights, header)


def _require_as_built(model: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Raise ValueError unless the model has the parts and weights that its class builds."""
    try:
        with torch.device("meta"):
            built = type(model)(model.config)
    except Exception as error:  # the class may be anyone's
        raise ValueError(
            f"{type(model).__name__} can't be built from its ModelConfig alone ({error}), so load_model "
            "couldn't either: if it wraps a model, as torch.compile does, save the one inside"
        ) from error
    stored, wanted = layout(weights), layout(_cast(stored_weights(built), dtype))
    changed = [name for name in wanted | stored if stored.get(name) != wanted.get(name)]
    changed += _changed_parts(model, built)
    if changed:
        raise ValueError(
            f"the model's parts aren't those that its class builds: {changed[0]} differs. "
            "Build it anew from its ModelConfig, or save it before packing or changing it"
        )


def _changed_parts(model: nn.Module, built: nn.Module) -> list[str]:
    """Return the paths of parts of another class or configuration than in the model as it is built.

    Kernels (`kernels.use`) compute the same. Layers of kind "qat" train with rounded weights
    (`quantize.qat`), and the model would compute something else without them.
    """
    parts, wanted, kinds = dict(model.named_modules()), dict(built.named_modules()), replacement_kinds(model)
    return [
        path or "its root"
        for path in wanted | parts
        if (type(parts.get(path)) is not type(wanted.get(path)) and kinds.get(path) != "kernels")
        or getattr(parts.get(path), "config", None) != getattr(wanted.get(path), "config", None)
    ]


def _check_fact(name: str, fact: object, depth: int = 0) -> None:
    """Raise TypeError, naming the fact, for one that JSON can't hold as it is, ValueError for a deep one."""
    if depth > MOST_NESTED:
        raise ValueError(f"the fact {name} holds lists and dicts nested more than {MOST_NESTED} deep")
    if isinstance(fact, dict):
        for key in fact:
            if not isinstance(key, str):
                raise TypeError(f"the fact {name} holds the key {brief(key)}; JSON has no keys but text")
    elif not isinstance(fact, (str, int, float, list, tuple, NoneType)):
        raise TypeError(
            f"the fact {name} holds a {type(fact).__name__}, which is not JSON serializable: "
            "store texts, numbers, and lists and dicts of them"
        )
    inner = fact.values() if isinstance(fact, dict) else fact if isinstance(fact, (list, tuple)) else ()
    for each in inner:
        _check_fact(name, each, depth + 1)


def load_model(
    path: str | Path,
    build: Callable[[ModelConfig], nn.Module] = Decoder,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, dict]:
    """Return the model that `save_model` wrote, in evaluation mode, and the facts stored with it.

    build: the model's class, called with its `ModelConfig`. dtype: the precision of the loaded weights,
    whatever the file's.

    Raises ValueError for a damaged or foreign file, one whose facts have no names, one with weights that
    aren't finite in `dtype`, and where it holds a model of another class.
    """
    check_dtype(dtype)
    stored, header = read_tensors(path, KIND)
    facts = header.get("facts", {})
    require(isinstance(facts, dict), f"{path} should hold facts by name, not {brief(facts)}: make it anew")
    weights = _cast(stored, dtype)
    config, empty = _build_empty(path, header, build, len(weights))
    require_same("the model", layout(weights), layout(_cast(stored_weights(empty), dtype)))
    require_finite(f"{path} can't be loaded", weights)
    # Building draws random weights, which the file's replace. The global random state stays as it was.
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if device.type == "meta" else device):
        model = build(config).to(dtype).eval()
    model.load_state_dict(weights, strict=False)
    return model, facts


def _build_empty(
    path: str | Path, header: dict, build: Callable[[ModelConfig], nn.Module], n_weights: int
) -> tuple[ModelConfig, nn.Module]:
    """Return the configuration in a file, and its model, which takes no memory whatever the sizes are."""
    name = getattr(build, "__name__", build)
    if header.get("class") != name:
        raise ValueError(
            f"{path} holds a {brief(header.get('class'))}, not a {name}: pass its class as build"
        )
    try:
        config = ModelConfig.from_dict(header["config"])
        return config, build_empty(build, config, n_weights)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error)[:300]  # it may quote what the file holds
        raise ValueError(f"{path} has no configuration that this ModelConfig accepts ({reason})") from error


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors with all floats in `dtype`. Integers stay as they are."""
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def load_world() -> LanguageModel:
    """Return the course's own small model of the made-up world, with its tokenizer.

    Loading takes about a second. The model tells stories, answers questions about them, and adds numbers step
    by step. `course_lib/train/world_model.py` describes how it was made, and how often it is right.
    """
    return _load_own("world")


def load_world_base() -> LanguageModel:
    """Return a small model that has read stories of the made-up world, and nothing else, with its tokenizer.

    `course_lib/train/world_model.py` describes how it was made.
    """
    return _load_own("world_base")


def _load_own(name: str) -> LanguageModel:
    model, _ = load_model(asset(f"{name}.safetensors"))
    return LanguageModel(name, model.requires_grad_(False), world_tokenizer(), chat=None)
