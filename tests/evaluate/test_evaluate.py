"""How good is it? Perplexity by hand, against transformers, and on the course's own text."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import failed_examples, random_tokens, smollm2, tiny_decoder, transformers_twin
from torch import nn

import course_lib.evaluate
from course_lib import asset
from course_lib.evaluate import evaluation_text, perplexity, token_losses

calm = settings(derandomize=True, deadline=None, max_examples=40)


class Always(nn.Module):
    """A model of three tokens with constant probabilities, which records what it reads."""

    def __init__(self, probabilities, context=8):
        super().__init__()
        self.config = type("Config", (), {"context": context, "vocab_size": 3})
        self.embedding = nn.Embedding(3, 1)
        self.always, self.read = torch.tensor(probabilities).log(), []

    def last_hidden_state(self, tokens):
        self.read.append(tokens.tolist())
        return self.embedding(tokens)

    def logits(self, hidden):
        return self.always.expand(*hidden.shape[:2], 3)


def ids(model, count, seed=0):
    return random_tokens(model, time=count, seed=seed)[0].tolist()


def test_examples_in_the_docstrings_hold():
    assert failed_examples(course_lib.evaluate) == 0


def test_losses_by_hand():
    """The first is given; then come 2, 1, 1 with probabilities of an eighth, a quarter and a quarter."""
    model = Always([0.625, 0.25, 0.125])
    losses = token_losses(model, [0, 2, 1, 1], window=4)
    torch.testing.assert_close(losses, torch.tensor([8.0, 4, 4]).log())
    assert perplexity(model, [0, 2, 1, 1], window=4) == pytest.approx((8 * 4 * 4) ** (1 / 3))


@pytest.mark.parametrize("tokens", [2, 3, 17])
def test_who_knows_nothing_is_as_unsure_as_there_are_tokens(tokens):
    assert perplexity(Always([1 / 3] * 3), [0, 1, 2] * tokens, window=5) == pytest.approx(3)


def test_who_knows_all_is_not_surprised():
    assert perplexity(Always([1.0, 0.0, 0.0]), [0] * 9, window=4) == 1


def test_what_cannot_be_has_no_bound():
    assert perplexity(Always([1.0, 0.0, 0.0]), [0, 1], window=4) == math.inf


@calm
@given(st.integers(2, 60), st.integers(2, 48))
def test_each_window_starts_anew_and_gives_its_first_token(count, window):
    model = tiny_decoder()
    text, losses = ids(model, count), []
    for start in range(0, count, window):
        piece = text[start : start + window]
        for i in range(1, len(piece)):
            losses.append(-model(torch.tensor([piece[:i]]))[0, -1].log_softmax(-1)[piece[i]])
    ours = token_losses(model, text, window)
    assert len(ours) == count - math.ceil(count / window)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torch.stack(losses).float(), atol=1e-5, rtol=1e-5)
    assert perplexity(model, text, window) == pytest.approx(ours.mean().exp().item(), rel=1e-5)


def test_a_last_window_of_one_token_scores_nothing():
    model = Always([0.5, 0.25, 0.25])
    assert len(token_losses(model, [0, 1, 2, 0, 1], window=4)) == 3
    assert model.read == [[[0, 1, 2]], [[1]]]  # the last token of a window is never read


@pytest.mark.parametrize("kind", [{"norm": "none"}, {"norm_place": "post"}])
def test_a_model_without_a_last_norm_is_scored_too(kind):
    model = tiny_decoder(**kind)
    text = ids(model, 20)
    logits = model(torch.tensor([text]))[0, :-1].log_softmax(-1)
    by_hand = -logits.gather(1, torch.tensor(text)[1:, None])[:, 0].float()
    torch.testing.assert_close(token_losses(model, text, 32), by_hand, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_mean_loss_is_transformers():
    model = tiny_decoder()
    text = ids(model, 40)
    expected = transformers_twin(model)(torch.tensor([text]), labels=torch.tensor([text])).loss
    assert token_losses(model, text, 48).double().mean().item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_text_may_be_any_sequence_of_ids():
    model = tiny_decoder()
    text = ids(model, 20)
    expected = token_losses(model, text, 8)
    assert token_losses(model, tuple(text), 8).equal(expected)
    assert token_losses(model, torch.tensor(text), 8).equal(expected)


def test_scoring_leaves_no_trace_in_the_model():
    model = tiny_decoder().requires_grad_()
    losses = token_losses(model, ids(model, 20), 8)
    assert not losses.requires_grad and torch.is_grad_enabled()
    assert all(weight.grad is None for weight in model.parameters())


def test_16_bits_are_scored_in_32():
    model = tiny_decoder().bfloat16()
    losses = token_losses(model, ids(model, 20), 8)
    assert losses.dtype == torch.float32 and not losses.equal(losses.bfloat16().float())


@pytest.mark.parametrize("window", [-1, 0, 1, 49, 512])
def test_windows_that_cannot_be_are_refused(window):
    model = tiny_decoder()
    for score in (token_losses, perplexity):
        with pytest.raises(
            ValueError, match=f"window must be from 2 to the model's context of 48, not {window}"
        ):
            score(model, [1, 2, 3], window)


@pytest.mark.parametrize("text", [[], [1]])
def test_a_text_without_a_second_token_is_refused(text):
    with pytest.raises(ValueError, match=f"a text of {len(text)} tokens has none to score"):
        perplexity(tiny_decoder(), text, 8)


def test_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="vocabulary holds 0 to 60"):
        perplexity(tiny_decoder(), [1, 61], 8)


# The course's own text


def test_the_text_is_about_1000_words_of_plain_english():
    text = evaluation_text()
    assert 900 <= len(text.split()) <= 1_100
    assert text.isascii() and text.endswith("\n") and "\r" not in text and "\t" not in text
    words = re.findall(r"[a-z]+", text.lower())
    assert len(set(words)) > 350 and words.count("the") < 0.1 * len(words)


def test_the_text_is_not_one_that_the_courses_models_are_made_from():
    """Nothing of it in the tales that lessons train on: no eight words in a row."""

    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    assert not runs(evaluation_text()) & runs(asset("tiger_tales.txt").read_text(encoding="utf-8"))


def test_the_text_is_text_to_the_real_model_and_scrambled_it_is_less():
    lm = smollm2()
    text = lm.tokenizer.encode(evaluation_text())[:128]
    assert 5 < perplexity(lm.model, text) < 60
    scrambled = [
        text[i] for i in torch.randperm(len(text), generator=torch.Generator().manual_seed(0)).tolist()
    ]
    assert perplexity(lm.model, scrambled) > 10 * perplexity(lm.model, text)
