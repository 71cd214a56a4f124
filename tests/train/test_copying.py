"""The experiment on text that repeats itself: its log, and its code."""

import json

from course_lib import asset
from course_lib.train.minute import repeats
from course_lib.world import world_tokenizer


def curves(name):
    return json.loads(asset(name).read_text(encoding="utf-8"))["curves"]


def last(runs, score):
    return [run[-1][score] for run in runs]


# Repeats


def test_the_log_has_all_runs_of_repeats():
    found = curves("repeats.json")
    assert list(found) == list(repeats.WAYS)
    steps = list(range(repeats.EVERY, repeats.STEPS + 1, repeats.EVERY))
    for runs in found.values():
        assert len(runs) == len(repeats.SEEDS)
        assert all([point["step"] for point in run] == steps for run in runs)


def test_the_tasks_of_repeats_can_be_looked_up_in_what_stands_before():
    decode = world_tokenizer().decode
    for name, pairs in repeats.tasks().items():
        assert len(pairs) == repeats.N_SCORED
        for prompt, follows in pairs[:50]:
            before, wanted = decode(prompt), decode(follows)
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
