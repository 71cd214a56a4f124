"""What the functions that write refuse: ids that are no ids, and numbers that aren't whole."""

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from course_lib.arguments import to_int
from course_lib.model.checks import require

LARGEST = 2**63 - 1  # the largest whole number in a tensor
TEXT = (str, bytes, bytearray)  # bytes yield whole numbers, but they aren't ids
ENCODE = "encode it first: tokenizer.encode(text)"


def check_whole(name: str, value: object, least: int, most: int = LARGEST) -> None:
    """Raise ValueError unless the value is a whole number, at least `least` and at most `most`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    bounds = f"at least {least}" if most == LARGEST else f"from {least} to {most}"
    require(whole and least <= value <= most, f"{name} must be a whole number, {bounds}, not {value!r}")


def to_ids(name: str, ids: Iterable[int], advice: str = ENCODE) -> list[int]:
    """Return token ids as a list, from a tensor, an array or anything that yields whole numbers.

    Raises ValueError for text, with the advice, and for anything else that isn't a row of whole numbers.
    """
    if isinstance(ids, Tensor | np.ndarray):
        ids = ids.tolist()
    is_row = isinstance(ids, Iterable) and not isinstance(ids, TEXT)
    items = list(ids) if is_row else [ids]
    if any(isinstance(item, TEXT) for item in items):
        raise ValueError(f"{name} must be token ids, not text as in {_shown(ids)}; {advice}")
    if not (is_row and all(map(_is_id, items))):
        shown = _shown(items if is_row else ids)
        raise ValueError(f"{name} must be a row of token ids, whole numbers from 0 on, not {shown}")
    return list(map(to_int, items))


def to_stop(stop: Iterable[int]) -> frozenset[int]:
    """Return the ids that end a text. Raises ValueError for text, which would never end any."""
    advice = 'give its id, of a special token for example tokenizer.special["<|im_end|>"]'
    return frozenset(to_ids("stop", stop, advice))


def to_whole_tensor(name: str, numbers: object) -> Tensor:
    """Return whole numbers as a tensor of int64, from a tensor, an array or lists.

    Raises ValueError for text, for numbers of another kind, and for rows of different lengths.
    """
    try:
        tensor = torch.as_tensor(numbers)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or (tensor.numel() > 0 and not is_whole(tensor)):
        raise ValueError(f"{name} must be whole numbers, in rows of equal lengths, not {_shown(numbers)}")
    return tensor.long()


def is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor's dtype is one of whole numbers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_decoder(model: object) -> None:
    """Raise ValueError for what can't write: a whole LanguageModel, for example, or an encoder-decoder."""
    writes = hasattr(model, "last_hidden_state") and hasattr(model, "head")
    require(writes, f"a Decoder writes (lm.model, or model.decoder), not {type(model).__name__}")


def check_callable(name: str, function: object) -> None:
    """Raise ValueError unless the function can be called."""
    require(callable(function), f"{name} must be a function, not {_shown(function)}")


def check_adjusted(logits: Tensor, adjusted: Tensor) -> None:
    """Raise ValueError unless `adjust` gave a tensor of the shape of the logits that it was given."""
    if not isinstance(adjusted, Tensor) or adjusted.shape != logits.shape:
        got = tuple(adjusted.shape) if isinstance(adjusted, Tensor) else type(adjusted).__name__
        raise ValueError(
            f"adjust was given logits {tuple(logits.shape)} and must give as many back, not {got}"
        )


def checked_tokens(chosen: Tensor | Sequence[int] | int, logits: Tensor) -> list[int]:
    """Return what was chosen from logits (rows, vocab_size), as a list.

    Raises ValueError unless it is one token of the vocabulary for each row.
    """
    listed, (rows, vocab_size) = to_whole_tensor("what choose gives", chosen).flatten().tolist(), logits.shape
    if len(listed) != rows:
        raise ValueError(
            f"choose was given {rows} rows of logits and must give one token for each, not {len(listed)}"
        )
    if not all(0 <= token < vocab_size for token in listed):
        raise ValueError(
            f"choose must give tokens from 0 to {vocab_size - 1}, the vocabulary's, not {listed}"
        )
    return listed


def _is_id(item: object) -> bool:
    try:
        return 0 <= to_int(item) <= LARGEST
    except TypeError:
        return False


def _shown(value: object) -> str:
    text = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
