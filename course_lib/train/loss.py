"""How wrong a model is, as one number to make smaller."""

import torch
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


def token_log_probs(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """log of the probability that a decoder gives to each target after what it has read, in nats, (batch, time); 0 where a target is
    IGNORE. Preference learning and RL are made of these: summed over a row, they are the log-probability of its answer."""
    logits = model(tokens).float()
    counts = targets != IGNORE
    picked = logits.log_softmax(dim=-1).gather(-1, targets.where(counts, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(counts, picked, 0.0)


def fused_next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor], backend: str = "auto") -> Tensor:
    """`next_token_loss` of a decoder that never holds all logits, (batch, time, vocab_size), which of a large vocabulary are the
    largest tensor of a training step: the output layer, the loss and their gradients take a chunk of tokens at a time.

    backend: as in `kernels.use_triton`. Raises ValueError for a model whose output layer isn't a plain matrix.
    """
    from course_lib.kernels import (
        linear_cross_entropy,  # here, for Triton takes a while to load, and most runs don't need it
    )

    head = getattr(model, "head", None)
    capped = getattr(getattr(model, "config", None), "logit_cap", None) is not None
    if type(head) is not nn.Linear or head.bias is not None or capped or len(batch) != 2:
        raise ValueError(
            "this loss needs a decoder whose head is an nn.Linear without bias or soft cap, and batches of tokens and targets: "
            "use next_token_loss"
        )
    tokens, targets = batch
    return linear_cross_entropy(model.last_hidden_state(tokens), head.weight, targets, ignore=IGNORE, backend=backend)
