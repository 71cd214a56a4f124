"""Sampling: logits → one token.

Each function takes logits (…, vocab_size) and returns logits of the same shape and precision, in which a
token that it rules out has −∞. So they are combined by calling one after another, in any order (the order
matters), and `draw` or `greedy` comes last:

    draw(top_p(temperature(logits, 0.8), 0.95), generator)

None changes its input, and each leaves every row at least one token. Their arguments are checked in
`sampling_checks`: logits that hold NaN or +∞, or a row of nothing but −∞, raise ValueError, and so does a
setting outside its range.

At a tie, as in Hugging Face's `transformers`, top-k and min-p keep all tokens that are as likely as the last
one kept, and top-p only as many as it needs: here the later ones in the vocabulary, there whichever an
unstable sort puts last. Where logits are of 16 bits, probabilities are computed in 32 all the same;
`transformers` doesn't do that.

Not handled: beam search, typical and contrastive sampling; settings that differ from row to row.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.generate.sampling_checks import (
    check_first,
    check_fits,
    check_frequency_penalty,
    check_logits,
    check_min_p,
    check_presence_penalty,
    check_repetition_penalty,
    check_temperature,
    check_top_k,
    check_top_p,
)


@check_first(check_temperature)
def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by t: below 1 the likely become likelier, above 1 less so (Ackley, Hinton & Sejnowski 1985).

    Raises ValueError for t that isn't above 0, or so near 0 that the result doesn't fit the precision.
    """
    scaled = (logits.double() / t).to(logits.dtype)
    return check_fits(scaled, f"temperature {t}", "decode greedily instead")


@check_first(check_top_k)
def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep only the k likeliest (Fan, Lewis & Dauphin 2018). Raises ValueError unless 1 ≤ k ≤ vocab_size."""
    last_kept = logits.topk(int(k), dim=-1).values[..., -1:]  # (…, 1)
    return logits.masked_fill(logits < last_kept, -math.inf)


@check_first(check_top_p)
def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep only the likeliest that together just reach probability p (Holtzman et al. 2020, section 3.1).

    In other words, the tail that together has no more than 1 − p is ruled out. Raises ValueError unless 0 < p
    ≤ 1.
    """
    ascending, order = torch.sort(_at_least_32_bits(logits), dim=-1, stable=True)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # (…, vocab_size), in ascending order
    tail[..., -1] = False  # the likeliest stays
    return logits.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -math.inf)


@check_first(check_min_p)
def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep only those at least p times as likely as the likeliest (Nguyen et al. 2024).

    Raises ValueError unless 0 ≤ p ≤ 1.
    """
    chances = _at_least_32_bits(logits).softmax(dim=-1)  # (…, vocab_size)
    return logits.masked_fill(chances < p * chances.amax(dim=-1, keepdim=True), -math.inf)


@check_first(check_repetition_penalty)
def repetition_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make what occurs in `tokens` less likely: divide its logit by `penalty`, or multiply if below 0.

    tokens: ids (…, time); each counts once, however often it occurs. Keskar et al. (2019, section 4.1) divide
    whatever the sign, which makes tokens with negative logits likelier; `transformers` and others multiply
    those instead. 1 changes nothing. Raises ValueError for a penalty that isn't above 0 or makes the logits
    outgrow their precision, and for ids outside the vocabulary.
    """
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return check_fits(
        torch.where(_counts(logits, tokens) > 0, weaker, logits), f"repetition_penalty {penalty}"
    )


@check_first(check_presence_penalty)
def presence_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logit of what occurs in `tokens`, however often.

    So OpenAI and vLLM define it. tokens: ids (…, time); pass only what was written, since they don't count
    the prompt. A negative penalty encourages repetition. Raises ValueError for a penalty that isn't finite or
    makes the logits outgrow their precision, and for ids outside the vocabulary.
    """
    return _subtract(logits, penalty * (_counts(logits, tokens) > 0), f"presence_penalty {penalty}")


@check_first(check_frequency_penalty)
def frequency_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """`presence_penalty`, subtracted once for every time that a token occurs."""
    return _subtract(logits, penalty * _counts(logits, tokens), f"frequency_penalty {penalty}")


@check_first(check_logits)
def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row, (…, vocab_size) → (…); at a tie the first."""
    return logits.max(dim=-1).indices  # in 16 bits several times as fast as argmax


@check_first(check_logits)
def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token of each row with its probability, (…, vocab_size) → (…).

    The probabilities are laid end to end on a line, one random number is drawn on it, and the token that it
    falls on is the result.
    """
    ends = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (…, vocab_size): where each token's stretch ends
    points = torch.rand(ends[..., :1].shape, generator=generator, dtype=ends.dtype, device=ends.device)
    return torch.searchsorted(ends, points * ends[..., -1:], right=True).squeeze(-1)


# The functions that need nothing but the logits, in the order in which `sample` applies them.
KNOBS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
}
CHECKS = {"temperature": check_temperature, "top_k": check_top_k, "top_p": check_top_p, "min_p": check_min_p}


@check_first(check_logits)
def sample(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a token for each row, (…, vocab_size) → (…): the functions above, in the usual order.

    temperature 0: the likeliest, whatever the other settings. Raises ValueError for a setting outside its
    range.
    """
    settings = {"temperature": temperature or None, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        CHECKS[name](logits, value)
    if temperature == 0:
        return greedy(logits)
    # Relative to the likeliest: the same probabilities, and even at a temperature near 0 nothing overflows.
    adjusted = _below_the_top(logits)
    for name, value in settings.items():
        adjusted = KNOBS[name].__wrapped__(adjusted, value)  # without its check, which was done above
    return draw(adjusted, generator)


@check_first(lambda logits, temperature=1.0: check_temperature(logits, temperature))
def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return softmax(logits / temperature) over the last dimension, in 32 bits.

    Raises ValueError for a temperature that isn't above 0, and for logits that hold NaN or +∞.
    """
    return (_below_the_top(logits).double() / temperature).softmax(dim=-1).float()


def _subtract(logits: Tensor, penalties: Tensor, setting: str) -> Tensor:
    """Return logits − penalties, (…, vocab_size) both, in the logits' precision."""
    return check_fits((_at_least_32_bits(logits) - penalties).to(logits.dtype), setting)


def _counts(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return how often each token of the vocabulary occurs in each row of tokens, (…, vocab_size)."""
    ones = torch.ones_like(tokens, dtype=torch.float32)
    return torch.zeros_like(logits, dtype=torch.float32).scatter_add(-1, tokens.long(), ones)


def _at_least_32_bits(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _below_the_top(logits: Tensor) -> Tensor:
    """Return each row minus its largest, in at least 32 bits: in 16 the differences would be rounded."""
    wide = _at_least_32_bits(logits)
    return wide - wide.amax(dim=-1, keepdim=True)
