"""What configurations and runs of a model refuse, each with a message that says what to do.

`ModelConfig` calls the checks of configurations, `Stack.run_layers` those of a run. What only `attend`,
`Encoder` or `KVCache` know enough to check, they check themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from course_lib.model.config import AttentionConfig, ExpertsConfig, ModelConfig

CHOICES = {
    "positions": ("rope", "rope-interleaved", "alibi", "sinusoidal", "learned", "none"),
    "norm": ("rms", "layer", "none"),
    "norm_place": ("pre", "post", "parallel"),
    "feed_forward": ("swiglu", "geglu", "gelu", "gelu-tanh", "relu"),
}
SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "context")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_names(config: type, names: Iterable[str], prefix: str = "") -> None:
    """Raise ValueError unless these are fields of the class, among them all that have no default."""
    known = {field.name: field for field in fields(config)}
    names = list(names)
    for name in names:
        require(
            name in known, f"{prefix}{name} is no field of {config.__name__}, which has {', '.join(known)}"
        )
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        require(optional or name in names, f"{prefix}{name} is missing, and has no default")


def check_model_config(config: ModelConfig) -> None:
    """Raise ValueError for sizes that can't fit together and kinds that don't exist."""
    for name in SIZES:
        require(getattr(config, name) >= 1, f"{name} must be at least 1, not {getattr(config, name)}")
    for name, choices in CHOICES.items():
        value = getattr(config, name)
        require(value in choices, f"{name} must be one of {', '.join(choices)}; not {value!r}")
    require(
        config.n_heads % config.n_kv_heads == 0,
        f"{config.n_heads} query heads can't share {config.n_kv_heads} key-value heads evenly",
    )
    require(
        config.rope_base > 0 and config.norm_eps >= 0,
        f"rope_base={config.rope_base} must be above 0, and norm_eps={config.norm_eps} not below",
    )
    require(
        not config.positions.startswith("rope") or config.d_head % 2 == 0,
        f"d_head must be even, for rotary positions rotate it in pairs; not {config.d_head}",
    )
    require(
        config.norm_place != "parallel" or config.residual,
        "parallel parts without residual would lose what attention computed: use pre or post",
    )
    _check_factor("logit_cap", config.logit_cap)


def check_attention_config(config: AttentionConfig) -> None:
    """Raise ValueError for a window, scale or cap outside its range."""
    require(
        config.window is None or config.window >= 1,
        f"window must be at least 1 token, or None to attend to all; not {config.window}",
    )
    require(
        config.global_every == 0 or (config.global_every > 0 and config.window is not None),
        f"global_every={config.global_every} must be 0 or more, and is for models with a window",
    )
    _check_factor("attention.scale", config.scale)
    _check_factor("attention.cap", config.cap)


def _check_factor(name: str, value: float | None) -> None:
    require(value is None or 0 < value < math.inf, f"{name} must be above 0, or None for none; not {value}")


def check_experts_config(config: ExpertsConfig) -> None:
    """Raise ValueError for numbers of experts that don't go together."""
    n = config.n_experts
    require(n >= 1, f"a mixture has at least 1 expert, not {n}; leave `experts` out for a dense model")
    require(
        1 <= config.n_active <= n and config.n_shared >= 0,
        f"of {n} experts a token can use 1 to {n}, not {config.n_active}; "
        f"and n_shared={config.n_shared} can't be below 0",
    )
    require(
        config.n_active > 1 or not config.normalize_shares,
        "a single expert's share, normalized, is always 1, so its router would never learn: "
        "set normalize_shares=False (as the Switch Transformer does) or n_active=2",
    )
    require(
        config.capacity_factor is None or 0 < config.capacity_factor < math.inf,
        f"capacity_factor must be above 0, or None for no limit; not {config.capacity_factor}",
    )


def check_tokens(tokens: Tensor, new_lengths: Sequence[int] | None) -> None:
    """Raise ValueError unless tokens are ids (batch, time), and new_lengths a number of them for each row."""
    require(
        tokens.dtype in (torch.int64, torch.int32) and tokens.dim() == 2 and tokens.numel() > 0,
        f"tokens must be whole numbers, (batch, time) with at least one token, not {tuple(tokens.shape)} of "
        f"{tokens.dtype}",
    )
    batch, time = tokens.shape
    require(
        new_lengths is None
        or (len(new_lengths) == batch and min(new_lengths) >= 0 and max(new_lengths) == time),
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


def check_memory(cross: bool, memory, batch: int) -> None:
    """Raise ValueError unless there is an encoder's output where one is needed, of as many sequences."""
    require(
        cross == (memory is not None),
        "a decoder with cross-attention, and only such a one, needs an encoder's `memory`",
    )
    require(
        memory is None or memory.batch == batch,
        f"a memory of {memory and memory.batch} sequences can't go with {batch} of tokens",
    )
