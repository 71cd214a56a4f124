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


def fused_next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor], backend: str = "auto") -> Tensor:
    """`next_token_loss` of a decoder that never holds all logits, (batch, time, vocab_size), which of a large vocabulary are the
    largest tensor of a training step: the output layer, the loss and their gradients take a chunk of tokens at a time.

    backend: as in `kernels.use_triton`. Raises ValueError for a model whose output layer isn't a plain matrix.
    """
    from course_lib.kernels import (
        linear_cross_entropy,  # here, for Triton takes a while to load, and most runs don't need it
    )

    head = getattr(model, "head", None)
    if type(head) is not nn.Linear or head.bias is not None or len(batch) != 2:
        raise ValueError(
            "this loss needs a decoder whose head is an nn.Linear without bias, and batches of tokens and targets: "
            "use next_token_loss"
        )
    tokens, targets = batch
    return linear_cross_entropy(model.hidden(tokens), head.weight, targets, ignore=IGNORE, backend=backend)
