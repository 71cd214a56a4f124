"""A trained model in one file: its weights, its configuration, and facts about how it was made."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

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


def save_model(
    path: str | Path, model: nn.Module, dtype: torch.dtype = torch.float16, **facts: object
) -> None:
    """Write the model's weights in `dtype`, its `ModelConfig`, and facts about it that JSON can hold.

        save_model("tiger.safetensors", model, recipe="python -m …", seed=0, score=0.97)

    Tied weights are stored once. Raises ValueError for a weight that isn't finite in that precision, and for
    a model whose parts were replaced since it was built (quantized or packed, for example): `load_model`
    couldn't build it again. Raises TypeError for what isn't a model of the course.
    """
    check_dtype(dtype)
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise TypeError(f"a model that is built from a ModelConfig is stored, not a {type(model).__name__}")
    weights = _cast(stored_weights(model), dtype)
    with torch.device("meta"):
        built = stored_weights(type(model)(model.config))
    # Layers of kind "qat" train with rounded weights (`quantize.qat`). They keep the names of the
    # weights, but the model would compute something else without them.
    if weights.keys() != built.keys() or "qat" in replacement_kinds(model).values():
        raise ValueError(
            "the model's parts aren't those that its class builds: save it before packing or changing it"
        )
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(
                f"{name} isn't finite in {dtype}: train anew, or store the model in torch.float32"
            )
    header = {"kind": KIND, "class": type(model).__name__, "config": asdict(model.config), "facts": facts}
    write_tensors(path, weights, header)


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
    with torch.random.fork_rng(devices=[]):
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

    Loading takes about a second. The model tells stories and answers questions about them.
    `course_lib/train/world_model.py` describes how it was made.
    """
    model, _ = load_model(asset("world.safetensors"))
    return LanguageModel("world", model.requires_grad_(False), world_tokenizer(), chat=None)
