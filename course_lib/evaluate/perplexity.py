"""How surprised a model is by a text that it didn't write."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib import asset
from course_lib.evaluate.likelihood import log_likelihood
from course_lib.model import Decoder


def evaluation_text() -> str:
    """A text of the course's own, about 1,000 words of stories, explanations, a recipe, a letter and talk. It
    was written for this course, so no model that is older has been trained on it."""
    return asset("evaluation.txt").read_text(encoding="utf-8")


def token_losses(model: Decoder, ids: Sequence[int], window: int = 512) -> Tensor:
    """−log p in nats of each token after those before it in its window, (tokens,) in 32 bits.

    The text is cut into windows of `window` tokens; a window's first token is given, not scored, so that a
    text of n tokens has n − ⌈n / window⌉ scored ones. Longer windows give the model more to go by. Raises
    ValueError for fewer than two tokens, and for a window below 2 or above the model's context.
    """
    if not 2 <= window <= model.config.context:
        raise ValueError(
            f"window must be from 2 to the model's context of {model.config.context}, not {window}"
        )
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens has none to score: the first is only given")
    pieces = torch.as_tensor(ids).split(window)
    return -torch.cat([log_likelihood(model, piece[:1].tolist(), piece[1:].tolist()) for piece in pieces])


def perplexity(model: Decoder, ids: Sequence[int], window: int = 512) -> float:
    """exp of the mean loss: the model is as unsure as if it chose among so many equally likely tokens at each
    place.

    Arguments and errors as in `token_losses`. Comparable only between models with the same tokenizer, on the
    same text and windows.
    """
    return math.exp(token_losses(model, ids, window).mean().item())
