"""One layer of a Transformer: the tokens talk, then each thinks; both add to the stream and replace nothing."""

from torch import Tensor, nn

from course_lib.model.attention import Attention
from course_lib.model.config import ModelConfig
from course_lib.model.feed_forward import SwiGLU
from course_lib.model.norms import RMSNorm
from course_lib.model.trace import at, note


class Block(nn.Module):
    """x + attention(norm x), then x + feed_forward(norm x): "pre-norm". (batch, time, d_model) → the same shape."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = SwiGLU(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], remember=None, trace=None) -> Tensor:
        x = note(trace, "input", x)
        x = x + self.attention(self.attention_norm(x), rotary, remember, at(trace, "attention"))
        x = note(trace, "middle", x)
        x = x + self.feed_forward(self.feed_forward_norm(x), at(trace, "feed_forward"))
        return note(trace, "output", x)
