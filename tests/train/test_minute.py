"""The contest of recipes for a minute of training, its table, and the speedrun."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from course_lib import asset
from course_lib.families import load_world
from course_lib.model import Decoder, ModelConfig
from course_lib.train import TrainConfig, Windows, speedrun, world_model
from course_lib.train.minute import contest, recipe, verdict
from course_lib.train.minute.clock import Clock
from course_lib.train.minute.recipe import DEFAULT, Recipe, train_by_the_clock
from course_lib.train.minute.tables import ROWS, TABLES

TINY = ModelConfig(
    vocab_size=1440, d_model=16, n_layers=3, n_heads=2, n_kv_heads=2, d_head=8, d_ff=24, context=128
)
SMALL = Recipe(replace(DEFAULT.training, steps=6, warmup=2), batch=2, time=8, model=TINY)
TOKENS = torch.tensor([[3, 4, 5, 3, 4, 9, 4, 5]])


@pytest.fixture(scope="module")
def entries():
    return json.loads(asset("minute.json").read_text(encoding="utf-8"))["entries"]


class Steps(Clock):
    """A clock that ends after so many questions, whatever the time."""

    def share(self) -> float:
        self.asked += 1
        return (self.asked - 1) / self.seconds


# Recipes


def test_with_zeros_in_their_output_projections_the_blocks_add_nothing():
    model = replace(SMALL, zero_init=True).start(0, 6).model
    assert torch.equal(model(TOKENS), model.head(model.norm(model.embedding(TOKENS))))


@pytest.mark.parametrize("tables", TABLES)
def test_tables_begin_as_zeros_learn_and_count(tables):
    plain = SMALL.start(0, 6).model
    training = replace(SMALL, tables=tables).start(0, 6)
    assert torch.equal(training.model(TOKENS), plain(TOKENS))
    training.run(Windows(torch.arange(40) % 11, 8, 2), progress=False)
    moved = [
        weight
        for name, weight in training.model.named_parameters()
        if "pairs" in name or "table" in name.split(".")
    ]
    assert len(moved) == {"bigrams": 1, "values": 2}[tables]
    assert all(weight.abs().sum() > 0 for weight in moved)
    trained = training.model(TOKENS)
    with torch.no_grad():
        for weight in moved:
            weight.zero_()
    assert not torch.equal(trained, training.model(TOKENS))


def test_a_pair_of_tokens_is_looked_up_by_both_of_them():
    embedding = replace(SMALL, tables="bigrams").start(0, 6).model.embedding
    nn.init.normal_(embedding.pairs.weight)
    added = embedding(TOKENS)[0] - embedding.base(TOKENS)[0]  # (time, d_model)
    assert torch.equal(added[1], added[4])  # 3 then 4, twice
    assert not torch.equal(added[1], added[6])  # 9 then 4
    assert torch.allclose(added[1], embedding.pairs.weight[(3 * 1_000_003 + 4 * 7919) % ROWS], atol=1e-6)


# The contest


def test_the_default_recipe_is_the_winners(entries):
    assert entries[contest.winner(entries)]["recipe"] == json.loads(json.dumps(asdict(DEFAULT)))


def test_every_entry_has_its_seconds_and_all_seeds(entries):
    assert list(entries) == [entry.name for entry in contest.ENTRIES]
    for entry in contest.ENTRIES:
        row = entries[entry.name]
        assert row["recipe"] == json.loads(json.dumps(asdict(entry.recipe)))
        assert row["seconds"] == entry.seconds
        assert sorted(map(int, row["runs"])) == list(contest.SEEDS)
        assert row["steps"] * row["ms a step"] == pytest.approx(1000 * entry.seconds, rel=0.01)


def test_a_contest_that_was_stopped_is_taken_up(tmp_path, monkeypatch):
    entries = [contest.Entry("one", SMALL), contest.Entry("two", replace(SMALL, zero_init=True))]
    ids = torch.arange(600) % 50
    monkeypatch.setattr(recipe, "training_text", lambda: ids)
    monkeypatch.setattr(contest, "ENTRIES", entries)
    monkeypatch.setattr(contest, "SEEDS", range(2))
    monkeypatch.setattr(contest, "ROUNDS", 2)
    monkeypatch.setattr(contest, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(1))
    trained = []

    def run(entry, steps, seed):
        trained.append((entry.name, seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return {"bits a byte": 0.1, "answers": 0.5}

    monkeypatch.setattr(contest, "run", run)
    path = tmp_path / "minute.json"
    with pytest.raises(KeyboardInterrupt):
        contest.hold(path)
    contest.hold(path)
    assert trained[:2] == [("one", 0), ("two", 0)] and trained[-2:] == [("one", 1), ("two", 1)]
    assert trained.count(("one", 0)) == trained.count(("two", 0)) == 1
    rows = json.loads(path.read_text())["entries"]
    assert all(row["runs"].keys() == {"0", "1"} for row in rows.values())


def test_the_old_recipes_minute_takes_36_seconds_now(entries):
    shorter = next(name for name, entry in entries.items() if entry["seconds"] == contest.GOAL_SECONDS)
    assert contest.gain(entries, shorter, contest.OLD_NAME).low > 0


def test_the_table_names_every_entry_with_its_interval(entries):
    lines = contest.table(entries).splitlines()
    assert len(lines) == 2 + len(entries)
    for name, entry in entries.items():
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert str(entry["steps"]) in line and " to " in line


def test_the_page_shows_the_table(entries):
    page = (asset("minute.json").parents[1] / "docs" / "minute.md").read_text(encoding="utf-8")
    assert page.split("<!-- table -->\n")[1].split("<!-- /table -->")[0].strip() == contest.table(entries)


def test_the_page_says_what_the_courses_small_model_scores():
    page = (asset("minute.json").parents[1] / "docs" / "minute.md").read_text(encoding="utf-8")
    stages, answers = re.search(r"in (\w+) stages, answers ([\d.]+)\.", page).groups()
    assert recipe.score(load_world().model)["answers"] == pytest.approx(float(answers), abs=0.002)
    assert stages == "six" and len(world_model.STAGES) == 6


@pytest.mark.slow
def test_a_run_of_the_contest_comes_out_again(entries):
    entry = next(entry for entry in contest.ENTRIES if entry.recipe == DEFAULT)
    row = entries[entry.name]
    again = contest.run(entry, row["steps"], 0)
    assert again["bits a byte"] == pytest.approx(row["runs"]["0"]["bits a byte"], abs=0.003)


# The speedrun


@pytest.fixture
def small(monkeypatch):
    """Texts of small numbers, a small model, and hardly any warm-up."""
    ids = torch.arange(600) % 50
    pairs = [([3, 4], [5]), ([7, 8], [9])]
    for module in (recipe, verdict, speedrun):
        monkeypatch.setattr(module, "training_text", lambda: ids, raising=False)
        monkeypatch.setattr(module, "held_out_texts", lambda: (ids[:300], 900, pairs), raising=False)
    monkeypatch.setattr(speedrun, "MODEL", TINY)
    monkeypatch.setattr(verdict, "WARM_UP", 0.01)


def own(clock: Clock, seed: int) -> nn.Module:
    return train_by_the_clock(clock, seed, TINY)


def test_the_file_to_edit_begins_as_the_courses_own_recipe(small):
    ours, yours, other = own(Steps(5), 3), speedrun.train(Steps(5), 3), speedrun.train(Steps(5), 4)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), yours.parameters(), strict=True))
    assert not torch.equal(other.head.weight, ours.head.weight)


def test_by_the_clock_it_is_the_recipe_that_won():
    config = TrainConfig.pretraining(recipe.TICKS)
    assert replace(config, steps=10_000, warmup=40) == DEFAULT.training
    assert speedrun.OPTIMIZER == config and (speedrun.BATCH, speedrun.TIME) == (DEFAULT.batch, DEFAULT.time)


def test_a_speedrun_logs_its_runs_and_gives_no_verdict_on_short_ones(small, tmp_path, capsys):
    log = tmp_path / "log.json"
    arguments = ["--seconds", "0.3", "--log", str(log)]
    verdict.main(speedrun.train, own, [*arguments, "--name", "first", "--runs", "2"])
    verdict.main(speedrun.train, own, [*arguments, "--name", "second"])
    pairs = json.loads(log.read_text())
    assert [(pair["name"], pair["seed"]) for pair in pairs] == [("first", 0), ("first", 1), ("second", 2)]
    assert all(pair[who]["steps"] > 0 for pair in pairs for who in ("yours", "own"))
    printed = capsys.readouterr().out
    assert "| first | 2 |" in printed and "| second | 1 |" in printed
    assert printed.index("of the course's recipe, seed 0") < printed.index("of your recipe, seed 0")
    assert printed.index("of your recipe, seed 1") < printed.index("of the course's recipe, seed 1")
    assert "There is no verdict" in printed and "Yours" not in printed


def pairs_of(gains: list[float]) -> list[dict]:
    scores = {"answers": 0.5, "steps": 400}
    return [
        {"name": "a", "code": "0", "seconds": 60.0, "seed": seed}
        | {"own": scores | {"bits a byte": 0.25}, "yours": scores | {"bits a byte": 0.25 - gain}}
        for seed, gain in enumerate(gains)
    ]


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([0.05], "Too few runs for a verdict: +0.0500 bits a byte gained so far"),
        ([-0.05] * 5, "Too few runs for a verdict: -0.0500"),
        ([0.001, 0.002, 0.003, 0.001, 0.002, 0.002], "Yours is better: +0.0018"),
        ([-0.001, -0.002, -0.003, -0.001, -0.002, -0.002], "Yours is worse: -0.0018"),
        ([0.01, -0.02, 0.015, -0.01, 0.02, -0.01], "Yours is neither better nor worse"),
    ],
)
def test_a_verdict_needs_six_pairs(gains, words, capsys):
    verdict.report(pairs_of(gains), "a")
    printed = capsys.readouterr().out
    assert words in printed
    assert ("interval" in printed) == (len(gains) >= 6)


class Peeking(Decoder):
    """A decoder that knows the next token, because it reads it."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = super().forward(tokens)
        following = nn.functional.one_hot(tokens[:, 1:], logits.shape[-1])
        return torch.cat([logits[:, :-1] + 9 * following, logits[:, -1:]], dim=1)


def endless(clock: Clock, seed: int) -> nn.Module:
    while True:
        clock.share()


def late(clock: Clock, seed: int) -> nn.Module:
    while clock.taken < clock.seconds + 0.1:
        pass
    return nn.Identity()


@pytest.mark.parametrize("train", [endless, late])
def test_a_run_that_overstays_is_refused(small, monkeypatch, train):
    monkeypatch.setattr("course_lib.train.minute.clock.GRACE", 0.05)
    with pytest.raises(TimeoutError, match=r"as soon as clock.share\(\) is 1 or more"):
        verdict.trained(train, 0.02, 0)


@pytest.mark.parametrize("returned", [None, nn.Identity(), "model"])
def test_what_is_no_model_is_refused_before_the_minute(small, returned):
    def train(clock: Clock, seed: int) -> object:
        assert clock.seconds < 1
        return returned

    with pytest.raises(TypeError, match="`train` must return the model"):
        verdict.trained(train, 60, 0)


def test_a_model_that_reads_what_it_is_to_predict_is_refused(small):
    with pytest.raises(ValueError, match="its attention must be causal"):
        verdict.trained(lambda clock, seed: Peeking(TINY), 0.1, 0)


def test_scores_that_arent_finite_are_refused(small, monkeypatch):
    monkeypatch.setattr(verdict, "score", lambda model: {"bits a byte": float("inf"), "answers": 0.0})
    with pytest.raises(ValueError, match="Has the training diverged"):
        verdict.trained(own, 0.05, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "0"],
        ["--seconds", "nan"],
        ["--seconds", "-1"],
        ["--name", "other code"],
        ["--log", "/no/such/folder/log.json"],
    ],
)
def test_impossible_options_end_before_any_training(tmp_path, arguments, capsys):
    log = tmp_path / "log.json"
    log.write_text(json.dumps([pairs_of([0.1])[0] | {"name": "other code"}]))
    with pytest.raises(SystemExit):
        verdict.main(speedrun.train, speedrun.train, ["--log", str(log), *arguments])
    assert " --" in capsys.readouterr().err.splitlines()[-1]


BROKEN = [pairs_of([0.1])[0] | part for part in ({"yours": 3}, {"name": ["a"]}, {"own": {"steps": 1}})]
INFINITE = pairs_of([float("inf")])


@pytest.mark.parametrize(
    "text", ['{"not": "a log"}', "[1]", "nothing", *map(json.dumps, [*([pair] for pair in BROKEN), INFINITE])]
)
def test_a_log_that_is_none_is_refused_and_kept(tmp_path, text, capsys):
    log = tmp_path / "log.json"
    log.write_text(text)
    with pytest.raises(SystemExit):
        verdict.main(speedrun.train, speedrun.train, ["--log", str(log)])
    assert log.read_text() == text and "is no log of speedruns" in capsys.readouterr().err


def test_a_schedule_needs_its_own_numbers():
    wrong = ({"schedule": "step"}, {"schedule": None}, {"decay": 2}, {"optimizer": "sgd"}, {"decay": "1"})
    for setting in wrong:
        with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
            TrainConfig(steps=3, **setting)
