"""The loop that writes, in its shortest form: read the whole text, choose the next token, append it, again.

Not handled: a cache (each token costs a run over the whole text), several texts at once, the end of the
context, GPUs, checks of anything but ids. `decode` handles them, and writes the same tokens.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from course_lib.generate.request_checks import to_ids, to_stop
from course_lib.generate.sampling import greedy
from course_lib.model import Decoder


@torch.inference_mode()
def generate_plainly(
    model: Decoder,
    prompt: Sequence[int],
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor] = greedy,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Yield the token ids that follow the prompt, until one of `stop` is chosen or there are max_new_tokens.

    choose: logits (1, vocab_size) → token (1,). Raises ValueError for a prompt or a stop without ids.
    """
    ids, stop = to_ids("the prompt", prompt), to_stop(stop)
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids]))  # (1, time, vocab_size)
        token = int(choose(logits[:, -1]))
        if token in stop:
            return
        yield token
        ids.append(token)
