"""The formulas of sampling, each in two or three lines.

Each function but the last two takes logits (…, vocab_size) and returns logits of the same shape and
precision; a token that it rules out gets −∞. They are chained, and the order changes the result; `draw` or
`greedy` comes last:

    draw(top_p(temperature(logits, 0.8), 0.95), generator)

Probabilities are computed in at least 32 bits. Not handled: checks. `sampling` has the same functions with
their arguments checked.
"""

import math

import torch
from torch import Tensor


def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by t: below 1 the likely become likelier, above 1 less so (Ackley, Hinton & Sejnowski 1985)."""
    return (logits.double() / t).to(logits.dtype)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep only the k likeliest tokens (Fan, Lewis & Dauphin 2018)."""
    last_kept = logits.topk(int(k), dim=-1).values[..., -1:]  # (…, 1)
    return logits.masked_fill(logits < last_kept, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep only the likeliest that together just reach probability p (Holtzman et al. 2020, section 3.1).

    In other words, rule out the tail that together has no more than 1 − p.
    """
    ascending, order = torch.sort(at_least_32_bits(logits), dim=-1, stable=True)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # (…, vocab_size), in ascending order
    tail[..., -1] = False  # the likeliest stays
    return logits.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep only tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    chances = at_least_32_bits(logits).softmax(dim=-1)  # (…, vocab_size)
    return logits.masked_fill(chances < p * chances.amax(dim=-1, keepdim=True), -math.inf)


def repetition_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make what occurs in `tokens` less likely: divide its logit by `penalty`, or multiply if below 0.

    tokens: ids (…, time); each counts once, however often it occurs. Keskar et al. (2019, section 4.1) divide
    whatever the sign, which makes tokens with negative logits likelier; `transformers` and others multiply
    those instead.
    """
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(occurrences(logits, tokens) > 0, weaker, logits)


def presence_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logit of what occurs in `tokens`, (…, time): OpenAI's definition."""
    present = occurrences(logits, tokens) > 0  # (…, vocab_size)
    return (at_least_32_bits(logits) - penalty * present).to(logits.dtype)


def frequency_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` once for each time that a token occurs in `tokens`: OpenAI's definition."""
    return (at_least_32_bits(logits) - penalty * occurrences(logits, tokens)).to(logits.dtype)


def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row, (…, vocab_size) → (…); at a tie the first."""
    return logits.max(dim=-1).indices  # in 16 bits several times as fast as argmax


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token of each row with its probability, (…, vocab_size) → (…).

    The probabilities are laid end to end on a line, one random number is drawn on it, and the token that it
    falls on is the result.
    """
    ends = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (…, vocab_size): where each token's stretch ends
    points = torch.rand(ends[..., :1].shape, generator=generator, dtype=ends.dtype, device=ends.device)
    return torch.searchsorted(ends, points * ends[..., -1:], right=True).squeeze(-1)


def occurrences(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return how often each token of the vocabulary occurs, tokens (…, time) → (…, vocab_size)."""
    ones = torch.ones_like(tokens, dtype=torch.float32)
    return torch.zeros_like(logits, dtype=torch.float32).scatter_add(-1, tokens.long(), ones)


def at_least_32_bits(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
