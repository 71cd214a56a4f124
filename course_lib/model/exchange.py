"""Replacing parts of a model by other modules, and undoing it.

Quantized layers, GPU kernels, quantization-aware training (QAT), CPU packing and adapters do the same thing
to a model: at some paths of its tree of modules, they put another module in the place of the one there. All
of them do it through this module.

    change = exchange(model, {"blocks.0.attention.query": quantized, …})
    change.undo()              puts the original modules back: the model has its old bits again

Each new module says of what kind it is (`Replacement.kind`): "quantized" (`quantize`), "qat"
(quantization-aware training), "kernels" (`kernels.use`), "packed" (`generate.pack`) or "adapter" (LoRA and
its relatives, `train.peft`). `REFUSED` alone decides which kinds can't be combined, and says why. In it,
"merge" stands for adding an adapter's weights to those of its base.

A new module is made in one of two ways. Either it has parameters of its own, made from the old module's (a
quantized layer); the old module is kept alive by `change`, and freed with it. Or it is a `twin`:
an object of another class that shares the old module's parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from course_lib.interrupts import uninterrupted

Part = TypeVar("Part", bound=nn.Module)


class Replacement:
    """A mixin for every class of modules that replace another one. kind: one of those in `REFUSED`."""

    kind: str


# Why a learned change can't be added to weights of few bits.
FEW_BITS = (
    "whose few bits can't take a fine change: load what was learned onto the model in 16 or 32 bits, "
    "and merge there"
)

# (kind that is put in, kind that is there already) → why it is refused. Other kinds can be combined.
REFUSED = {
    ("quantized", "adapter"): (
        "something is attached to the model, trained beside its weights as they are: merge or detach it first"
    ),
    ("quantized", "packed"): (
        "the model is packed, its layers joined and reordered: quantize it as it was loaded, then pack it"
    ),
    ("quantized", "qat"): (
        "the model is in quantization-aware training already: finish_qat stores what was trained"
    ),
    ("qat", "adapter"): (
        "something is attached to the model, which keeps its weights frozen: merge or detach it first"
    ),
    ("qat", "packed"): (
        "the model is packed, so its weights aren't trained: begin with the model as it was loaded"
    ),
    ("qat", "qat"): "the model is in quantization-aware training already",
    ("packed", "adapter"): (
        "something is attached to the model: merge or detach it first, "
        "or pack first and attach beside what is packed"
    ),
    ("packed", "qat"): "the model is in quantization-aware training: finish_qat first",
    ("adapter", "adapter"): "something is attached to the model already: detach or merge it first",
    ("merge", "quantized"): FEW_BITS,
    ("merge", "kernels"): FEW_BITS,
    ("merge", "packed"): (
        "whose weights are laid out for the processor: merge into the model as it was loaded, then pack it"
    ),
    ("merge", "qat"): "which is in quantization-aware training: finish_qat first",
}


def replacement_kinds(model: nn.Module) -> dict[str, str]:
    """Return path → kind of all modules that replace another one."""
    return {path: part.kind for path, part in model.named_modules() if isinstance(part, Replacement)}


def require_composable(model: nn.Module, kind: str) -> None:
    """Raise ValueError, saying what to do, if the model has parts that this kind can't be combined with."""
    for path, there in replacement_kinds(model).items():
        if (kind, there) in REFUSED:
            raise ValueError(f"at {path or 'its root'}, {REFUSED[kind, there]}")


def require_mergeable(layer: nn.Module) -> None:
    """Raise ValueError, saying what to do, unless a learned change can be added to this layer's weights."""
    if type(layer) is not nn.Linear:
        kind = layer.kind if isinstance(layer, Replacement) else None
        reason = REFUSED.get(("merge", kind), "and a change can only be added to the weights of an nn.Linear")
        raise ValueError(f"the base is a {type(layer).__name__}, {reason}")


def exchange(model: nn.Module, parts: dict[str, nn.Module]) -> "Exchange":
    """Put each part at its path in the model's tree, in place, and return an `Exchange`, which can undo it.

    A part may stand inside another one that is exchanged in the same call. Raises ValueError, changing
    nothing, for a combination in `REFUSED`, and for a path that the model doesn't have. An interrupt changes
    nothing either.
    """
    outer_first = sorted(parts, key=lambda path: path.count("."))
    parts = {path: parts[path] for path in outer_first}
    for kind in {part.kind for part in parts.values() if isinstance(part, Replacement)}:
        require_composable(model, kind)
    try:
        old = {path: model.get_submodule(path) for path in parts}
    except AttributeError as error:
        raise ValueError(f"the model has no part of that name: {error}") from None
    if "" in parts:
        raise ValueError("a model can't be exchanged for another inside itself: use the part itself")
    _check_nested(parts)
    change = Exchange(model, parts, old)
    try:
        _replace(model, old, parts)
    except BaseException:  # an interrupt: the caller gets no `Exchange` to undo
        if change.is_active:
            change.undo()
        raise
    return change


class Exchange:
    """An exchange that was made. new, old: path → module."""

    def __init__(self, model: nn.Module, new: dict[str, nn.Module], old: dict[str, nn.Module]):
        self.model, self.new, self.old = model, new, old

    @property
    def is_active(self) -> bool:
        """Whether the new parts still stand where they were put."""
        return _stand_in(self.model, self.new)

    def undo(self) -> nn.Module:
        """Put the old parts back, the same objects, and return the model.

        Raises ValueError, changing nothing, if the new parts have been replaced by others since: undo that
        first.
        """
        self._require_active()
        _replace(self.model, self.new, self.old)
        return self.model

    @contextmanager
    def undone(self) -> Iterator[nn.Module]:
        """A context in which the model has its old parts.

        Raises ValueError at the end if the old parts were exchanged meanwhile; the new ones are then not put
        back. An interrupt ends the context as any error does.
        """
        self._require_active()
        try:
            _replace(self.model, self.new, self.old)
            yield self.model
        finally:
            with uninterrupted():
                self._redo()

    def _redo(self) -> None:
        """Put the new parts back in place of the old ones, unless an interrupt came before these."""
        if self.is_active:
            return
        if not _stand_in(self.model, self.old):
            raise ValueError("while this was off, something else was done to the model's parts: it stays off")
        _replace(self.model, self.old, self.new)

    def _require_active(self) -> None:
        if not self.is_active:
            raise ValueError(
                "the parts aren't in place any more: they were taken out, or others were put over them. "
                "Undo what was done later first"
            )


def twin(
    part: nn.Module, kind: type[Part], children: dict[str, nn.Module] | None = None, **more: object
) -> Part:
    """Return an object of class `kind` that shares a part's state.

    Both hold the same dictionaries of parameters, buffers and hooks, and of children unless others are given:
    what is trained, loaded, moved or exchanged in one is so in the other, and the names in files stay the
    same. `training` is each one's own. more: further attributes, which must not be modules.
    """
    new = kind.__new__(kind)  # without __init__, which would create parameters
    vars(new).update(vars(part))
    if children is not None:
        vars(new)["_modules"] = dict(children)
    for name, value in more.items():
        vars(new)[name] = value
    return new


def _check_nested(parts: dict[str, nn.Module]) -> None:
    """Raise ValueError for a path inside another exchanged part that this part doesn't have."""
    for path in parts:
        outer = max((other for other in parts if path.startswith(f"{other}.")), key=len, default=None)
        parent = path.rpartition(".")[0]
        try:
            if outer is not None:
                parts[outer].get_submodule(parent.removeprefix(outer).removeprefix("."))
        except AttributeError as error:
            raise ValueError(f"what is put at {outer} has no place for {path}: {error}") from None


def _set_mode(part: nn.Module, training: bool) -> None:
    """Put a part and all within it in training or evaluation mode, unless it is in this mode."""
    if part.training != training:
        part.train(training)


def _replace(model: nn.Module, there: dict[str, nn.Module], parts: dict[str, nn.Module]) -> None:
    """Put each part in the place of the one that is there, in its mode: all of them, also if interrupted."""
    with uninterrupted():
        for path, part in parts.items():
            _set_mode(part, there[path].training)
        _put(model, parts)


def _put(model: nn.Module, parts: dict[str, nn.Module]) -> None:
    """Make each part the module at its path."""
    for path, part in parts.items():
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = part


def _stand_in(model: nn.Module, parts: dict[str, nn.Module]) -> bool:
    """Return whether each part is the module at its path."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return all(modules.get(path) is part for path, part in parts.items())
