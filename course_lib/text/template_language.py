"""What chat templates can use: Jinja's language, with what `transformers` adds to it.

    raise_exception("…")          refuses a conversation
    strftime_now("%d %b %Y")      the date or the time of now
    x | tojson(indent=4)          JSON as Python writes it: Jinja's own filter is for web pages, and escapes <
    {% generation %}              marks what the assistant wrote, for training; it changes no text
    {% break %} {% continue %}    as in Python
    bos_token, eos_token          the names of the tokens that begin and end a text

As in `transformers`, a variable that nobody has defined is written as nothing. Not so the variables of
`TOKEN_VARIABLES`: a template that writes a token of which nothing is known fails, because a model that has
learned to read that token at the beginning would miss it.

Not handled: {% autoescape %}, which is for web pages.
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from course_lib.text.template_limits import LimitedEnvironment

TOKEN_VARIABLES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]


@lru_cache(maxsize=32)
def compile_template(source: str) -> Template:
    """Return a chat template's program. Raises what Jinja raises for a source that is none."""
    environment = LimitedEnvironment(
        {"tojson": to_json}, trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.add_functions(raise_exception, strftime_now)
    environment.globals |= {name: UnknownToken(name=name) for name in TOKEN_VARIABLES}
    return environment.compile_limited(source)


def run_template(source: str, **variables: Any) -> str:
    """Return the text that a chat template makes. Raises whatever the template leads to."""
    template = compile_template(source)
    template.environment.start()
    return template.render(variables)


def raise_exception(reason: str) -> None:
    """Refuse a conversation."""
    raise TemplateError(reason)


def strftime_now(form: str) -> str:
    """Return the date or the time of now, such as "01 Dec 2026" for "%d %b %Y"."""
    return datetime.now().strftime(form)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class Generation(Extension):
    """The tags {% generation %} and {% endgeneration %}: what is between them is written as it is."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """Return the program between two such tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("write"), [], [], body).set_lineno(line)

    def write(self, caller: Callable[[], str]) -> str:
        """Return the text between two such tags."""
        return caller()


class UnknownToken(Undefined):
    """A variable such as `bos_token` where no such token is known: undefined, and an error when written."""

    def __str__(self) -> str:
        raise TemplateError(
            f"it writes {self._undefined_name}, which isn't known here: name the model's own tokens with "
            "ChatTemplate(…, bos=…, eos=…), or take the variable out of the template"
        )
