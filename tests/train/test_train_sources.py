"""Training beyond a data set: rollouts, frozen references, several models, callbacks, metrics."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import tiny_config, tiny_decoder
from torch import Tensor, nn

from course_lib.model import Decoder
from course_lib.train import (
    IGNORE,
    Rollouts,
    TrainConfig,
    Training,
    Windows,
    frozen,
    load_checkpoint,
    next_token_loss,
    save_checkpoint,
    token_log_probs,
    train,
    warmup_cosine,
)
from course_lib.train.data import count_targets, to_device
from course_lib.train.peft import LoRA, attach

calm = settings(derandomize=True, deadline=None, max_examples=40)
CONFIG = TrainConfig(steps=6, learning_rate=1e-2)
STOP = 0


def policy(seed=0):
    torch.manual_seed(seed)
    return Decoder(tiny_config()).double()


def likes_small_ids(prompt, answer):
    return sum(token < 30 for token in answer) / len(answer)


def rollouts(model, **options):
    prompts = [[3], [4, 5], [6, 7, 8], [9, 9], [10]]
    return Rollouts(
        model, prompts, likes_small_ids, STOP, **{"batch": 3, "group": 4, "max_new_tokens": 5} | options
    )


def reinforce(model, batch, reference, beta=0.1):
    """REINFORCE with the group's mean as baseline, and a KL penalty to a reference (k3 of Schulman 2020)."""
    advantages = (batch.rewards.view(-1, 4) - batch.rewards.view(-1, 4).mean(dim=1, keepdim=True)).flatten()
    log_probs = token_log_probs(model, batch.tokens, batch.targets)
    with torch.no_grad():
        theirs = token_log_probs(reference, batch.tokens, batch.targets)
    counts = batch.targets != IGNORE
    apart = theirs - log_probs
    kl = (apart.exp() - apart - 1)[counts].mean()
    gain = (log_probs * advantages[:, None])[counts].mean()
    return beta * kl - gain, {"reward": batch.rewards.mean().item(), "kl": kl.item()}


# The proof: what preference learning and RL build on


def test_a_model_learns_from_what_it_writes_beside_a_frozen_reference():
    model = policy()
    reference = frozen(model)
    before = {name: weight.clone() for name, weight in reference.named_parameters()}
    training = Training(
        model, TrainConfig(steps=60, learning_rate=1e-2), partial(reinforce, reference=reference)
    )
    training.run(rollouts(model), progress=False)
    assert training.metrics["kl"][0] == pytest.approx(0, abs=1e-12) and training.metrics["kl"][-1] > 0
    rewards = training.metrics["reward"]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:3]) / 3 + 0.2
    assert all(weight.equal(before[name]) for name, weight in reference.named_parameters())


def test_the_base_under_an_adapter_is_the_reference():
    """No copy is needed: while the adapter is off, the model is the one before training."""
    model = tiny_decoder()
    attached, reference = attach(model, LoRA(2)), frozen(model)
    train(model, lambda step: (torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])), CONFIG, progress=False)
    tokens, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
    with attached.off(), torch.no_grad():
        assert token_log_probs(model, tokens, targets).equal(token_log_probs(reference, tokens, targets))


@pytest.mark.parametrize("until", [1, 4])
def test_a_run_on_rollouts_resumes_bit_for_bit(tmp_path, until):
    def fresh():
        model = policy()
        return Training(model, CONFIG, partial(reinforce, reference=frozen(model)))

    whole, first, second = fresh(), fresh(), fresh()
    whole.run(rollouts(whole.model), progress=False)
    first.run(rollouts(first.model), until=until, progress=False)
    save_checkpoint(tmp_path / "run", first)
    load_checkpoint(tmp_path / "run", second)
    second.run(rollouts(second.model), progress=False)
    assert second.history == whole.history and second.metrics == whole.metrics
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert one.equal(other)


def test_rollouts_are_what_they_say():
    model = policy()
    source = rollouts(model, max_new_tokens=6)
    batch, again = source(2), source(2)
    assert batch.tokens.equal(again.tokens) and not batch.tokens.equal(source(3).tokens)
    assert batch.rewards.shape == (12,) and batch.tokens.shape == batch.targets.shape
    for row in range(12):
        answer = batch.targets[row][batch.targets[row] != IGNORE].tolist()
        assert 1 <= len(answer) <= 6 and STOP not in answer[:-1]
        assert len(answer) == 6 or answer[-1] == STOP
        assert batch.rewards[row].item() == pytest.approx(likes_small_ids(None, answer))
    assert model.training, "as it was before"
    full = Rollouts(model, [[1] * 47], likes_small_ids, STOP, batch=1, group=3, max_new_tokens=9)(0)
    assert all(len(row[row != IGNORE]) <= 2 for row in full.targets)


# Several models and optimizers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be"),
        ({"group": 1.5}, "group must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"max_new_tokens": math.nan}, "max_new_tokens must be"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": "1"}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"seed": None}, "seed must be"),
    ],
    ids=str,
)
def test_rollouts_name_a_setting_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        rollouts(policy(), **options)


def test_rollouts_are_of_ids_and_have_rewards():
    model = policy()
    with pytest.raises(ValueError, match="stop must be a whole number"):
        Rollouts(model, [[1]], likes_small_ids, "<|im_end|>")
    with pytest.raises(ValueError, match="a prompt must be token ids, not text"):
        Rollouts(model, ["What?"], likes_small_ids, STOP)
    for reward in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match="a reward must be a finite number"):
            Rollouts(model, [[1]], lambda prompt, answer, reward=reward: reward, STOP)(0)
    used_up = Rollouts(model, (map(int, word) for word in ("3", "45")), likes_small_ids, STOP)
    whole = Rollouts(model, [[3], [4, 5]], likes_small_ids, STOP)
    assert all(used_up(step).tokens.equal(whole(step).tokens) for step in range(3))


class Critic(nn.Module):
    """A value of each position, (batch, time), from a model of its own."""

    def __init__(self):
        super().__init__()
        self.trunk, self.value = policy(1), nn.Linear(24, 1).double()

    def forward(self, tokens):
        return self.value(self.trunk.last_hidden_state(tokens))[..., 0]


def actor_and_critic(models, batch):
    values = models["critic"](batch.tokens)
    counts = batch.targets != IGNORE
    advantages = batch.rewards[:, None] - values.detach()
    log_probs = token_log_probs(models["actor"], batch.tokens, batch.targets)
    apart = (values - batch.rewards[:, None])[counts].square().mean()
    return {"actor": -(log_probs * advantages)[counts].mean(), "critic": apart}, {
        "reward": batch.rewards.mean()
    }


def two_learners():
    models = {"actor": policy(), "critic": Critic()}
    configs = {"actor": CONFIG, "critic": TrainConfig(steps=6, learning_rate=3e-2, clip=math.inf, warmup=2)}
    return Training(models, configs, actor_and_critic)


def test_an_actor_and_a_critic_learn_in_one_step_with_optimizers_of_their_own(tmp_path):
    whole, first, second = two_learners(), two_learners(), two_learners()
    for training, until in ((whole, 6), (first, 3)):
        training.run(rollouts(training.learners["actor"].model), until=until, progress=False)
    actor, critic = whole.learners.values()
    assert len(critic.history.losses) == len(actor.history.losses) == 6
    assert actor.history.learning_rates == [1e-2 * warmup_cosine(step, 6) for step in range(6)]
    assert critic.history.learning_rates[0] == 3e-2 / 2 and len(whole.metrics["reward"]) == 6
    save_checkpoint(tmp_path / "run", first)
    load_checkpoint(tmp_path / "run", second)
    second.run(rollouts(second.learners["actor"].model), progress=False)
    for name in ("actor", "critic"):
        assert second.learners[name].history == whole.learners[name].history
        pairs = zip(
            second.learners[name].model.parameters(), whole.learners[name].model.parameters(), strict=True
        )
        assert all(one.equal(other) for one, other in pairs)
    with pytest.raises(
        ValueError, match=r"file's learners are \['actor', 'critic'\], and this run's are \['model'\]"
    ):
        load_checkpoint(tmp_path / "run", Training(policy(), CONFIG))


def test_each_learner_takes_the_step_that_it_would_take_alone():
    batches = Windows(torch.arange(200) % 19, time=8, batch=2)
    together = {"one": policy(0), "other": policy(1)}
    losses = lambda models, batch: {name: next_token_loss(model, batch) for name, model in models.items()}
    Training(together, CONFIG, losses).run(batches, progress=False)
    for name, seed in (("one", 0), ("other", 1)):
        alone = policy(seed)
        train(alone, batches, CONFIG, progress=False)
        assert all(a.equal(b) for a, b in zip(alone.parameters(), together[name].parameters(), strict=True))


def test_an_infinite_loss_of_one_leaves_all_as_they_were():
    training = two_learners()
    training.loss = lambda models, batch: {
        name: next_token_loss(getattr(model, "trunk", model), batch) * (math.inf if name == "critic" else 1)
        for name, model in models.items()
    }
    before = [weight.clone() for learner in training.learners.values() for weight in learner.weights]
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        training.learn((torch.tensor([[1, 2]]), torch.tensor([[2, 3]])))
    after = [weight for learner in training.learners.values() for weight in learner.weights]
    assert all(a.equal(b) for a, b in zip(before, after, strict=True)) and training.step == 0


def test_what_does_not_go_together_is_refused():
    model = policy()
    for models, config, message in (
        ({}, {}, "name at least one model"),
        ({"a": model}, {"b": CONFIG}, "a configuration for each"),
        ({"a": model, "b": policy(1)}, {"a": CONFIG, "b": TrainConfig(steps=7)}, "the same `steps`"),
        ({"a": model, "b": policy(1)}, {"a": CONFIG, "b": replace(CONFIG, precision="bf16")}, "`precision`"),
        ({"metrics": model}, CONFIG, "a model can't be called 'metrics'"),
        ({"a": model, "a/weights": policy(1)}, CONFIG, "a model can't be called 'a/weights'"),
        ({"a": model, "b": nn.Sequential(model)}, CONFIG, "two models share weights that learn"),
    ):
        with pytest.raises(ValueError, match=message):
            Training(models, config)
    with pytest.raises(ValueError, match="several models learn here: name one"):
        two_learners().model  # noqa: B018
    single = Training(model, CONFIG, lambda model, batch: {"other": next_token_loss(model, batch)})
    with pytest.raises(ValueError, match="one number for each of model, and gave other"):
        single.learn((torch.tensor([[1]]), torch.tensor([[2]])))


# Callbacks, metrics and kinds of batches


def test_several_callbacks_see_each_step_in_order():
    seen, training = [], Training(policy(), CONFIG)
    watchers = [lambda t: seen.append(("a", t.step)), lambda t: seen.append(("b", t.history.losses[-1]))]
    training.run(Windows(torch.arange(60), 8, 2), watch=watchers, until=2, progress=False)
    assert seen == [("a", 1), ("b", training.history.losses[0]), ("a", 2), ("b", training.history.losses[1])]


def test_metrics_are_the_same_in_every_step():
    metrics = iter([{"a": 1.0}, {"b": 1.0}])
    training = Training(policy(), CONFIG, lambda model, batch: (next_token_loss(model, batch), next(metrics)))
    with pytest.raises(ValueError, match=r"metrics \['b'\] now, and \['a'\] in the steps before"):
        training.run(Windows(torch.arange(60), 8, 2), progress=False)
    assert training.step == 1 and training.metrics == {"a": [1.0]}


class Named(NamedTuple):
    tokens: Tensor
    targets: Tensor
    texts: list


def test_batches_of_every_kind_reach_the_loss_as_they_are():
    tokens, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
    kinds = [(tokens, targets), Named(tokens, targets, ["a"]), {"targets": targets, "tokens": tokens}]
    for batch in kinds:
        moved = to_device(batch, torch.device("cpu"))
        assert type(moved) is type(batch) and count_targets(batch) == 3
        seen = []
        loss = lambda model, batch, seen=seen: seen.append(batch) or next_token_loss(model, (tokens, targets))
        Training(policy(), CONFIG, loss).learn(batch)
        assert type(seen[0]) is type(batch)
    assert to_device(Named(tokens, targets, ["a"]), torch.device("meta")).targets.is_meta


def test_a_dictionary_needs_a_loss_that_reads_it():
    batch = {"tokens": torch.tensor([[1, 2]]), "targets": torch.tensor([[2, 3]])}
    with pytest.raises(ValueError, match="this batch is a dictionary"):
        Training(policy(), CONFIG).learn(batch)


def test_under_auto_one_learner_that_is_too_small_keeps_all_in_32_bits(monkeypatch):
    seen = []
    losses = lambda models, batch: (
        seen.append(torch.is_autocast_enabled("cpu"))
        or {name: next_token_loss(model, batch) for name, model in models.items()}
    )
    training = Training({"large": policy(), "small": policy(1)}, CONFIG, losses)
    for large, small in ((True, True), (True, False)):
        training.learners["large"].bf16, training.learners["small"].bf16 = large, small
        training.learn((torch.tensor([[1, 2]]), torch.tensor([[2, 3]])))
    assert seen == [True, False]


def test_log_probabilities_are_those_of_the_softmax():
    model, tokens = tiny_decoder(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    targets = torch.tensor([[2, IGNORE, 4], [5, 6, IGNORE]])
    got, chances = token_log_probs(model, tokens, targets), model(tokens).softmax(-1)
    for row in range(2):
        for i in range(3):
            wanted = 0.0 if targets[row, i] == IGNORE else chances[row, i, targets[row, i]].log().item()
            assert got[row, i].item() == pytest.approx(wanted, abs=1e-6)
    loss = next_token_loss(model, (tokens, targets)).item()
    assert -got.sum().item() / 4 == pytest.approx(loss, abs=1e-6)


# Windows that don't wrap


@calm
@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
def test_straight_windows_never_go_on_at_the_beginning(length, time, batch, seed):
    if length <= time:
        return
    source = Windows(torch.arange(length), time, batch, seed, wrap=False)
    per_epoch = (length - 1) // time
    targets = Counter()
    for step in range(math.ceil(per_epoch / batch)):
        tokens, wanted = source(step)
        assert (wanted == tokens + 1).all() and wanted.max() < length
        targets.update(wanted.flatten().tolist())
    if per_epoch % batch == 0:  # whole epochs
        assert set(targets.values()) == {1} and length - 1 - len(targets) < time
