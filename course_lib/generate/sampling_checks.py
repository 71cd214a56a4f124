"""What the sampling functions refuse, each with a message that says what to do."""

import math
from numbers import Integral

import torch
from torch import Tensor

from course_lib.model.checks import plain

NOTHING_TO_CHOOSE_BY = "the logits hold {}, so there is nothing to choose by: the model's numbers went wrong"


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless every row of logits has a finite largest one, and holds no NaN."""
    if not logits.is_floating_point() or logits.shape[-1:] in ((), (0,)):
        raise ValueError(
            f"logits are floating-point numbers (batch, vocab_size), not {tuple(logits.shape)} "
            f"of {logits.dtype}"
        )
    top = logits.amax(dim=-1)
    if not top.isfinite().all():
        what = "NaN" if top.isnan().any() else "+∞" if top.isposinf().any() else "a row of nothing but −∞"
        raise ValueError(NOTHING_TO_CHOOSE_BY.format(what))


def check_no_nan(logits: Tensor) -> None:
    """Raise ValueError for logits that hold NaN, which a user's own function would choose by."""
    if logits.amax().isnan():
        raise ValueError(NOTHING_TO_CHOOSE_BY.format("NaN"))


def check_temperature(logits: Tensor, t: float) -> None:
    if not _is_number(t) or not 0 < t < math.inf:
        raise ValueError(
            f"temperature must be above 0, not {t!r}; for the likeliest token always, decode greedily"
        )
    check_logits(logits)


def check_top_k(logits: Tensor, k: int) -> None:
    check_logits(logits)
    size = logits.shape[-1]
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= size:
        raise ValueError(f"top_k must be a whole number between 1 and the vocabulary's {size}, not {k!r}")


def check_top_p(logits: Tensor, p: float) -> None:
    if not _is_number(p) or not 0 < p <= 1:
        raise ValueError(f"top_p must lie above 0 and at most at 1, not {p!r}")
    check_logits(logits)


def check_min_p(logits: Tensor, p: float) -> None:
    if not _is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"min_p must lie between 0 and 1, not {p!r}")
    check_logits(logits)


def check_repetition_penalty(logits: Tensor, tokens: Tensor, penalty: float) -> None:
    if not _is_number(penalty) or not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty must be above 0 (1 changes nothing), not {penalty!r}")
    check_logits(logits)
    _check_tokens(logits, tokens)


def check_presence_or_frequency(name: str, logits: Tensor, tokens: Tensor, penalty: float) -> None:
    _check_tokens(logits, tokens)
    if not _is_number(penalty) or not math.isfinite(penalty):
        raise ValueError(f"{name} must be a finite number (0 changes nothing), not {penalty!r}")
    check_logits(logits)


def check_generator(generator: object) -> None:
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise ValueError(
            f"a generator is torch.Generator().manual_seed(0), with any seed, or None; not {generator!r}"
        )


def check_fits(logits: Tensor, setting: str, advice: str = "use a weaker setting") -> Tensor:
    """Return the adjusted logits. Raises ValueError where a row's largest outgrew the precision."""
    if not logits.amax(dim=-1).isfinite().all():
        raise ValueError(f"at {setting} the logits no longer fit {logits.dtype}; {advice}")
    return logits


def _check_tokens(logits: Tensor, tokens: Tensor) -> None:
    size = logits.shape[-1]
    if tokens.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and logits {tuple(logits.shape)} must have the same rows"
        )
    whole = not tokens.is_floating_point() and tokens.dtype != torch.bool
    if tokens.numel() and not (whole and 0 <= tokens.long().min() <= tokens.long().max() < size):
        raise ValueError(
            f"tokens must lie between 0 and {size - 1}, the vocabulary's last, and be whole numbers"
        )


def _is_number(value: object) -> bool:
    return isinstance(plain(value), int | float) and not isinstance(value, bool)
