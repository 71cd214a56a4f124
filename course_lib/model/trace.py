"""Hooks: looking at the activations of a run of the model, and changing them.

A forward pass gives each activation a name, such as "blocks.13.attention.weights", and shows it to a `Trace`,
which may keep it and may return another in its place. Keeping changes nothing, bit for bit. With edits, heads
are ablated (Michel et al. 2019) and activations patched from another run (Meng et al. 2022, "causal
tracing").
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from course_lib.arguments import to_int
from course_lib.model.checks import LARGEST_INT, is_whole, require, require_kind

Edits = dict[str, Callable[[Tensor], Tensor]]


class Trace:
    """Which activations of a run to keep, and which to change.

    keep: patterns of names, such as "blocks.*.output" (`Decoder.activation_names` lists the names). edits:
    pattern → a function from an activation to the tensor of the same shape to use instead. A pattern that
    fits no name raises ValueError, as does one that is no text, and an edit that is no function. values: name
    → activation, of the last run.

        trace = Trace(keep="*.attention.weights")
        logits = model(tokens, trace=trace)
        trace["blocks.13.attention.weights"]          (batch, heads, query, key)
    """

    def __init__(self, keep: str | Iterable[str] = (), edits: Edits | None = None):
        require(not isinstance(keep, Mapping), "these are edits, not names to keep: Trace(edits=…)")
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)
        self.edits = dict(edits or {})
        self.values: dict[str, Tensor] = {}
        for pattern in (*self.keep, *self.edits):
            require_kind("a pattern of names", pattern, str)
        for pattern, edit in self.edits.items():
            require(callable(edit), f"the edit of {pattern!r} must be a function of a tensor, not {edit!r}")

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for pattern, edit in self.edits.items():
            if fnmatchcase(name, pattern):
                # An edit may change its argument in place, and a part of the model may keep the original.
                value = _same_layout(name, value, edit(value.clone()))
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
        """Return whether this activation is kept or edited."""
        return self.edited(name) or any(fnmatchcase(name, pattern) for pattern in self.keep)

    def edited(self, name: str) -> bool:
        """Return whether this activation is edited."""
        return any(fnmatchcase(name, pattern) for pattern in self.edits)

    def begin(self, names: Iterable[str]) -> None:
        """Forget an earlier run, as a run begins. Raises ValueError for a pattern that fits no activation."""
        names = list(names)
        for pattern in (*self.keep, *self.edits):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"no activation is called {pattern!r}; names look like {names[0]!r}, {names[4]!r}"
                )
        self.values.clear()

    def attention(self, names: str = "*.attention.weights") -> Tensor:
        """Return the kept attention weights of the batch's first sequence, (layers, heads, query, key).

        names: a pattern of names; in an encoder-decoder one stack's, such as
        "decoder.*.cross_attention.weights". Raises ValueError where none were kept, or those of two stacks.
        """
        fitting = [name for name in self.values if fnmatchcase(name, names)]
        kinds = {re.sub(r"blocks\.\d+", "", name) for name in fitting}  # without the layer's number
        if len(kinds) > 1:
            raise ValueError(
                f"{names!r} fits attention of two stacks or two kinds; name one, such as "
                '"decoder.*.cross_attention.weights"'
            )
        kept = [self.values[name][0] for name in fitting]
        if not kept:
            raise ValueError('no attention weights were kept; make the trace with keep="*.attention.weights"')
        return torch.stack(kept)


class _Scope:
    """A trace that prefixes every name with the name of the part of the model that uses it."""

    def __init__(self, trace: "Trace | _Scope", name: str):
        self.trace, self.name = trace, name

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.trace(f"{self.name}.{name}", value)

    def wants(self, name: str) -> bool:
        return self.trace.wants(f"{self.name}.{name}")

    def edited(self, name: str) -> bool:
        return self.trace.edited(f"{self.name}.{name}")


def scope(trace: "Trace | _Scope | None", name: str) -> "_Scope | None":
    """Return the trace with "name." put before every name; None if there is no trace."""
    return None if trace is None else _Scope(trace, name)


def record(trace: "Trace | _Scope | None", name: str, value: Tensor) -> Tensor:
    """Show an activation to the trace, and return it or what the trace puts in its place."""
    return value if trace is None else trace(name, value)


def ablate_heads(*heads: tuple[int, int]) -> Edits:
    """Return edits that set the outputs of these heads to zero. heads: pairs (layer, head), from 0.

    For a decoder or an encoder by itself. Give all heads in one call: merged with other edits of a layer, one
    of the two is lost. Raises ValueError for what isn't such a pair.

    >>> sorted(ablate_heads((13, 8), (16, 5)))
    ['blocks.13.attention.heads', 'blocks.16.attention.heads']
    """
    return _edit_heads(heads, lambda layer, head, value: torch.zeros_like(value[:, head]))


def patch_heads(other_run: Trace, *heads: tuple[int, int]) -> Edits:
    """Return edits that give these heads the outputs of another run.

    other_run: its trace, which kept "*.attention.heads". heads: as in `ablate_heads`, with the same errors.
    """
    require_kind("other_run", other_run, Trace)

    def from_source(layer: int, head: int, value: Tensor) -> Tensor:
        name = f"blocks.{layer}.attention.heads"
        return _same_layout(name, value, other_run[name])[:, head]

    return _edit_heads(heads, from_source)


def cut_edges(weights: Tensor, query, key) -> Tensor:
    """Return attention weights in which `query` no longer attends to `key` (Geva et al. 2023).

    weights: (batch, heads, query, key). query, key: each an index or a slice. The rest of each row is scaled
    up to sum to 1 again.

        Trace(edits={"*.attention.weights": partial(cut_edges, query=12, key=1)})

    Raises ValueError where a token would attend to nothing, and for a query or key that doesn't exist.
    """
    require(
        weights.dim() == 4 and weights.numel() > 0 and weights.is_floating_point(),
        f"weights are fractions (batch, heads, query, key), not {tuple(weights.shape)} of {weights.dtype}",
    )
    changed = weights.clone()
    try:
        changed[:, :, _index(query), _index(key)] = 0
    except (IndexError, TypeError, RuntimeError, OverflowError):
        raise ValueError(
            f"of {weights.shape[2]} queries and {weights.shape[3]} keys there is no query {query!r} with key "
            f"{key!r}: an index from 0, or a slice"
        ) from None
    left = changed.sum(dim=-1, keepdim=True)
    if not (left > 0).all():
        raise ValueError(
            f"cut from {key}, token {query} would have nothing left to look at; leave it something"
        )
    return changed / left


def _index(where: int | slice) -> int | slice:
    """Return an index or a slice. Raises TypeError for others: two lists would be pairs, and True a mask."""
    return where if isinstance(where, slice) else to_int(where)


def _edit_heads(heads: Iterable[tuple[int, int]], new: Callable[[int, int, Tensor], Tensor]) -> Edits:
    """Return edits that replace each head's output by new(layer, head, outputs of all heads)."""
    by_layer: dict[int, list[int]] = {}
    for pair in heads:
        two = isinstance(pair, Sequence) and len(pair) == 2
        whole = two and all(is_whole(n, -LARGEST_INT, LARGEST_INT) for n in pair)
        require(whole, f"heads are pairs of whole numbers (layer, head), not {pair!r}")
        layer, head = pair
        require(layer >= 0, f"layers are counted from 0, so there is no layer {layer}")
        by_layer.setdefault(layer, []).append(head)

    def edit(value: Tensor, layer: int) -> Tensor:
        changed = value.clone()
        for head in by_layer[layer]:
            if not 0 <= head < value.shape[1]:
                raise ValueError(f"layer {layer} has heads 0 to {value.shape[1] - 1}, not {head}")
            changed[:, head] = new(layer, head, value)
        return changed

    return {f"blocks.{n}.attention.heads": lambda value, n=n: edit(value, n) for n in by_layer}


def _same_layout(name: str, old: Tensor, new: Tensor) -> Tensor:
    """Return the new activation. Raises ValueError unless it is a tensor of the old one's shape and dtype."""
    if not isinstance(new, Tensor) or (new.shape, new.dtype) != (old.shape, old.dtype):
        got = f"{tuple(new.shape)} of {new.dtype}" if isinstance(new, Tensor) else repr(new)
        raise ValueError(
            f"the edit of {name!r} should give a tensor {tuple(old.shape)} of {old.dtype}, and gave {got}"
        )
    return new
