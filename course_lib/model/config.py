"""The dials of a model. A published model is one setting of them: a row of a table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a decoder, by the names that papers use.

    vocab_size: tokens known. d_model: width of the residual stream. n_layers: blocks. n_heads: query heads; n_kv_heads:
    key and value heads, each shared by n_heads / n_kv_heads queries. d_head: width of a head. d_ff: width inside the
    feed-forward layer. context: longest sequence, in tokens. rope_base: base of the rotary angles. norm_eps: added to
    the mean square before its root is taken. tie_embeddings: the output layer is the embedding table again.

    Raises ValueError for sizes that can't fit together.
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

    def __post_init__(self):
        sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "context")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} query heads can't share {self.n_kv_heads} key-value heads evenly")
        if not self.rope_base > 0 or not self.norm_eps >= 0:
            raise ValueError(f"rope_base={self.rope_base} must be above 0, and norm_eps={self.norm_eps} not below")
        if self.d_head % 2:
            raise ValueError(f"d_head must be even, for rotary positions turn it in pairs; not {self.d_head}")
