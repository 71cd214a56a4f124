"""Entropy, n-grams and loops, by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.evaluate import distinct, entropy, find_loop, ngrams, repeated

calm = settings(derandomize=True, deadline=None, max_examples=60)


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def random_logits(rows=1, size=50, seed=0, scale=3.0):
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def test_entropy_by_hand():
    assert entropy(torch.zeros(2, 8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert entropy(logits_of([0.5, 0.25, 0.25]).log()).item() == pytest.approx(1.5 * math.log(2))
    assert entropy(logits_of([0.0, -math.inf])).item() == 0
    expected = torch.distributions.Categorical(logits=random_logits(5)).entropy()
    torch.testing.assert_close(entropy(random_logits(5)).float(), expected)


def test_counting_ngrams_by_hand():
    assert ngrams("abc", 2) == [("a", "b"), ("b", "c")] and ngrams("a", 2) == []
    assert repeated("abab" * 3, 4) == pytest.approx(1 - 2 / 9)
    assert repeated("abcdef", 4) == 0 and repeated("abc", 4) == 0 and repeated("aaaaa", 4) == 0.5
    assert distinct(["ab", "ab"], 1) == 0.5 and distinct(["ab", "cd"], 2) == 0.5 and distinct([], 2) == 0
    with pytest.raises(ValueError, match="an n-gram has 1 token or more"):
        ngrams("abc", 0)


@calm
@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.integers(2, 4),
    st.data(),
)
def test_a_loop_is_found_and_is_one(head, body, rounds, data):
    tail = body[: data.draw(st.integers(0, len(body) - 1))]
    text = [*head, *body * rounds, *tail]
    start, period = find_loop(text, rounds)
    assert period <= len(body) and len(text) - start >= rounds * period
    assert text[start:-period] == text[start + period :]
    assert start == 0 or text[start - 1] != text[start - 1 + period]


def test_tensors_are_counted_by_their_numbers():
    text = torch.tensor([1, 2, 1, 2, 1])
    assert repeated(text, 2) == repeated(text.tolist(), 2) == 0.5
    assert distinct([text], 1) == distinct([text.tolist()], 1) == 0.4


def test_no_loop_is_none():
    for text in ("", "a", "abcdefgh", "ababc", "abcabc", "aaab"):
        assert find_loop(text) is None
    with pytest.raises(ValueError, match="a loop goes round 2 times or more"):
        find_loop("aaa", 1)
