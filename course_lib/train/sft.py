"""Supervised fine-tuning: conversations → training examples (Ouyang et al. 2022, section 3.5).

The model's own chat template formats the conversation. The model reads all of it, and only the response
counts in the loss: the model learns to answer, not to ask.

    examples = chat_examples(lm, [("What is the capital of France?", "Paris.")])
    train(lm.model, Examples(examples, batch=4, collate=answer_only), TrainConfig(steps=40))
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from course_lib.model import LanguageModel
from course_lib.text import Tokenizer
from course_lib.text.chat import Message
from course_lib.train.data_checks import (
    check_conversations,
    check_prompt,
    check_row,
    check_turn,
    to_list_of_pairs,
)
from course_lib.train.loss import IGNORE

Example = tuple[list[int], list[int]]


def chat_examples(lm: LanguageModel, pairs: Iterable[tuple[str | Sequence[Message], str]]) -> list[Example]:
    """Return (prompt, response) pairs as pairs of token ids, formatted by the model's chat template.

    The prompt's ids end where the assistant's turn begins; the response's end with the token that ends that
    turn. A prompt is a user's message, or the list of messages so far.

    Raises ValueError for what isn't pairs, a model without a chat template, a response that is empty or no
    text, and a template under which the conversation doesn't continue the prompt with the response, or that
    leaves the assistant's turn open: the model would be trained on other text than it is prompted with later.
    """
    pairs = to_list_of_pairs(pairs)
    check_conversations(lm, pairs)
    return [_chat_example(lm, prompt, response) for prompt, response in pairs]


def _chat_example(lm: LanguageModel, prompt: str | Sequence[Message], response: str) -> Example:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    answered = [*messages, {"role": "assistant", "content": response}]
    prompt_ids = lm.chat.encode(messages)
    conversation = lm.chat.encode(answered, add_generation_prompt=False)
    check_prompt(prompt, prompt_ids, conversation)
    turn, special = conversation[len(prompt_ids) :], lm.tokenizer.special.values()
    end = next((i for i, token in enumerate(turn) if token in special), len(turn))  # of the response
    check_turn(response, lm.tokenizer.decode(turn[:end]), ended=end < len(turn))
    return prompt_ids, turn[: end + 1]


def counted(tokenizer: Tokenizer, tokens: Tensor, targets: Tensor) -> list[tuple[str, str, bool]]:
    """Return (token read, next token to predict, whether it counts) for each position of a batch's row.

    tokens, targets: (time,). Where a target doesn't count, its text is "".

    Raises ValueError unless they are one row of ids each, equally long.
    """
    check_row(tokens, targets)
    text = tokenizer.token_text
    return [
        (text(token), text(target) if target != IGNORE else "", target != IGNORE)
        for token, target in zip(tokens.tolist(), targets.tolist(), strict=True)
    ]
