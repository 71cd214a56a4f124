"""A small trainable part around a frozen model, put on from outside and taken off again.

A method of fine-tuning says which modules it wraps, and by what (`Method.wrap`). All else is the same for every method, and is
here: freeze the base, put the wrappers in the modules' places, take them out, store what was learned. The base's own modules
are never written to: to switch the wrappers off is to put those very modules back. What a model may be beside that (quantized,
packed, computed by kernels) is said in `model.exchange`.

Not handled: two methods at once on one model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from course_lib.families.tensor_file import read_tensors, require_same, write_tensors
from course_lib.model.exchange import Exchange, Exchanged, exchange, require_composable

KIND = "adapter"
SAMPLE = 64  # numbers of the embedding table by which a base is known again


class Wrapper(Exchanged, nn.Module):
    """A module in the place of another, `base`, which it calls. Its own parameters are what is trained."""

    kind = "adapter"

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base


class Method(Protocol):
    """What a way of fine-tuning must say of itself: a frozen dataclass of dials, with this one method."""

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """Module path → what stands there from now on, holding the module as `base`. generator: for first values.

        Raises ValueError, having changed nothing, where the model has no such module or a dial doesn't fit it.
        """


def attach(model: nn.Module, method: Method, seed: int = 0) -> "Attached":
    """Freeze `model` and put the method's wrappers into it, in place. seed: of the small part's first values; PyTorch's own
    random state is not touched.

    Raises ValueError, changing nothing, for a model that has something attached already, and for what the method can't be put on.
    """
    require_composable(model, "adapter")
    return Attached(model, method, method.wrap(model, torch.Generator().manual_seed(seed)))


class Attached:
    """A model with something attached. `parts`: the wrappers by the path of what they wrap."""

    def __init__(self, model: nn.Module, method: Method, parts: dict[str, Wrapper]):
        self.model, self.method, self.parts = model, method, parts
        self._flags = [(weight, weight.requires_grad) for weight in model.parameters()]
        model.requires_grad_(False)
        self._exchange = exchange(model, parts)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {
            f"{path}.{name}": weight
            for path, part in self.parts.items()
            for name, weight in part.named_parameters()
            if not name.startswith("base.")
        }

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights.values())

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """While inside, the model as it was, made of the very modules that it had.

        Raises ValueError at the end where these were exchanged meanwhile (packed, say, or attached to): it then stays off.
        """
        with self._on().undone() as model:
            yield model

    def detach(self) -> nn.Module:
        """The model as it was, for good: its own modules, each parameter trainable or not as before. What was learned stays
        in this object and can still be saved."""
        self._on().undo()
        for weight, flag in self._flags:
            weight.requires_grad_(flag)
        return self.model

    def merge(self) -> nn.Module:
        """The model with what was learned added to its weights: an ordinary model, with nothing left to switch off.

        There is no way back: the sum is rounded, and what is taken away again later need not give the old bits. Raises
        ValueError, changing nothing, for a method whose part can't be written as a change of weights (all but LoRA), and over
        quantized weights.
        """
        self._on()
        merged = {path: self._merged(path, part) for path, part in self.parts.items()}
        self.detach()
        exchange(self.model, merged)
        for path, layer in merged.items():  # as trainable as the weight that it replaces
            layer.weight.requires_grad_(self.parts[path].base.weight.requires_grad)
        return self.model

    def save(self, path: str | Path) -> None:
        """Write what was learned, and nothing of the base. An older file there stays until this one is whole."""
        tensors = {name: weight.detach() for name, weight in self.weights.items()}
        write_tensors(path, tensors | {"base": _sample(self.model)}, {"kind": KIND, **self._facts()})

    def load(self, path: str | Path) -> None:
        """Take over what `save` wrote, for the same method and base (in any precision).

        Raises ValueError, changing nothing, for a file that is damaged or foreign, or that belongs to other dials or another
        base. A base is known again by its embedding: one that differs elsewhere only isn't told apart.
        """
        tensors, facts = read_tensors(path, KIND)
        for name, fact in self._facts().items():
            require_same(f"the {name} of {path}", facts.get(name) or {}, fact)
        stored, here = tensors.pop("base", torch.zeros(0)), _sample(self.model)
        if stored.shape != here.shape or not torch.allclose(stored.float(), here, rtol=0.02, atol=1e-6):
            raise ValueError(f"{path} was trained on a model with other weights: load it onto that one")
        fill(self.weights, tensors, path)

    def _facts(self) -> dict[str, dict]:
        """What a file must agree with, as JSON gives it back."""
        dials = {"method": type(self.method).__name__, **asdict(self.method)}
        return json.loads(json.dumps({"method": dials, "model": asdict(self.model.config)}))

    def _merged(self, path: str, part: Wrapper) -> nn.Module:
        if not hasattr(part, "merged"):
            raise ValueError(
                f"{type(self.method).__name__} adds a step of its own at {path}, which no change of weights can replace: "
                "keep it attached, or detach it"
            )
        return part.merged()

    def _on(self) -> Exchange:
        """The exchange that can be undone. Raises ValueError where it was, or where other parts were put over these."""
        if not self._exchange.in_place:
            raise ValueError(
                "this isn't attached to its model any more: attach anew, and load what was saved"
            )
        self._exchange.old = {
            path: part.base for path, part in self.parts.items()
        }  # by kernels, perhaps, since it was attached
        return self._exchange


def fill(weights: dict[str, Tensor], tensors: dict[str, Tensor], source: str | Path) -> None:
    """Write what was read from `source` into the weights of the same names, in their own precision.

    Raises ValueError, changing nothing, unless names and shapes agree and every number is finite.
    """
    shapes = ({name: tuple(tensor.shape) for name, tensor in some.items()} for some in (tensors, weights))
    require_same(f"what {source} holds", *shapes)
    for name, weight in weights.items():
        tensor = tensors[name].to(weight.dtype)
        if not (tensors[name].is_floating_point() and tensor.isfinite().all()):
            raise ValueError(f"{name} in {source} isn't made of finite numbers")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name])


def kind_of_numbers(model: nn.Module) -> dict:
    """Where and how precisely to keep what is trained over `model`: at its embedding's place, with 32 bits or more. Small steps
    would be lost in 16."""
    weight = _table(model)
    return {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}


def _table(model: nn.Module) -> Tensor:
    """The embedding table; of an encoder-decoder, the encoder's."""
    return getattr(model, "encoder", model).embedding.weight


def _sample(model: nn.Module) -> Tensor:
    """A few numbers of the embedding table, from all over it: enough to tell two models apart, and nearly the same when a model
    is stored in 16 bits."""
    table = _table(model).detach().flatten()
    return table[:: max(1, len(table) // SAMPLE)][:SAMPLE].float().cpu()
