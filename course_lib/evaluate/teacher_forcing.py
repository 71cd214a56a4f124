"""Teacher forcing: scoring all tokens of a right completion in one forward pass, without generating.

    read        prompt  c₁   c₂   c₃
    predicted   c₁?     c₂?  c₃?  the next token

The model reads the right tokens, and each prediction is compared with the right next token. This shows
exactly whether greedy decoding would write the completion: as long as it has written the right tokens, it has
also read the right ones.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from course_lib.arguments import listed, token_ids, whole
from course_lib.evaluate.likelihood import check_token_ids, refuse_nan
from course_lib.model import Decoder
from course_lib.text import Tokenizer

Pair = tuple[Sequence[int], Sequence[int]]  # a prompt and its completion, as token ids


class CompletionScores(NamedTuple):
    """A model's scores of one completion.

    log_probs   (time,): the log-probability of each of its tokens, in nats and 32 bits
    is_greedy   (time,): whether each of its tokens is the likeliest one
    next_token  the likeliest token after the completion
    """

    log_probs: Tensor
    is_greedy: Tensor
    next_token: int


def encode_items(tokenizer: Tokenizer, items: Iterable) -> list[Pair]:
    """Return the `prompt` and the `completion` of each item as token ids, special tokens included.

    Raises TypeError for items without them.
    """
    items = listed("items", items, "a list of items, each with a prompt and a completion")
    for i, item in enumerate(items):
        if not (hasattr(item, "prompt") and hasattr(item, "completion")):
            raise TypeError(f"items[{i}] must have a prompt and a completion, and is a {type(item).__name__}")
    texts = ((item.prompt, item.completion) for item in items)
    return [tuple(tokenizer.encode(text, allow_special=True) for text in pair) for pair in texts]


def would_write(
    model: Decoder, pairs: Sequence[Pair], stop: Collection[int] = (), batch: int = 32
) -> list[bool]:
    """Return for each pair whether greedy decoding would write the completion after the prompt.

    stop: if given, one of these tokens must be the likeliest after the completion, so that the model would
    stop there. Other arguments and errors as in `teacher_forced`.
    """
    stop = token_ids("stop", stop)
    check_token_ids(stop, model.config.vocab_size)
    scores = teacher_forced(model, pairs, batch)
    return [bool(each.is_greedy.all()) and (not stop or each.next_token in stop) for each in scores]


@torch.no_grad()
def teacher_forced(model: Decoder, pairs: Sequence[Pair], batch: int = 32) -> list[CompletionScores]:
    """Return the model's scores of each completion after its prompt.

    pairs: prompts and completions. A prompt may contain virtual tokens: the ids after the vocabulary that
    stand for the trained embeddings of a soft prompt (`train.peft.soft_prompt`). batch: how many pairs the
    model reads at once. Raises ValueError for no pairs, an empty prompt, a completion with unknown tokens,
    and a model whose log-probabilities are NaN; TypeError for anything but pairs of token ids.
    """
    pairs = [_check_pair(i, pair) for i, pair in enumerate(listed("pairs", pairs, "a list of pairs"))]
    batch = whole("batch", batch, 1)
    if not pairs or not all(len(prompt) for prompt, _ in pairs):
        raise ValueError("give at least one pair of a prompt, of one token or more, and its completion")
    for _, completion in pairs:
        check_token_ids(completion, model.config.vocab_size)
    batches = (pairs[start : start + batch] for start in range(0, len(pairs), batch))
    return [scores for some in batches for scores in _score_batch(model, some)]


def _check_pair(i: int, pair: Pair) -> Pair:
    """Return the i-th pair as two lists."""
    pair = listed(f"pairs[{i}]", pair, "a prompt and its completion, as token ids")
    if len(pair) != 2:
        raise ValueError(f"pairs[{i}] must be a prompt and its completion, and has {len(pair)} parts")
    prompt, completion = pair
    return token_ids(f"the prompt of pairs[{i}]", prompt), token_ids(
        f"the completion of pairs[{i}]", completion
    )


def _score_batch(model: Decoder, pairs: Sequence[Pair]) -> list[CompletionScores]:
    rows = [torch.tensor([*prompt, *completion]) for prompt, completion in pairs]
    # A causal model's logits don't depend on the padding, which is on the right.
    tokens = pad_sequence(rows, batch_first=True).to(model.embedding.weight.device)  # (batch, longest)
    logits = model(tokens)  # (batch, longest, vocab_size)
    return [
        _score_completion(row[len(prompt) - 1 :], completion)
        for row, (prompt, completion) in zip(logits, pairs, strict=True)
    ]


def _score_completion(logits: Tensor, completion: Sequence[int]) -> CompletionScores:
    """Score a completion by logits (time + 1 or more, vocab_size) that begin at the prompt's last token."""
    targets = torch.tensor(completion, dtype=torch.long, device=logits.device)  # (time,)
    log_probs = logits[: len(targets) + 1].float().log_softmax(dim=-1)  # (time + 1, vocab_size)
    refuse_nan(log_probs.amax(dim=-1))
    likeliest = log_probs.argmax(dim=-1)  # (time + 1,)
    of_targets = log_probs[:-1].gather(-1, targets[:, None])[:, 0]  # (time,)
    return CompletionScores(of_targets, likeliest[:-1] == targets, int(likeliest[-1]))
