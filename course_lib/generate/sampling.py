"""Sampling: logits → one token, by the formulas of `samplers`, with their arguments checked.

Each function but the last three takes logits (…, vocab_size) and returns logits of the same shape and
precision. They never modify their input, and they leave every row at least one token. All raise ValueError
for a setting outside its range, and for logits that hold NaN or +∞, or a row of nothing but −∞
(`sampling_checks`).

Ties: top-k and min-p keep every token that is as likely as the last one kept. Top-p keeps only as many as it
needs, of equally likely tokens those that come later in the vocabulary. Hugging Face's `transformers` does
the same, but in top-p keeps whichever tokens its unstable sort puts last, and computes the probabilities of
16-bit logits in 16 bits.

Not handled: beam search, typical and contrastive sampling; settings that differ from row to row.
"""

import torch
from torch import Tensor

from course_lib.generate import samplers
from course_lib.generate.sampling_checks import (
    check_fits,
    check_generator,
    check_logits,
    check_min_p,
    check_presence_or_frequency,
    check_repetition_penalty,
    check_temperature,
    check_top_k,
    check_top_p,
)


def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by t: below 1 the likely become likelier, above 1 less so (Ackley, Hinton & Sejnowski 1985).

    Raises ValueError for t that isn't above 0, or so near 0 that the largest logit doesn't fit the precision.
    """
    check_temperature(logits, t)
    return check_fits(samplers.temperature(logits, t), f"temperature {t}", "decode greedily instead")


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep only the k likeliest tokens. Raises ValueError unless 1 ≤ k ≤ vocab_size."""
    check_top_k(logits, k)
    return samplers.top_k(logits, k)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep only the likeliest tokens that together just reach probability p.

    Raises ValueError unless 0 < p ≤ 1.
    """
    check_top_p(logits, p)
    return samplers.top_p(logits, p)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep only tokens at least p times as likely as the likeliest. Raises ValueError unless 0 ≤ p ≤ 1."""
    check_min_p(logits, p)
    return samplers.min_p(logits, p)


def repetition_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Make what occurs in `tokens`, (…, time), less likely by a factor. 1 changes nothing.

    Raises ValueError for a penalty that isn't above 0 or makes a largest logit outgrow its precision, and for
    ids outside the vocabulary.
    """
    check_repetition_penalty(logits, tokens, penalty)
    return check_fits(samplers.repetition_penalty(logits, tokens, penalty), f"repetition_penalty {penalty}")


def presence_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logit of what occurs in `tokens`, (…, time), however often.

    OpenAI and vLLM, who define it so, count what was written and not the prompt: pass only that. A negative
    penalty encourages repetition. Raises ValueError for a penalty that isn't finite or makes a largest logit
    outgrow its precision, and for ids outside the vocabulary.
    """
    check_presence_or_frequency("presence_penalty", logits, tokens, penalty)
    return check_fits(samplers.presence_penalty(logits, tokens, penalty), f"presence_penalty {penalty}")


def frequency_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """`presence_penalty`, subtracted once for every time that a token occurs."""
    check_presence_or_frequency("frequency_penalty", logits, tokens, penalty)
    return check_fits(samplers.frequency_penalty(logits, tokens, penalty), f"frequency_penalty {penalty}")


# The functions of one setting, in the order in which `sample` applies them.
KNOBS = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}


def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row, (…, vocab_size) → (…); at a tie the first."""
    check_logits(logits)
    return samplers.greedy(logits)


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token of each row with its probability, (…, vocab_size) → (…)."""
    check_logits(logits)
    check_generator(generator)
    return samplers.draw(logits, generator)


def sample(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a token for each row, (…, vocab_size) → (…): the settings in the usual order, and a draw.

    temperature 0, the default: the likeliest, whatever the other settings.
    """
    _check_settings(logits, temperature, top_k, top_p, min_p)
    check_generator(generator)
    if temperature == 0:
        return samplers.greedy(logits)
    # Relative to the likeliest: the same probabilities, and even at a temperature near 0 nothing overflows.
    logits = samplers.temperature(_below_the_largest(logits), temperature)
    if top_k is not None:
        logits = samplers.top_k(logits, top_k)
    if top_p is not None:
        logits = samplers.top_p(logits, top_p)
    if min_p is not None:
        logits = samplers.min_p(logits, min_p)
    return samplers.draw(logits, generator)


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return softmax(logits / temperature) over the last dimension, in 32 bits."""
    check_temperature(logits, temperature)
    return (_below_the_largest(logits).double() / temperature).softmax(dim=-1).float()


def _check_settings(logits: Tensor, temperature, top_k, top_p, min_p) -> None:
    """Check what `sample` was given; None stands for a setting that isn't used."""
    check_logits(logits)
    if temperature != 0:
        check_temperature(logits, temperature)
    if top_k is not None:
        check_top_k(logits, top_k)
    if top_p is not None:
        check_top_p(logits, top_p)
    if min_p is not None:
        check_min_p(logits, min_p)


def _below_the_largest(logits: Tensor) -> Tensor:
    """Return each row minus its largest, in at least 32 bits: in 16 the differences would be rounded."""
    wide = samplers.at_least_32_bits(logits)
    return wide - wide.amax(dim=-1, keepdim=True)
