"""What comes to the tokenizer's doors: ids and texts of every kind, iterators, patterns that never end."""

import copy
import json
import pickle
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_lib.text import GPT2, SMOLLM2, Tokenizer, learn_merges, pretokenize, split
from course_lib.text.special_tokens import SpecialSplitter

TOKENIZER = Tokenizer.train("low low low lower lowest", 262, special=["<|end|>"])
IDS = TOKENIZER.encode("low lower<|end|>", allow_special=True)

KINDS = {
    "a tuple": tuple,
    "an iterator": iter,
    "a generator": lambda ids: (i for i in ids),
    "a map": lambda ids: map(int, ids),
    "an array of 8-byte numbers": np.array,
    "an array of uint16": lambda ids: np.array(ids, np.uint16),
    "a list of NumPy's numbers": lambda ids: list(np.array(ids, np.int32)),
    "a tensor": torch.tensor,
    "a tensor of uint16": lambda ids: torch.tensor(ids, dtype=torch.uint16),
    "a tensor of int32": lambda ids: torch.tensor(ids, dtype=torch.int32),
    "a list of tensors": lambda ids: [torch.tensor(i) for i in ids],
}


@pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
def test_ids_of_every_kind_of_whole_number_are_decoded(make):
    assert TOKENIZER.decode(make(IDS)) == "low lower<|end|>"
    assert TOKENIZER.decode(make(IDS), skip_special=True) == "low lower"
    assert "".join(TOKENIZER.decode_stream(make(IDS))) == "low lower<|end|>"
    assert TOKENIZER.token_text(next(iter(make(IDS)))) == TOKENIZER.token_text(IDS[0])


@pytest.mark.parametrize(
    "ids",
    [
        [1.0],
        ["5"],
        "low",
        [None],
        [True],
        [[1, 2]],
        torch.tensor([1.0]),
        torch.tensor([[1, 2]]),
        torch.tensor([True]),
        np.array([1.5]),
        np.array([[1], [2]]),
        5,
        torch.tensor(5),
        np.array(5),
        [torch.tensor(True)],
        [torch.tensor(1.5)],
        [torch.tensor([1, 2])],
        [np.array([1, 2])],
        [torch.tensor(1, device="meta")],
        torch.ones(2, dtype=torch.long, device="meta"),
        torch.tensor([1, 2]).to_sparse(),
    ],
    ids=str,
)
def test_what_is_no_whole_number_is_refused(ids):
    for use in (TOKENIZER.decode, lambda ids: list(TOKENIZER.decode_stream(ids))):
        with pytest.raises(TypeError, match="token ids are whole numbers"):
            use(ids)


@pytest.mark.parametrize("odd", ["no", 1, None])
def test_a_switch_is_true_or_false(odd):
    with pytest.raises(TypeError, match="skip_special must be True or False"):
        TOKENIZER.decode(IDS, skip_special=odd)


# Iterators are read once, and whole


def test_training_reads_iterators_as_it_reads_lists():
    expected = Tokenizer.train(["low lower", "lowest low"], 262, special=["<a>", "<b>"])
    tokenizer = Tokenizer.train(
        iter(["low lower", "lowest low"]), 262, special=(f"<{x}>" for x in "ab"), byte_order=iter(range(256))
    )
    assert tokenizer.tokens == expected.tokens
    assert tokenizer.special == expected.special == {"<a>": 260, "<b>": 261}


def test_gpt2_strings_are_read_from_iterators():
    tokens, merges = ["a", "b", "ab", "<x>"], ["a b"]
    tokenizer = Tokenizer.from_gpt2_strings(iter(tokens), iter(merges), iter([3]), added_ids=iter([]))
    assert tokenizer.encode("ab<x>", allow_special=True) == [2, 3]


@pytest.mark.parametrize("tokens", ["word", b"word"])
def test_a_word_is_no_vocabulary(tokens):
    with pytest.raises(TypeError, match="a vocabulary is a list of tokens"):
        Tokenizer.from_gpt2_strings(tokens, [], [])
    with pytest.raises(TypeError, match="a vocabulary is a list of tokens"):
        Tokenizer(tokens, {})


def test_a_dict_is_no_text_and_no_list_of_names():
    for use in (lambda texts: Tokenizer.train(texts, 300), TOKENIZER.encode_iterable):
        with pytest.raises(TypeError, match="not a dict"):
            use({"text": "low lower"})
    with pytest.raises(ValueError, match="special tokens need a list"):
        Tokenizer.train("low", 300, special={"<x>": 256})


# NumPy's numbers as ids


def test_a_vocabulary_takes_numpys_numbers_and_holds_pythons(tmp_path):
    tokenizer = Tokenizer(
        [b"a", b"b", b"ab", b"<x>", b"ba"],
        {(np.int64(0), np.int32(1)): np.int64(2)},
        special={"<x>": np.int64(3)},
        added={"ba": np.uint8(4)},
        unknown=np.int8(1),
    )
    ids = tokenizer.encode("ab<x>ba", allow_special=True)
    assert ids == [2, 3, 4] and set(map(type, ids)) == {int}
    tokenizer.save(tmp_path / "file")
    assert Tokenizer.load(tmp_path / "file").encode("ab<x>ba", allow_special=True) == ids
    assert Tokenizer({b"a": np.int64(1)}, {}).tokens == [None, b"a"]
    from_strings = Tokenizer.from_gpt2_strings(["a", "<x>"], [], special_ids=np.array([1]))
    assert json.dumps(from_strings.special) == '{"<x>": 1}'
    assert Tokenizer.train("low", 257, byte_order=np.arange(256)).tokens[:256] == TOKENIZER.tokens[:256]


# A tokenizer's tables are fixed


@pytest.mark.parametrize("table", ["special", "added", "merges"])
@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.__setitem__("<b>", 260),
        lambda table: table.update({"<b>": 260}),
        lambda table: table.setdefault("<b>", 260),
        lambda table: table.pop("<|end|>"),
        lambda table: table.clear(),
        lambda table: table.__ior__({"<b>": 260}),
    ],
)
def test_a_table_cannot_be_changed(table, change):
    before = dict(getattr(TOKENIZER, table))
    with pytest.raises(TypeError, match="a tokenizer's tables are fixed: make another one"):
        change(getattr(TOKENIZER, table))
    assert getattr(TOKENIZER, table) == before


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_tokenizer_can_be_copied(copied):
    twin = copied(TOKENIZER)
    assert twin.special == TOKENIZER.special and twin.encode("low<|end|>", allow_special=True) == [257, 261]


# Pieces and segments


def test_pieces_and_segments_of_other_kinds_are_named():
    with pytest.raises(TypeError, match="a tokenizer takes a string, not int"):
        TOKENIZER.encode_pieces([5])
    for name in ("<zz>", 5):
        with pytest.raises(ValueError, match="is no special or added token of this vocabulary"):
            TOKENIZER.encode_segments(["a", name, "b"])


def test_long_pieces_are_not_kept():
    tokenizer = Tokenizer.train("low low", 258)
    for length in (100, 101, 10_000):
        assert tokenizer.decode(tokenizer.encode("o" * length)) == "o" * length
    assert [len(piece) for piece in tokenizer._cache] == [100]


def test_long_names_take_little_memory_and_are_found_across_chunks():
    names = [f"<{i:03}{'x' * 990}>" for i in range(200)]
    tracemalloc.start()
    splitter = SpecialSplitter(names)
    assert tracemalloc.get_traced_memory()[0] < 20e6
    tracemalloc.stop()
    text = "ab" + names[7]
    for end in (2, 3, 500, len(text) - 1):
        assert splitter.settled_length(text[:end]) == 2
    assert splitter.settled_length(text) == len(text) and splitter.settled_length("ab<8") == 4


# Patterns that never end


@pytest.mark.parametrize("pattern", ["(?:a+)+(?=b)|(?:(?:a|a)+)+c|(?s:.)", "(?R)|a", "(?:a|aa|a+)*?c|(?s:.)"])
def test_a_pattern_that_never_ends_is_refused(pattern, monkeypatch):
    monkeypatch.setattr(pretokenize, "SECONDS", 0.1)
    with pytest.raises(ValueError, match="didn't come to an end on a text of 400 characters"):
        split("a" * 400, pattern)


NESTED = ["(?:" * 16 + "a" + f"){{{count}}}" * 16 + "|." for count in ("2", "2,", ",2")]
HUGE = ["a{2000000000}", "(?:(?:a{5000}b){5000}c){5000}", "a{1,200000}|.", "(?:(?:a{1000,}){1000,}){50,}|."]


@pytest.mark.parametrize("pattern", [*HUGE, *NESTED, "b{0}a{20000}|."])
def test_a_pattern_that_is_too_large_is_refused(pattern):
    with pytest.raises(ValueError, match="asks for more than 10,000 repeats"):
        split("aaa", pattern)


def test_known_patterns_have_no_time_limit_and_others_do(monkeypatch):
    limits = []
    monkeypatch.setattr(
        pretokenize,
        "compile_pattern",
        lambda pattern: SimpleNamespace(findall=lambda text, timeout: limits.append(timeout) or [text]),
    )
    for pattern in (GPT2, SMOLLM2, "."):
        split("x" * 1_000_000, pattern)
    assert limits == [None, None, pretokenize.SECONDS + 10]


@pytest.mark.parametrize("pattern", ["(?r).+?", "(?ir).", "(?r:.)|x", "(?:(?r).)", "(?x) (?r) (?s:.)"])
def test_a_pattern_that_searches_backwards_is_refused(pattern):
    for use in (lambda: split("ab cd", pattern), lambda: Tokenizer([b"a"], {}, pattern)):
        with pytest.raises(ValueError, match="searches backwards"):
            use()


@pytest.mark.parametrize("pattern", [None, 5, b"bytes", ["."]])
def test_a_pattern_is_a_string(pattern):
    with pytest.raises(TypeError, match="a pattern is a regular expression, as a string"):
        split("text", pattern)


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["text"]])
def test_a_text_to_be_cut_is_a_string(text):
    with pytest.raises(TypeError, match="only a string can be cut"):
        split(text)


# Learning merges


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pieces": {(0, 9): 1}}, r"the piece \(0, 9\) must be a tuple of ids from 0 to 1"),
        ({"pieces": {(0, -1): 1}}, "must be a tuple of ids"),
        ({"pieces": {"ab": 1}}, "must be a tuple of ids"),
        ({"pieces": {(0, 1): -1}}, "must occur a whole number of times, not -1"),
        ({"pieces": {(0, 1): 1.5}}, "must occur a whole number of times"),
        ({"pieces": [(0, 1)]}, "pieces must be a dict"),
        ({"vocabulary": (b"a", b"b")}, "the vocabulary must be a list of bytes"),
        ({"vocabulary": ["a", "b"]}, "the vocabulary must be a list of bytes"),
        ({"vocab_size": "3"}, "vocab_size must be a whole number"),
        ({"vocab_size": 3.0}, "vocab_size must be a whole number"),
        ({"ties": "none"}, "ties must be one of"),
    ],
    ids=str,
)
def test_learning_refuses_what_it_cannot_learn_from_and_changes_nothing(arguments, message):
    valid = {"pieces": {(0, 1): 2}, "vocabulary": [b"a", b"b"], "vocab_size": 3}
    given = valid | arguments
    before = list(given["vocabulary"])
    with pytest.raises((ValueError, TypeError), match=message):
        learn_merges(**given)
    assert list(given["vocabulary"]) == before


@pytest.mark.parametrize("vocab_size", [300.0, "300", None, True])
def test_a_size_that_is_no_whole_number_is_refused(vocab_size):
    with pytest.raises(TypeError, match="vocab_size must be a whole number"):
        Tokenizer.train("text", vocab_size)


# Vocabularies


@pytest.mark.parametrize(
    "options, message",
    [
        ({"merges": {(0, 1, 2): 0}}, "a merge joins two tokens.*names no two"),
        ({"merges": {"ab": 0}}, "a merge joins two tokens"),
        ({"merges": [((0, 1), 2)]}, "merges must be a dict"),
        ({"merges": None}, "merges must be a dict"),
        ({"special": ["ab"]}, "special must be a dict"),
        ({"added": "ab"}, "added must be a dict"),
        ({"special": {5: 2}}, "takes a string, not int"),
        ({"special": {"\ud800": 2}}, "lone surrogate"),
        ({"special": {"ab": True}}, "'ab' is not token True"),
        ({"unknown": True}, "unknown token's id True"),
        ({"pattern": None}, "a pattern is a regular expression"),
    ],
    ids=str,
)
def test_a_vocabulary_of_other_types_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Tokenizer(**({"tokens": [b"a", b"b", b"ab"], "merges": {(0, 1): 2}} | options))


def test_strings_of_other_types_are_refused():
    with pytest.raises(ValueError, match="the merge None must be two tokens"):
        Tokenizer.from_gpt2_strings(["a"], [None], [])
    with pytest.raises(ValueError, match="lone surrogate"):
        Tokenizer.from_gpt2_strings(["a", "\ud800"], [], [1])
    for special in (["\ud800"], ["x" * 1001]):
        with pytest.raises(ValueError, match="surrogate|longer than 1,000"):
            Tokenizer.train("text", 300, special=special)


def test_a_size_below_zero_is_refused_and_one_that_is_reached_learns_nothing():
    with pytest.raises(ValueError, match="vocab_size=-1 is no size"):
        learn_merges({(0, 1): 1}, [b"a", b"b"], -1)
    for size in (0, 1, 2):
        assert learn_merges({(0, 1): 1}, [b"a", b"b"], size) == {}


def test_a_pair_that_never_occurs_is_not_learned():
    vocabulary = [b"a", b"b"]
    assert learn_merges({(0, 1): 0}, vocabulary, 3) == {} and vocabulary == [b"a", b"b"]


def test_a_folder_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none", ""):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            Tokenizer.load(path)
