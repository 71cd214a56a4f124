"""The likelihood of a text under a model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Decoder


@torch.inference_mode()
def log_likelihood(model: Decoder, prompt: Sequence[int], continuation: Sequence[int]) -> Tensor:
    """Return the log-probability of each token of `continuation`, (time,), in nats.

    Each token is scored after the prompt and all tokens before it. `.sum()` is the log-likelihood of the
    continuation, `.mean()` that of a token. The logits are used as they are, without temperature or other
    sampling settings. Raises ValueError for an empty prompt, since the first token of the continuation must
    follow something, and for token ids outside the vocabulary.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: the first token has nothing to be likely after")
    check_token_ids(continuation, model.config.vocab_size)
    tokens = torch.tensor([[*prompt, *continuation]], device=model.embedding.weight.device)
    targets = tokens[:, len(prompt) :]  # (1, time); time is the length of the continuation
    # The model needn't read the last token, which may lie one position beyond the context.
    inputs = tokens[:, : max(len(prompt), tokens.shape[1] - 1)]
    hidden = model.last_hidden_state(inputs)[:, len(prompt) - 1 :]
    # hidden is (1, time, d_model). For an empty continuation it is (1, 1, d_model), and nothing is gathered.
    log_probs = model.logits(hidden).float().log_softmax(dim=-1)  # (1, time, vocab_size), likewise
    return log_probs.gather(-1, targets.unsqueeze(-1))[0, :, 0]


def check_token_ids(continuation: Sequence[int], vocab_size: int) -> None:
    """Raise ValueError if a token id of `continuation` lies outside the vocabulary."""
    if len(continuation) and not 0 <= min(continuation) <= max(continuation) < vocab_size:
        raise ValueError(
            f"the continuation's token ids run from {min(continuation)} to {max(continuation)}, but the "
            f"vocabulary holds 0 to {vocab_size - 1}: were they made by this model's tokenizer?"
        )


@torch.inference_mode()
def held_out_loss(model: nn.Module, tokens: Tensor, window: int, batch: int = 64) -> float:
    """Return the mean of −log p, in nats, over one long sequence of token ids.

    tokens: (length,). window: the length of the windows that the model reads. batch: how many windows it
    reads at once. As in training, each token of a window has a target, so every id but the first is scored
    once; ids at the end that don't fill a window are left out. Raises ValueError if there aren't more ids
    than `window`.
    """
    if window < 1 or len(tokens) <= window:
        count = len(tokens)
        raise ValueError(f"a window of {window} tokens with targets doesn't fit into a row of {count} ids")
    windows = tokens.unfold(0, window + 1, window)  # (windows, window + 1), overlapping in one token
    total = 0.0
    for part in windows.split(batch):
        logits = model(part[:, :-1]).float().flatten(0, -2)  # (batch · window, vocab_size)
        total += F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
    return total / (len(windows) * window)
