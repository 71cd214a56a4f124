"""How wrong a model's predictions are, as one number to minimize."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.train.checks import check_fused_loss, check_loss_batch, check_targets

IGNORE = -100  # a target that doesn't count: padding, or a token of a prompt


def next_token_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross entropy in nats, (), the mean over all targets that aren't IGNORE.

    The cross entropy of a target is −log of the probability that the model gives to it.

    batch: the model's inputs, then the targets (batch, time). A decoder has one input, `model(tokens)`, an
        encoder-decoder three, `model(source, tokens, real)`; both return logits (batch, time, vocab_size).

    Raises ValueError for a batch that is no tuple, and for targets that aren't ids, one for each position.
    """
    check_loss_batch(batch, model)
    *inputs, targets = batch
    logits = model(*inputs)  # (batch, time, vocab_size)
    check_targets(targets, logits.shape[:-1], logits.shape[-1], IGNORE)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), ignore_index=IGNORE)


def token_log_probs(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return each target's log-probability under a decoder, in nats, (batch, time); 0 where it is IGNORE.

    Preference learning and RL are built from these: summed over a row, they are the log-probability of its
    answer.

    tokens, targets: (batch, time).

    Raises ValueError for targets that aren't ids, one for each token.
    """
    log_probs = model(tokens).float().log_softmax(dim=-1)  # (batch, time, vocab_size)
    check_targets(targets, log_probs.shape[:-1], log_probs.shape[-1], IGNORE)
    targets = targets.long()  # in 8 bits without a sign, IGNORE is an id
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

    Raises ValueError for a model whose output layer isn't a plain matrix, and as `next_token_loss` does.
    """
    # Imported here, because Triton takes a while to load, and most runs don't need it.
    from course_lib.kernels import linear_cross_entropy

    check_loss_batch(batch, model)
    check_fused_loss(model, batch)
    tokens, targets = batch
    hidden = model.last_hidden_state(tokens)  # (batch, time, d_model)
    check_targets(targets, hidden.shape[:-1], len(model.head.weight), IGNORE)
    return linear_cross_entropy(hidden, model.head.weight, targets.long(), ignore=IGNORE, backend=backend)
