"""Perplexity: how surprised a model is by a text that it didn't write.

    perplexity = exp(mean of −log p(token | tokens before it))

`token_losses` returns each −log p, `perplexity` the result.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib import asset
from course_lib.arguments import token_ids, whole
from course_lib.evaluate.likelihood import log_likelihood
from course_lib.model import Decoder


def evaluation_text() -> str:
    """Return a text of about 1,000 words: stories, explanations, a recipe, a letter and dialogue.

    It was written for this course, so no older model has been trained on it.
    """
    return asset("evaluation.txt").read_text(encoding="utf-8")


def token_losses(model: Decoder, ids: Sequence[int], window: int = 512) -> Tensor:
    """Return −log p of each token given those before it in its window, (tokens,), in nats and 32 bits.

    The text is cut into windows of `window` tokens. The first token of a window is given, not scored, so that
    a text of n tokens has n − ⌈n / window⌉ scored ones. Longer windows give each token more context. Raises
    ValueError for fewer than two tokens, a window below 2 or above the model's context, ids outside the
    vocabulary, and a model whose log-probabilities are NaN; TypeError for anything but whole numbers.
    """
    ids = token_ids("ids", ids)
    window, context = whole("window", window), model.config.context
    if not 2 <= window <= context:
        raise ValueError(f"window must be from 2 to the model's context of {context}, not {window}")
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens has none to score: the first is only given")
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]  # the last one is shorter
    return -torch.cat([log_likelihood(model, part[:1], part[1:]) for part in windows])


def perplexity(model: Decoder, ids: Sequence[int], window: int = 512) -> float:
    """Return the exponential of the mean of `token_losses`.

    It says among how many equally likely tokens the model seems to choose. Arguments and errors as in
    `token_losses`. Values are comparable only between models with the same tokenizer, on the same text and
    with the same windows. It is infinite if the model holds a token of the text for impossible.
    """
    mean = token_losses(model, ids, window).mean().item()
    return math.exp(mean) if mean < 709 else math.inf  # e^709 is about the largest number of 64 bits
