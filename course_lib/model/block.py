"""One layer of a Transformer: the tokens talk, then each thinks; what they find is added to the stream.

    pre        x + part(norm x)                                  GPT-2, Llama (why: Xiong et al. 2020)
    post       norm(x + part(x))                                 the first Transformer, BERT
    parallel   x + attention(norm x) + feed_forward(norm x)      GPT-J, PaLM (Chowdhery et al. 2022, section 2)

`ModelConfig.norm_place` chooses. Cross-attention, where there is any, comes after attention was added; in "parallel" the
feed-forward layer still reads what attention read.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from course_lib.model.attention import NOWHERE, Attention, Remember
from course_lib.model.config import ModelConfig
from course_lib.model.experts import Experts
from course_lib.model.feed_forward import feed_forward
from course_lib.model.norms import norm
from course_lib.model.positions import Place
from course_lib.model.trace import at, note


class Memory(NamedTuple):
    """What an encoder made of a text: states (batch, time, d_model), and its mask, (batch, 1, 1, time) and true at real
    tokens, or None where all are."""

    states: Tensor
    mask: Tensor | None = None

    def source(self, layer: int) -> Tensor:
        """What a layer's cross-attention makes its keys and values of."""
        return self.states

    @property
    def batch(self) -> int:
        return len(self.states)


class ProjectedMemory(NamedTuple):
    """The same once the keys and values of each layer's cross-attention are worked out (`Decoder.project`): for each layer a pair,
    (batch, kv_heads, time, d_head) each."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor | None = None

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values."""
        return self.pairs[layer]

    @property
    def batch(self) -> int:
        return len(self.pairs[0][0])

    def rows(self, chosen: Sequence[int]) -> "ProjectedMemory":
        """Of some sequences of the batch only."""
        pairs = tuple((keys[chosen], values[chosen]) for keys, values in self.pairs)
        return ProjectedMemory(pairs, None if self.mask is None else self.mask[chosen])


class Block(nn.Module):
    """Attention, then (cross=True) attention to an encoder's states, then the feed-forward layer or a mixture of experts;
    (batch, time, d_model) → the same shape. layer: which of the stack's, counted from 0."""

    def __init__(self, config: ModelConfig, causal: bool = True, cross: bool = False, layer: int = 0):
        super().__init__()
        self.layer, self.norm_place, self.residual = layer, config.norm_place, config.residual
        self.attention_norm = norm(config)
        self.attention = Attention(config, causal, config.window_of(layer))
        self.cross_norm = norm(config) if cross else None
        self.cross_attention = Attention(config, causal=False) if cross else None
        self.feed_forward_norm = norm(config) if self.norm_place != "parallel" else None
        self.feed_forward = Experts(config) if config.n_experts else feed_forward(config)

    def forward(
        self,
        x: Tensor,
        place: Place = NOWHERE,
        remember: Remember | None = None,
        trace=None,
        memory: Memory | ProjectedMemory | None = None,
    ) -> Tensor:
        """place, remember, trace: as in `Attention`. memory: what cross-attention looks at."""
        x = note(trace, "input", x)
        read = self._read(x, self.attention_norm)
        x = self._join(x, self.attention(read, place, remember, at(trace, "attention")), self.attention_norm)
        if self.cross_attention is not None:
            asked, there = self._read(x, self.cross_norm), Place(mask=memory.mask)
            found = self.cross_attention(
                asked, there, trace=at(trace, "cross_attention"), source=memory.source(self.layer)
            )
            x = self._join(x, found, self.cross_norm)
        x = note(trace, "middle", x)
        if self.norm_place != "parallel":
            read = self._read(x, self.feed_forward_norm)
        x = self._join(x, self.feed_forward(read, at(trace, "feed_forward")), self.feed_forward_norm)
        return note(trace, "output", x)

    def _read(self, x: Tensor, norm: nn.Module) -> Tensor:
        """What a part is given of the stream."""
        return x if self.norm_place == "post" else norm(x)

    def _join(self, x: Tensor, found: Tensor, norm: nn.Module) -> Tensor:
        """The stream with what a part found."""
        x = x + found if self.residual else found
        return norm(x) if self.norm_place == "post" else x


def activation_names(config: ModelConfig, cross: bool = False) -> list[str]:
    """What a trace can see of a block, in the order of the run."""
    attention = ("query", "key", "value", "weights", "heads", "output")
    names = ["input", *(f"attention.{name}" for name in attention)]
    names += [f"cross_attention.{name}" for name in attention if cross]
    inner = "router" if config.n_experts else "hidden"
    return [*names, "middle", f"feed_forward.{inner}", "feed_forward.output", "output"]
