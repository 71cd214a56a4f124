"""What runs of a model refuse, each with a message that says what to do, and the words for all checks.

`Stack.run_layers` calls the checks of a run, `attend` and `attention_by_hand` that of attention. What only
`Encoder` or `KVCache` know enough to check, they check themselves. Configurations: `config_checks`.
"""

import math
import reprlib
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral
from types import NoneType

import numpy as np
import torch
from torch import Tensor

from course_lib.arguments import to_int

CHOICES = {
    "positions": ("rope", "rope-interleaved", "alibi", "sinusoidal", "learned", "none"),
    "norm": ("rms", "layer", "none"),
    "norm_place": ("pre", "post", "parallel"),
    "feed_forward": ("swiglu", "geglu", "gelu", "gelu-tanh", "relu"),
}
SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "context")
KINDS = {
    int: "a whole number below 2³¹",
    float: "a finite number",
    bool: "True or False",
    str: "a word in quotes",
    NoneType: "None",
}
LARGEST_INT = 2**31 - 1
LARGEST_TABLE = 2**36  # numbers; beyond what any machine here holds


def require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def is_whole(value: object, least: int = 0, most: float = math.inf) -> bool:
    """Return whether a value is a whole number from `least` to `most`, of Python or NumPy; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most


def plain(value: object) -> object:
    """Return a number of NumPy as Python's own, which JSON can hold, and any other value as it is."""
    if type(value) in KINDS or not isinstance(value, np.integer | np.floating):
        return value
    return int(value) if isinstance(value, np.integer) else float(value)


def is_a(value: object, kind: type) -> bool:
    """Return whether a value is of a kind of `KINDS`, where numbers may be of Python or NumPy.

    Whole numbers count as finite numbers, Booleans don't. The values of other classes must be exactly of this
    class.
    """
    value = plain(value)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # false for nan
    return type(value) is kind and (kind is not int or abs(value) <= LARGEST_INT)


def require_kind(name: str, value: object, *kinds: type) -> None:
    """Raise ValueError, naming the argument, unless its value is of one of these kinds (`is_a`)."""
    if not any(is_a(value, kind) for kind in kinds):
        wanted = " or ".join(KINDS.get(kind, f"of class {kind.__name__}") for kind in kinds)
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def require_size(name: str, value: object, least: int = 1) -> int:
    """Return the value as Python's int: NumPy's small ones overflow in sums.

    Raises ValueError, naming the argument, unless it is a whole number of at least so much.
    """
    if not is_whole(value, -LARGEST_INT, LARGEST_INT):
        raise ValueError(f"{name} must be a whole number below 2³¹, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def require_table(*sizes: int) -> None:
    """Raise ValueError for a table of so many numbers that it can only be a mistake."""
    require(
        math.prod(map(int, sizes)) <= LARGEST_TABLE,
        f"{' × '.join(map(str, sizes))} numbers don't fit into any memory",
    )


def whole_numbers(name: str, values: Iterable[int]) -> list[int]:
    """Return the values as ints. Raises ValueError, naming the argument, for what isn't whole."""
    try:
        return list(map(to_int, values))
    except TypeError:
        raise ValueError(f"{name} must be whole numbers, not {values!r}") from None


def check_tokens(tokens: Tensor, new_lengths: Sequence[int] | None) -> None:
    """Raise ValueError unless tokens are ids (batch, time), and new_lengths a number of them for each row.

    Raises TypeError where the tokens are no tensor.
    """
    if not isinstance(tokens, Tensor):
        raise TypeError(
            "tokens must be a tensor of ids (batch, time), such as torch.tensor([[1, 2]]), not "
            f"{reprlib.repr(tokens)}"
        )
    require(
        tokens.dtype in (torch.int64, torch.int32) and tokens.dim() == 2 and tokens.numel() > 0,
        "tokens must be whole numbers of 64 or 32 bits (tokens.long() makes them such), "
        f"(batch, time) with at least one token, not {tuple(tokens.shape)} of {tokens.dtype}",
    )
    batch, time = tokens.shape
    require(
        new_lengths is None
        or isinstance(new_lengths, Sequence)
        and len(new_lengths) == batch
        and all(map(is_whole, new_lengths))
        and max(new_lengths) == time,
        f"new_lengths must say for each of {batch} rows how many of its {time} tokens are real, "
        f"{time} in the longest; not {new_lengths}",
    )


def check_context(end: int, context: int) -> None:
    """Raise ValueError for a text that ends beyond the context."""
    require(
        end <= context,
        f"{end} tokens are more than the {context} that this model's context holds; "
        "shorten the text, or keep only its end",
    )


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    window: int | None,
) -> None:
    """Raise ValueError for tensors that don't fit together, and a scale or window that can't be.

    This runs in every layer, so no message is put together before it is needed.
    """
    _check_heads(q, k, v)
    same = q.dtype == k.dtype == v.dtype or torch.is_autocast_enabled(q.device.type)
    if not (same and q.is_floating_point()):
        raise ValueError(f"q, k and v are fractions of one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    if mask is not None:
        check_mask(mask, (*q.shape[:3], k.shape[2]))
    if not (scale is None or is_a(scale, float) and scale > 0):
        raise ValueError(f"the scale of scores is a finite number above 0, or None; not {scale!r}")
    if causal is not True or window is not None:
        check_window(window, causal)


def _check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless queries, keys and values have shapes that fit together."""
    if not (
        q.dim() == k.dim() == v.dim() == 4
        and k.shape[:3] == v.shape[:3]
        and q.shape[0] == k.shape[0]
        and q.shape[3] == k.shape[3]
        and q.numel() > 0
        and v.numel() > 0
    ):
        raise ValueError(
            "q is (batch, heads, query, d_head), k and v are (batch, kv_heads, key, d_head), with at least 1 "
            f"of each; not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads can't share {k.shape[1]} key-value heads evenly")


def check_mask(mask: Tensor, scores: tuple[int, ...]) -> None:
    """Raise ValueError unless a mask broadcasts to scores of this shape and is Boolean or to be added."""
    pairs = zip(mask.shape[::-1], scores[::-1], strict=False)
    fits = mask.dim() <= 4 and all(size in (1, wanted) for size, wanted in pairs)
    if not (fits and (mask.dtype == torch.bool or mask.is_floating_point())):
        raise ValueError(
            "a mask is true or false, or fractions to add to the scores, and broadcasts to (batch, heads, "
            f"query, key) = {scores}; not {tuple(mask.shape)} of {mask.dtype}"
        )


def check_window(window: int | None, causal: bool) -> None:
    """Raise ValueError unless the window is None or a whole number above 0, in causal attention."""
    require_kind("causal", causal, bool)
    require(
        window is None or (causal and is_whole(window, 1, LARGEST_INT)),
        f"a window is for causal attention, and at least 1 key wide: causal={causal}, window={window!r}",
    )


def check_routing(scores: Tensor, n_active: int, normalize: bool) -> None:
    """Raise ValueError for a router's scores that are no fractions, and more experts than there are."""
    require(
        scores.is_floating_point() and scores.dim() > 0,
        f"scores are fractions (tokens, n_experts), not {tuple(scores.shape)} of {scores.dtype}",
    )
    require_size("n_active", n_active)
    require(n_active <= scores.shape[-1], f"a token can't use {n_active} of {scores.shape[-1]} experts")
    require_kind("normalize", normalize, bool)


def check_memory(cross: bool, memory: object) -> None:
    """Raise ValueError unless there is an encoder's output where one is needed, and only there."""
    require(
        cross == (memory is not None),
        "a decoder with cross-attention, and only such a one, needs an encoder's `memory`",
    )
    require(
        memory is None or hasattr(memory, "of_layer"),
        f"a memory is what an encoder returns, or Memory(states, mask); not of class {type(memory).__name__}",
    )


def check_cache_and_trace(cache: object, trace: object) -> None:
    """Raise ValueError for a cache that can't be updated, and a trace that can't be shown activations."""
    require(
        cache is None or hasattr(cache, "update"),
        f"a cache is what the model's `new_cache` returns, not of class {type(cache).__name__}",
    )
    require(
        trace is None or hasattr(trace, "wants"),
        f'a trace is Trace("…"), with patterns of names; not of class {type(trace).__name__}',
    )
