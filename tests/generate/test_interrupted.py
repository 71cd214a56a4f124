"""Writing that an error or an interrupt stops midway goes on as if nothing had been."""

from functools import partial

import pytest
import torch
from references import random_weights, tiny_decoder

from course_lib.generate import Batch, Request, decode, write

PROMPTS = [[1, 2, 3], [4, 5], [4, 5]]


@pytest.fixture(scope="module")
def model():
    return random_weights(tiny_decoder(), spread=0.3).requires_grad_(False)


def failing(function, error, at):
    """Return the function, whose call number `at` raises the error after the work is done."""
    calls = [0]

    def call(*arguments):
        calls[0] += 1
        result = function(*arguments)
        if calls[0] == at:
            raise error
        return result

    return call


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["choose", "adjust"])
def test_a_step_that_failed_is_done_anew(model, cached, at, error, where):
    greedy, same = partial(torch.argmax, dim=-1), lambda logits, tokens: logits
    whole = write(model, [Request(prompt, 6 - i, greedy) for i, prompt in enumerate(PROMPTS)])
    functions = {"choose": greedy, "adjust": same}
    functions[where] = failing(functions[where], error, at)
    requests = [Request(prompt, 6 - i, **functions) for i, prompt in enumerate(PROMPTS)]
    steps, texts = decode(model, requests, cached), [[], [], []]
    with pytest.raises(error):
        _collect(steps, texts)
    _collect(steps, texts)
    assert texts == whole


def _collect(steps, texts):
    for step in steps:
        for i, token in step:
            texts[i].append(token)


def test_a_run_that_failed_leaves_the_batch_as_it_was(model, monkeypatch):
    batch = Batch(model, [Request([1, 2, 3], 3), Request([4, 5], 3)])
    batch.step()
    lengths = list(batch.cache.lengths)
    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", lambda states: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batch.step()
    assert batch.cache.lengths == lengths == [3, 2] and list(map(len, batch.texts)) == [4, 3]
    batch.step()
    assert batch.cache.lengths == [4, 3]


def test_a_step_after_the_end_writes_nothing(model):
    for n in (0, 1):
        batch = Batch(model, [Request([1, 2, 3], n)])
        assert len(batch.step()) == n and batch.step() == [] == batch.active
