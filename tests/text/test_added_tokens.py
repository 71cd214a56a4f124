"""Tokens that are never cut, against the added tokens of `tokenizers`; and what a merge may not make."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import gpt2_pre_tokenizer, visible
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as FastTokenizer

from course_lib.text import Tokenizer

calm = settings(derandomize=True, deadline=None, max_examples=300)

TEXT = "low lower lowest <think> thinks </think> 1 2  3\n\n" * 5
ADDED, SPECIAL = ["<think>", "</think>", "  ", "\n\n", "é🐯", "low<"], ["<|end|>", "<|start|>"]
PLAIN = Tokenizer.train(TEXT, 300)


def both():
    """A tokenizer of ours with added and special tokens, and the same one of theirs."""
    names = [*ADDED, *SPECIAL]
    first = PLAIN.vocab_size
    ids = {name: first + i for i, name in enumerate(names)}
    ours = Tokenizer(
        PLAIN.tokens + [name.encode() for name in names],
        PLAIN.merges,
        special={name: ids[name] for name in SPECIAL},
        added={name: ids[name] for name in ADDED},
    )
    vocabulary = {visible(token): i for i, token in enumerate(PLAIN.tokens)}
    merges = [tuple(visible(PLAIN.tokens[i]) for i in pair) for pair in PLAIN.merges]
    theirs = FastTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    theirs.pre_tokenizer = gpt2_pre_tokenizer()
    theirs.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED])
    theirs.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return ours, theirs


OURS, THEIRS = both()
fragments = st.lists(st.sampled_from([*ADDED, *SPECIAL, *"low <>\n/é|", "think", "<|", "end|>"]), max_size=12)


@calm
@given(fragments.map("".join))
def test_added_tokens_are_matched_whole_as_the_reference_matches_them(text):
    ids = OURS.encode(text, allow_special=True)
    assert ids == THEIRS.encode(text).ids
    assert OURS.decode(ids) == text
    assert list(OURS.encode_iterable(text, allow_special=True)) == ids


@calm
@given(fragments.map("".join))
def test_added_tokens_are_matched_in_plain_text_too_and_special_ones_are_not(text):
    ids = OURS.encode(text)
    assert OURS.decode(ids) == text
    assert not set(ids) & set(OURS.special.values())
    assert list(OURS.encode_iterable(text)) == ids
    if not any(name in text for name in SPECIAL):
        assert ids == THEIRS.encode(text).ids


def test_added_tokens_are_text_that_decoding_keeps():
    ids = OURS.encode("<think>x<|end|>", allow_special=True)
    assert ids[0] == OURS.added["<think>"]
    assert OURS.decode(ids, skip_special=True) == "<think>x"


def test_added_tokens_come_from_gpt2_strings_as_plain_text():
    tokens = ["a", "Ġ", "é é", "<|x|>"]
    tokenizer = Tokenizer.from_gpt2_strings(tokens, [], special_ids=[3], added_ids=[2])
    assert tokenizer.added == {"é é": 2}
    assert tokenizer.encode("a é éa") == [0, 1, 2, 0]
    for wrong in (-1, 4, 1.0, "2", True):
        with pytest.raises(ValueError, match="token"):
            Tokenizer.from_gpt2_strings(tokens, [], special_ids=[], added_ids=[wrong])


def test_added_tokens_are_saved_and_files_from_before_have_none(tmp_path):
    path = tmp_path / "tokenizer.json"
    OURS.save(path)
    assert Tokenizer.load(path).added == OURS.added
    assert Tokenizer.load(path).encode(TEXT) == OURS.encode(TEXT)
    PLAIN.save(path)
    fields = json.loads(path.read_text("utf-8"))
    del fields["added"]
    path.write_text(json.dumps(fields), "utf-8")
    assert Tokenizer.load(path).added == {}
    assert Tokenizer.load(path).encode(TEXT) == PLAIN.encode(TEXT)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"added": {"ab": 9}}, "the added token 'ab' is not token 9"),
        ({"added": {"ab": 0}}, "the added token 'ab' is not token 0"),
        ({"added": {"": 3}}, "the added token '' is not token 3"),
        ({"added": {"ab": 2}, "special": {"ab": 2}}, "'ab' can't be both a special and an added one"),
    ],
    ids=str,
)
def test_added_tokens_that_contradict_the_vocabulary_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer([b"a", b"b", b"ab", b""], {}, **options)


# No merge makes a special token


def test_a_merge_into_a_special_token_is_left_out():
    tokenizer = Tokenizer([b"a", b"b", b"c", b"ab", b"abc"], {(0, 1): 3, (3, 2): 4}, special={"abc": 4})
    assert tokenizer.encode("abc") == [3, 2]
    assert tokenizer.encode("abc", allow_special=True) == [4]
    assert tokenizer.merges == {(0, 1): 3, (3, 2): 4}


@calm
@given(st.text("abcx", max_size=20), st.data())
def test_plain_text_never_becomes_a_special_token(text, data):
    tokens, merges = [b"a", b"b", b"c", b"x"], {}
    for _ in range(data.draw(st.integers(0, 8))):
        left, right = data.draw(st.tuples(*[st.integers(0, len(tokens) - 1)] * 2))
        if (merged := tokens[left] + tokens[right]) not in tokens:
            tokens.append(merged)
            merges[left, right] = len(tokens) - 1
    chosen = data.draw(st.sets(st.sampled_from(range(4, len(tokens))))) if len(tokens) > 4 else set()
    special = {tokens[i].decode(): i for i in chosen}
    tokenizer = Tokenizer(tokens, merges, special=special)
    assert not set(tokenizer.encode(text)) & set(special.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text


# Which special tokens are read


def test_only_the_special_tokens_that_are_named_are_read():
    text = "<|end|>low<|start|><think>"
    end, start = OURS.special.values()
    for names in (["<|end|>"], {"<|end|>"}, ("<|end|>",), {"<|end|>": 1}):
        ids = OURS.encode(text, allow_special=names)
        assert end in ids
        assert start not in ids
        assert ids == list(OURS.encode_iterable(text, allow_special=names))
    assert OURS.encode(text, allow_special=SPECIAL) == OURS.encode(text, allow_special=True)
    assert OURS.encode(text, allow_special=[]) == OURS.encode(text)


@pytest.mark.parametrize("names", [["<|no|>"], ["<think>"], [5], [None]])
def test_names_of_no_special_token_are_refused(names):
    with pytest.raises(ValueError, match="which is no special token"):
        OURS.encode("x", allow_special=names)


@pytest.mark.parametrize("odd", ["<|end|>", "no", None, 1, 0])
def test_what_is_no_collection_of_names_is_refused(odd):
    for use in (OURS.encode, OURS.encode_iterable):
        with pytest.raises(TypeError, match="allow_special must be True, False or a collection"):
            use("x", allow_special=odd)


def test_a_long_name_is_found_and_an_endless_one_refused():
    name = "x" * 1_000
    tokenizer = Tokenizer.train("", 257, special=[name])
    text = "".join(random.Random(3).choices("xy", k=500)) + "y" + name
    assert tokenizer.encode(text, allow_special=True)[-1] == 256
    for longer in (name + "x", "x" * 10**6):
        with pytest.raises(ValueError, match="longer than 1,000 characters"):
            Tokenizer.train("", 257, special=[longer])
        with pytest.raises(ValueError, match="longer than 1,000 characters"):
            Tokenizer([longer.encode()], {}, added={longer: 0})
