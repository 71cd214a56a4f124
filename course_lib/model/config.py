"""The configuration of a Transformer. A published model is one setting of it (`families`).

What the values must satisfy stands in `config_checks`. Not handled: norms both before and after a sub-layer
(Gemma 2 and 3), several bases of rotary angles in one model (Gemma 3), keys and values compressed together
(DeepSeek-V2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from course_lib.model.config_checks import (
    check_attention_config,
    check_experts_config,
    check_model_config,
    check_names,
)


@dataclass(frozen=True)
class AttentionConfig:
    """How attention differs from the usual. Raises ValueError, naming the field, for impossible values."""

    qk_norm: bool = False  # normalize each head's queries and keys before they are rotated (Qwen3)
    window: int | None = None  # a token attends to itself and the window − 1 before (Mistral); None: to all
    global_every: int = 0  # every n-th layer ignores the window (Gemma 2: 2, Gemma 3: 6); 0: none does
    scale: float | None = None  # the factor on scores; None: 1 / √d_head
    cap: float | None = None  # a score x becomes cap · tanh(x / cap) (Gemma 2); None: it stays

    def __post_init__(self):
        check_attention_config(self)


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of the feed-forward layer. Raises ValueError for impossible values."""

    n_experts: int  # feed-forward layers to choose from, each d_ff wide
    n_active: int = 2  # how many of them each token uses
    n_shared: int = 0  # further experts, which every token uses (DeepSeekMoE)
    normalize_shares: bool = True  # the shares (routing weights) of a token's experts add up to 1
    # An expert takes at most capacity_factor · tokens · n_active / n_experts tokens; None: any number.
    capacity_factor: float | None = None

    def __post_init__(self):
        check_experts_config(self)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes, kinds and constants of a Transformer, by the names that papers use.

    Raises ValueError, naming the field, for a value of a wrong type (sizes are whole numbers, all numbers
    finite; those of NumPy are stored as Python's own), for sizes that can't fit together, and for a kind that
    doesn't exist.
    """

    # Sizes
    vocab_size: int  # tokens known
    d_model: int  # width of the residual stream
    n_layers: int  # blocks (of each stack, in an encoder-decoder)
    n_heads: int  # query heads
    n_kv_heads: int  # key and value heads, each shared by n_heads / n_kv_heads query heads
    d_head: int  # width of a head
    d_ff: int  # width inside the feed-forward layer (of each expert, in a mixture)
    context: int  # longest sequence, in tokens

    # Positions
    positions: str = "rope"  # or "rope-interleaved", "alibi", "sinusoidal", "learned", "none"
    rope_base: float = 10_000.0  # base of the rotary angles

    # Blocks
    norm: str = "rms"  # or "layer", "none"
    norm_place: str = "pre"  # before each sub-layer; "post": after it; "parallel": once, before both
    norm_eps: float = 1e-5  # added to the mean square before its root is taken
    residual: bool = True  # sub-layers add to the stream; False, for experiments: they replace it
    feed_forward: str = "swiglu"  # or "geglu", "gelu", "gelu-tanh", "relu"
    bias: bool = False  # linear layers and layer norms have a bias
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    experts: ExpertsConfig | None = None  # None: one dense feed-forward layer

    # Embedding and head
    tie_embeddings: bool = True  # the head's matrix is the embedding table again
    scale_embeddings: bool = False  # multiply embeddings by √d_model, as the first Transformer does
    head_bias: bool = False  # the head adds a bias
    logit_cap: float | None = None  # a logit x becomes logit_cap · tanh(x / logit_cap) (Gemma 2)

    def __post_init__(self):
        check_model_config(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> "ModelConfig":
        """Return the configuration with these fields, as `dataclasses.asdict` returns them.

        Raises ValueError for a name that isn't a field, for a field without a default that is missing, and
        where the configuration itself does.
        """
        check_names(cls, fields)
        fields = dict(fields)
        for name, kind in {"attention": AttentionConfig, "experts": ExpertsConfig}.items():
            if isinstance(fields.get(name), Mapping):
                check_names(kind, fields[name], f"{name}.")
                fields[name] = kind(**fields[name])
        return cls(**fields)

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a token attends to in this layer, counted from 0; None for all."""
        every = self.attention.global_every
        return None if every and (int(layer) + 1) % every == 0 else self.attention.window
