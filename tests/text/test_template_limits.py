"""Chat templates that would run for years or fill the memory end, each by a limit that counts."""

import pytest
from jinja2 import Environment, TemplateRuntimeError

from course_lib.text import ChatTemplate, Tokenizer, template_limits, template_sizes
from course_lib.text.template_language import run_template

TOKENIZER = Tokenizer.train("", 257, special=["<|end|>"])

# Small, so that the tests are quick. What is tried is far beyond the real limits too.
SMALL = {"MAX_STEPS": 20_000, "MAX_SIZE": 100_000, "MAX_CHARACTERS": 1_000_000}

DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(99) %%}%s{%% endfor %%}{{ ns.x %s }}"
LARGE = (
    "{%% set l = [1] * 50000 %%}{%% set s = 'a' * 50000 %%}{%% set t = 'a' * 50000 %%}"
    "{%% set x = 2 ** 9999 %%}"
    "{%% for i in range(9999) %%}{{ %s }}{%% endfor %%}"
)
TUPLES = (
    "{%% set ns = namespace(x=(), y=()) %%}{%% for i in range(99) %%}"
    "{%% set ns.x = (ns.x, ns.x) %%}{%% set ns.y = (ns.y, ns.y) %%}{%% endfor %%}{{ %s }}"
)
ENDLESS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for i in range(9999) %}{% for j in range(9999) if no %}{% endfor %}{% endfor %}",
    "filters in a loop": "{% for i in range(9999) %}{{ range(9999) | map('string') | list }}{% endfor %}",
    "a recursive loop": "{% for i in range(9) recursive %}{{ loop(range(9999)) }}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a power": "{{ 10 ** 100000000 }}",
    "a power of a power": "{{ 10 ** (10 ** 10) }}",
    "squares": DOUBLED % ("9", "{% set ns.x = ns.x * ns.x %}", ""),
    "a text many times": "{{ 'x' * 10 ** 10 }}",
    "a text many times, from the left": "{{ 10000000000 * 'x' }}",
    "a list many times": "{{ ([0] * 10000000000) | length }}",
    "doubling by ~": DOUBLED % ("'xy'", "{% set ns.x = ns.x ~ ns.x %}", ""),
    "doubling by +": DOUBLED % ("'xy'", "{% set ns.x = ns.x + ns.x %}", ""),
    "doubling a list": DOUBLED % ("[1]", "{% set ns.x = ns.x + ns.x %}", ""),
    "doubling by writing": DOUBLED % ("'xy'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", ""),
    "doubling by joining": DOUBLED % ("'xy'", "{% set ns.x = [ns.x, ns.x] | join %}", ""),
    "doubling by replacing": DOUBLED % ("'xy'", "{% set ns.x = ns.x.replace('x', 'xx') %}", ""),
    "lists of lists": DOUBLED % ("[1]", "{% set ns.x = [ns.x, ns.x] %}", ""),
    "lists of lists as JSON": DOUBLED % ("[1]", "{% set ns.x = [ns.x, ns.x] %}", "| tojson"),
    "lists of lists in upper case": DOUBLED % ("[1]", "{% set ns.x = [ns.x, ns.x] %}", "| upper"),
    "many long texts": "{{ range(9999) | map('string') | map('center', 99999) | list | length }}",
    "a wide filter": "{{ 'x' | center(10000000000) }}",
    "a wide method": "{{ 'x'.ljust(10000000000) }}",
    "a width for %": "{{ '%10000000000d' % 1 }}",
    "a precision for %": "{{ '%.10000000000f' % 1 }}",
    "a computed width for %": "{{ '%*d' % (10000000000, 1) }}",
    "a width for format": "{{ '{:>10000000000}'.format(1) }}",
    "a computed width for format": "{{ '{:>{}}'.format(1, 10000000000) }}",
    "a width for the filter": "{{ '%10000000000s' | format(1) }}",
    "a width for a mapping": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "a separator": "{{ range(9999) | join('x' * 9999) }}",
    "a separator's own method": "{{ ('x' * 9999).join(range(9999) | map('string')) }}",
    "a replacement": "{{ ('x' * 9999) | replace('x', 'y' * 9999) }}",
    "an indent": "{{ ('\\n' * 9999) | indent(9999) }}",
    "an indent of JSON": "{{ [1, 2] | tojson(indent=10000000000) }}",
    "slices": "{{ [1] | slice(10000000000) | list }}",
    "filler text": "{{ lipsum(n=10000000000) }}",
    "text of the template": "{% for i in range(9999) %}" + "x" * 2000 + "{% endfor %}",
    "a sum of lists": "{{ ([[1]] * 9999) | sum(start=[]) }}",
    "a number looked for in a list": LARGE % "-1 in l",
    "texts compared": LARGE % "s == t",
    "a text looked for in a text": LARGE % "'abc' in s",
    "a test": LARGE % "'abc' is in s",
    "a method": LARGE % "s.upper() | length",
    "a search": LARGE % "s.find('b')",
    "a method of a list": LARGE % "l.count(2)",
    "a filter": LARGE % "s | wordcount",
    "a slice": LARGE % "l[::-1] | length",
    "products": LARGE % "x * x > 1",
    "quotients": LARGE % "x // 7 > 1",
    "equal tuples": TUPLES % "ns.x == ns.y",
    "a tuple as a key": TUPLES % "{}[ns.x]",
    "a tuple as a new key": TUPLES % "{ns.x: 1}",
    "a translation": "{{ ('x' * 9999).translate({120: 'y' * 9999}) }}",
    "bytes of a number": "{{ (5).to_bytes(10000000000) }}",
    "bytes": "{{ 'x'.encode().ljust(10000000000) }}",
    "rounding": "{{ 1 | round(100000000, 'ceil') }}",
    "an argument many times": "{{ ('{0}' * 999).format('x' * 9999) }}",
    "a range": "{{ range(10 ** 9) | list }}",
    "a long reason": "{{ raise_exception(['x' * 99999] * 40) }}",
    "a wide date": "{{ strftime_now('%99999d' * 100) | length }}",
    "many dates": "{{ strftime_now('%c' * 9999) | length }}",
    "a search from the right": "{{ ('a' * 9999).rfind('b' + 'a' * 5000) }}",
    "an index from the right": "{{ ('a' * 9999).rindex('b' + 'a' * 5000) }}",
    "a cut from the right": "{{ ('a' * 9999).rsplit('b' + 'a' * 5000) | length }}",
    "a part from the right": "{{ ('a' * 9999).rpartition('b' + 'a' * 5000) | length }}",
    "stripping": "{{ ('a' * 9999).strip('b' * 5000 + 'a') }}",
    "stripping the left": "{{ ('a' * 9999).lstrip('b' * 5000 + 'a') }}",
    "stripping the right": "{{ ('a' * 9999).rstrip('b' * 5000 + 'a') }}",
    "trimming": "{{ ('a' * 9999) | trim(chars='b' * 5000 + 'a') }}",
}


@pytest.fixture
def small(monkeypatch):
    for name, limit in SMALL.items():
        monkeypatch.setattr(template_limits, name, limit)
    monkeypatch.setattr(template_sizes, "MAX_SIZE", SMALL["MAX_SIZE"])


@pytest.mark.parametrize("source", ENDLESS.values(), ids=list(ENDLESS))
def test_every_template_comes_to_an_end(small, source):
    with pytest.raises(ValueError, match="the chat template failed on these messages"):
        ChatTemplate(source, TOKENIZER).render("hi")


@pytest.mark.parametrize("name", ["nested loops", "a power", "a text many times", "a width for format"])
def test_the_real_limits_end_templates_too(name):
    with pytest.raises(TemplateRuntimeError, match=r"more than [\d,]+ (steps|characters)"):
        run_template(ENDLESS[name])


def test_a_limit_holds_for_one_conversation_not_for_all_together(small):
    chat = ChatTemplate("{% for i in range(9000) %}{{ 'x' * 9 }}{% endfor %}", TOKENIZER)
    for _ in range(5):
        assert chat.render("hi") == "x" * 81_000


def test_a_long_conversation_is_far_from_the_limits():
    source = (
        "{% set ns = namespace(text='') %}{% for message in messages %}{% set ns.text = ns.text ~ "
        "'<|' + message.role + '|>' ~ message.content.replace('a', 'b') | trim %}{% endfor %}{{ ns.text }}"
    )
    messages = [{"role": "user", "content": "a tiger " * 40}] * 1000
    assert ChatTemplate(source, TOKENIZER).render(messages).count("b tiger") == 40_000


def test_limits_change_no_operator():
    source = (
        "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2.5 * 2 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ '%5.1f' % 2 }} "
        "{{ 7 % 4 }} {{ 'a' ~ 1 ~ none }} {{ '{:>5}'.format('x') }} {{ '%s%%' % 5 }} {{ true + 1 }}"
    )
    expected = "1024 0.5 5.0 abab [1, 2]   2.0 3 a1None     x 5% 2"
    assert ChatTemplate(source, TOKENIZER).render("hi") == expected


def test_what_a_template_refuses_is_said_and_dates_are_written():
    with pytest.raises(ValueError, match="no system message"):
        ChatTemplate("{{ raise_exception('no system message') }}", TOKENIZER).render("hi")
    assert len(ChatTemplate("{{ strftime_now('%d %b %Y') }}", TOKENIZER).render("hi")) == 11


@pytest.mark.parametrize(
    "use",
    [
        "{{ g | first }}{{ g | join }}",
        "{{ g | first }}{{ g | list }}{{ g | list }}",
        "{% set h = g | select %}{{ g | first }}{{ h | join }}|{{ h | join }}",
        "{{ 'A' in g }}{{ g | list }}",
        "{{ g | default('x') | join }}",
        "{% for x in g | unique %}{{ x }}{{ g | first }}{% endfor %}",
        "{% for x in g | slice(2) %}{{ x }}{% endfor %}{% for x in g | batch(2) %}{{ x }}{% endfor %}",
    ],
)
def test_an_iterator_is_read_as_jinja_reads_it(use):
    source = "{% set g = ['a', 'b', 'c'] | map('upper') %}" + use
    assert ChatTemplate(source, TOKENIZER).render("hi") == Environment().from_string(source).render()


WORDS = "word " * 800
HEALTHY = {
    r"{{ '{}\n{}'.format(messages[0].content, messages[1].content) }}": f"{WORDS}\n{WORDS}",
    "{{ messages[1].content | replace(messages[0].content, '') }}": "",
    "{{ messages[1].content.replace(messages[0].content, '-') }}": "-",
    "{{ 'Cut: 20231201 %s' % messages[0].content }}": f"Cut: 20231201 {WORDS}",
    "{{ '%s' | format(messages[0].content) }}": WORDS,
    """{{ '{{"a": {}}}'.format(1) }} {{ '100%* {}'.format(1) }} {{ '%d%% %(a)s' % {'a': 1} if no }}""": (
        '{"a": 1} 100%* 1 '
    ),
}


@pytest.mark.parametrize("source", HEALTHY)
def test_sizes_that_add_are_not_multiplied(source):
    messages = [{"role": "system", "content": WORDS}, {"role": "user", "content": WORDS}]
    assert ChatTemplate(source, TOKENIZER).render(messages) == HEALTHY[source]


def test_each_of_very_many_messages_can_ask_how_many_there_are():
    last = "{% if loop.index == messages | length %}{{ m.content }}{% endif %}"
    source = "{% for m in messages %}" + last + "{% endfor %}"
    messages = [{"role": "user", "content": f"{i} {WORDS}"} for i in range(1000)]
    assert ChatTemplate(source, TOKENIZER).render(messages) == f"999 {WORDS}"
