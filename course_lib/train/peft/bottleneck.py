"""Adapters: small layers between the model's own (Houlsby et al. 2019, section 2.1; Bapna & Firat 2019).

After each attention and each feed-forward layer, before its output y is added to the residual stream:

    y + up(gelu(down(y)))          down: d_model → width      up: width → d_model

`up` is initialized with zeros, so that attaching it changes no output. Unlike LoRA's update, this step isn't
linear and can't be merged into weights: it costs two more small matrix products per sub-layer.

Houlsby et al. also train the layer norms. Here, as in most later work, only the adapters are trained.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Block
from course_lib.train.checks import own_whole
from course_lib.train.peft.attach import Wrapper, factory_kwargs

MOST_WIDTH = 65_536


@dataclass(frozen=True)
class Bottleneck:
    """Adapters of a given width in all blocks.

    Raises ValueError for a width out of range and, when it is attached, for a model without blocks.
    """

    width: int = 16

    def __post_init__(self):
        object.__setattr__(self, "width", own_whole("width", self.width, 1, MOST_WIDTH))

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`."""
        blocks = {path: block for path, block in model.named_modules() if isinstance(block, Block)}
        if not blocks:
            raise ValueError("adapters go into the blocks of a Decoder, and this model has none: take LoRA")
        d_model, kwargs = model.config.d_model, factory_kwargs(model)
        return {
            f"{path}.{part}": BottleneckAdapter(getattr(block, part), d_model, self.width, generator, kwargs)
            for path, block in blocks.items()
            for part in ("attention", "feed_forward")
        }


class BottleneckAdapter(Wrapper):
    """A sub-layer and the adapter after it, (batch, time, d_model) → the same shape.

    `forward` takes the sub-layer's arguments.

    base: the sub-layer.
    d_model, width: the sizes of its output and of the adapter's hidden layer.
    generator: for the initial values of `down`.
    kwargs: dtype and device of the adapter's parameters.
    """

    def __init__(
        self,
        base: nn.Module,
        d_model: int,
        width: int,
        generator: torch.Generator,
        kwargs: dict | None = None,
    ):
        super().__init__(base)
        kwargs = kwargs or {}
        initial = torch.randn(width, d_model, generator=generator) * d_model**-0.5
        self.down = nn.Parameter(initial.to(**kwargs))  # (width, d_model)
        self.down_bias = nn.Parameter(torch.zeros(width, **kwargs))  # (width,)
        self.up = nn.Parameter(torch.zeros(d_model, width, **kwargs))  # (d_model, width)
        self.up_bias = nn.Parameter(torch.zeros(d_model, **kwargs))  # (d_model,)

    def forward(self, *inputs, **named) -> Tensor:
        y = self.base(*inputs, **named)  # (batch, time, d_model)
        parameters = (self.down, self.down_bias, self.up, self.up_bias)
        down, down_bias, up, up_bias = (weight.to(y.dtype) for weight in parameters)
        hidden = F.gelu(F.linear(y, down, down_bias))  # (batch, time, width)
        return y + F.linear(hidden, up, up_bias)  # (batch, time, d_model)
