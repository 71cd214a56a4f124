"""What the sources of batches and `chat_examples` refuse, each with a message that says what to do."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from course_lib.arguments import short, to_int
from course_lib.generate.request_checks import is_whole, to_ids
from course_lib.model import LanguageModel
from course_lib.model.checks import require
from course_lib.train.checks import own_whole

MOST_ROWS = 1_000_000  # of a batch


def own_rows(name: str, rows: int) -> int:
    """Return a number of rows as Python's own. Raises ValueError below 1, and beyond any memory."""
    return own_whole(name, rows, 1, MOST_ROWS)


def check_examples(examples: Sequence) -> None:
    """Raise ValueError where there is no example."""
    require(len(examples) > 0, "there are no examples: give at least one")


def own_step(step: int) -> int:
    """Return a step as Python's own number. Raises ValueError for one that no run has."""
    try:
        return own_whole("step", to_int(step), 0)
    except TypeError:
        raise ValueError(f"step must be a whole number, at least 0, not {step!r}") from None


def check_windows(ids: Tensor, time: int) -> None:
    """Raise ValueError unless ids, (length,), are enough for a window of `time` tokens and their targets."""
    fits = is_whole(ids) and not (ids.dtype == torch.uint64 and (ids.long() < 0).any())
    require(fits, f"ids must be whole numbers below 2⁶³, not of {ids.dtype}")
    require(
        ids.dim() == 1 and len(ids) > time,
        f"windows of {time} tokens need one sequence of at least {time + 1} ids, not {tuple(ids.shape)}",
    )


def to_pairs(pairs: Iterable[tuple[Iterable[int], Iterable[int]]]) -> list[tuple[list[int], list[int]]]:
    """Return pairs of ids as lists. Raises ValueError for what isn't pairs of ids."""
    return [
        (to_ids("the first of a pair", first), to_ids("the second of a pair", second))
        for first, second in to_list_of_pairs(pairs)
    ]


def to_list_of_pairs(pairs: Iterable[tuple[object, object]]) -> list[tuple[object, object]]:
    """Return the pairs as a list. Raises ValueError for what isn't pairs; a text of two letters isn't one."""
    require(
        isinstance(pairs, Iterable) and not isinstance(pairs, str | Mapping),
        f"give a list of pairs, not a {type(pairs).__name__}",
    )
    pairs = list(pairs)
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ValueError(f"each example must be a pair, such as (question, answer), not {short(pair)}")
    return pairs


def tokens_of(documents: Iterable[Iterable[int]], end: int) -> list[int]:
    """Return all documents' ids, `end` after each. Raises ValueError for one that is text or an id."""
    require(isinstance(documents, Iterable), f"give a list of documents, not {short(documents)}")
    ids = []
    for document in documents:
        are_ids = isinstance(document, Iterable) and not isinstance(document, str)
        if not are_ids:
            raise ValueError(f"a document must be token ids, not {short(document)}: encode it first")
        ids.extend(document)
        ids.append(end)
    return ids


def checked_pair(batch: object) -> tuple[Tensor, Tensor]:
    """Return a batch of tokens and targets, (batch, time) each. Raises ValueError for any other batch."""
    parts = list(batch) if isinstance(batch, tuple | list) else []
    require(
        len(parts) == 2 and all(isinstance(part, Tensor) and part.dim() == 2 for part in parts),
        "a batch must be (tokens, targets), (batch, time) each, not "
        f"{type(batch).__name__} of {len(parts)} parts",
    )
    return parts


def check_row(tokens: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless both are one row, (time,), of the same length."""
    require(
        tokens.dim() == 1 and tokens.shape == targets.shape and is_whole(tokens) and is_whole(targets),
        f"give the tokens and targets of one row, (time,) each, not {tuple(tokens.shape)} of {tokens.dtype} "
        f"and {tuple(targets.shape)} of {targets.dtype}",
    )


# Conversations


def check_conversations(lm: LanguageModel, pairs: Iterable[tuple[object, object]]) -> None:
    """Raise ValueError for a model without a chat template, and for a response that is empty or no text."""
    require(lm.chat is not None, f"{lm.name} has no chat template, and can't be taught by conversations")
    for prompt, response in pairs:
        if not (isinstance(response, str) and response.strip()):
            raise ValueError(
                f"the response to {prompt!r} is empty or no text ({response!r}): there is nothing to learn "
                "from it"
            )


def check_prompt(prompt: object, prompt_ids: Sequence[int], conversation: Sequence[int]) -> None:
    """Raise ValueError unless the conversation's ids begin with those of its prompt."""
    require(
        conversation[: len(prompt_ids)] == prompt_ids,
        f"under this chat template the conversation doesn't begin with its prompt: {prompt!r}",
    )


def check_turn(response: str, text: str, ended: bool) -> None:
    """Raise ValueError unless the assistant's turn, whose text is `text`, ends, and holds the response."""
    require(ended, "this chat template leaves the assistant's turn open: the model would never learn to stop")
    require(
        response.strip() in text,
        f"under this chat template the turn that is learned doesn't hold its response: {response!r}. Does it "
        "open the assistant's turn under add_generation_prompt, and write each content unchanged?",
    )
