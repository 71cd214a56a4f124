"""Logits → one token.

Each knob takes logits (…, vocab_size) and gives logits of the same shape and precision; a token that it rules out gets −∞.
So knobs compose by calling one after another, in any order (the order matters), and `draw` or `greedy` ends the chain:

    draw(top_p(temperature(logits, 0.8), 0.95), generator)

None changes its input, each leaves every row at least one token, and each raises ValueError for logits that hold NaN or +∞,
or a row of nothing but −∞. At a tie, as in Hugging Face's `transformers`, top-k and min-p keep all that are as likely as the
last one kept, and top-p only as many as it needs: here the later ones in the vocabulary, there whichever an unstable sort
puts last. Where logits are of 16 bits, probabilities are worked out in 32 all the same, which `transformers` doesn't do.

Not handled: beam search, typical and contrastive sampling; settings that differ from row to row.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor


def temperature(logits: Tensor, t: float) -> Tensor:
    """Below 1 the likely become likelier, above 1 less so (Ackley, Hinton & Sejnowski 1985).

    Raises ValueError for t that isn't above 0, or so near 0 that the result doesn't fit the precision.
    """
    _expect_temperature(t)
    warmed = (_finite(logits).double() / t).to(logits.dtype)
    return _fitting(warmed, f"temperature {t}", "decode greedily instead")


def top_k(logits: Tensor, k: int) -> Tensor:
    """Only the k likeliest (Fan, Lewis & Dauphin 2018). Raises ValueError unless 1 ≤ k ≤ vocab_size."""
    size = _finite(logits).shape[-1]
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= size:
        raise ValueError(f"top_k must be a whole number between 1 and the vocabulary's {size}, not {k!r}")
    last_kept = logits.topk(int(k), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < last_kept, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Only the likeliest that together just reach probability p, the "nucleus" (Holtzman et al. 2020, section 3.1).

    In other words, the tail that together has no more than 1 − p goes. Raises ValueError unless 0 < p ≤ 1.
    """
    if not _is_number(p) or not 0 < p <= 1:
        raise ValueError(f"top_p must lie above 0 and at most at 1, not {p!r}")
    ascending, order = torch.sort(_wide(_finite(logits)), dim=-1, stable=True)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    tail[..., -1] = False
    return logits.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Only those at least p times as likely as the likeliest (Nguyen et al. 2024). Raises ValueError unless 0 ≤ p ≤ 1."""
    if not _is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"min_p must lie between 0 and 1, not {p!r}")
    chances = _wide(_finite(logits)).softmax(dim=-1)
    return logits.masked_fill(chances < p * chances.amax(dim=-1, keepdim=True), -math.inf)


def repetition_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make what occurs in `tokens` less likely: divide its logit by `penalty`, or multiply where the logit is below 0.

    tokens: ids (…, time), counted once however often they occur. Keskar et al. (2019, section 4.1) divide whatever the sign, which
    would make tokens with negative logits likelier; multiplying is what `transformers` and others do instead. 1 changes
    nothing. Raises ValueError for a penalty that isn't above 0 or makes the logits outgrow their precision, or ids outside the vocabulary.
    """
    if not _is_number(penalty) or not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty must be above 0 (1 changes nothing), not {penalty!r}")
    weaker = torch.where(_finite(logits) < 0, logits * penalty, logits / penalty)
    return _fitting(torch.where(_counts(logits, tokens) > 0, weaker, logits), f"repetition_penalty {penalty}")


def presence_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logit of what occurs in `tokens` (…, time), however often: OpenAI's definition, and vLLM's.

    They count what was written and not the prompt: pass only that. A negative penalty invites repetition.
    Raises ValueError for a penalty that isn't finite or makes the logits outgrow their precision, or ids outside the vocabulary.
    """
    return _subtract(logits, _counts(logits, tokens) > 0, "presence_penalty", penalty)


def frequency_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """The same once for every time that it occurs: OpenAI's definition, and vLLM's."""
    return _subtract(logits, _counts(logits, tokens), "frequency_penalty", penalty)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest of each row, (…, vocab_size) → (…); at a tie the first."""
    return _finite(logits).max(dim=-1).indices  # in 16 bits several times as fast as argmax


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A token of each row by lot, as often as its probability says: (…, vocab_size) → (…).

    The probabilities are laid end to end on a line, one random number is drawn on it, and the token that it falls on is taken.
    """
    ends = _finite(logits).double().softmax(dim=-1).cumsum(dim=-1)
    points = torch.rand(ends[..., :1].shape, generator=generator, dtype=ends.dtype, device=ends.device)
    return torch.searchsorted(ends, points * ends[..., -1:], right=True).squeeze(-1)


# The knobs that need to know nothing but the logits, in the order in which `sample` turns them.
KNOBS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
}


def sample(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token for each row of (…, vocab_size) logits → (…). The usual knobs in the usual order, and a draw.

    temperature 0: the likeliest ("greedy"), whatever the others say. Raises ValueError for settings that a knob refuses.
    """
    if temperature == 0 and (top_k, top_p, min_p) == (None, None, None):
        return greedy(logits)
    # Relative to the likeliest: the same probabilities, and even at a temperature near 0 nothing overflows.
    adjusted = _below_the_top(logits)
    settings = {"temperature": temperature or None, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for name, value in settings.items():
        if value is not None:
            adjusted = KNOBS[name](adjusted, value)
    return greedy(logits) if temperature == 0 else draw(adjusted, generator)


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / temperature) over the last dimension, in 32 bits.

    Raises ValueError for a temperature that isn't above 0, or logits gone wrong.
    """
    _expect_temperature(temperature)
    return (_below_the_top(logits).double() / temperature).softmax(dim=-1).float()


def _expect_temperature(t: float) -> None:
    if not _is_number(t) or not 0 < t < math.inf:
        raise ValueError(
            f"temperature must be above 0, not {t!r}; for the likeliest token always, decode greedily"
        )


def _subtract(logits: Tensor, times: Tensor, name: str, penalty: float) -> Tensor:
    if not _is_number(penalty) or not math.isfinite(penalty):
        raise ValueError(f"{name} must be a finite number (0 changes nothing), not {penalty!r}")
    return _fitting((_wide(_finite(logits)) - penalty * times).to(logits.dtype), f"{name} {penalty}")


def _counts(logits: Tensor, tokens: Tensor) -> Tensor:
    """How often each token of the vocabulary occurs in each row, (…, vocab_size)."""
    size = logits.shape[-1]
    if tokens.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and logits {tuple(logits.shape)} must have the same rows"
        )
    whole = not tokens.is_floating_point() and tokens.dtype != torch.bool
    if tokens.numel() and not (whole and 0 <= tokens.min() <= tokens.max() < size):
        raise ValueError(
            f"tokens must lie between 0 and {size - 1}, the vocabulary's last, and be whole numbers"
        )
    ones = torch.ones_like(tokens, dtype=torch.float32)
    return torch.zeros_like(logits, dtype=torch.float32).scatter_add(-1, tokens.long(), ones)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _wide(logits: Tensor) -> Tensor:
    """At least 32 bits."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _below_the_top(logits: Tensor) -> Tensor:
    """Each row's distances from its likeliest, 0 and less, in at least 32 bits: in 16 they would be rounded."""
    wide = _wide(_finite(logits))
    return wide - wide.amax(dim=-1, keepdim=True)


def _fitting(
    adjusted: Tensor, setting: str, advice: str = "take one nearer to what changes nothing"
) -> Tensor:
    if not adjusted.amax(dim=-1).isfinite().all():
        raise ValueError(f"at {setting} the logits no longer fit {adjusted.dtype}; {advice}")
    return adjusted


def _finite(logits: Tensor) -> Tensor:
    if not logits.is_floating_point() or logits.shape[-1:] in ((), (0,)):
        raise ValueError(
            f"logits are floating-point numbers (batch, vocab_size), not {tuple(logits.shape)} of {logits.dtype}"
        )
    top = logits.amax(dim=-1)
    if not top.isfinite().all():
        what = "NaN" if top.isnan().any() else "+∞" if top.isposinf().any() else "a row of nothing but −∞"
        raise ValueError(
            f"the logits hold {what}, so there is nothing to choose by: the model's numbers went wrong"
        )
    return logits
