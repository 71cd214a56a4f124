"""Answers, teacher forcing, intervals and the harness: by hand, by other libraries, and by simulation."""

import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import failed_examples, tiny_decoder

import course_lib.evaluate
from course_lib.evaluate import (
    Report,
    Task,
    accuracy,
    bleu,
    bootstrap,
    compare,
    contains,
    evaluate,
    exact_match,
    log_likelihood,
    paired_difference,
    paired_test,
    same_number,
    teacher_forced,
    would_write,
)
from course_lib.generate import generate
from course_lib.text.normalise import last_number, normalise

calm = settings(derandomize=True, deadline=None, max_examples=50)
scores = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


def test_examples_in_docstrings():
    assert failed_examples(course_lib.evaluate) == 0


# Answers


@pytest.mark.parametrize(
    "guess, answer, right",
    [
        ("The Tiger!", "a tiger", True),
        ("the theatre", "theatre", True),
        ("tiger", "tigers", False),
        ("", "the", True),
        ("x b", "b x", False),
    ],
)
def test_exact_match_is_squads(guess, answer, right):
    assert exact_match(guess, answer) == right == (normalise(guess) == normalise(answer))


def test_contains_finds_whole_words_only():
    assert contains("It is H2O.", ("h2o", "water")) and contains("new york city", ["New York"])
    for guess, accepted in (("Parisian", "paris"), ("york new", "new york"), ("", "a")):
        assert not contains(guess, (accepted,))
    for nothing in ((), "paris", ("...",), ("",)):
        with pytest.raises(ValueError, match="accepted must be a list of words"):
            contains("text", nothing)


@pytest.mark.parametrize(
    "text, number",
    [
        ("", None),
        ("no", None),
        ("40 - 5 = 35", 35),
        ("it is -3", -3),
        ("10-3", 3),
        ("1,200.50 $", 1200.5),
        ("3, 4", 4),
        ("1,2", 2),
        ("5.", 5),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_the_same_number_as_gsm8ks_answers_have():
    assert same_number("so 1,200 in all.", "#### 1200") and same_number("5.0", 5)
    assert not same_number("5 or 6", 5) and not same_number("none", 5)
    with pytest.raises(ValueError, match="no number in the answer"):
        same_number("5", "five")


def test_bleu_is_sacrebleus_own():
    from sacrebleu.metrics import BLEU

    guesses = ["the cat sat on a mat", "a dog ran off"]
    references = ["the cat sat on the mat", "the dog ran away from home"]
    assert bleu(guesses, references) == BLEU().corpus_score(guesses, [references]).score
    for wrong in (([], []), (["a"], [])):
        with pytest.raises(ValueError, match="against as many references"):
            bleu(*wrong)
    for wrong in (("ab", ["a", "b"]), (["a"], [None]), ([b"a"], ["a"])):
        with pytest.raises(TypeError, match="must be a"):
            bleu(*wrong)
    assert bleu(iter(guesses), (text for text in references)) == bleu(guesses, references)


# What a model would write


def test_forced_is_what_the_likelihood_says_and_greedy_decoding_writes():
    model = tiny_decoder()
    prompts = [[1, 2, 3], [4], [5, 6]]
    written = [list(generate(model, prompt, 4)) for prompt in prompts]
    wrong = [[*text[:-1], (text[-1] + 1) % 61] for text in written]
    pairs = [*zip(prompts, written, strict=True), *zip(prompts, wrong, strict=True), ([7], [])]
    for batch in (1, 2, 32):
        forced = teacher_forced(model, pairs, batch)
        for (prompt, completion), each in zip(pairs, forced, strict=True):
            torch.testing.assert_close(each.log_probs, log_likelihood(model, prompt, completion))
        assert would_write(model, pairs, batch=batch) == [True] * 3 + [False] * 3 + [True]
    following = [
        next(iter(generate(model, [*prompt, *text], 1)))
        for prompt, text in zip(prompts, written, strict=True)
    ]
    assert [each.next_token for each in forced[:3]] == following
    expected = [token == following[0] for token in following]
    assert would_write(model, pairs[:3], stop={following[0]}) == expected


@pytest.mark.parametrize(
    "pairs, message",
    [([], "at least one pair"), ([([], [1])], "at least one pair"), ([([1], [61])], "run from 61")],
)
def test_what_cannot_be_forced_is_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        teacher_forced(tiny_decoder(), pairs)


# Intervals


def test_the_bootstrap_of_a_mean_is_the_normal_theorys_in_large_samples():
    values = np.random.default_rng(0).normal(3, 2, 2000)
    found, half = bootstrap(values), 1.96 * values.std() / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.06 * half
    )


def test_the_bootstrap_of_two_values_is_counted_by_hand():
    """Of 0 and 1, four samples of two: means 0, ½, ½, 1, a quarter of them at either end."""
    assert (bootstrap([0, 1]).low, bootstrap([0, 1]).high) == (0, 1)
    middle = bootstrap([0, 1], confidence=0.4)
    assert (middle.low, middle.high) == (0.5, 0.5)


@pytest.mark.parametrize("kind", ["accuracy", "bootstrap", "paired_test"])
def test_the_intervals_hold_the_truth_as_often_as_they_say(kind):
    """400 measurements of something known."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        if kind == "accuracy":
            truth, found = 0.8, accuracy(rng.random(60) < 0.8)
        elif kind == "bootstrap":
            truth, found = 5.0, bootstrap(rng.normal(5, 1, 60), resamples=1000)
        else:
            truth, found = 0.5, paired_test(rng.normal(0.5, 1, 10), np.zeros(10)).difference
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_wilsons_interval_is_the_textbooks():
    found = accuracy([True] * 81 + [False] * 182)  # Newcombe 1998, table I
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    all_right, none = accuracy([True] * 15), accuracy([False] * 20)
    assert all_right.value == all_right.high == 1 and all_right.low == pytest.approx(0.796, abs=1e-3)
    assert none.value == none.low == 0 and none.high == pytest.approx(0.1611, abs=1e-3)


@calm
@given(scores, st.sampled_from([0.5, 0.8, 0.95]))
def test_properties_of_the_bootstrap(values, confidence):
    found = bootstrap(values, confidence=confidence, resamples=200)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9 and found.n == len(values)
    again, moved = (
        bootstrap([v + d for v in values], confidence=confidence, resamples=200) for d in (0, 1000)
    )
    assert again == found and moved.low == pytest.approx(found.low + 1000, abs=1e-6)
    wider = bootstrap(values, confidence=0.99, resamples=200)
    assert wider.low <= found.low and found.high <= wider.high


def test_pairing_is_worth_what_items_share():
    """Hard items are hard for both: the two intervals overlap, and that of the difference excludes 0."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 200)
    a, b = hard + rng.normal(0.1, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    assert bootstrap(a).low < bootstrap(b).high
    assert paired_difference(a, b).low > 0.05
    assert paired_difference(b, a).high == pytest.approx(-paired_difference(a, b).low, abs=0.005)


def test_the_sign_flip_test_is_counted_by_hand():
    found = paired_test([1, 2, 3, 4, 5, 6], [0] * 6)
    assert found.p_value == 2 / 2**6 and found.exact and found.difference.value == 3.5
    assert paired_test([1, -1], [0, 0]).p_value == 1
    # differences 2, −1, 1: of 8 sums, ±4 twice, ±2 four times, 0 twice
    three = paired_test([3, 1, 2], [1, 2, 1])
    assert three.p_value == 6 / 8 and (three.difference.low, three.difference.high) == (-math.inf, math.inf)


def test_many_seeds_are_sampled_and_nearly_exact():
    rng = np.random.default_rng(2)
    a = rng.normal(0.3, 1, 20)
    sampled = paired_test(a, np.zeros(20))
    t = a.mean() / (a.std(ddof=1) / math.sqrt(20))
    normal = math.erfc(abs(t) / math.sqrt(2))
    assert not sampled.exact and sampled.p_value == pytest.approx(normal, abs=0.03)


def test_where_nothing_differs_chance_finds_as_little_as_it_says():
    rng = np.random.default_rng(3)
    small = [paired_test(rng.normal(size=8), rng.normal(size=8)).p_value <= 0.05 for _ in range(400)]
    assert np.mean(small) < 0.075


@pytest.mark.parametrize(
    "measure, message",
    [
        (lambda: bootstrap([]), "2 or more numbers"),
        (lambda: bootstrap([1]), "2 or more numbers"),
        (lambda: bootstrap([1, math.nan]), "value 1 is nan"),
        (lambda: bootstrap([[1, 2]]), r"shape \(1, 2\)"),
        (lambda: bootstrap([1, 2], confidence=1), "confidence must lie between"),
        (lambda: bootstrap([1, 2], resamples=5), "resamples must be from 100 to"),
        (lambda: accuracy([]), "1 or more numbers"),
        (lambda: accuracy([0.5]), "right .True. or wrong"),
        (lambda: paired_difference([1, 2], [1, 2, 3]), "2 scores can't be paired with 3"),
        (lambda: paired_test([1], [2]), "2 or more numbers"),
        (lambda: paired_test([1, math.inf], [1, 2]), "value 1 is inf"),
    ],
)
def test_what_has_no_interval_is_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()


# The harness

ITEMS = [{"prompt": f"{n} + 1 =", "answer": n + 1} for n in range(12)]
SUMS = Task(
    "sums",
    ITEMS,
    lambda answer, item: same_number(answer, item["answer"]),
    prompt=lambda item: item["prompt"],
)
LENGTHS = Task("lengths", ITEMS, lambda answer, item: len(answer) / 10, prompt=lambda item: item["prompt"])


def adds_mostly(prompt):
    n = int(prompt.split()[0])
    return f"It is {n + 1 + (n % 4 == 3)}"


def test_a_report_has_means_with_intervals_and_all_answers():
    report = evaluate(adds_mostly, [SUMS, LENGTHS], facts={"model": "by hand", "seed": 0})
    table = report.table()
    assert table["sums"] == accuracy([n % 4 != 3 for n in range(12)]) and table["sums"].n == 12
    assert table["lengths"] == bootstrap([len(answer) / 10 for answer in report.results[0].answers])
    assert report.results[0].answers[3] == "It is 5" and report.results[0].scores[3] is False
    lines = str(report).splitlines()
    assert lines[0].split() == ["task", "n", "score", "95%", "interval"]
    assert lines[1].split()[:3] == ["sums", "12", "0.750"]
    assert len(set(map(len, lines[:1]))) == 1 and report._repr_markdown_().count("|") == 5 * 4


def test_batched_answerers_see_so_many_prompts_and_give_the_same():
    seen = []

    def several(prompts):
        seen.append(len(prompts))
        return [adds_mostly(prompt) for prompt in prompts]

    assert evaluate(several, [SUMS], batch=5).results == evaluate(adds_mostly, [SUMS]).results
    assert seen == [5, 5, 2]


def test_a_saved_report_is_the_same_report(tmp_path):
    report = evaluate(adds_mostly, [SUMS, LENGTHS], facts={"seed": 3})
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    fields = json.loads((tmp_path / "report.json").read_text())
    assert fields["sizes"] == {"sums": 12, "lengths": 12} and fields["facts"] == {"seed": 3}
    assert {"date", "python", "torch", "numpy", "course_lib"} <= fields["made"].keys()
    assert "sums" in fields["means"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    other = json.dumps(fields | {"kind": "training log"})
    for content in ("", "[]", "{}", '{"results": [{}]}', other):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match="other.json holds no evaluation report"):
            Report.load(tmp_path / "other.json")


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    report = evaluate(adds_mostly, [SUMS])
    report.save(tmp_path / "report.json")
    before = (tmp_path / "report.json").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        evaluate(lambda prompt: "0", [SUMS]).save(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_reports_are_compared_item_by_item():
    better = evaluate(lambda prompt: f"{int(prompt.split()[0]) + 1}", [SUMS])
    worse = evaluate(adds_mostly, [SUMS])
    assert compare(better, worse)["sums"] == paired_difference([1] * 12, [n % 4 != 3 for n in range(12)])
    other = evaluate(adds_mostly, [Task("sums", ITEMS[::-1], SUMS.scorer, SUMS.prompt)])
    for second in (other, evaluate(adds_mostly, [LENGTHS]), evaluate(adds_mostly, [SUMS, LENGTHS])):
        with pytest.raises(ValueError, match="can't be compared"):
            compare(better, second)


@pytest.mark.parametrize(
    "answer, task, batch, said",
    [
        (lambda prompt: 1 / 0, SUMS, None, r"task 'sums', item 0, '0 \+ 1 =': ZeroDivisionError"),
        (lambda prompts: ["1"], SUMS, 4, "items 0 to 3.*4 prompts want a list of as many answers"),
        (lambda prompts: "1234", SUMS, 4, "4 prompts want a list of as many answers"),
        (
            lambda prompt: "1",
            Task("bad", ITEMS, lambda answer, item: math.nan, SUMS.prompt),
            None,
            "item 0, answer '1'.*the scorer gave nan",
        ),
        (
            lambda prompt: "1",
            Task("bad", ITEMS, lambda answer, item: "yes", SUMS.prompt),
            None,
            "the scorer gave 'yes'",
        ),
        (lambda prompt: 5, SUMS, None, "task 'sums', item 0, answer 5: "),
    ],
)
def test_a_failure_says_at_which_item(answer, task, batch, said):
    with pytest.raises(RuntimeError, match=re.compile(said, re.DOTALL)):
        evaluate(answer, [task], batch)


def test_impossible_evaluations_are_refused():
    for tasks, batch in (([], None), ([SUMS, SUMS], None), ([SUMS], 0)):
        with pytest.raises(ValueError, match="at least one task, each with a name of its own"):
            evaluate(adds_mostly, tasks, batch)
    with pytest.raises(ValueError, match="two items or more, not 1"):
        Task("one", ITEMS[:1], SUMS.scorer)


def test_a_scorers_name_is_kept_also_of_a_partial_function():
    report = evaluate(
        lambda prompt: "1", [Task("t", ITEMS, partial(lambda low, answer, item: low < 1, 0), SUMS.prompt)]
    )
    assert "lambda" in report.results[0].scorer
