"""Adapters: small layers between the model's own (Houlsby et al. 2019, section 2.1; Bapna & Firat 2019).

Behind each attention and each feed-forward layer, before its result joins the residual stream:

    y + up(gelu(down(y)))          down: d_model → width      up: width → d_model

`up` begins as zeros, so at first nothing is changed. Unlike LoRA's, this path is not linear, so it can't be merged into weights: every
token takes two more small steps in each layer.

Houlsby et al. also train the layer norms; here, as in most later work, the adapters alone are trained.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Block
from course_lib.train.peft.attach import Wrapper, kind_of_numbers


@dataclass(frozen=True)
class Bottleneck:
    """width: of the small layer. Raises ValueError below 1."""

    width: int = 16

    def __post_init__(self):
        if type(self.width) is not int or self.width < 1:
            raise ValueError(f"width must be a whole number of at least 1, not {self.width!r}")

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        d_model, numbers = model.config.d_model, kind_of_numbers(model)
        return {
            f"{path}.{part}": BottleneckAdapter(getattr(block, part), d_model, self.width, generator, numbers)
            for path, block in model.named_modules()
            if isinstance(block, Block)
            for part in ("attention", "feed_forward")
        }


class BottleneckAdapter(Wrapper):
    """A sublayer and a small layer behind it, with the sublayer's own arguments; (batch, time, d_model) → the same shape."""

    def __init__(
        self,
        base: nn.Module,
        d_model: int,
        width: int,
        generator: torch.Generator,
        numbers: dict | None = None,
    ):
        super().__init__(base)
        numbers = numbers or {}
        first = torch.randn(width, d_model, generator=generator) * d_model**-0.5
        self.down = nn.Parameter(first.to(**numbers))
        self.down_bias = nn.Parameter(torch.zeros(width, **numbers))
        self.up = nn.Parameter(torch.zeros(d_model, width, **numbers))
        self.up_bias = nn.Parameter(torch.zeros(d_model, **numbers))

    def forward(self, *inputs, **named) -> Tensor:
        y = self.base(*inputs, **named)
        down, down_bias, up, up_bias = (
            w.to(y.dtype) for w in (self.down, self.down_bias, self.up, self.up_bias)
        )
        return y + F.linear(F.gelu(F.linear(y, down, down_bias)), up, up_bias)
