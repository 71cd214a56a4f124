"""Chat templates: a conversation → the one text that the model reads.

A chat model continues text, as any language model does. The turns of a conversation are marked with special
tokens and laid out by a small program in the Jinja language, which comes in the model's own file:

    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant

Because the program comes from a file, it runs in Jinja's sandbox. It can use the messages and what
`template_language` names, but no attributes that lead to Python's internals, and no files; and
`template_limits` ends a program that takes too long.

Special tokens must come from the template alone. With one in a message, its author could end the turn, and
write the next one in another role. To see where they come from, the template runs a second time, on messages
in which everything that could be part of a special token is blotted out:

    message       parts: <|im_ and end|>
    blotted out   ■■■■■■ ■■■■■ ■■■ ■■■■■

Not handled: conversations with pictures or tools; turns marked by tokens that the file doesn't call special;
special tokens with a 0 or a 1 in their names, where a template writes the numbers that a message holds.
"""

import re
from collections.abc import Iterable
from itertools import count
from typing import Any

from course_lib.arguments import check_flag
from course_lib.text.checks import check_messages
from course_lib.text.template_language import run_template
from course_lib.text.tokenizer import Tokenizer

Message = dict[str, Any]


class ChatTemplate:
    """Lays out messages, each {"role": "system" | "user" | "assistant", "content": text}, and encodes them.

    source: the Jinja program. bos, eos: the ids of the tokens that begin and end a text, whose names the
    program can write as `bos_token` and `eos_token`. Raises TypeError for a source that is no text, and
    ValueError for an id without a token. Whether the source is a Jinja program shows when it is used.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, bos: int | None = None, eos: int | None = None):
        if not isinstance(source, str):
            raise TypeError(f"a chat template is a program as text, not {type(source).__name__}")
        self.source, self.tokenizer = source, tokenizer
        ids = {"bos_token": bos, "eos_token": eos}
        self._tokens = {name: tokenizer.decode([i]) for name, i in ids.items() if i is not None}
        self._blot = _Blot(tokenizer.special)

    def render(self, messages: str | Iterable[Message], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation.

        messages: a plain string is one user message. add_generation_prompt: open the assistant's turn at the
        end, so that the model continues with its answer.

        Raises ValueError for bos or eos that the template uses and that isn't special in the vocabulary, for
        a message without role or content, for a source that isn't a Jinja program, and if the program fails
        or takes too long. Raises ValueError also where bos, eos or a special token that
        the template uses comes from the messages, whole or joined from its parts.
        """
        return self._lay_out(messages, add_generation_prompt)[0]

    def encode(self, messages: str | Iterable[Message], add_generation_prompt: bool = True) -> list[int]:
        """Return the token ids of a conversation.

        The names of special tokens are read as those tokens where the template has written them. In a
        message, a name that the template doesn't use, such as "<filename>", is plain text. Raises what
        `render` and `Tokenizer.encode` raise.
        """
        text, names = self._lay_out(messages, add_generation_prompt)
        return self.tokenizer.encode(text, allow_special=names)

    def _lay_out(
        self, messages: str | Iterable[Message], add_generation_prompt: bool
    ) -> tuple[str, set[str]]:
        """Return the text of a conversation, and the names in it that are to be read as special tokens."""
        check_flag("add_generation_prompt", add_generation_prompt)
        for variable, name in self._tokens.items():
            if variable in self.source and name not in self.tokenizer.special:
                raise ValueError(
                    f"the template uses {variable}, but the token {name} isn't special in this vocabulary, "
                    "and would be read as plain text: make the tokenizer with special={name: id}"
                )
        messages = check_messages(messages)
        blotted = self._run(list(map(self._blot.message, messages)), add_generation_prompt)
        names = set(self.tokenizer.special)
        used = {name for name in names if name in self.source}.union(self._tokens.values())
        used |= set(self._special_tokens(blotted, names))
        for i, text in enumerate(map("\n".join, map(_strings, messages))):
            found = {name for name in names if name in text}
            if found & used:
                name = min(found & used)
                raise ValueError(f"message {i} contains {name}, which would end or forge a turn; remove it")
            names -= found
        text = self._run(messages, add_generation_prompt)
        if self._special_tokens(text, names) != self._special_tokens(blotted, names):
            raise ValueError("the messages' texts join to a special token, which would end or forge a turn")
        return text, names

    def _run(self, messages: list[Message], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "add_generation_prompt": add_generation_prompt, **self._tokens}
        try:
            return run_template(self.source, **variables, tools=None, documents=None)
        except Exception as error:  # a template is a program from a file and may fail in any way
            raise ValueError(f"the chat template failed on these messages: {error}") from error

    def _special_tokens(self, text: str, names: set[str]) -> list[str]:
        """Return the special tokens in a text if those of `names` are read."""
        return [name for name in self.tokenizer.splitter(names).split(text)[1::2] if name in names]


class _Blot:
    """Replaces everything in messages that could be part of a special token by a mark that is in none."""

    def __init__(self, names: Iterable[str]):
        names = list(names)
        plain = "".join(name for name in names if not re.search(r"[^\w\s]", name))  # without punctuation
        self.mark = next(mark for mark in map(chr, count(0x25A0)) if not any(mark in name for name in names))
        self.punctuation = re.compile(r"[^\w\s]")
        self.parts = re.compile(rf"[^\w\s]|[{re.escape(plain)}]" if plain else r"[^\w\s]")
        self.anything = re.compile(rf"\S|[{re.escape(plain)}]" if plain else r"\S")

    def message(self, message: Message) -> Message:
        """Return the message with its content blotted out.

        Of the other texts, templates may ask what they are, so they keep their letters where letters alone
        can't make a special token. The role keeps them always.
        """
        blotted = self._other(message)
        content, role = self.anything.sub(self.mark, message["content"]), message["role"]
        return blotted | {"content": content, "role": self.punctuation.sub(self.mark, role)}

    def _other(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.punctuation.sub(self.mark, key): self._other(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._other(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return type(value)(bool(value))  # 0 or 1: as '%c', a number is a character
        return self.parts.sub(self.mark, value) if isinstance(value, str) else value


def _strings(value: Any) -> list[str]:
    """Return all the texts in a message."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []
