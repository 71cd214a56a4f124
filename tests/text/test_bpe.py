"""The plain byte-pair encoding against its definition; the fast one and `Tokenizer` against the plain one."""

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from references import merge_everywhere, recounted_merges

from course_lib.course.lessons.tokenization import exercises as lesson
from course_lib.text import Tokenizer, learn_merges
from course_lib.text.bpe import decode, encode, merge, most_frequent, train
from course_lib.text.fast_bpe import replay_merges

calm = settings(derandomize=True, deadline=None, max_examples=300)
texts = st.text("ab ", max_size=40) | st.text("aábc🐯 \n", max_size=30) | st.text(max_size=20)
WHOLE_TEXT = r"(?s:.+)"
TIGER = "The tiger jumped out of a tree to get a drink because it was thirsty."


def bytes_only():
    return [bytes([byte]) for byte in range(256)]


def ranked(merges):
    return {pair: (rank, new) for rank, (pair, new) in enumerate(merges.items())}


@st.composite
def any_merges(draw):
    """Merges of the bytes a, b and c in any order, not only one that training would find."""
    tokens, merges = bytes_only(), {}
    for _ in range(draw(st.integers(0, 12))):
        left, right = (draw(st.sampled_from([97, 98, 99, *range(256, len(tokens))])) for _ in range(2))
        token = tokens[left] + tokens[right]
        if token not in tokens:
            tokens.append(token)
        merges.setdefault((left, right), tokens.index(token))
    return {pair: merges[pair] for pair in draw(st.permutations(list(merges)))}


# The plain one


@calm
@given(st.lists(st.integers(0, 2), max_size=20), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_merging_replaces_the_pair_from_left_to_right(ids, pair):
    before = list(ids)
    assert merge(ids, pair, 9) == lesson.merge(ids, pair, 9) == list(merge_everywhere(tuple(ids), pair, 9))
    assert ids == before


def test_of_equally_frequent_pairs_the_one_of_the_lowest_ids_is_merged():
    assert most_frequent([2, 1, 5, 1, 2]) == (1, 2)
    assert most_frequent([2, 1, 5, 2, 1, 2]) == (2, 1)


@calm
@given(texts, st.integers(250, 275))
def test_training_is_recounting_everything(text, vocab_size):
    expected = recounted_merges({tuple(text.encode()): 1}, bytes_only(), vocab_size, "lowest ids")
    assert list(train(text, vocab_size).items()) == list(expected.items())


@calm
@given(texts, texts, st.integers(256, 275))
def test_decoding_gives_every_text_back(seen, text, vocab_size):
    merges = train(seen, vocab_size)
    assert decode(encode(text, merges), merges) == text


@calm
@given(texts, texts)
def test_encoding_is_the_lessons_replay_where_no_two_merges_make_the_same_token(seen, text):
    merges = train(seen, 280)
    assume(len(set(merges.values())) == len(merges))
    assert encode(text, merges) == lesson.encode(text, merges)


def test_half_a_character_is_decoded_to_a_replacement_character():
    assert decode([0xF0, 0x9F], {}) == "�"


# The fast ones


@calm
@given(texts, st.integers(250, 290))
@example("", 300)
@example("a", 300)
@example("a" * 50, 300)
@example(TIGER * 3, 400)
def test_the_fast_training_learns_what_the_plain_one_learns(text, vocab_size):
    fast = learn_merges({tuple(text.encode()): 1}, bytes_only(), vocab_size)
    assert list(fast.items()) == list(train(text, vocab_size).items())


@calm
@given(any_merges(), st.text("abc", max_size=30))
def test_the_fast_replay_gives_the_tokens_of_the_plain_one(merges, text):
    assert replay_merges(list(text.encode()), ranked(merges)) == encode(text, merges)


@calm
@given(texts, texts, st.integers(256, 290))
def test_the_fast_replay_of_learned_merges_gives_the_tokens_of_the_plain_one(seen, text, vocab_size):
    merges = train(seen, vocab_size)
    for each in (seen, text):
        assert replay_merges(list(each.encode()), ranked(merges)) == encode(each, merges)


@calm
@given(texts, texts, st.integers(256, 290))
@example(TIGER * 3, TIGER, 400)
def test_a_tokenizer_that_takes_a_text_as_one_piece_is_the_plain_one(seen, text, vocab_size):
    tokenizer, merges = Tokenizer.train(seen, vocab_size, WHOLE_TEXT), train(seen, vocab_size)
    ids = encode(text, merges)
    assert list(tokenizer.merges.items()) == list(merges.items())
    assert tokenizer.encode(text) == list(tokenizer.encode_iterable([text])) == ids
    assert tokenizer.decode(ids) == decode(ids, merges) == text
