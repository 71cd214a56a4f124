"""A decoder together with what it needs to read and write text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_lib.model.decoder import Decoder

if TYPE_CHECKING:  # only the types are needed: a model computes without any text
    from course_lib.text import ChatTemplate, Tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """A model, its tokenizer, and the format of the conversations that it was trained on."""

    name: str  # for messages and figures
    model: Decoder
    tokenizer: Tokenizer
    chat: ChatTemplate | None = None  # None: the model's file has no chat template
