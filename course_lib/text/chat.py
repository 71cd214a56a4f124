"""Chat templates: a conversation → the one text that the model reads.

A chat model continues text, as any language model does. The turns of a conversation are marked with special
tokens and laid out by a small program in the Jinja language, which comes in the model's own file:

    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant

Because the program comes from a file, it runs in Jinja's sandbox. It can use the messages, Jinja's own
functions, such as `range`, and `raise_exception`, but no attributes that lead to Python's internals, and no
files.

Not handled: a program that runs for hours or fills the memory.
"""

import re
from collections.abc import Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from course_lib.text.special_tokens import SpecialSplitter
from course_lib.text.tokenizer import Tokenizer

Message = dict[str, str]


class ChatTemplate:
    """Lays out messages, each {"role": "system" | "user" | "assistant", "content": text}, and encodes them.

    source: the Jinja program. Raises ValueError if it isn't one.
    """

    def __init__(self, source: str, tokenizer: Tokenizer):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        self.source, self.tokenizer = source, tokenizer
        self._splitter = SpecialSplitter(tokenizer.special)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template is not a Jinja program: {error}") from error

    def render(self, messages: str | Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation.

        messages: a plain string is one user message. add_generation_prompt: open the assistant's turn at the
        end, so that the model continues with its answer.

        Raises ValueError for a message without role or content, and if the template fails. Raises ValueError
        also where a special token comes from the messages, whole or joined from its parts. With it, the
        author of a message could end the turn and write the next one in another role.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not messages:
            raise ValueError("a conversation needs at least one message")
        for i, message in enumerate(messages):
            self._check_message(i, message)
        text = self._run_template(messages, add_generation_prompt)
        harmless = self._run_template(list(map(_blank_punctuation, messages)), add_generation_prompt)
        if self._special_tokens(text) != self._special_tokens(harmless):
            raise ValueError("the messages' texts join to a special token, which would end or forge a turn")
        return text

    def encode(self, messages: str | Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Return the token ids of a conversation. The names of special tokens are read as those tokens."""
        return self.tokenizer.encode(self.render(messages, add_generation_prompt), allow_special=True)

    def _run_template(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template is a program from a file and may fail in any way
            raise ValueError(f"the chat template failed on these messages: {error}") from error

    def _special_tokens(self, text: str) -> list[str]:
        return self._splitter.split(text)[1::2]

    def _check_message(self, i: int, message: Message) -> None:
        fields = [message.get(key) if isinstance(message, dict) else None for key in ("role", "content")]
        if not all(isinstance(field, str) for field in fields):
            raise ValueError(
                f"message {i} must be a dict with a 'role' and a 'content', both strings, not {message!r}"
            )
        text = "\n".join(map(str, message.values()))
        for name in self.tokenizer.special:
            if name in text:
                raise ValueError(f"message {i} contains {name}, which would end or forge a turn; remove it")


def _blank_punctuation(message: Message) -> Message:
    """Return the message without punctuation marks, so that no parts of special tokens are left in it."""
    return {
        key: re.sub(r"[^\w\s]", ".", value) if isinstance(value, str) else value
        for key, value in message.items()
    }


def _raise_exception(reason: str) -> None:
    """Templates call this as `raise_exception("…")` to refuse a conversation."""
    raise TemplateError(reason)
