"""How wrong a model's predictions are, as one number to minimize."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.train.checks import check_fused_loss, check_tuple

IGNORE = -100  # a target that doesn't count: padding, or a token of a prompt


def next_token_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross entropy in nats, (), the mean over all targets that aren't IGNORE.

    The cross entropy of a target is −log of the probability that the model gives to it.

    batch: the model's inputs, then the targets (batch, time). A decoder has one input, `model(tokens)`, an
        encoder-decoder three, `model(source, tokens, real)`; both return logits (batch, time, vocab_size).

    Raises ValueError for a batch that is a dictionary.
    """
    check_tuple(batch)
    *inputs, targets = batch
    logits = model(*inputs)  # (batch, time, vocab_size)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)


def token_log_probs(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return each target's log-probability under a decoder, in nats, (batch, time); 0 where it is IGNORE.

    Preference learning and RL are built from these: summed over a row, they are the log-probability of its
    answer.

    tokens, targets: (batch, time).
    """
    log_probs = model(tokens).float().log_softmax(dim=-1)  # (batch, time, vocab_size)
    counts = targets != IGNORE  # (batch, time)
    indices = targets.where(counts, 0).unsqueeze(-1)  # (batch, time, 1)
    chosen = log_probs.gather(-1, indices).squeeze(-1)  # (batch, time)
    return torch.where(counts, chosen, 0.0)


def fused_next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor], backend: str = "auto") -> Tensor:
    """Return the `next_token_loss` of a decoder, (), without storing all of its logits.

    The logits, (batch, time, vocab_size), are the largest tensor of a training step when the vocabulary is
    large. Here the output layer, the loss and their gradients are computed for a chunk of tokens at a time.

    batch: tokens and targets, both (batch, time).
    backend: as in `kernels.use_triton`.

    Raises ValueError for a model whose output layer isn't a plain matrix.
    """
    # Imported here, because Triton takes a while to load, and most runs don't need it.
    from course_lib.kernels import linear_cross_entropy

    check_fused_loss(model, batch)
    tokens, targets = batch
    hidden = model.last_hidden_state(tokens)  # (batch, time, d_model)
    return linear_cross_entropy(hidden, model.head.weight, targets, ignore=IGNORE, backend=backend)
