"""Several continuations of one prompt, side by side, and the best of them by whatever one can score.

Not handled: prompts of different lengths in one batch; rows that end early keep computing until the last one ends.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from course_lib.generate.cache import KVCache
from course_lib.generate.decode import Adjust, Choose, adjusted
from course_lib.generate.sampling import sample
from course_lib.model import Decoder

Candidate = TypeVar("Candidate")


@torch.inference_mode()
def continuations(
    model: Decoder,
    prompt: Sequence[int],
    n: int,
    max_new_tokens: int = 100,
    choose: Choose = sample,
    adjust: Adjust | None = None,
    stop: Collection[int] = (),
) -> list[list[int]]:
    """`n` continuations of a prompt that is read once: lists of token ids, each as `generate` would write it.

    choose: logits (n, vocab_size) → tokens (n,). adjust: logits (n, vocab_size), tokens so far (n, time) → logits. Each row
    ends before its own first token of `stop`; all end after `max_new_tokens`, or when the context is full.
    Raises ValueError for an empty prompt, one longer than the context, n below 1, or logits adjusted to another shape.
    """
    room = model.config.context - len(prompt)
    if len(prompt) == 0 or room < 0:
        raise ValueError(f"a prompt has 1 to {model.config.context} tokens (the context), not {len(prompt)}")
    if n < 1 or max_new_tokens < 0:
        raise ValueError(f"n must be 1 or more and max_new_tokens 0 or more, not {n} and {max_new_tokens}")
    steps = min(max_new_tokens, room + 1)
    tokens = torch.tensor([list(prompt)], device=model.embedding.weight.device).expand(n, -1)
    ends, done = torch.tensor(sorted(stop), device=tokens.device, dtype=tokens.dtype), torch.zeros(n, dtype=torch.bool)
    hidden, cache = _read(model, tokens[:1], n, steps)
    for step in range(steps):
        logits = model.head(hidden[:, -1]).expand(n, -1).contiguous()  # one row after the prompt
        chosen = choose(logits if adjust is None else adjusted(logits, tokens, adjust)).view(n, 1)
        tokens = torch.cat([tokens, chosen], dim=1)
        done |= torch.isin(chosen[:, 0], ends).cpu()
        if done.all() or step == steps - 1:
            break
        hidden = model.hidden(chosen, cache)
    return [_until(row[len(prompt) :], set(stop)) for row in tokens.tolist()]


def _read(model: Decoder, prompt: Tensor, n: int, steps: int) -> tuple[Tensor, KVCache]:
    """What the head reads after the prompt, and the cache of it, once for each of n rows to come."""
    weight, capacity = model.embedding.weight, min(prompt.shape[1] + steps, model.config.context)
    once = KVCache(model.config, prompt.shape[1], dtype=weight.dtype, device=weight.device)
    hidden = model.hidden(prompt, once)
    cache = KVCache(model.config, capacity, n, weight.dtype, weight.device)
    cache.keys[:, :, :, : once.length], cache.values[:, :, :, : once.length] = once.keys, once.values
    cache.advance(once.length)
    return hidden, cache


def _until(tokens: list[int], stop: set[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in stop), len(tokens))]


@torch.inference_mode()
def log_likelihood(model: Decoder, prompt: Sequence[int], continuation: Sequence[int]) -> Tensor:
    """Natural logarithm of each token's probability after all that stands before it, (continuation's time,), in nats.

    `.sum()` is the log-likelihood of the continuation, `.mean()` that of a token. The model as it is: no temperature, no knob.
    Raises ValueError for an empty prompt, which leaves the first token nothing to follow, and for tokens that the model doesn't know.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: the first token has nothing to be likely after")
    tokens = torch.tensor([[*prompt, *continuation]], device=model.embedding.weight.device)
    targets, size = tokens[:, len(prompt) :], model.config.vocab_size
    if targets.numel() and not 0 <= targets.min() <= targets.max() < size:
        raise ValueError(
            f"the continuation's token ids run from {targets.min()} to {targets.max()}, but the vocabulary holds 0 to {size - 1}: "
            "were they made by this model's tokenizer?"
        )
    read = tokens[:, : max(len(prompt), tokens.shape[1] - 1)]  # nothing follows the last: it may be one beyond the context
    scores = model.head(model.hidden(read)[:, len(prompt) - 1 :]).float().log_softmax(dim=-1)
    return scores.gather(-1, targets.unsqueeze(-1))[0, :, 0]


def best_of(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> Candidate:
    """The candidate that scores highest; at a tie the first. Raises ValueError for none, or a score of NaN."""
    if len(candidates) == 0:
        raise ValueError("there are no candidates to choose from")
    scores = [float(score(candidate)) for candidate in candidates]
    if any(map(math.isnan, scores)):
        raise ValueError(f"candidate {list(map(math.isnan, scores)).index(True)} has no score (NaN): the best can't be told")
    return candidates[scores.index(max(scores))]


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """What the best of n has on average, over all ways to pick n of the scored ones: an unbiased estimate from one pool.

    The i-th smallest of a pool of N (from 1) is the best of those n with probability C(i − 1, n − 1) / C(N, n); for scores of 0 and 1
    this is pass@k of Chen et al. (2021, section 2.1). values: average these of the chosen instead of the scores they were
    chosen by. Raises ValueError unless 1 ≤ n ≤ N, and values, if any, are as many; and for a score of NaN.
    """
    size, values = len(scores), scores if values is None else values
    if not 1 <= n <= size or len(values) != size:
        raise ValueError(f"n must lie between 1 and the pool's {size}, with a value for each: not {n}, with {len(values)}")
    if any(map(math.isnan, scores)):
        raise ValueError("a score is NaN: the best can't be told")
    # Ties as in `best_of`: the earlier counts as the better.
    ascending = sorted(range(size), key=lambda i: (scores[i], -i))
    picks = math.comb(size, n)  # may be beyond any float, the parts below are not
    return sum(math.comb(place, n - 1) / picks * values[ascending[place]] for place in range(n - 1, size))
