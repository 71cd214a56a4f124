"""Families of published models: the configuration that a family's models share, and the names in their files.

    read_gguf(path)                                               a model of any family in FAMILIES
    read_gguf(path, families=FAMILIES | {"qwen3": Family(…)})     or of one more

A family is a row of a table. A new one takes data and no code.
"""

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

from course_lib.arguments import check_flag
from course_lib.gguf_names import BLOCK_TENSORS, TENSORS
from course_lib.model import AttentionConfig, ExpertsConfig, ModelConfig
from course_lib.text import GPT2, SMOLLM2

# Fields of `ModelConfig` → GGUF's settings, which follow the architecture's name: "llama.embedding_length".
REQUIRED_SETTINGS = {
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "d_ff": "feed_forward_length",
    "context": "context_length",
}
OPTIONAL_SETTINGS = {
    "n_kv_heads": "attention.head_count_kv",
    "d_head": "rope.dimension_count",
    "rope_base": "rope.freq_base",
    "vocab_size": "vocab_size",
}
# Settings that change what a model computes → the values with which they change nothing. Any other value is
# handled only in a family that reads the setting.
NEUTRAL_SETTINGS = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "rope.scale_linear": (0, 1),
    "attention.scale": (0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "attention.temperature_scale": (0,),
    "attention.output_scale": (0, 1),
    "attention.shared_kv_layers": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "rescale_every_n_layers": (0,),
    "use_parallel_residual": (False,),
    "swin_norm": (False,),
    "expert_count": (0,),
}
# Fields of `ModelConfig` that have fields of their own.
GROUPS = {"attention": AttentionConfig, "experts": ExpertsConfig}


class NotHandled(ValueError):
    """The file may be in order, but what it holds isn't handled here."""


@dataclass(frozen=True)
class Family:
    """A family of models. A field of a sub-configuration is written with a dot: "attention.window".

    Raises TypeError for an entry of another kind than below, ValueError for a field that `ModelConfig` lacks.
    """

    # Fields of `ModelConfig` → the values that all models of the family have.
    shared_config: Mapping[str, object]
    # Further fields of `ModelConfig` → GGUF's settings, which a file must have or may have.
    required_settings: Mapping[str, str] = field(default_factory=dict)
    optional_settings: Mapping[str, str] = field(default_factory=dict)
    # GGUF's names of tensors → the course's.
    tensors: Mapping[str, str] = field(default_factory=lambda: TENSORS)
    block_tensors: Mapping[str, str] = field(default_factory=lambda: BLOCK_TENSORS)
    # Whether llama.cpp has put the two rows of each rotary pair of queries and keys side by side.
    interleaved_rows: bool = False
    # GGUF's names of pre-tokenizers → patterns of `text.pretokenize`.
    pre_tokenizers: Mapping[str, str] = field(default_factory=dict)
    # The course's names of a transformer block's layers → those of the package transformers.
    transformers_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name, value in vars(self).items():
            if name == "interleaved_rows":
                check_flag(name, value)
            elif not isinstance(value, Mapping):
                raise TypeError(f"{name} must be a mapping, not {reprlib.repr(value)}")
            elif name != "shared_config" and {type(entry) for entry in value.values()} - {str}:
                raise TypeError(f"{name} must map names to names, and holds {reprlib.repr(dict(value))}")
        known = {each.name for each in fields(ModelConfig)}
        known |= {f"{group}.{each.name}" for group, kind in GROUPS.items() for each in fields(kind)}
        for name in (*self.shared_config, *self.required_settings, *self.optional_settings):
            if name not in known:
                raise ValueError(f"{name!r} is no field of ModelConfig, which has {', '.join(sorted(known))}")

    def config(self, architecture: str, settings: Mapping, **known: object) -> ModelConfig:
        """Return the configuration of the model in a file.

        architecture: the settings' prefix. settings: the file's, by name. known: fields of `ModelConfig` that
        are not read from settings; a setting overrides them.

        Raises TypeError for an architecture or settings of another kind, ValueError for a required setting
        that is missing, for one that isn't a number or that the family doesn't read, though it changes what
        the model computes, and where the configuration itself does.
        """
        if not isinstance(architecture, str) or not isinstance(settings, Mapping):
            given = f"{reprlib.repr(architecture)} and {reprlib.repr(settings)}"
            raise TypeError(f"architecture must be a name, and settings a mapping, not {given}")
        required = REQUIRED_SETTINGS | self.required_settings
        optional = OPTIONAL_SETTINGS | self.optional_settings
        keys = {name: f"{architecture}.{setting}" for name, setting in (optional | required).items()}
        _check_neutral(architecture, settings, keys.values())
        read = {
            name: _number(key, find_setting(settings, key))
            for name, key in keys.items()
            if name in required or key in settings
        }
        defaults = {"n_kv_heads": read["n_heads"], "d_head": read["d_model"] // max(read["n_heads"], 1)}
        return ModelConfig.from_dict(_nest(defaults | known | read | self.shared_config))

    def matches(self, config: ModelConfig) -> bool:
        """Return whether a model has the values that all models of this family share.

        Raises TypeError for anything but a `ModelConfig`.
        """
        if not isinstance(config, ModelConfig):
            raise TypeError(f"config must be a ModelConfig, not {reprlib.repr(config)}")
        return all(_value(config, name) == value for name, value in self.shared_config.items())


def _value(config: ModelConfig, name: str) -> object:
    """Return a field of a configuration; None for one of a group, such as experts, that it hasn't."""
    group, _, inner = name.partition(".")
    value = getattr(config, group)
    return getattr(value, inner, None) if inner else value


def check_families(families: object) -> None:
    """Raise TypeError unless these are families by the names of their architectures."""
    listed = isinstance(families, Mapping) and {type(family) for family in families.values()} <= {Family}
    if not listed or not all(isinstance(name, str) for name in families):
        raise TypeError(
            f"families must map names to Family(…), as FAMILIES does, not {reprlib.repr(families)}"
        )


def find_setting(settings: Mapping, key: str) -> object:
    """Return one of a file's settings. Raises ValueError, which names it, where the file lacks it."""
    if key not in settings:
        raise ValueError(f"it lacks {key}, which a model's file has")
    return settings[key]


def _check_neutral(architecture: str, settings: Mapping, read: Collection[str]) -> None:
    """Raise NotHandled for a setting that changes what the model computes and isn't among those read."""
    for name, neutral in NEUTRAL_SETTINGS.items():
        key = f"{architecture}.{name}"
        if key not in read and (value := settings.get(key, neutral[0])) not in neutral:
            raise NotHandled(
                f"its {key} is {reprlib.repr(value)}, which changes what the model computes and isn't handled"
            )


def _number(key: str, value: object) -> float:
    if isinstance(value, list):
        raise NotHandled(f"its {key} is a list; handled is one number for all layers")
    if type(value) not in (bool, int, float):
        raise ValueError(f"its {key} is {reprlib.repr(value)}, which is no number")
    return value


def _nest(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields for `ModelConfig.from_dict`: "attention.window" is "window" in the field "attention"."""
    nested = {name: value for name, value in fields.items() if "." not in name}
    for name in fields.keys() - nested.keys():
        group, _, inner = name.partition(".")
        outer = nested.get(group) or {}
        outer = outer if isinstance(outer, Mapping) else asdict(outer)
        nested[group] = {**outer, inner: fields[name]}
    return nested


LLAMA = Family(
    shared_config={
        "positions": "rope",
        "norm": "rms",
        "norm_place": "pre",
        "feed_forward": "swiglu",
        "bias": False,
        "residual": True,
        "scale_embeddings": False,
        "attention": AttentionConfig(),
        "experts": None,
        "logit_cap": None,
        "head_bias": False,
    },
    required_settings={"norm_eps": "attention.layer_norm_rms_epsilon"},
    interleaved_rows=True,
    pre_tokenizers={"smollm": SMOLLM2, "gpt-2": GPT2},
    transformers_names={
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    },
)

# The architecture's name in the file → the family.
FAMILIES: Mapping[str, Family] = {"llama": LLAMA}
