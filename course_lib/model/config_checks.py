"""What configurations of a model refuse, each with a message that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, get_args

from course_lib.model.checks import CHOICES, SIZES, plain, require, require_kind, require_table

if TYPE_CHECKING:
    from course_lib.model.config import AttentionConfig, ExpertsConfig, ModelConfig


def check_kinds(config: object, prefix: str = "") -> None:
    """Raise ValueError unless each field of a configuration is of the kind that its annotation names.

    Numbers of NumPy become Python's own.
    """
    for field in fields(config):
        kinds = get_args(field.type) or (field.type,)
        object.__setattr__(config, field.name, plain(getattr(config, field.name)))  # though it is frozen
        require_kind(f"{prefix}{field.name}", getattr(config, field.name), *kinds)


def check_names(config: type, names: Mapping[str, object], prefix: str = "") -> None:
    """Raise ValueError unless these are fields of the class, among them all that have no default."""
    require(isinstance(names, Mapping), f"fields of {config.__name__} have names and values; not {names!r}")
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
    """Raise ValueError for values of a wrong type, sizes that can't fit together, kinds that don't exist."""
    check_kinds(config)
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
    require_table(config.vocab_size, config.d_model)
    n_experts = config.experts.n_experts if config.experts else 1
    require_table(config.n_layers, n_experts, config.d_model, config.d_ff)
    require_table(config.n_layers, config.d_model, config.n_heads, config.d_head)


def check_attention_config(config: AttentionConfig) -> None:
    """Raise ValueError for a value of a wrong type, and a window, scale or cap outside its range."""
    check_kinds(config, "attention.")
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
    require(value is None or value > 0, f"{name} must be above 0, or None for none; not {value}")


def check_experts_config(config: ExpertsConfig) -> None:
    """Raise ValueError for values of a wrong type, and numbers of experts that don't go together."""
    check_kinds(config, "experts.")
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
        config.capacity_factor is None or config.capacity_factor > 0,
        f"capacity_factor must be above 0, or None for no limit; not {config.capacity_factor}",
    )
