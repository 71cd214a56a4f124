"""The dials of a model. A published model is one setting of them: a row of a table."""

import math
from dataclasses import dataclass

CHOICES = {
    "positions": ("rope", "rope-interleaved", "alibi", "sinusoidal", "learned", "none"),
    "norm": ("rms", "layer", "none"),
    "norm_place": ("pre", "post", "parallel"),
    "feed_forward": ("swiglu", "geglu", "gelu", "gelu-tanh", "relu"),
}
SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "context")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes, kinds and constants of a Transformer, by the names that papers use.

    Sizes. vocab_size: tokens known. d_model: width of the residual stream. n_layers: blocks (of each stack, where there are
    two). n_heads: query heads; n_kv_heads: key and value heads, each shared by n_heads / n_kv_heads queries. d_head: width
    of a head. d_ff: width inside the feed-forward layer (of each expert, where there are some). context: longest sequence,
    in tokens.

    Kinds, `CHOICES` lists them. positions: how a token knows where it stands. norm: what keeps activations steady;
    norm_place: before each part of a block ("pre"), after it was added ("post"), or once before both ("parallel").
    feed_forward: what each token does alone. bias: linear layers and layer norms add one. residual: parts add to the
    stream; False, for experiments, lets them replace it. tie_embeddings: the output layer is the embedding table again.
    head_bias: the output layer adds one.
    scale_embeddings: multiply embeddings by √d_model, as the first Transformer does.

    Experts. n_experts: feed-forward layers to choose from, 0 for a single, dense one. n_active: how many each token takes.
    n_shared: experts that every token takes besides. normalize_gates: the chosen experts' shares add up to 1. capacity:
    each expert takes at most capacity · (tokens · n_active / n_experts) tokens, the later ones are turned away; None turns
    nobody away.

    Attention. qk_norm: queries and keys are normalized, head by head, before they are turned (Qwen3). window: a token sees itself
    and the window − 1 tokens before it (Mistral); None, all of them. global_every: every so many layers, one sees all tokens in spite
    of the window (Gemma 2: 2, Gemma 3: 6); 0, none does. attention_scale: the factor on scores; None, 1 / √d_head. attention_cap,
    logit_cap: scores and logits x become cap · tanh(x / cap) (Gemma 2); None, they stay.

    Constants. rope_base: base of the rotary angles. norm_eps: added to the mean square before its root is taken.

    Raises ValueError for sizes that can't fit together and kinds that there are not.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    context: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    scale_embeddings: bool = False
    positions: str = "rope"
    norm: str = "rms"
    norm_place: str = "pre"
    feed_forward: str = "swiglu"
    bias: bool = False
    residual: bool = True
    n_experts: int = 0
    n_active: int = 2
    n_shared: int = 0
    normalize_gates: bool = True
    capacity: float | None = None
    head_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    global_every: int = 0
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token sees in this layer, counted from 0; None for all."""
        sees_all = self.global_every and (layer + 1) % self.global_every == 0
        return None if sees_all else self.window

    def __post_init__(self):
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; not {getattr(self, name)!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads can't share {self.n_kv_heads} key-value heads evenly"
            )
        if not self.rope_base > 0 or not self.norm_eps >= 0:
            raise ValueError(
                f"rope_base={self.rope_base} must be above 0, and norm_eps={self.norm_eps} not below"
            )
        if self.positions.startswith("rope") and self.d_head % 2:
            raise ValueError(f"d_head must be even, for rotary positions turn it in pairs; not {self.d_head}")
        if self.norm_place == "parallel" and not self.residual:
            raise ValueError(
                "parallel parts without residual would lose what attention found: use pre or post"
            )
        self._check_attention()
        if self.n_experts < 0:
            raise ValueError(f"n_experts must be 0, for a dense model, or more; not {self.n_experts}")
        if self.n_experts:
            self._check_experts()

    def _check_attention(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 token, or None to see all; not {self.window}")
        if self.global_every < 0 or (self.global_every and self.window is None):
            raise ValueError(
                f"global_every={self.global_every} must be 0 or more, and is for models with a window"
            )
        for name in ("attention_scale", "attention_cap", "logit_cap"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, or None for none; not {value}")

    def _check_experts(self):
        if not 1 <= self.n_active <= self.n_experts or self.n_shared < 0:
            raise ValueError(
                f"of {self.n_experts} experts a token can take 1 to {self.n_experts}, not {self.n_active}; and "
                f"n_shared={self.n_shared} can't be below 0"
            )
        if self.n_active == 1 and self.normalize_gates:
            raise ValueError(
                "a single expert's share, normalized, is always 1, so its router would never learn: "
                "set normalize_gates=False (as the Switch Transformer does) or n_active=2"
            )
        if self.capacity is not None and not 0 < self.capacity < math.inf:
            raise ValueError(f"capacity must be above 0, or None for no limit; not {self.capacity}")
