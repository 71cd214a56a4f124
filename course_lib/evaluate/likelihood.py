"""How likely a model finds what it is shown."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model import Decoder


@torch.inference_mode()
def log_likelihood(model: Decoder, prompt: Sequence[int], continuation: Sequence[int]) -> Tensor:
    """Natural logarithm of each token's probability after all that stands before it, (continuation's time,),
    in nats.

    `.sum()` is the log-likelihood of the continuation, `.mean()` that of a token. The model as it is: no
    temperature, no knob. Raises ValueError for an empty prompt, which leaves the first token nothing to
    follow, and for tokens that the model doesn't know.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: the first token has nothing to be likely after")
    check_known(continuation, model.config.vocab_size)
    tokens = torch.tensor([[*prompt, *continuation]], device=model.embedding.weight.device)
    targets = tokens[:, len(prompt) :]
    # Nothing follows the last token: it isn't read, and may be one beyond the context.
    read = tokens[:, : max(len(prompt), tokens.shape[1] - 1)]
    scores = model.logits(model.hidden(read)[:, len(prompt) - 1 :]).float().log_softmax(dim=-1)
    return scores.gather(-1, targets.unsqueeze(-1))[0, :, 0]


def check_known(continuation: Sequence[int], size: int) -> None:
    """Raises ValueError for token ids that aren't of a vocabulary of `size`."""
    if len(continuation) and not 0 <= min(continuation) <= max(continuation) < size:
        raise ValueError(
            f"the continuation's token ids run from {min(continuation)} to {max(continuation)}, but the "
            f"vocabulary holds 0 to {size - 1}: were they made by this model's tokenizer?"
        )


@torch.inference_mode()
def held_out_loss(model: nn.Module, row: Tensor, time: int, batch: int = 64) -> float:
    """Mean of −log p in nats over a long row of ids, (length,), read in windows of `time` tokens, `batch` of
    them at once.

    As in training, a window's every token is followed by a target; so all ids but the first are scored, once
    each, and those at the end that fill no window are left out. Raises ValueError for a row that fills no
    window.
    """
    if time < 1 or len(row) <= time:
        raise ValueError(f"a window of {time} tokens with targets doesn't fit into a row of {len(row)} ids")
    windows = row.unfold(0, time + 1, time)  # each begins with the last target of the one before
    total = 0.0
    for part in windows.split(batch):
        logits = model(part[:, :-1]).float().flatten(0, -2)
        total += F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
    return total / (len(windows) * time)
