"""NaN never becomes a finite score, an iterator is a list, and what can't be scored is refused in words."""

import json
import math
import os

import numpy as np
import pytest
import torch
from references import random_tokens, tiny_decoder

from course_lib.evaluate import (
    Report,
    Task,
    bootstrap,
    contains,
    distinct,
    encode_items,
    entropy,
    evaluate,
    exact_match,
    expected_best,
    find_loop,
    held_out_loss,
    log_likelihood,
    ngrams,
    paired_difference,
    paired_test,
    perplexity,
    repeated,
    same_number,
    teacher_forced,
    token_losses,
    would_write,
)

IDS = [5, 9, 2, 7, 1]
SCORES = {
    "log_likelihood": lambda model: log_likelihood(model, IDS[:2], IDS[2:]),
    "token_losses": lambda model: token_losses(model, IDS, 3),
    "perplexity": lambda model: perplexity(model, IDS, 3),
    "held_out_loss": lambda model: held_out_loss(model, torch.tensor(IDS), 2),
    "teacher_forced": lambda model: teacher_forced(model, [(IDS[:2], IDS[2:])]),
    "would_write": lambda model: would_write(model, [(IDS[:2], IDS[2:])]),
    "would_write nothing": lambda model: would_write(model, [(IDS, [])]),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("where", ["all weights", "one weight of the head", "an infinite embedding"])
def test_a_model_that_computes_nan_gets_no_score(score, where):
    model = tiny_decoder()
    with torch.no_grad():
        if where == "all weights":
            for weight in model.parameters():
                weight.fill_(math.nan)
        elif where == "one weight of the head":
            model.head.weight[3, 0] = math.nan
        else:
            model.embedding.weight[IDS] = math.inf
    with pytest.raises(ValueError, match=r"the model's log-probabilities aren't numbers \(NaN\)"):
        score(model)


def test_a_token_that_the_model_holds_for_impossible_has_an_infinite_perplexity():
    model = tiny_decoder()
    logits = model.logits
    model.logits = lambda hidden: logits(hidden).index_fill(-1, torch.tensor([2]), -math.inf)
    assert log_likelihood(model, [5], [9]).isfinite().all()
    assert log_likelihood(model, [5], [2]).item() == -math.inf and perplexity(model, [5, 2], 2) == math.inf
    model.logits = lambda hidden: logits(hidden).index_fill(-1, torch.tensor([2]), -800.0)
    assert perplexity(model, [5, 2], 2) == math.inf, "e^800 is more than the largest number"


@pytest.mark.parametrize(
    "measure",
    [
        lambda bad: bootstrap([1, bad]),
        lambda bad: paired_difference([1, 2], [bad, 2]),
        lambda bad: paired_test([1, 2], [bad, 2]),
        lambda bad: bootstrap(torch.tensor([1, bad])),
        lambda bad: bootstrap(np.array([1, bad])),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_interval_comes_of_nan_or_infinity(measure, bad):
    with pytest.raises(ValueError, match="an interval needs numbers that are finite"):
        measure(bad)


def test_differences_that_overflow_are_refused():
    with pytest.raises(ValueError, match="value 0 is inf"):
        paired_test([1e308, 1], [-1e308, 1])


def test_no_best_comes_of_nan():
    with pytest.raises(ValueError, match=r"scores\[1\] is NaN"):
        expected_best([1.0, math.nan], 1)
    with pytest.raises(ValueError, match=r"values\[0\] is NaN"):
        expected_best(
            [1.0, 2.0, 3.0], 2, values=[math.nan, 0.0, 1.0]
        )  # the worst, which is never the best of 2
    assert expected_best([True, False], 1) == 0.5 and expected_best(iter([1, 2]), 2) == 2
    assert expected_best(np.array([1.0, 2.0]), 1) == expected_best(torch.tensor([1.0, 2.0]), 1) == 1.5


def test_the_entropy_of_nan_is_nan_and_of_no_vocabulary_is_refused():
    assert entropy(torch.tensor([0.0, math.nan])).isnan() and entropy(torch.tensor([0.0, math.inf])).isnan()
    for none in (torch.zeros(2, 0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="logits must have one for each token"):
            entropy(none)


def test_ids_may_come_from_an_iterator_an_array_or_a_tensor_of_any_whole_numbers():
    model = tiny_decoder()
    expected = log_likelihood(model, IDS[:2], IDS[2:]).tolist()
    for kind in (iter, tuple, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.uint16)):
        assert log_likelihood(model, kind(IDS[:2]), kind(IDS[2:])).tolist() == expected
        assert perplexity(model, kind(IDS), 3) == perplexity(model, IDS, 3)
        assert would_write(model, iter([(kind(IDS[:2]), kind(IDS[2:]))]), stop=kind(IDS)) == [False]
        tokens = kind(IDS) if kind is not iter else IDS
        assert held_out_loss(model, tokens, 2) == held_out_loss(model, torch.tensor(IDS), 2)


def test_stop_tokens_are_asked_for_every_pair():
    """An iterator was used up by the first pair."""
    model = tiny_decoder()
    written = []
    for prompt in ([1, 2], [3, 4], [5, 6]):
        best = int(model(torch.tensor([prompt]))[0, -1].argmax())
        then = int(model(torch.tensor([[*prompt, best]]))[0, -1].argmax())
        written.append((prompt, [best], then))
    pairs = [(prompt, completion) for prompt, completion, _ in written]
    stops = [then for *_, then in written]
    assert would_write(model, pairs, stop=iter(stops)) == [True] * 3


@pytest.mark.parametrize(
    "score, error, said",
    [
        (lambda m: log_likelihood(m, [1.5], [2]), TypeError, r"prompt\[0\] must be a whole number, not 1.5"),
        (
            lambda m: log_likelihood(m, "word", [2]),
            TypeError,
            "prompt must be a list of token ids, not 'word'",
        ),
        (lambda m: log_likelihood(m, [True], [2]), TypeError, "not True"),
        (lambda m: log_likelihood(m, [-1], [2]), ValueError, "token ids run from -1"),
        (lambda m: log_likelihood(m, [1], [2**62]), ValueError, "the vocabulary holds 0 to 60"),
        (lambda m: token_losses(m, torch.tensor([[1, 2]])), TypeError, r"ids\[0\] must be a whole number"),
        (lambda m: token_losses(m, IDS, 2.5), TypeError, "window must be a whole number, not 2.5"),
        (lambda m: token_losses(m, IDS, True), TypeError, "window must be a whole number, not True"),
        (lambda m: held_out_loss(m, torch.tensor([IDS]), 2), ValueError, "one row of token ids"),
        (lambda m: held_out_loss(m, torch.tensor([1.0, 2.0]), 1), ValueError, "whole numbers; not"),
        (lambda m: held_out_loss(m, torch.tensor([1, 2, 61]), 2), ValueError, "the vocabulary has 61"),
        (lambda m: held_out_loss(m, torch.tensor(IDS), 2, batch=0), ValueError, "batch must be at least 1"),
        (
            lambda m: held_out_loss(torch.nn.Identity(), torch.tensor(IDS), 2),
            ValueError,
            "must return logits",
        ),
        (lambda m: teacher_forced(m, [IDS]), ValueError, r"pairs\[0\] must be a prompt and its completion"),
        (lambda m: teacher_forced(m, [None]), TypeError, r"pairs\[0\] must be a prompt and its completion"),
        (lambda m: teacher_forced(m, [([1], "word")]), TypeError, r"the completion of pairs\[0\] must be"),
        (lambda m: teacher_forced(m, [([1], [2])], batch=0), ValueError, "batch must be at least 1, not 0"),
        (
            lambda m: would_write(m, [([1], [2])], stop=3),
            TypeError,
            "stop must be a list of token ids, not 3",
        ),
        (lambda m: would_write(m, [([1], [2])], stop="<|im_end|>"), TypeError, "stop must be a list"),
        (lambda m: would_write(m, [([1], [2])], stop=[-1]), ValueError, "the vocabulary holds 0 to 60"),
        (lambda m: encode_items(None, [3]), TypeError, r"items\[0\] must have a prompt and a completion"),
        (lambda m: ngrams([1, 2], True), TypeError, "n must be a whole number, not True"),
        (lambda m: ngrams(torch.zeros(2, 2), 1), TypeError, "give one text's tokens"),
        (lambda m: repeated(3), TypeError, "tokens must be a list of tokens, not 3"),
        (lambda m: distinct("abc"), TypeError, "texts must be a list of texts"),
        (lambda m: find_loop([[1], [1]]), TypeError, "here one is a list"),
        (lambda m: contains("a", [None]), ValueError, "accepted must be a list of words"),
        (lambda m: contains("a", 3), TypeError, "accepted must be a list of words, not 3"),
        (lambda m: same_number("5", object()), ValueError, "no number in the answer"),
        (lambda m: same_number("1", True), ValueError, "no number in the answer True"),
        (lambda m: bootstrap(["1", "2"]), TypeError, "here a value is something else"),
        (lambda m: bootstrap("12"), TypeError, "values must be a list of numbers, not '12'"),
        (lambda m: bootstrap([1, None]), TypeError, "here a value is something else"),
        (lambda m: bootstrap([[1], [1, 2]]), ValueError, "not lists of several lengths"),
        (lambda m: bootstrap([1, 2], np.ptp, resamples=2**62), ValueError, "resamples must be"),
        (lambda m: bootstrap([1, 2], lambda x, axis: 1.0), ValueError, "a number for each row"),
        (lambda m: bootstrap([1, 2], seed=-1), ValueError, "seed must be at least 0, not -1"),
        (
            lambda m: bootstrap([1, 2], confidence="0.95"),
            TypeError,
            "confidence must be a number, not '0.95'",
        ),
        (lambda m: bootstrap([1, 2], confidence=math.nan), ValueError, "confidence must be finite, not nan"),
        (lambda m: paired_test([0] * 1001, [0] * 1001), ValueError, "take paired_difference"),
        (lambda m: expected_best(["a"], 1), TypeError, r"scores\[0\] must be a number, not 'a'"),
        (lambda m: expected_best([1, 2], 1.0), TypeError, "n must be a whole number, not 1.0"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(score, error, said):
    with pytest.raises(error, match=said):
        score(tiny_decoder())


def test_measures_of_repetition_take_iterators():
    assert repeated(iter("abababababab"), 4) == repeated("abababababab", 4)
    assert distinct(iter([iter("ab"), iter("ab")]), 1) == 0.5
    assert find_loop(iter([1, 2, 1, 2, 1, 2])) == (0, 2) == find_loop(torch.tensor([1, 2, 1, 2, 1, 2]))
    assert contains("It's Paris", (word for word in ("rome", "paris")))


# Reports


def report(answer="ab", **facts) -> Report:
    items = [{"prompt": "a"}, {"prompt": "b"}]
    task = Task(
        "t", items, lambda given, item: exact_match(given, item["prompt"]), lambda item: item["prompt"]
    )
    return evaluate(lambda prompt: answer, iter([task]), facts=facts)


@pytest.mark.parametrize(
    "facts", [{"loss": math.nan}, {"loss": math.inf}, {"half": "\ud800"}, {"a": {(1,): 2}}]
)
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, facts):
    report().save(tmp_path / "report.json")
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match="the facts or the answers can't be written as JSON"):
        report(**facts).save(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_report_with_a_byte_order_mark_is_read(tmp_path):
    report().save(tmp_path / "report.json")
    marked = b"\xef\xbb\xbf" + (tmp_path / "report.json").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "marked.json").write_bytes(marked)
    assert Report.load(tmp_path / "marked.json") == Report.load(tmp_path / "report.json")


def damaged(fields: dict, **changes: object) -> bytes:
    (result,) = fields["results"]
    return json.dumps({**fields, "results": [{**result, **changes}]}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: b"[" * 100_000,
        lambda fields: b"\xff\xfe",
        lambda fields: b"{",
        lambda fields: damaged(fields, scores=[True, math.nan]),
        lambda fields: damaged(fields, scores=["yes", "no"]),
        lambda fields: damaged(fields, scores=[True]),
        lambda fields: damaged(fields, scores=3),
    ],
)
def test_a_damaged_report_is_named(tmp_path, damage):
    report().save(tmp_path / "report.json")
    path = tmp_path / "damaged.json"
    path.write_bytes(damage(json.loads((tmp_path / "report.json").read_text())))
    with pytest.raises(ValueError, match="damaged.json holds no evaluation report"):
        Report.load(path)
    with pytest.raises(FileNotFoundError):
        Report.load(tmp_path / "nowhere.json")
    with pytest.raises(OSError, match="directory"):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Task("t", iter([1, 2]), exact_match), "task 't' needs a list of items"),
        (lambda: Task("t", "word", exact_match), "task 't' needs a list of items, not 'word'"),
        (lambda: Task("t", [1, 2], "exact"), "needs functions as its scorer and its prompt"),
        (lambda: evaluate(str, [3]), "tasks must be a list of `Task`s"),
        (lambda: evaluate(str, 3), "tasks must be a list of tasks, not 3"),
    ],
)
def test_what_is_no_task_is_refused(make, said):
    with pytest.raises(TypeError, match=said):
        make()


def test_scores_of_random_tokens_are_as_before():
    """The checks change no value."""
    model = tiny_decoder()
    row = random_tokens(model, time=41)[0]
    by_hand = torch.log_softmax(model(row[None, :-1])[0], -1).gather(-1, row[1:, None])[:, 0]
    torch.testing.assert_close(log_likelihood(model, row[:1], row[1:]), by_hand.detach().float())
    assert perplexity(model, row, 41) == pytest.approx(math.exp(-by_hand.mean().item()), rel=1e-6)
