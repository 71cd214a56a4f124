"""Chat templates as others write them, rendered as `transformers` renders them.

`chat_templates/` holds the layouts of well-known models, retold in the ways in which their templates are
written. `COMPOSED` are put together from parts, and `SNIPPETS` each use one feature of the language.
"""

import importlib.util
from datetime import datetime
from itertools import product
from pathlib import Path

import pytest
from references import smollm2
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from course_lib.text import ChatTemplate, Tokenizer, template_language

FILES = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
WELL_KNOWN = {path.stem: path.read_text("utf-8") for path in FILES}

START = {
    "no bos": "",
    "bos": "{{ bos_token }}",
    "bos if any": "{% if bos_token is defined and bos_token %}{{ bos_token ~ '\n' }}{% endif %}",
}
SYSTEM = {
    "any": "{% set turns = messages %}",
    "default": (
        "{% set turns = messages %}{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    ),
    "refused": (
        "{% set turns = messages %}{% if messages | selectattr('role', 'equalto', 'system') | list %}"
        "{{ raise_exception('no system message is supported') }}{% endif %}"
    ),
    "joined to the first": (
        "{%- if messages[0].role == 'system' -%}{%- set first = messages[0].content | trim ~ '\n\n' -%}"
        "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}"
        "{%- endif -%}"
    ),
}
TURNS = {
    "ChatML": (
        "{% for message in turns %}{{ '<|im_start|>' + message['role'] + '\n' + (first or '' if loop.first"
        " else '') + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    ),
    "headers": (
        "{%- for message in turns %}\n    {{- '<|header|>' ~ message.role ~ '<|/header|>\n\n' }}\n"
        "    {%- if loop.first and first %}{{ first }}{% endif %}\n    {{- message.content | trim }}\n"
        "    {{- eos_token if message.role == 'assistant' else '<|eot|>' }}\n{%- endfor %}"
    ),
    "[INST]": (
        "{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
        "[INST] {{ (first or '') + message['content'] }} [/INST]{% else %}"
        "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    ),
    "names": (
        "{% for message in turns %}\n{% if message.role == 'tool' %}{% continue %}{% endif %}\n"
        "{{ message.role | capitalize }}: {{ message.content }}\n{% if loop.last %}{% break %}{% endif %}\n"
        "---\n{% endfor %}\n"
    ),
}
END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
COMPOSED = {
    " · ".join(names): START[names[0]] + SYSTEM[names[1]] + TURNS[names[2]] + END
    for names in product(START, SYSTEM, TURNS)
}

EACH = "{%% for message in messages %%}%s{%% endfor %%}"
SNIPPETS = [
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{{ messages[0] | tojson(sort_keys=true, ensure_ascii=true) }}",
    "{{ messages[0] | tojson(separators=(',', ':')) }}",
    "{{ {'a': [1, 2.5, none, true], 'é': '<&>\\''} | tojson(4) }}",
    "{{ tools is none }} {{ documents is none }} {{ tools is defined }}",
    "{% if tools is not none %}tools{% endif %}{% if documents %}documents{% endif %}",
    "{{ strftime_now('%d %b %Y %H:%M') }}",
    "{{ bos_token ~ eos_token }}{{ bos_token is string }}",
    "{{ nobody_knows }}{{ nobody_knows is defined }}{{ nobody_knows or 'else' }}",
    "{{ nobody.knows }}",
    "{{ add_generation_prompt }}",
    EACH % "{% if loop.index0 == 1 %}{% break %}{% endif %}{{ message.content }}",
    EACH % "{% if message.role == 'system' %}{% continue %}{% endif %}{{ message.content }}",
    EACH % "{{ loop.index }}{{ loop.revindex }}{{ loop.length }}{{ loop.first }}{{ loop.last }}",
    EACH % "{{ loop.previtem.role }}{{ loop.nextitem.role }}{{ loop.cycle('a', 'b') }}{{ loop.changed(1) }}",
    EACH % "{% generation %}{% set x = message.content %}{{ x }}{% endgeneration %}{{ x }}",
    EACH
    % "{% if message.role == 'assistant' %}{%- generation -%} {{ message.content }} {%- endgeneration -%}"
    "{% endif %}",
    "{% for message in messages if message.role == 'user' %}{{ message.content }}{% else %}none{% endfor %}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
    "{% for m in messages recursive %}{{ m.role }}{% if m.more %}{{ loop(m.more) }}{% endif %}{% endfor %}",
    "{% set ns = namespace(text='', n=0) %}"
    + EACH % "{% set ns.text = ns.text ~ message.content %}{% set ns.n = ns.n + 1 %}"
    + "{{ ns.text }}{{ ns.n }}",
    "{% set text %}{{ messages[0].content }}!{% endset %}{{ text | upper }}",
    "{% macro turn(role, text='') %}[{{ role }}]{{ text }}{{ caller() if caller }}{% endmacro %}"
    + "{{ turn('a', messages[0].content) }}{% call turn('b') %}inside{% endcall %}",
    "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "{% raw %}{{ not run }}{% endraw %}{# a comment #}",
    "  {%- if true -%}  a  {%- endif %}\n\n  {% if true %}\n  b\n  {% endif %}\nc",
    "{{ messages | map(attribute='content') | join(' | ') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
    "{{ messages | rejectattr('role', 'in', ['system', 'user']) | list | length }}",
    "{{ messages | groupby('role') | map(attribute='grouper') | join(',') }}",
    "{{ (messages | first).content }}{{ (messages | last).content }}{{ messages[-1:] | length }}",
    "{{ messages[0].content | trim | title | replace('a', 'b') | truncate(9) | indent(4, true) }}",
    "{{ messages[0].content.strip().split(' ')[0].upper().startswith('W') }}",
    "{{ messages[0].content.replace('a', '--').lstrip('W').rstrip('\n').center(60, '*') }}",
    "{{ '%s: %5.2f|%d' % (messages[0].role, 3.14159, 7) }}{{ '%s' | format('x') }}",
    "{{ '{} {a:>6}'.format(messages[0].role, a=1) }}{{ ', '.join(['a', 'b']) }}",
    "{{ 'user' in ['user'] and 'x' not in 'abc' }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 'ab' * 3 }}{{ [1] * 2 }}",
    "{{ range(3) | list }}{{ range(0, 10, 3) | sum }}{{ [3, 1, 2] | sort | reverse | list }}",
    "{{ messages[0].get('name', 'nobody') }}{{ messages[0].name | default('nobody', true) }}",
    "{{ messages[0].content is string }}{{ messages is iterable }}{{ messages[0] is mapping }}",
    "{{ dict(a=1) | items | list }}{{ dict(a=1) | dictsort }}{{ {'a': 1}.keys() | list }}",
    "{{ [1, 2, 3, 4, 5] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}",
    "{{ 'a b c' | wordcount }}{{ '<b>' | escape }}{{ '3' | int + 1 }}{{ 2.6 | round | int }}{{ -3 | abs }}",
    "{{ messages[0]['content'][:5] ~ 'abc'[::-1] }}{{ 'yes' if messages | length > 1 else 'no' }}",
    "{% set a, b = 1, 2 %}{{ a ~ b }}{% with c = 3 %}{{ c }}{% endwith %}{{ [a, b] | max }}",
    "{{ cycler('a', 'b').next() }}{% set sep = joiner(', ') %}{{ sep() }}{{ sep() }}",
    "{{ messages[0].content | string | length }}{{ messages[5] }}{{ messages[0]['no'] }}",
    "{{ raise_exception('never') if messages | length > 90 }}",
    "{{ raise_exception('this is refused: ' + messages[0].role) }}",
    "{{ messages[0].content + 1 }}",
    "{{ messages[0].content.__class__ }}{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ nobody() }}",
    "{{ 1 / 0 }}",
    "{% for %}",
    "{% unknown %}",
    "{{ 'x' | no_such_filter }}",
    "{% include 'file' %}",
]
SPECIFIC = {f"snippet {i}": source for i, source in enumerate(SNIPPETS)}


def trl_templates():
    """The templates in the package `trl`, where it is installed."""
    spec = importlib.util.find_spec("trl")
    paths = sorted(Path(spec.origin).parent.rglob("*.jinja")) if spec else []
    return {f"trl {path.stem}": path.read_text("utf-8") for path in paths}


TEMPLATES = WELL_KNOWN | COMPOSED | SPECIFIC | trl_templates()

CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": " Be brief. /no_think"},
        {"role": "user", "content": 'Hi <b>&amp; "you\'" é🐯\n'},
    ],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nOne thought.\n</think>\n\n One."},
        {"role": "user", "content": "  Two \n {{ braces }} {% raw %}"},
    ],
    [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "<think>\nyes\n</think>\n\nThe answer."},
    ],
    [{"role": "assistant", "content": "I begin."}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "Weather?", "name": "Ann"}, {"role": "tool", "content": '{"°C": 21}'}],
]
BOS, EOS = "<s>", "</s>"


@pytest.fixture
def tokenizer():
    return Tokenizer.train("", 262, special=[BOS, EOS, "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>"])


@pytest.fixture(autouse=True)
def one_moment(monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 12, 1, 9, 30)

    monkeypatch.setattr(template_language, "datetime", Frozen)
    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)


def reference(source, messages, add_generation_prompt):
    """The text as `transformers` renders it, or its error."""
    options = {"add_generation_prompt": add_generation_prompt, "bos_token": BOS, "eos_token": EOS}
    try:
        return render_jinja_template([messages], chat_template=source, **options)[0][0], None
    except Exception as error:  # noqa: BLE001 - whatever the template leads to
        return None, str(error)


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_template_is_rendered_as_transformers_renders_it(source, tokenizer):
    chat = ChatTemplate(source, tokenizer, bos=tokenizer.special[BOS], eos=tokenizer.special[EOS])
    for messages, add_generation_prompt in product(CONVERSATIONS, [True, False]):
        expected, reason = reference(source, messages, add_generation_prompt)
        if reason is None:
            assert chat.render(messages, add_generation_prompt) == expected
            ids = chat.encode(messages, add_generation_prompt)
            assert ids == tokenizer.encode(expected, allow_special=True)
        else:
            with pytest.raises(ValueError, match="the chat template failed on these messages") as caught:
                chat.render(messages, add_generation_prompt)
            assert reason in str(caught.value)


def test_more_than_a_hundred_templates_are_compared_and_most_make_a_text():
    made = [
        tuple(reference(source, messages, True) for messages in CONVERSATIONS)
        for source in TEMPLATES.values()
    ]
    assert sum(any(text for text, _ in texts) for texts in made) > 130
    assert len(set(made)) > 120
    assert len(WELL_KNOWN) >= 38


def test_a_models_own_template_is_rendered_with_its_tokens():
    chat = smollm2().chat
    for messages in CONVERSATIONS:
        assert chat.render(messages) == reference(chat.source, messages, True)[0]


@pytest.mark.parametrize("name", template_language.TOKEN_VARIABLES)
def test_a_token_that_is_not_known_is_written_by_no_template(tokenizer, name):
    for source in ("{{ token }}", "{{ 'x' ~ token }}", "{{ token + 'x' }}", "{{ token | trim }}"):
        with pytest.raises(ValueError, match=name):
            ChatTemplate(source.replace("token", name), tokenizer).render("hi")
    source = "{% if token is defined and token %}x{% endif %}y".replace("token", name)
    assert ChatTemplate(source, tokenizer).render("hi") == "y"


def test_the_names_of_bos_and_eos_come_from_their_ids(tokenizer):
    chat = ChatTemplate(
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", tokenizer, bos=256, eos=257
    )
    assert chat.render("hi") == "<s>hi</s>"
    assert chat.encode("hi") == [256, *b"hi", 257]
    for wrong in (-1, 262, 10**9):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            ChatTemplate("x", tokenizer, bos=wrong)
    with pytest.raises(TypeError, match="whole numbers"):
        ChatTemplate("x", tokenizer, eos="</s>")
