"""How wrong a model is, as one number to make smaller."""

import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100  # a target that doesn't count: padding, or a prompt that the model is given anyway


def next_token_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Cross entropy in nats, the mean over the targets that aren't IGNORE: −log of the probability given to the right token.

    batch: what the model reads, then the targets (batch, time). One thing to read, `model(tokens)`, for a decoder; three,
    `model(source, tokens, real)`, for an encoder-decoder. Either returns logits (batch, time, vocab_size).
    """
    *inputs, targets = batch
    logits = model(*inputs)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)
