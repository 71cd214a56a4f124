"""The likelihood of a text under a model."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.arguments import token_ids, whole
from course_lib.model import Decoder

NOT_NUMBERS = (
    "the model's log-probabilities aren't numbers (NaN). One of its weights is NaN or infinite, or a sum in "
    "it grew too large: look for the first such value with a Trace, and take an earlier checkpoint"
)


@torch.no_grad()
def log_likelihood(model: Decoder, prompt: Sequence[int], continuation: Sequence[int]) -> Tensor:
    """Return the log-probability of each token of `continuation`, (time,), in nats.

    Each token is scored after the prompt and all tokens before it. `.sum()` is the log-likelihood of the
    continuation, `.mean()` that of a token. The logits are used as they are, without temperature or other
    sampling settings. Raises ValueError for an empty prompt, since the first token of the continuation must
    follow something, for token ids outside the vocabulary, and for a model whose log-probabilities are NaN;
    TypeError for anything but whole numbers.
    """
    prompt, continuation = token_ids("prompt", prompt), token_ids("continuation", continuation)
    if not prompt:
        raise ValueError("the prompt is empty: the first token has nothing to be likely after")
    check_token_ids(continuation, model.config.vocab_size)
    tokens = torch.tensor([[*prompt, *continuation]], device=model.embedding.weight.device)
    targets = tokens[:, len(prompt) :]  # (1, time); time is the length of the continuation
    # The model needn't read the last token, which may lie one position beyond the context.
    inputs = tokens[:, : max(len(prompt), tokens.shape[1] - 1)]
    hidden = model.last_hidden_state(inputs)[:, len(prompt) - 1 :]
    # hidden is (1, time, d_model). For an empty continuation it is (1, 1, d_model), and nothing is gathered.
    log_probs = model.logits(hidden).float().log_softmax(dim=-1)  # (1, time, vocab_size), likewise
    return refuse_nan(log_probs.gather(-1, targets.unsqueeze(-1))[0, :, 0])


def refuse_nan(log_probs: Tensor) -> Tensor:
    """Return log-probabilities. Raises ValueError if one is NaN; −∞ is that of a token that can't come."""
    if log_probs.isnan().any():
        raise ValueError(NOT_NUMBERS)
    return log_probs


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
    than `window`, for ids that aren't whole numbers within the vocabulary, and for a model whose
    log-probabilities are NaN.
    """
    tokens = _check_row(tokens)
    window = whole("window", window)
    if window < 1 or len(tokens) <= window:
        count = len(tokens)
        raise ValueError(f"a window of {window} tokens with targets doesn't fit into a row of {count} ids")
    windows = tokens.unfold(0, window + 1, window)  # (windows, window + 1), overlapping in one token
    total = 0.0
    for part in windows.split(whole("batch", batch, 1)):
        logits = _check_logits(model(part[:, :-1]), part)  # (batch, window, vocab_size)
        total += F.cross_entropy(logits.float().flatten(0, -2), part[:, 1:].flatten(), reduction="sum").item()
    if math.isnan(total):
        raise ValueError(NOT_NUMBERS)
    return total / (len(windows) * window)


def _check_row(tokens: Tensor) -> Tensor:
    """Return one sequence of token ids, (length,), in 64 bits."""
    tokens = tokens if isinstance(tokens, Tensor) else torch.tensor(token_ids("tokens", tokens))
    fractions = tokens.is_floating_point() or tokens.is_complex()
    if tokens.dim() != 1 or fractions or tokens.dtype == torch.bool:
        got = f"{tuple(tokens.shape)} of {tokens.dtype}"
        raise ValueError(f"tokens must be one row of token ids, (length,), whole numbers; not {got}")
    return tokens.long()


def _check_logits(logits: Tensor, windows: Tensor) -> Tensor:
    """Return what a model made of windows, (batch, window + 1), if each of their ids has a logit."""
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise ValueError("the model must return logits, (batch, time, vocab_size): is it a language model?")
    if not 0 <= windows.min() <= windows.max() < logits.shape[-1]:
        ids = f"{windows.min()} to {windows.max()}"
        raise ValueError(f"the token ids run from {ids}, and the vocabulary has {logits.shape[-1]}")
    return logits
