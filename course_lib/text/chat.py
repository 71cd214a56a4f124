"""A conversation → the one text that the model reads.

A chat model is a model of text like any other. Its turns are marked with special tokens, laid out by a small program in the
Jinja language that comes in the model's own file: `<|im_start|>user … <|im_end|>` and so on. Because that program comes from a
file, it runs in Jinja's sandbox, where it can reach nothing but the messages.
"""

from collections.abc import Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from course_lib.text.bpe import Tokenizer

Message = dict[str, str]


class ChatTemplate:
    """Lays out messages, each {"role": "system" | "user" | "assistant", "content": text}, and turns them into tokens."""

    def __init__(self, source: str, tokenizer: Tokenizer):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self.source, self.tokenizer = source, tokenizer
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template is not a Jinja program: {error}") from error

    def render(self, messages: str | Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation. A plain string is one user message. add_generation_prompt: open the assistant's
        turn at the end, so that the model goes on with its answer.

        Raises ValueError for a message without role or content, or one whose content holds a special token: it would
        let whoever wrote it close its turn and speak as somebody else.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not messages:
            raise ValueError("a conversation needs at least one message")
        for i, message in enumerate(messages):
            self._check(i, message)
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # the template is somebody's program and may fail in any way
            raise ValueError(f"the chat template failed on these messages: {error}") from error

    def encode(self, messages: str | Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The token ids of a conversation, special tokens read as such."""
        return self.tokenizer.encode(self.render(messages, add_generation_prompt), allow_special=True)

    def _check(self, i: int, message: Message) -> None:
        parts = [message.get(part) if isinstance(message, dict) else None for part in ("role", "content")]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"message {i} must be a dict with a 'role' and a 'content', both strings, not {message!r}"
            )
        for name in self.tokenizer.special:
            if name in message["role"] + "\n" + message["content"]:
                raise ValueError(f"message {i} contains {name}, which would end or forge a turn; take it out")


def _refuse(reason: str) -> None:
    raise TemplateError(reason)
