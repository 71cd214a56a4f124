"""The feed-forward layer: what each token computes alone, after attention has mixed the tokens."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.trace import record

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),  # the approximation that GPT-2 was trained with
}


class FeedForward(nn.Module):
    """down(activation(up x)), through d_ff channels (Vaswani et al. 2017, section 3.3).

    (…, d_model) → the same shape. With GELU: Hendrycks & Gimpel 2016.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.feed_forward]
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, trace=None) -> Tensor:
        hidden = record(trace, "hidden", self.activation(self.up(x)))  # (…, d_ff)
        return record(trace, "output", self.down(hidden))  # (…, d_model)


class SwiGLU(nn.Module):
    """down(silu(gate x) ⊙ up x), through d_ff channels (Shazeer 2020, section 2).

    (…, d_model) → the same shape.
    """

    activation = staticmethod(F.silu)

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, trace=None) -> Tensor:
        gate, up = self.project(x)  # (…, d_ff) each
        hidden = record(trace, "hidden", self.activation(gate) * up)  # (…, d_ff)
        return record(trace, "output", self.down(hidden))  # (…, d_model)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return gate x and up x, (…, d_ff) each."""
        return self.gate(x), self.up(x)


class GeGLU(SwiGLU):
    """down(gelu(gate x) ⊙ up x) (same paper)."""

    activation = staticmethod(F.gelu)


def make_feed_forward(config: ModelConfig) -> nn.Module:
    """Return the configuration's feed-forward layer, (…, d_model) → the same shape."""
    return {"swiglu": SwiGLU, "geglu": GeGLU}.get(config.feed_forward, FeedForward)(config)
