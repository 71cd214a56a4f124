"""A family of published models as a row of a table: which dials make it, and what its files call things.

    read_gguf(path)                                                   whatever family of FAMILIES the file says it is of
    read_gguf(path, families=FAMILIES | {"qwen3": Family(…)})         one more

A row is data: nothing else in the library knows a family by its name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter

from course_lib.model import AttentionConfig, ModelConfig
from course_lib.text import GPT2, SMOLLM2

# A dial of `ModelConfig` → what GGUF calls it, behind the name of the architecture.
SIZES = {
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "d_ff": "feed_forward_length",
    "context": "context_length",
}
MAY_BE_MISSING = {
    "n_kv_heads": "attention.head_count_kv",
    "d_head": "rope.dimension_count",
    "rope_base": "rope.freq_base",
    "vocab_size": "vocab_size",
}

# GGUF's names of tensors → the course's: outside the blocks, and in one.
OUTSIDE = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}
IN_A_BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.output",
    "ffn_norm": "feed_forward_norm",
    "ffn_gate": "feed_forward.gate",
    "ffn_up": "feed_forward.up",
    "ffn_down": "feed_forward.down",
}


@dataclass(frozen=True)
class Family:
    """dials: the settings of `ModelConfig` that all its models share. settings, may_be_missing: further dials → the file's names, where a
    file must have them and where it may. outside, in_a_block: names of tensors → the course's. pairs_of_rows: llama.cpp has put the two
    rows of each rotary pair of queries and keys side by side. pre_tokenizers: the file's names → patterns (`text.pretokenize`).
    transformers: the course's names of a block's layers → those of `transformers`.
    """

    dials: Mapping[str, object]
    settings: Mapping[str, str] = field(default_factory=dict)
    may_be_missing: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=lambda: OUTSIDE)
    in_a_block: Mapping[str, str] = field(default_factory=lambda: IN_A_BLOCK)
    pairs_of_rows: bool = False
    pre_tokenizers: Mapping[str, str] = field(default_factory=dict)
    transformers: Mapping[str, str] = field(default_factory=dict)

    def config(self, architecture: str, fields: Mapping, **known: object) -> ModelConfig:
        """The configuration in a file's settings; `known` besides. `fields` raises ValueError for one that the file lacks."""
        must, may = SIZES | self.settings, MAY_BE_MISSING | self.may_be_missing
        read = {dial: fields[f"{architecture}.{name}"] for dial, name in must.items()}
        read |= {
            dial: fields[key] for dial, name in may.items() if (key := f"{architecture}.{name}") in fields
        }
        defaults = {"n_kv_heads": read["n_heads"], "d_head": read["d_model"] // read["n_heads"]}
        return ModelConfig.from_dict(_nested(defaults | known | read | self.dials))

    def is_of(self, config: ModelConfig) -> bool:
        """Whether a model has this family's dials."""
        return all(attrgetter(dial)(config) == value for dial, value in self.dials.items())


def _nested(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `ModelConfig.from_dict`: "attention.window" becomes "window" in the dictionary "attention"."""
    nested = {name: value for name, value in fields.items() if "." not in name}
    for name in fields.keys() - nested.keys():
        group, _, inner = name.partition(".")
        there = nested.get(group) or {}
        there = there if isinstance(there, Mapping) else asdict(there)
        nested[group] = {**there, inner: fields[name]}
    return nested


LLAMA = Family(
    dials={"positions": "rope", "norm": "rms", "norm_place": "pre", "feed_forward": "swiglu", "bias": False, "residual": True,
           "scale_embeddings": False, "attention": AttentionConfig(), "experts": None, "logit_cap": None, "head_bias": False},
    settings={"norm_eps": "attention.layer_norm_rms_epsilon", "vocab_size": "vocab_size"},
    pairs_of_rows=True,
    pre_tokenizers={"smollm": SMOLLM2, "gpt-2": GPT2},
    transformers={
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    },
)  # fmt: skip

# The architecture's name in the file → the family.
FAMILIES: Mapping[str, Family] = {"llama": LLAMA}
