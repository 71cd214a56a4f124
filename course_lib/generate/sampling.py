"""Logits → one token."""

import math

import torch
from torch import Tensor


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / temperature) over the last dimension. Below 1 the likely become likelier, above 1 less so.

    Raises ValueError for a temperature that isn't above 0, or logits whose largest is not finite.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be above 0, not {temperature}; for the likeliest token always, decode greedily")
    below_the_top = _finite(logits) - logits.amax(dim=-1, keepdim=True)
    return (below_the_top.double() / temperature).softmax(dim=-1).float()


def sample(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token for each row of (batch, vocab_size) logits → (batch,).

    temperature 0: the likeliest ("greedy"). top_k: only among the k likeliest (Fan et al. 2018). top_p: only among the
    likeliest that together just reach probability p ("nucleus", Holtzman et al. 2020). Raises ValueError for settings
    outside 1 ≤ top_k ≤ vocab_size, 0 < top_p ≤ 1, temperature ≥ 0.
    """
    if top_k is not None and not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k must lie between 1 and the vocabulary's {logits.shape[-1]}, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie above 0 and at most at 1, not {top_p}")
    if temperature == 0:
        return _finite(logits).argmax(dim=-1)
    chances, order = probabilities(logits, temperature).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        chances[..., top_k:] = 0
    if top_p is not None and top_p < 1:
        outside = chances.cumsum(dim=-1) - chances >= top_p * chances.sum(dim=-1, keepdim=True)
        outside[..., 0] = False
        chances[outside] = 0
    drawn = torch.multinomial(chances, 1, generator=generator)
    return order.gather(-1, drawn).squeeze(-1)


def _finite(logits: Tensor) -> Tensor:
    if not logits.amax(dim=-1).isfinite().all():
        raise ValueError("the logits' largest value is not finite (NaN, +∞, or all −∞): the model's numbers went wrong")
    return logits
