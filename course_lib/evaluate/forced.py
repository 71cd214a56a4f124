"""What a model would write, without writing it: all tokens of the right completion judged in one pass.

Each token is judged after the right ones before it (teacher forcing). Whether a model that always takes the
likeliest token would write the completion by itself comes out exactly: as long as it has written the right
tokens, it has read the right ones.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from course_lib.evaluate.likelihood import check_known
from course_lib.model import Decoder
from course_lib.text import Tokenizer

Pair = tuple[Sequence[int], Sequence[int]]  # a prompt and its completion, as token ids


class Forced(NamedTuple):
    """nats: the log-probability of each token of a completion, (time,), in 32 bits. right: whether it's the
    likeliest, (time,). following: the token that the model finds likeliest after the last."""

    nats: Tensor
    right: Tensor
    following: int


def encode_items(tokenizer: Tokenizer, items: Iterable) -> list[Pair]:
    """The `prompt` and the `completion` of each item as token ids, marks included."""
    texts = ((item.prompt, item.completion) for item in items)
    return [tuple(tokenizer.encode(text, allow_special=True) for text in both) for both in texts]


def would_write(
    model: Decoder, pairs: Sequence[Pair], ends: Collection[int] = (), batch: int = 32
) -> list[bool]:
    """Whether the model, always taking the likeliest token, would write each completion after its prompt.

    ends: where given, one of these tokens must be the likeliest behind the completion, so that the model
    would also stop there. Arguments and errors otherwise as in `teacher_forced`.
    """
    forced = teacher_forced(model, pairs, batch)
    return [bool(each.right.all()) and (not ends or each.following in ends) for each in forced]


@torch.inference_mode()
def teacher_forced(model: Decoder, pairs: Sequence[Pair], batch: int = 32) -> list[Forced]:
    """What the model finds of each completion, read after its prompt, `batch` pairs at once.

    Prompts may hold virtual tokens. Raises ValueError for no pairs, an empty prompt, and a completion of
    unknown tokens.
    """
    if not pairs or not all(len(prompt) for prompt, _ in pairs):
        raise ValueError("give at least one pair of a prompt, of one token or more, and its completion")
    for _, completion in pairs:
        check_known(completion, model.config.vocab_size)
    batches = (pairs[start : start + batch] for start in range(0, len(pairs), batch))
    return [each for some in batches for each in _forced(model, some)]


def _forced(model: Decoder, pairs: Sequence[Pair]) -> list[Forced]:
    rows = [torch.tensor([*prompt, *completion]) for prompt, completion in pairs]
    tokens = pad_sequence(rows, batch_first=True).to(model.embedding.weight.device)
    logits = model(tokens)  # (batch, longest, vocab_size): a causal model sees no padding on its right
    both = zip(logits, pairs, strict=True)
    return [_of_one(row[len(prompt) - 1 :], completion) for row, (prompt, completion) in both]


def _of_one(logits: Tensor, completion: Sequence[int]) -> Forced:
    """From logits (time + 1 or more, vocab_size), the first of them at the prompt's last token."""
    targets = torch.tensor(completion, dtype=torch.long, device=logits.device)
    scores = logits[: len(targets) + 1].float().log_softmax(dim=-1)
    likeliest = scores.argmax(dim=-1)
    nats = scores[:-1].gather(-1, targets[:, None])[:, 0]
    return Forced(nats, likeliest[:-1] == targets, int(likeliest[-1]))
