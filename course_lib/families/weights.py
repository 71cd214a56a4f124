"""A trained model as a file to hand on: weights, the dials they were made with, and what is to be said about them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import asset
from course_lib.families.tensor_file import layout, read_tensors, require_same, stored_weights, write_tensors
from course_lib.model import Decoder, LanguageModel, ModelConfig
from course_lib.model.exchange import exchanged
from course_lib.world import world_tokenizer

KIND = "model"


def save_model(
    path: str | Path, model: nn.Module, dtype: torch.dtype = torch.float16, **facts: object
) -> None:
    """Write the model's weights in `dtype`, its `ModelConfig`, and facts that JSON can hold (recipe, seed, score).

        save_model("tiger.safetensors", model, recipe="python -m …", seed=0, score=0.97)

    Tied weights are stored once. Raises ValueError for a weight that isn't finite in that precision, and for a model whose
    parts were exchanged since it was built (packed, say), which couldn't be built again to be read.
    """
    weights = _cast(stored_weights(model), dtype)
    with torch.device("meta"):
        built = stored_weights(type(model)(model.config))
    if weights.keys() != built.keys() or "rounding" in exchanged(model).values():
        raise ValueError(
            "the model's parts aren't those that its class builds: save it before packing or changing it"
        )
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(
                f"{name} isn't finite in {dtype}: train anew, or store the model in torch.float32"
            )
    about = {"kind": KIND, "class": type(model).__name__, "config": asdict(model.config), "facts": facts}
    write_tensors(path, weights, about)


def load_model(
    path: str | Path,
    build: Callable[[ModelConfig], nn.Module] = Decoder,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, dict]:
    """The model that `save_model` wrote, ready to be used, and the facts recorded with it.

    build: the model's class, given its `ModelConfig`. dtype: the precision to compute in, whatever the file's. Raises
    ValueError for a damaged or foreign file, and when it holds a model of another class.
    """
    weights, about = read_tensors(path, KIND)
    if about.get("class") != build.__name__:
        raise ValueError(
            f"{path} holds a {about.get('class')}, not a {build.__name__}: pass its class as build"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the first, random weights aren't kept; nor is their trace
            model = build(ModelConfig.from_dict(about["config"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has no configuration that this ModelConfig knows ({error})") from None
    model, weights = model.to(dtype).eval(), _cast(weights, dtype)
    require_same("the model", layout(weights), layout(stored_weights(model)))
    model.load_state_dict(weights, strict=False)
    return model, about.get("facts", {})


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Whole numbers stay as they are."""
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def load_world() -> LanguageModel:
    """The course's own small model of the made-up world, with its tokenizer: tells stories and answers questions about them.

    `course_lib/train/world_model.py` says how it was made. Loading takes about a second.
    """
    model, _ = load_model(asset("world.safetensors"))
    return LanguageModel("world", model.requires_grad_(False), world_tokenizer(), chat=None)
