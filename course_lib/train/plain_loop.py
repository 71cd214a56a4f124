"""The training loop in its shortest form: predict, measure the loss, compute its gradient, take a step.

Not handled: checkpoints, several models, other losses, bf16 (`config.precision` is ignored), moving a batch
to a GPU, a progress bar, metrics, a loss that isn't finite, an interrupt in mid-step, and checks of the
arguments. `loop` handles them, and computes the same weights bit for bit.
"""

import torch.nn.functional as F
from torch import nn

from course_lib.train.config import TrainConfig
from course_lib.train.data import Source
from course_lib.train.loss import IGNORE
from course_lib.train.optimizer import make_optimizer, rate_share


def train_plainly(model: nn.Module, batches: Source, config: TrainConfig) -> None:
    """Train a decoder in place, on batches of tokens and targets, both (batch, time)."""
    model.train()
    optimizer = make_optimizer(model, config)
    # In the optimizer's order, as in `loop`: another order of summation would round the norm differently.
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for step in range(config.steps):
        tokens, targets = batches(step)  # (batch, time) each
        logits = model(tokens)  # (batch, time, vocab_size)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_share(step, config)
        optimizer.step()
