"""Looking inside a run of the model, and changing it.

A forward pass names what it computes ("layers.13.attention.weights") and offers each value to a `Trace`, which may keep it,
and may hand back another in its place. Keeping changes nothing, bit for bit; edits are how heads are ablated (Michel et al.
2019) and activations patched from another run (Meng et al. 2022, there "causal tracing").
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor

Edits = dict[str, Callable[[Tensor], Tensor]]


class Trace:
    """What to keep of a run, and what to change.

    keep: name patterns, such as "layers.*.output" (`Decoder.activation_names` lists the names). edits: pattern → a function
    from the value to the one to use in its place, of the same shape. A pattern that fits nothing is an error, not silence.

        trace = Trace(keep="*.attention.weights")
        logits = model(tokens, trace=trace)
        trace["layers.13.attention.weights"]          (batch, heads, query, key)
    """

    def __init__(self, keep: str | Iterable[str] = (), edits: Edits | None = None):
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)
        self.edits = dict(edits or {})
        self.values: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for pattern, edit in self.edits.items():
            if fnmatchcase(name, pattern):
                value = _same_shape(name, value, edit(value))
        if any(fnmatchcase(name, pattern) for pattern in self.keep):
            self.values[name] = value
        return value

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.values:
            raise KeyError(
                f"{name!r} was not kept; kept were {list(self.values)[:3]} … ({len(self.values)} in all)"
            )
        return self.values[name]

    def wants(self, name: str) -> bool:
        return self.edited(name) or any(fnmatchcase(name, pattern) for pattern in self.keep)

    def edited(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.edits)

    def expect(self, names: Iterable[str]) -> None:
        """Raise ValueError for a pattern that none of `names` fits."""
        names = list(names)
        for pattern in (*self.keep, *self.edits):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"no activation is called {pattern!r}; names look like {names[0]!r}, {names[4]!r}"
                )

    def attention(self, names: str = "*.attention.weights") -> Tensor:
        """The kept attention weights of the batch's first sequence, (layers, heads, query, key). names: whose, such as
        "decoder.*.cross_attention.weights" in an encoder-decoder."""
        stacks = {name.partition("layers.")[0] for name in self.values if fnmatchcase(name, names)}
        if len(stacks) > 1:
            raise ValueError(
                f'{names!r} fits two stacks; name one, such as "decoder.*.cross_attention.weights"'
            )
        kept = [value[0] for name, value in self.values.items() if fnmatchcase(name, names)]
        if not kept:
            raise ValueError('no attention weights were kept; make the trace with keep="*.attention.weights"')
        return torch.stack(kept)


class _At:
    """A trace seen from inside a part of the model, where names are short."""

    def __init__(self, trace: "Trace | _At", place: str):
        self.trace, self.place = trace, place

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.trace(f"{self.place}.{name}", value)

    def wants(self, name: str) -> bool:
        return self.trace.wants(f"{self.place}.{name}")

    def edited(self, name: str) -> bool:
        return self.trace.edited(f"{self.place}.{name}")


def at(trace: "Trace | _At | None", place: str) -> "_At | None":
    """The trace as the part called `place` sees it; None when nobody watches."""
    return None if trace is None else _At(trace, place)


def note(trace: "Trace | _At | None", name: str, value: Tensor) -> Tensor:
    """Offer a value to the trace, and go on with what it hands back."""
    return value if trace is None else trace(name, value)


def ablate_heads(*heads: tuple[int, int]) -> Edits:
    """Edits that set the outputs of these heads, each (layer, head) counted from 0, to zero.

    >>> sorted(ablate_heads((13, 8), (16, 5)))
    ['layers.13.attention.heads', 'layers.16.attention.heads']
    """
    return _edit_heads(heads, lambda layer, head, value: torch.zeros_like(value[:, head]))


def patch_heads(source: Trace, *heads: tuple[int, int]) -> Edits:
    """Edits that give these heads the outputs that they had in another run, whose trace kept "*.attention.heads"."""

    def from_source(layer: int, head: int, value: Tensor) -> Tensor:
        name = f"layers.{layer}.attention.heads"
        return _same_shape(name, value, source[name])[:, head]

    return _edit_heads(heads, from_source)


def cut_edges(weights: Tensor, query, key) -> Tensor:
    """Attention weights (batch, heads, query, key) in which `query` no longer looks at `key` (indices or slices), the rest
    of its row scaled up to add up to 1 again: "attention knockout" (Geva et al. 2023).

        Trace(edits={"*.attention.weights": partial(cut_edges, query=12, key=1)})

    Raises ValueError where a token would have nothing left to look at.
    """
    changed = weights.clone()
    changed[:, :, query, key] = 0
    left = changed.sum(dim=-1, keepdim=True)
    if not (left > 0).all():
        raise ValueError(
            f"cut from {key}, token {query} would have nothing left to look at; leave it something"
        )
    return changed / left


def _edit_heads(heads: Iterable[tuple[int, int]], new: Callable[[int, int, Tensor], Tensor]) -> Edits:
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(value: Tensor, layer: int) -> Tensor:
        changed = value.clone()
        for head in by_layer[layer]:
            if not 0 <= head < value.shape[1]:
                raise ValueError(f"layer {layer} has heads 0 to {value.shape[1] - 1}, not {head}")
            changed[:, head] = new(layer, head, value)
        return changed

    return {f"layers.{n}.attention.heads": lambda value, n=n: edit(value, n) for n in by_layer}


def _same_shape(name: str, old: Tensor, new: Tensor) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else repr(new)
        raise ValueError(
            f"the edit of {name!r} should give a tensor of shape {tuple(old.shape)}, and gave {got}"
        )
    return new
