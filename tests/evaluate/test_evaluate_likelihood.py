"""How likely a model finds what it is shown, against the model's own logits and by hand."""

import pytest
import torch
from references import random_tokens, tiny_decoder

from course_lib.evaluate import held_out_loss, log_likelihood
from course_lib.generate import continuations
from course_lib.train import next_token_loss


def test_log_likelihood_is_what_the_model_says():
    model, prompt, text = tiny_decoder(), [1, 2, 3], [4, 5, 6, 7]
    scores = model(torch.tensor([[*prompt, *text]]))[0].log_softmax(-1)
    expected = [scores[2 + i, token].item() for i, token in enumerate(text)]
    assert log_likelihood(model, prompt, text).tolist() == pytest.approx(expected, abs=1e-5)
    assert log_likelihood(model, prompt, []).shape == (0,)
    with pytest.raises(ValueError, match="the prompt is empty"):
        log_likelihood(model, [], text)
    for unknown in (61, -1):
        with pytest.raises(ValueError, match="vocabulary holds 0 to 60"):
            log_likelihood(model, prompt, [4, unknown])


def test_what_fills_the_context_can_be_scored():
    model, prompt = tiny_decoder(), [1] * 46
    (written,) = continuations(model, prompt, 1)
    scores = log_likelihood(model, prompt, written)
    assert len(written) == len(scores) == 3  # the last one is written, and never read
    assert scores[:2].tolist() == pytest.approx(log_likelihood(model, prompt, written[:2]).tolist(), abs=1e-5)


@pytest.mark.parametrize(("length", "windows"), [(9, 1), (10, 1), (17, 2), (100, 12)])
def test_the_held_out_loss_is_the_training_loss_of_all_whole_windows(length, windows):
    """What is read together makes no difference."""
    model = tiny_decoder()
    row = random_tokens(model, time=length)[0]
    inputs, targets = row[: 8 * windows].view(-1, 8), row[1 : 8 * windows + 1].view(-1, 8)
    with torch.no_grad():
        expected = next_token_loss(model, (inputs, targets)).item()
    for batch in (1, 5, 64):
        assert held_out_loss(model, row, 8, batch) == pytest.approx(expected, rel=1e-6)


def test_16_bits_are_added_up_in_32():
    model, row = tiny_decoder().bfloat16(), random_tokens(tiny_decoder(), time=41)[0]
    expected = -log_likelihood(model, row[:1].tolist(), row[1:].tolist()).mean().item()
    assert held_out_loss(model, row, 40) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("length", "time"), [(8, 8), (0, 1), (5, 0)])
def test_a_row_that_fills_no_window_is_refused(length, time):
    with pytest.raises(ValueError, match=f"doesn't fit into a row of {length} ids"):
        held_out_loss(tiny_decoder(), torch.zeros(length, dtype=torch.long), time)
