"""A GGUF file's vocabulary as a tokenizer, and its chat template.

The strings of ordinary tokens are written as in GPT-2's files (`text.vocabulary_files`), those of special and
of user-defined tokens as plain text.
"""

import re
import reprlib
from collections.abc import Mapping

from gguf import TokenType

from course_lib.families.family import Family, NotHandled, find_setting
from course_lib.text import ChatTemplate, Tokenizer

NAMES = {str: "texts", int: "whole numbers"}


def read_tokenizer(settings: Mapping, family: Family) -> Tokenizer:
    """Return the tokenizer. settings: the file's; those that it lacks raise ValueError by their name."""
    model, pre = settings.get("tokenizer.ggml.model"), settings.get("tokenizer.ggml.pre")
    patterns = family.pre_tokenizers
    if model != "gpt2" or pre not in list(patterns):
        raise NotHandled(
            f"it has a {reprlib.repr(model)} vocabulary with pre-tokenizer {reprlib.repr(pre)}; handled are "
            f"'gpt2' vocabularies with {', '.join(map(repr, patterns))}"
        )
    tokens = read_list(settings, "tokens", str)
    special_ids, added_ids = _named_ids(settings, len(tokens))
    return Tokenizer.from_gpt2_strings(
        tokens,
        read_list(settings, "merges", str),
        special_ids,
        added_ids,
        pattern=patterns[pre],
        unknown=settings.get("tokenizer.ggml.unknown_token_id"),
    )


def read_chat(settings: Mapping, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the chat template, if the file has one. One that isn't handled fails when it is used."""
    template = settings.get("tokenizer.chat_template", "")
    if type(template) is not str:
        raise ValueError(f"its chat template is {reprlib.repr(template)}, which is no text")
    bos, eos = (settings.get(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos"))
    return ChatTemplate(template, tokenizer, bos=bos, eos=eos) if template else None


def _named_ids(settings: Mapping, n_tokens: int) -> tuple[list[int], list[int]]:
    """Return the ids of special tokens, and those of user-defined ones, which are never cut.

    A file may leave the types of its tokens out. Those that it names for a purpose are then special
    ("tokenizer.ggml.eos_token_id").
    """
    if "tokenizer.ggml.token_type" not in settings:
        purposes = [name for name in settings if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", name)]
        return [settings[name] for name in purposes], []
    types = read_list(settings, "token_type", int)
    if len(types) != n_tokens:
        raise ValueError(f"it has {n_tokens} tokens and says what {len(types)} of them are")
    special = [i for i, kind in enumerate(types) if kind in (TokenType.CONTROL, TokenType.UNKNOWN)]
    return special, [i for i, kind in enumerate(types) if kind == TokenType.USER_DEFINED]


def read_list(settings: Mapping, name: str, kind: type) -> list:
    """Return one of the vocabulary's lists. Raises ValueError unless it is one, of values of this kind."""
    values = find_setting(settings, f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"its tokenizer.ggml.{name} isn't a list of {NAMES[kind]}")
    return values
