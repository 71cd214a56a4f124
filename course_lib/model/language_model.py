"""A model with what it needs to read and write text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_lib.model.decoder import Decoder

if TYPE_CHECKING:  # only the types are needed: a model computes without any text
    from course_lib.text import ChatTemplate, Tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """name: what to call it. chat: how it was taught to be spoken to; None where nothing was said of it."""

    name: str
    model: Decoder
    tokenizer: Tokenizer
    chat: ChatTemplate | None = None
