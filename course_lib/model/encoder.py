"""The encoder: it reads a whole text at once, and every token attends to every other."""

import torch
from torch import Tensor

from course_lib.model.block import Memory
from course_lib.model.config import ModelConfig
from course_lib.model.stack import Stack
from course_lib.model.trace import Trace


class Encoder(Stack):
    """The encoder of Vaswani et al. (2017, section 3.1), or the blocks of BERT (Devlin et al. 2018).

    >>> sizes = dict(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, d_head=4, d_ff=32)
    >>> config = ModelConfig(**sizes, context=8)
    >>> Encoder(config)(torch.tensor([[1, 2, 3]])).states.shape
    torch.Size([1, 3, 16])
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config, causal=False)

    def forward(self, tokens: Tensor, real: Tensor | None = None, trace: Trace | None = None) -> Memory:
        """Return the states, (batch, time, d_model), with the mask for attending to them.

        tokens: ids (batch, time). real: (batch, time), false at padding, to which no token then attends; the
        states of padding itself mean nothing. Raises ValueError as `Stack.run_layers` does, and for a
        sequence that is all padding.
        """
        if real is None:
            return Memory(self.run_layers(tokens, trace=trace))
        if real.dtype != torch.bool or real.shape != tokens.shape or not real.any(dim=1).all():
            raise ValueError(
                f"`real` must be true or false for each of the {tuple(tokens.shape)} tokens, "
                f"and true for at least one of each sequence; it is {tuple(real.shape)} of {real.dtype}"
            )
        return Memory(self.run_layers(tokens, trace=trace, real=real), real[:, None, None, :])
