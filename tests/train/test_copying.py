"""The two experiments on copying: their logs, and their code."""

import json
from statistics import median

import pytest

from course_lib import asset
from course_lib.train.copying import curves, drilled, repeats
from course_lib.world import ANSWER, END, QUESTION, world_tokenizer

DECODE = world_tokenizer().decode


def log(name):
    return json.loads(asset(name).read_text(encoding="utf-8"))["curves"]


def check_complete(found, ways, seeds, steps, every):
    """Check that a log has every run of every way, scored at every mark."""
    assert list(found) == list(ways)
    marks = list(range(every, steps + 1, every))
    for runs in found.values():
        assert len(runs) == len(seeds)
        assert all([point["step"] for point in run] == marks for run in runs)


# Both


def test_the_file_has_a_curve_for_each_way_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "WORKERS", 1)
    path = tmp_path / "curves.json"
    curves.write(path, "made by a test", told, ("first", "second"), range(3))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == {
        "made_by": "made by a test",
        "curves": {
            way: [[{"step": seed, "score": len(way)}] for seed in range(3)] for way in ("first", "second")
        },
    }


def told(way, seed):
    return [{"step": seed, "score": len(way)}]


# Repeats


def test_the_log_has_all_runs_of_repeats():
    check_complete(log("repeats.json"), repeats.WAYS, repeats.SEEDS, repeats.STEPS, repeats.EVERY)


def test_in_600_steps_telling_twice_gives_an_early_lead_and_no_more():
    found = log("repeats.json")

    def after(steps, score):
        return [[run[steps // repeats.EVERY - 1][score] for run in found[way]] for way in repeats.WAYS]

    once, twice = after(150, "noun")
    assert (min(once), max(once), min(twice), max(twice)) == pytest.approx(
        (0.06, 0.13, 0.26, 0.43), abs=0.005
    )
    for steps in range(400, 601, repeats.EVERY):
        once, twice = after(steps, "noun")
        assert abs(median(once) - median(twice)) < 0.05
        assert min(twice) < max(once) and min(once) < max(twice)
    once, twice = after(600, "names")
    assert (median(once), median(twice)) == pytest.approx((0.84, 0.72), abs=0.005)
    assert min(once) < max(twice)
    assert max(max(scores) for name in ("thing", "random") for scores in after(600, name)) < 0.03


def test_the_tasks_of_repeats_can_be_looked_up_in_what_stands_before():
    for name, pairs in repeats.tasks().items():
        assert len(pairs) == repeats.N_SCORED
        for prompt, follows in pairs[:50]:
            before, wanted = DECODE(prompt), DECODE(follows)
            assert all(word in before.replace(".", "").split() for word in wanted.split() if word != "and")
            if name == "thing":
                animal = before.rsplit("The ", 1)[1].split()[0]
                had = before.split(f" {animal} had a", 1)[1]
                assert had.removeprefix("n").startswith(wanted)


def test_random_rows_are_told_twice():
    rows = repeats.random_rows()
    assert rows.shape == (repeats.N_SCORED, 2 * repeats.ROW)
    assert rows[:, : repeats.ROW].equal(rows[:, repeats.ROW :])


def test_a_run_of_repeats_scores_as_it_goes(monkeypatch):
    monkeypatch.setattr(repeats, "STEPS", 42)
    monkeypatch.setattr(repeats, "EVERY", 21)
    monkeypatch.setattr(repeats, "N_STORIES", 2000)
    repeats.texts.cache_clear()
    curve = repeats.run("twice", 0)
    repeats.texts.cache_clear()
    assert [point["step"] for point in curve] == [21, 42]
    assert all(0 <= point[name] <= 1 for point in curve for name in ("names", "noun", "thing", "random"))


# Drills


def test_the_log_has_all_runs_of_drills():
    check_complete(log("drills.json"), drilled.ARMS, drilled.SEEDS, drilled.STEPS, drilled.EVERY)


def test_with_easier_questions_the_whole_ones_are_learned_sooner():
    alone, three_ways = (log("drills.json")[arm] for arm in drilled.ARMS)
    assert min(run[-1]["right"] for run in three_ways) > 0.97
    assert sorted(round(run[-1]["right"], 1) for run in alone) == [0.5, 0.5, 0.5, 0.6, 0.9]
    for run in three_ways:
        at_a_half = [point["step"] for point in run if point["right"] < 0.6]
        found = [point["step"] for point in run if point["right"] > 0.95]
        assert 500 <= max(at_a_half) <= 800 and min(found) - max(at_a_half) <= 200


@pytest.mark.parametrize("arm", drilled.ARMS)
def test_both_arms_ask_the_same_questions_in_their_ways(arm):
    asked = drilled.taught(arm, 5, "train", 300)
    plain = drilled.taught("whole questions alone", 5, "train", 300)
    whole = [pieces for pieces in asked if pieces[0][0].endswith(f"?{ANSWER}")]
    assert len(whole) == 300 if arm == "whole questions alone" else 70 < len(whole) < 130
    for pieces, same in zip(asked, plain, strict=True):
        assert pieces[0][0].split(".")[0] == same[0][0].split(".")[0]
        assert QUESTION in same[0][0] and pieces[-1][0].endswith(END)
        assert same[-1][0].endswith(pieces[-1][0].strip())


def test_drills_are_scored_on_whole_questions_about_held_out_stories():
    pairs = drilled.held_out()
    assert len(pairs) == drilled.N_SCORED
    for prompt, answer in pairs[:50]:
        question, wanted = DECODE(prompt), DECODE(answer)
        assert question.endswith(f"?{ANSWER}") and wanted.endswith(END)
        first, _, asked = question.partition(f".{QUESTION}Who had the ")
        assert f"{wanted.removesuffix(END).removeprefix('the ')} had a" in first
        assert asked.removesuffix(f"?{ANSWER}") in first


def test_a_run_of_drills_scores_as_it_goes(monkeypatch):
    monkeypatch.setattr(drilled, "STEPS", 4)
    monkeypatch.setattr(drilled, "EVERY", 2)
    monkeypatch.setattr(drilled, "N_SCORED", 20)
    curve = drilled.run("all three ways", 0)
    assert [point["step"] for point in curve] == [2, 4]
    assert all(0 <= point["right"] <= 1 for point in curve)
