"""Attaching small trainable parts to a frozen model, and detaching them.

A method of fine-tuning defines which modules it wraps, and in what (`Method.wrap`). Everything else is the
same for all methods and is done here: freezing the base, exchanging modules for their wrappers and back, and
saving what was trained. The base's own modules are never written to, so that switching the wrappers off
restores the base exactly.

To *exchange* modules is to put others in their place, which can be undone. `model.exchange` does so, and
defines which such changes (quantized layers, packed ones, kernels) one model can have at once. There and in
files, every attached part is of the kind "adapter"; elsewhere in this package an adapter is the layer of
Houlsby et al. (`bottleneck`).

Not handled: two methods attached to one model at once.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from course_lib.families.tensor_file import (
    copy_weights,
    read_tensors,
    require_finite,
    require_same,
    write_tensors,
)
from course_lib.interrupts import uninterrupted
from course_lib.model import EncoderDecoder, ModelConfig
from course_lib.model.exchange import Exchange, Replacement, exchange, require_composable
from course_lib.train.checks import check_attach, own_whole

KIND = "adapter"
SAMPLE_SIZE = 64  # elements of the embedding table that a file stores, to recognize its base by


class Wrapper(Replacement, nn.Module):
    """A module that replaces another, `base`, and calls it. Its parameters besides the base's are trained."""

    kind = "adapter"

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base


class Method(Protocol):
    """A method of fine-tuning: a frozen dataclass of its settings, with this one method."""

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """Return a wrapper for each module to wrap, by the module's path; `base` is that module.

        generator: for the initial values.

        Raises ValueError, changing nothing, where the model has no such module or a setting doesn't fit it.
        """


def attach(model: nn.Module, method: Method, seed: int = 0) -> "Attached":
    """Freeze the model and put the method's wrappers into it, in place.

    seed: of the initial values. PyTorch's global random state is not used.

    Raises ValueError, changing nothing, for a model that has something attached already or has no embedding
    table, for a method that is none, and where it doesn't fit the model. An interrupt changes nothing either.
    """
    seed = own_whole("seed", seed, 0)
    check_attach(model, method)
    require_composable(model, "adapter")
    return Attached(model, method, method.wrap(model, torch.Generator().manual_seed(seed)))


class Attached:
    """A model with wrappers attached.

    model: the model, whose base is frozen.
    method: the settings of the method.
    parts: the wrappers, by the path of the module that each wraps.
    """

    def __init__(self, model: nn.Module, method: Method, parts: dict[str, Wrapper]):
        self.model, self.method, self.parts = model, method, parts
        config = getattr(model, "config", None)  # the base's: merging may change it
        self._config = asdict(config) if is_dataclass(config) else {}
        self._requires_grad = [(weight, weight.requires_grad) for weight in model.parameters()]
        self._exchange = None
        try:
            with uninterrupted():
                self._exchange = exchange(model, parts)
                for weight, _ in self._requires_grad:
                    weight.requires_grad_(False)
        except BaseException:  # an interrupt: the caller gets no object to detach
            if self._exchange is not None:
                self.detach()
            raise

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        return {
            f"{path}.{name}": weight
            for path, part in self.parts.items()
            for name, weight in part.named_parameters()
            if not name.startswith("base.")
        }

    @property
    def count(self) -> int:
        """The number of trained parameters."""
        return sum(weight.numel() for weight in self.weights.values())

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        """Restore the base model, with its own modules, inside a `with` block.

        Raises ValueError at the end of the block if these modules were exchanged inside it (packed or
        attached to, for example); the wrappers then stay off.
        """
        with self._current_exchange().undone() as model:
            yield model

    def detach(self) -> nn.Module:
        """Restore the base model for good, and return it.

        Each parameter is trainable or frozen again as it was before. This object keeps the trained weights,
        which can still be saved.
        """
        with uninterrupted():
            self._current_exchange().undo()
            for weight, flag in self._requires_grad:
                weight.requires_grad_(flag)
        return self.model

    def merge(self) -> nn.Module:
        """Add what was trained to the model's own weights, and return it as an ordinary model.

        This can't be undone: the sum is rounded. A head that shared the embedding table gets a matrix of its
        own, and the table stays as it was: the model's configuration then says tie_embeddings=False, so that
        the model is saved as what it is.

        Raises ValueError, changing nothing, for a method other than LoRA, whose wrappers no change of weights
        can replace, over quantized weights, and where a sum isn't finite.
        """
        self._current_exchange()
        merged = {path: self._merge_part(path, part) for path, part in self.parts.items()}
        require_finite("this can't be merged", {path: layer.weight for path, layer in merged.items()})
        table = _embedding_table(self.model)
        tied = any(part.base.weight is table for part in self.parts.values())
        with uninterrupted():
            self.detach()
            if tied:
                _untie(self.model)
            exchange(self.model, merged)
            for path, layer in merged.items():
                layer.weight.requires_grad_(self.parts[path].base.weight.requires_grad)
        return self.model

    def save(self, path: str | Path) -> None:
        """Write the trained weights, without the base.

        An existing file is replaced only once the new one is complete. Raises ValueError, leaving it, for
        weights that aren't finite.
        """
        require_finite("what was trained can't be saved", self.weights)
        tensors = {name: weight.detach() for name, weight in self.weights.items()}
        tensors["base"] = _sample_embedding(self.model)
        write_tensors(path, tensors, {"kind": KIND, **self._facts()})

    def load(self, path: str | Path) -> None:
        """Load the weights that `save` wrote for the same method and base.

        The base may be in another precision than the one that the weights were trained on.

        Raises ValueError, changing nothing, for a file that is damaged, isn't an adapter, or was made with
        other settings or on another base, while this is off, and after `detach` and `merge`. A base is
        recognized by its embedding table: a difference elsewhere is not noticed.
        """
        self._current_exchange()
        tensors, facts = read_tensors(path, KIND)
        for name, fact in self._facts().items():
            require_same(f"the {name} of {path}", facts.get(name) or {}, fact)
        stored, sample = tensors.pop("base", torch.zeros(0)), _sample_embedding(self.model)
        if stored.shape != sample.shape or not torch.allclose(stored.float(), sample, rtol=0.02, atol=1e-6):
            raise ValueError(f"{path} was trained on a model with other weights: load it onto that one")
        copy_weights(self.weights, tensors, path)

    def _facts(self) -> dict[str, dict]:
        """Return the settings that a file must agree with, as JSON returns them."""
        settings = {"method": type(self.method).__name__, **asdict(self.method)}
        return json.loads(json.dumps({"method": settings, "model": self._config}, default=str))

    def _merge_part(self, path: str, part: Wrapper) -> nn.Module:
        if not hasattr(part, "merged"):
            raise ValueError(
                f"{type(self.method).__name__} adds a step of its own at {path}, "
                "which no change of weights can replace: keep it attached, or detach it"
            )
        return part.merged()

    def _current_exchange(self) -> Exchange:
        """Return the exchange, to be undone. Raises ValueError unless the wrappers are in place."""
        if not self._exchange.is_active:
            raise ValueError(
                "this isn't attached to its model any more: attach anew, and load what was saved"
            )
        # A base may have been exchanged inside its wrapper since, for kernels for example.
        self._exchange.old = {path: part.base for path, part in self.parts.items()}
        return self._exchange


def factory_kwargs(model: nn.Module) -> dict:
    """Return the embedding table's device, and a dtype of 32 bits at least: 16 would lose small steps."""
    weight = _embedding_table(model)
    return {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}


def _embedding_table(model: nn.Module) -> Tensor:
    """Return the embedding table, (vocab_size, d_model); that of the encoder, in an encoder-decoder."""
    return getattr(model, "encoder", model).embedding.weight


def _untie(model: nn.Module) -> None:
    """Let the head have a matrix of its own, by the course's configuration and for each part that holds it.

    An encoder-decoder built from it has two embedding tables. So the decoder of this one gets a copy.
    """
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        for part in model.modules():
            if getattr(part, "config", None) == config:
                part.config = replace(config, tie_embeddings=False)
    if isinstance(model, EncoderDecoder):
        model.decoder.embedding = copy.deepcopy(model.decoder.embedding)


def _sample_embedding(model: nn.Module) -> Tensor:
    """Return evenly spaced elements of the embedding table, (64,) in 32 bits.

    They are enough to tell two models apart, and nearly the same when a model is stored in 16 bits.
    """
    table = _embedding_table(model).detach().flatten()
    return table[:: max(1, len(table) // SAMPLE_SIZE)][:SAMPLE_SIZE].float().cpu()
