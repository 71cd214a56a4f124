"""Supervised fine-tuning: from conversations to what a chat model is trained on (Ouyang et al. 2022, section 3.5).

A conversation is laid out by the model's own chat template. The model reads all of it, and only the response counts in the loss: it is
to learn to answer, not to ask.

    examples = chat_examples(lm, [("What is the capital of France?", "Paris.")])
    train(lm.model, Examples(examples, batch=4, collate=answer_only), TrainConfig(steps=40))
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from course_lib.model import LanguageModel
from course_lib.text import Tokenizer
from course_lib.text.chat import Message
from course_lib.train.loss import IGNORE

Example = tuple[list[int], list[int]]


def chat_examples(lm: LanguageModel, pairs: Iterable[tuple[str | Sequence[Message], str]]) -> list[Example]:
    """(prompt, response) pairs as ids: what the model is given, up to where its turn begins, and what it is to write, up to and
    with the token that ends its turn. A prompt is a user's message, or the messages so far.

    Raises ValueError for a model without chat template, a response that is empty or no text, and a template under which the conversation
    doesn't go on from the prompt with the response, or leaves the assistant's turn open: such a model would be trained on
    other text than it is asked with.
    """
    if lm.chat is None:
        raise ValueError(f"{lm.name} has no chat template, and can't be taught by conversations")
    return [_example(lm, prompt, response) for prompt, response in pairs]


def _example(lm: LanguageModel, prompt: str | Sequence[Message], response: str) -> Example:
    if not isinstance(response, str) or not response.strip():
        raise ValueError(
            f"the response to {prompt!r} is empty or no text ({response!r}): there is nothing to learn from it"
        )
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    asked = lm.chat.encode(messages)
    whole = lm.chat.encode(
        [*messages, {"role": "assistant", "content": response}], add_generation_prompt=False
    )
    if whole[: len(asked)] != asked:
        raise ValueError(
            f"under this chat template the conversation doesn't begin with its prompt: {prompt!r}"
        )
    answer = whole[len(asked) :]
    ends = [i for i, token in enumerate(answer) if token in lm.tokenizer.special.values()]
    if not ends:
        raise ValueError(
            "this chat template leaves the assistant's turn open: the model would never learn to stop"
        )
    if response.strip() not in lm.tokenizer.decode(answer[: ends[0]]):
        raise ValueError(
            f"under this chat template the turn that is learned doesn't hold its response: {response!r}. Does it open the "
            "assistant's turn where it is asked to, and write what it is given?"
        )
    return asked, answer[: ends[0] + 1]


def counted(tokenizer: Tokenizer, tokens: Tensor, targets: Tensor) -> list[tuple[str, str, bool]]:
    """One row of a batch made visible: what the model has just read, what it is to say next, and whether that counts.

    tokens, targets: (time,). Where nothing counts, the target is written as "".
    """
    text = tokenizer.token_text
    return [
        (text(read), text(target) if target != IGNORE else "", target != IGNORE)
        for read, target in zip(tokens.tolist(), targets.tolist(), strict=True)
    ]
