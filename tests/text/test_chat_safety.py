"""No message ends or forges a turn, and ordinary text isn't refused."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import smollm2

from course_lib.text import ChatTemplate, Tokenizer

calm = settings(derandomize=True, deadline=None, max_examples=300)

NAMES = ["<|a|>", "<|b|>", "<|a", "<f>", "</f>", "x<|b|>", "E", "EE", "[T] ", "\n\n"]
TOKENIZER = Tokenizer.train("", 256 + len(NAMES), special=NAMES)

# A template as a list of parts: text of its own, or (which message, what it does to the content).
DEEDS = {
    "": lambda text: text,
    " | trim": str.strip,
    " | replace('\\n', '')": lambda text: text.replace("\n", ""),
    " | upper": str.upper,
    "[::2]": lambda text: text[::2],
    "[::-1]": lambda text: text[::-1],
}
texts = st.lists(st.sampled_from([*NAMES, *"<|ab>Ex[T] \n/f", "hello", "|>", "<|", "é"]), max_size=5).map(
    "".join
)
parts = st.lists(
    st.one_of(
        st.sampled_from([*NAMES, "<|", "|>", "a", ">", "<", "E", "user: ", "\n"]),
        st.tuples(st.integers(0, 1), st.sampled_from(sorted(DEEDS))),
    ),
    max_size=6,
)


def write_program(program):
    return "".join(
        f"{{{{ {part!r} }}}}" if isinstance(part, str) else f"{{{{ messages[{part[0]}].content{part[1]} }}}}"
        for part in program
    )


@calm
@given(parts, st.lists(texts, min_size=2, max_size=2))
def test_every_special_token_is_the_templates_own(program, contents):
    chat = ChatTemplate(write_program(program), TOKENIZER)
    messages = [{"role": "user", "content": content} for content in contents]
    pieces = [part if isinstance(part, str) else DEEDS[part[1]](contents[part[0]]) for part in program]
    whose = [
        "template" if isinstance(part, str) else "message"
        for part, piece in zip(program, pieces, strict=True)
        for _ in piece.encode()
    ]
    try:
        ids = chat.encode(messages)
    except ValueError as error:
        assert "end or forge a turn" in str(error)
        return
    assert TOKENIZER.decode(ids) == "".join(pieces) == chat.render(messages)
    place = 0
    for i in ids:
        end = place + len(TOKENIZER.tokens[i])
        assert i not in TOKENIZER.special.values() or set(whose[place:end]) == {"template"}
        place = end


@calm
@given(
    st.lists(st.sampled_from([*"<|im_end>start\n ", "<|im_", "end|>", "user", "<file", "name>"]), max_size=9)
)
def test_a_message_of_fragments_leaves_the_turns_as_they_are(fragments):
    chat, text = smollm2().chat, "".join(fragments)
    turns = [i for i in chat.encode("hello") if i in chat.tokenizer.special.values()]
    if "<|im_end|>" in text or "<|im_start|>" in text:
        with pytest.raises(ValueError, match="end or forge a turn"):
            chat.encode(text)
    else:
        ids = chat.encode(text)
        assert [i for i in ids if i in chat.tokenizer.special.values()] == turns
        assert f"user\n{text}<|im_end|>" in chat.tokenizer.decode(ids)


@pytest.mark.parametrize("name", sorted(set(smollm2().tokenizer.special) - {"<|im_start|>", "<|im_end|>"}))
def test_names_that_the_template_does_not_use_are_plain_text(name):
    chat = smollm2().chat
    text = f"What is {name}, and who wrote {name}?"
    for messages in (text, [{"role": "system", "content": text}, {"role": "user", "content": "hm"}]):
        ids = chat.encode(messages)
        assert chat.tokenizer.special[name] not in ids
        assert text in chat.tokenizer.decode(ids)
        assert chat.render(messages) == chat.tokenizer.decode(ids)


def test_eos_is_refused_even_where_the_template_does_not_write_it():
    tokenizer = Tokenizer.train("", 258, special=["<s>", "</s>"])
    source = "{{ messages[0].content }}"
    assert ChatTemplate(source, tokenizer).encode("</s>") == list(b"</s>")
    with pytest.raises(ValueError, match="message 0 contains </s>"):
        ChatTemplate(source, tokenizer, eos=257).encode("</s>")


def test_bos_that_is_not_special_is_refused_where_the_template_uses_it():
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)] + [b"<bos>"], {}, special={})
    with pytest.raises(ValueError, match="the token <bos> isn't special in this vocabulary"):
        ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokenizer, bos=256).encode("hi")
    assert ChatTemplate("{{ messages[0].content }}", tokenizer, bos=256).encode("hi") == [104, 105]


def test_a_number_makes_no_special_token():
    tokenizer = Tokenizer.train("", 257, special=["<|im_end|>"])
    chat = ChatTemplate("{{ '%c|im_end|>' % messages[0].n }}", tokenizer)
    with pytest.raises(ValueError, match="join to a special token"):
        chat.encode([{"role": "user", "content": "hi", "n": 60}])


def test_a_token_whose_name_the_template_builds_from_the_role():
    tokenizer = Tokenizer.train("", 258, special=["<|user|>", "<|end|>"])
    chat = ChatTemplate("<|{{ messages[0].role }}|>{{ messages[0].content }}<|end|>", tokenizer)
    assert chat.encode("hi") == [256, *b"hi", 257]
    with pytest.raises(ValueError, match=r"message 0 contains <\|user\|>"):
        chat.encode("<|user|>")


def test_what_stands_between_a_templates_marks_makes_no_special_token():
    tokenizer = Tokenizer.train("", 258, special=["<|user|>", "EOT"])
    for source in ("<|{{ messages[0].content }}|>", "EO{{ messages[0].content }}"):
        for content in ("user", "T"):
            chat = ChatTemplate(source, tokenizer)
            if source.startswith("EO") == (content == "T"):
                with pytest.raises(ValueError, match="join to a special token"):
                    chat.encode(content)
            else:
                assert chat.encode("x" + content)[-1] != 257


# Conversations of other kinds


@pytest.mark.parametrize("wrap", [iter, tuple, lambda x: (m for m in x), lambda x: map(dict, x), lambda x: x])
def test_any_iterable_of_messages_is_read(wrap):
    chat = smollm2().chat
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert chat.render(wrap(messages)) == chat.render(messages)
    assert chat.encode(wrap(messages)) == chat.encode(messages)
    assert "Be brief." in chat.render(wrap(messages))


def test_an_iterable_without_messages_is_refused():
    for nothing in ([], iter([]), ()):
        with pytest.raises(ValueError, match="at least one message"):
            smollm2().chat.encode(nothing)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", random, float], ids=lambda x: type(x).__name__)
def test_a_template_gets_nothing_but_plain_data(value):
    with pytest.raises(ValueError, match="message 0 holds more than texts, numbers, lists and dicts"):
        smollm2().chat.render([{"role": "user", "content": "x", "more": [{"deep": value}]}])
    cycle = {"role": "user", "content": "x"}
    cycle["more"] = cycle
    with pytest.raises(ValueError, match="message 0 holds more"):
        smollm2().chat.render([cycle])


@pytest.mark.parametrize("depth", [100, 600, 900, 2000])
def test_a_message_that_is_nested_too_deep_is_refused(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    with pytest.raises(ValueError, match="message 0 holds (lists and dicts nested more than 100|more th)"):
        smollm2().chat.encode([{"role": "user", "content": "x", "more": value}])


def test_a_message_that_is_nested_99_deep_is_laid_out():
    value = "x"
    for _ in range(99):
        value = [value]
    nested = [{"role": "user", "content": "x", "more": value}]
    assert smollm2().chat.encode(nested) == smollm2().chat.encode("x")


def test_a_number_keeps_whether_it_is_zero():
    tokenizer = Tokenizer.train("", 257, special=["<|im_end|>"])
    chat = ChatTemplate("{% if messages[0].weight %}<|im_end|>{% endif %}", tokenizer)
    for weight in (0, 1, 0.5, 0.0, 7):
        message = {"role": "user", "content": "hi", "weight": weight}
        assert chat.encode([message]) == [256] * bool(weight)


@pytest.mark.parametrize("switch", ["true", "false", "messages"])
def test_escaping_for_web_pages_is_refused(switch):
    source = f"{{% autoescape {switch} %}}<b>{{{{ messages[0].content }}}}</b>{{% endautoescape %}}"
    with pytest.raises(ValueError, match="it uses autoescape, which is for web pages and is not handled"):
        ChatTemplate(source, smollm2().tokenizer).render("hi")


def test_rendering_leaves_the_messages_as_they_are():
    messages = [{"role": "user", "content": "Hi <b>!", "more": ["<b>", {"a": 1}]}]
    before = repr(messages)
    smollm2().chat.encode(messages)
    assert repr(messages) == before


@pytest.mark.parametrize("source", [None, 5, b"{{ bytes }}", ["x"]])
def test_a_source_that_is_no_text_is_refused(source):
    with pytest.raises(TypeError, match="a chat template is a program as text, not"):
        ChatTemplate(source, smollm2().tokenizer)


def test_a_character_without_a_token_is_refused_in_a_conversation_too():
    with pytest.raises(ValueError, match=r"no token for '\\x1d'"):
        smollm2().chat.encode("a\x1db")
    assert smollm2().chat.render("a\x1db")
