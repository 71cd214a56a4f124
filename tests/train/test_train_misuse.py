"""Runs, batches and files that can't be meant: refused where they come in, or taken as what they are."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import tiny_decoder
from torch import nn

from course_lib.train import (
    IGNORE,
    Examples,
    Rollouts,
    TrainConfig,
    Training,
    Windows,
    answer_only,
    load_checkpoint,
    next_token_loss,
    save_checkpoint,
    token_log_probs,
    warmup_cosine,
)
from course_lib.train.peft import Bottleneck, LoRA, attach, in_front, load_peft, peft_files, save_peft

CONFIG = TrainConfig(steps=3)
SOURCE = Windows(torch.arange(40) % 30, 4, 2)
TOKENS = torch.tensor([[1, 2, 3]])


def fresh(**changes):
    return tiny_decoder(torch.float32, **({"n_layers": 1} | changes)).requires_grad_(True)


def weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def quietly(training, batches=SOURCE, **options):
    return training.run(batches, progress=False, **options)


# What is trained


def of_another_model():
    other = fresh()
    return Training(fresh(), CONFIG, lambda _, batch: next_token_loss(other, batch))


def attached_afterwards():
    training = Training(fresh(), CONFIG)
    attach(training.model, LoRA(2))
    return training


def detached_before():
    model = fresh()
    attached = attach(model, LoRA(2))
    training = Training(model, CONFIG)
    attached.detach()
    return training


@pytest.mark.parametrize("make", [of_another_model, attached_afterwards, detached_before])
def test_a_run_that_trains_nothing_is_refused(make):
    training = make()
    before = weights(training.model)
    with pytest.raises(ValueError, match="no weight of 'model' got a gradient"):
        quietly(training)
    assert training.step == 0 and same(weights(training.model), before)


def test_each_model_learns_from_its_own_loss_alone():
    """The generator's loss flows through the discriminator, and would cancel its own gradient."""
    models = {name: nn.Linear(1, 1, bias=False) for name in ("g", "d")}
    for model in models.values():
        nn.init.ones_(model.weight)

    def loss(models, _):
        made = models["g"].weight * 2
        return {"g": -models["d"](made).sum(), "d": models["d"](made.detach()).sum()}

    training = Training(models, CONFIG, loss)
    training.learn((torch.ones(1),))
    assert {name: learner.history.grad_norms for name, learner in training.learners.items()} == {
        "g": [2.0],
        "d": [2.0],
    }
    assert models["g"].weight.grad < 0 < models["d"].weight.grad


# Losses, metrics, batches, callbacks, models


@pytest.mark.parametrize("rest", [(torch.ones(2),), (None,), (), ({}, {}), (0.5,), ([("a", 1)],)])
def test_a_loss_function_returns_a_loss_or_a_loss_and_metrics(rest):
    training = Training(fresh(), CONFIG, lambda model, batch: (next_token_loss(model, batch), *rest))
    with pytest.raises(ValueError, match="returns the loss, or the loss and metrics by name"):
        quietly(training)


@pytest.mark.parametrize("metrics", [{"a": 1, 2: 3}, {2: 3}, {"\ud800": 1}])
def test_metrics_have_names_that_a_file_can_hold(metrics):
    training = Training(fresh(), CONFIG, lambda model, batch: (next_token_loss(model, batch), metrics))
    with pytest.raises(ValueError, match="metrics have names"):
        quietly(training)


def test_metrics_are_finite_numbers_of_any_kind_or_refused():
    metrics = {"a": 10**400}
    training = Training(fresh(), CONFIG, lambda model, batch: (next_token_loss(model, batch), metrics))
    with pytest.raises(ValueError, match="the metric a must be a number"):
        quietly(training)


@pytest.mark.parametrize("batch", [(), {}, []])
def test_empty_batches_are_refused(batch):
    training = Training(fresh(), CONFIG, lambda model, _: model(TOKENS).sum())
    with pytest.raises(ValueError, match="empty batch"):
        quietly(training, lambda step: batch)


def test_a_decoder_takes_tokens_and_targets_only():
    tokens = torch.ones(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="this batch has 3 parts"):
        next_token_loss(fresh(), (tokens, torch.ones(1, 2), tokens))


def test_lists_are_batches_as_tuples_are():
    runs = [Training(fresh(), CONFIG) for _ in range(2)]
    of_tuples, of_lists = quietly(runs[0]), quietly(runs[1], lambda step: [*SOURCE(step)])
    assert of_tuples == of_lists and of_lists.tokens == [8, 16, 24]


@pytest.mark.parametrize("watch", [5, [5], [None], "ab"])
def test_what_watches_is_called(watch):
    training = Training(fresh(), CONFIG)
    with pytest.raises(ValueError, match="watch must be a function"):
        quietly(training, watch=watch)
    assert training.step == 0


@pytest.mark.parametrize(
    "models, config, message",
    [
        ({1: nn.Linear(1, 1)}, CONFIG, "a model can't be called 1"),
        ({"\ud800": nn.Linear(1, 1)}, CONFIG, "a model can't be called"),
        ([nn.Linear(1, 1)], CONFIG, "give a model, or several by name"),
        (nn.Linear(1, 1), None, "and a TrainConfig"),
        ({"a": nn.Linear(1, 1)}, {"a": None}, "and a TrainConfig"),
    ],
)
def test_what_is_no_model_or_configuration_is_refused(models, config, message):
    with pytest.raises(ValueError, match=message):
        Training(models, config)


# Sources


SOURCES = {
    "Windows": lambda batch: Windows(torch.arange(3000) % 30, 4, batch),
    "Examples": lambda batch: Examples(range(1000), batch, lambda chosen: (torch.tensor(chosen),)),
    "Rollouts": lambda batch: Rollouts(
        fresh(), [[3], [4]] * 40, lambda *_: 1.0, 7, batch, group=batch, max_new_tokens=batch
    ),
}
sources = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)


@sources
@pytest.mark.parametrize("step", [-1, 1.5, None, "1", True])
def test_a_step_is_a_whole_number(make, step):
    with pytest.raises(ValueError, match="step must be a whole number, at least 0"):
        make(2)(step)


@sources
def test_numpys_numbers_do_not_overflow(make):
    small = make(np.uint8(3))
    for step in (np.uint8(100), np.int64(100), torch.tensor(100)):
        assert all(map(torch.equal, small(step), make(3)(100)))


def test_numbers_of_steps_may_be_numpys():
    assert warmup_cosine(np.int16(32767), 100_000, 40_000) == warmup_cosine(32767, 100_000, 40_000)
    assert warmup_cosine(np.uint8(90), np.uint8(100), np.uint8(20)) == warmup_cosine(90, 100, 20)
    windows = Windows(torch.arange(3000), np.uint8(200), np.uint8(200))
    assert torch.equal(windows(20)[0], Windows(torch.arange(3000), 200, 200)(20)[0])


def test_examples_that_were_taken_away_are_missed():
    examples = [1, 2]
    source = Examples(examples, 1, list)
    examples.clear()
    with pytest.raises(ValueError, match="there are no examples"):
        source(0)


def test_ids_of_64_bits_that_are_too_large_are_refused():
    with pytest.raises(ValueError, match="below 2⁶³"):
        Windows(np.array([2**63 + 5, 7, 8], dtype=np.uint64), 2, 1)
    assert Windows(np.array([5, 5, 5], dtype=np.uint64), 2, 1)(0)[0].tolist() == [[5, 5]]


def test_a_reward_gets_lists_of_its_own():
    def careless(prompt, answer):
        prompt += answer
        answer.clear()
        return 1.0

    source = Rollouts(fresh(), [[3], [4]], careless, 7, batch=2, group=2, max_new_tokens=2)
    other = Rollouts(fresh(), [[3], [4]], lambda *_: 1.0, 7, batch=2, group=2, max_new_tokens=2)
    for step in (0, 0, 1):
        assert all(map(torch.equal, source(step), other(step)))


@pytest.mark.parametrize("reward", ["3", 1e39, 10**400, [1], 1j, torch.ones(2), float("nan")])
def test_a_reward_is_a_number_of_32_bits(reward):
    with pytest.raises(ValueError, match="a reward must be a finite number"):
        Rollouts(fresh(), [[3]], lambda *_: reward, 7, batch=1, group=1, max_new_tokens=1)(0)


# Targets of few bits


def test_ids_in_front_leave_room_for_targets_that_do_not_count():
    batch = (torch.tensor([[4, 5]]), torch.tensor([[5, 6]]))
    few_bits = tuple(part.to(torch.uint8) for part in batch)
    wanted = in_front([300], lambda step: batch)(0)
    assert all(map(torch.equal, in_front([300], lambda step: few_bits)(0), wanted))
    assert wanted[1].tolist() == [[IGNORE, 5, 6]]
    for wrong in (None, (*batch, batch[0]), {"tokens": batch[0]}, (batch[0][0], batch[1][0]), "ab"):
        with pytest.raises(ValueError, match=r"a batch must be \(tokens, targets\)"):
            in_front([3], lambda step, batch=wrong: batch)(0)


def test_the_id_156_in_8_bits_is_an_id():
    model, targets = fresh(vocab_size=200), torch.tensor([[156, 1, 2]])
    few_bits = targets.to(torch.uint8)
    assert torch.equal(token_log_probs(model, TOKENS, few_bits), token_log_probs(model, TOKENS, targets))
    with pytest.raises(ValueError, match="targets run from 0 to 156|targets run from 1 to 156"):
        next_token_loss(fresh(), (TOKENS, few_bits))


# Checkpoints


def test_a_checkpoint_loaded_by_a_callback_is_gone_on_from(tmp_path):
    path, config, loaded = tmp_path / "run", TrainConfig(steps=6), []
    training = Training(fresh(), config)
    quietly(training, until=3)
    save_checkpoint(path, training)

    def rewind(training):
        if training.step == 5 and not loaded:
            loaded.append(training.step)
            load_checkpoint(path, training)

    history = quietly(training, watch=rewind)
    assert history is training.history and loaded
    assert history == quietly(Training(fresh(), config))


def test_frozen_and_trained_parts_are_those_of_the_checkpoint(tmp_path):
    def partly(trained):
        model = fresh().requires_grad_(False)
        trained(model).requires_grad_(True)
        return Training(model, CONFIG)

    runs = [partly(lambda model: model), partly(lambda model: model.blocks)]
    for run, other in (runs, runs[::-1]):
        quietly(run, until=1)
        save_checkpoint(tmp_path / "run", run)
        before = weights(other.model)
        with pytest.raises(ValueError, match="the trained part of model differs"):
            load_checkpoint(tmp_path / "run", other)
        assert same(weights(other.model), before)


class Own(nn.Module):
    """A model of one's own, with two buffers that are the same tensor, and any configuration."""

    def __init__(self, config=None):
        super().__init__()
        torch.manual_seed(0)
        both = torch.randn(2, 30, 30)
        self.a, self.b, self.config = nn.Parameter(both[0]), nn.Parameter(both[1]), config
        self.register_buffer("p", torch.ones(3))
        self.register_buffer("q", self.p)

    def forward(self, x):
        return F.one_hot(x, 30).float() @ self.a @ self.b


@pytest.mark.parametrize("config", [None, {"d": 1}, SimpleNamespace(d=1)])
def test_models_of_ones_own_are_saved(tmp_path, config):
    training, resumed = Training(Own(config), CONFIG), Training(Own(config), CONFIG)
    quietly(training, until=2)
    save_checkpoint(tmp_path / "run", training)
    load_checkpoint(tmp_path / "run", resumed)
    assert quietly(resumed) == quietly(training)
    assert same(weights(resumed.model), weights(training.model))


def test_models_that_share_what_is_frozen_are_saved(tmp_path):
    def run():
        models = {"a": fresh(), "b": fresh()}
        models["b"].embedding = models["a"].embedding.requires_grad_(False)
        return Training(
            models, CONFIG, lambda models, x: {name: next_token_loss(models[name], x) for name in models}
        )

    training, resumed = run(), run()
    quietly(training, until=2)
    save_checkpoint(tmp_path / "run", training)
    load_checkpoint(tmp_path / "run", resumed)
    assert quietly(resumed) == quietly(training)


def test_a_good_checkpoint_is_not_replaced_by_one_that_holds_nan(tmp_path):
    training, path = Training(fresh(), CONFIG), tmp_path / "run"
    quietly(training, until=1)
    save_checkpoint(path, training)
    before = path.read_bytes()
    next(iter(training.optimizer.state.values()))["exp_avg"].fill_(float("nan"))
    with pytest.raises(ValueError, match="this run can't be saved"):
        save_checkpoint(path, training)
    assert path.read_bytes() == before


# What is attached


def filled(model, value=0.5, **settings):
    attached = attach(model, LoRA(2, **settings))
    for weight in attached.weights.values():
        nn.init.constant_(weight, value)
    return attached


def test_loading_into_what_was_detached_is_refused(tmp_path):
    attached = filled(fresh())
    attached.save(tmp_path / "lora")
    for end in (attached.detach, attach(fresh(), LoRA(2)).merge):
        end()
        with pytest.raises(ValueError, match="attach anew"):
            end.__self__.load(tmp_path / "lora")


def test_what_is_not_finite_is_neither_saved_nor_merged(tmp_path):
    attached = filled(fresh(), float("nan"))
    for save in (
        lambda: attached.save(tmp_path / "lora"),
        lambda: save_peft(tmp_path / "peft", attached),
        attached.merge,
    ):
        with pytest.raises(ValueError, match="not finite"):
            save()
    assert not list(tmp_path.iterdir()) and attached.detach()
    large = filled(tiny_decoder(torch.float16), 10.0, alpha=1e6)
    with pytest.raises(ValueError, match=r"can't be merged.*not finite in torch.float16"):
        large.merge()
    assert large.detach()


def test_an_interrupted_save_for_peft_is_not_taken_for_an_adapter(monkeypatch, tmp_path):
    save_peft(tmp_path, filled(fresh(), 0.1, alpha=2))
    attached = filled(fresh(), 0.5, alpha=64)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(peft_files, "_write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_peft(tmp_path, attached)
    model = fresh()
    with pytest.raises(ValueError, match="were saved by two calls"):
        load_peft(model, tmp_path)
    save_peft(tmp_path, attached)
    loaded = load_peft(model, tmp_path)
    assert loaded.method.alpha == 64 and torch.equal(model(TOKENS), attached.model(TOKENS))


class OwnLanguage(nn.Module):
    """A language model of one's own, whose head is its embedding table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(30, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.middle(self.embedding(x)).relu())


def test_a_model_without_a_configuration_is_tuned(tmp_path):
    model = OwnLanguage()
    attached = filled(model, targets=("head", "middle"))
    attached.save(tmp_path / "lora")
    wanted, other = model(TOKENS), attach(OwnLanguage(), LoRA(2, targets=("head", "middle")))
    other.load(tmp_path / "lora")
    assert torch.equal(other.model(TOKENS), wanted)
    torch.testing.assert_close(attached.merge()(TOKENS), wanted)
    with pytest.raises(ValueError, match="this model has none"):
        attach(OwnLanguage(), Bottleneck(4))


# Interrupts


def test_an_interrupt_while_gradients_are_clipped_leaves_them_on(monkeypatch):
    training, clip = Training(fresh(), CONFIG), nn.utils.clip_grad_norm_

    @torch.no_grad()
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        assert not torch.is_grad_enabled()
        return clip(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quietly(training)
    assert torch.is_grad_enabled() and training.step == 0
    assert quietly(training) == quietly(Training(fresh(), CONFIG))


def test_answers_are_padded_as_before():
    assert answer_only([([5, 6], [7, 8])], padding=np.uint8(3))[0].tolist() == [[5, 6, 7]]
