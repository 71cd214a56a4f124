"""An interrupt (Ctrl+C) in the middle of a step: the step is taken wholly or not at all."""

import copy
import importlib
import signal
import threading

import pytest
import torch
from references import tiny_config, tiny_decoder
from torch import nn

from course_lib.families import tensor_file
from course_lib.interrupts import uninterrupted
from course_lib.model import Decoder
from course_lib.train import (
    History,
    Learner,
    TrainConfig,
    Training,
    Windows,
    load_checkpoint,
    next_token_loss,
    save_checkpoint,
)
from course_lib.train.peft import LoRA, attach, load_peft, save_peft

exchange_module = importlib.import_module("course_lib.model.exchange")
CONFIG = TrainConfig(steps=6, learning_rate=1e-2, warmup=2)


def windows():
    ids = torch.randint(61, (100,), generator=torch.Generator().manual_seed(0))
    return Windows(ids, time=8, batch=3)


def decoder(seed):
    torch.manual_seed(seed)
    return Decoder(tiny_config(n_layers=1)).double()


def both(models, batch):
    losses = {name: next_token_loss(model, batch) for name, model in models.items()}
    return losses, {"sum": sum(loss.item() for loss in losses.values())}


def one_learner():
    return Training(decoder(0), CONFIG, lambda model, batch: (next_token_loss(model, batch), {"batch": 3.0}))


def two_learners():
    return Training({"first": decoder(0), "second": decoder(1)}, CONFIG, both)


each_run = pytest.mark.parametrize("make", [one_learner, two_learners])


def all_of(training):
    """All that a run consists of, as plain numbers."""
    learners = {
        name: (
            [weight.tolist() for weight in learner.model.parameters()],
            {
                i: {k: x.tolist() for k, x in e.items()}
                for i, e in learner.optimizer.state_dict()["state"].items()
            },
            learner.history,
        )
        for name, learner in training.learners.items()
    }
    return learners, training.metrics


def straight(make, until=6):
    training = make()
    training.run(windows(), until=until, progress=False)
    return all_of(training)


def interrupt_at(monkeypatch, owner, name, call, after):
    """Let the `call`-th call of a function raise an interrupt, before or after its work."""
    function, calls = getattr(owner, name), iter(range(1000))

    def interrupted(*args, **named):
        now = next(calls) == call
        if now and not after:
            signal.raise_signal(signal.SIGINT)
        result = function(*args, **named)
        if now and after:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, interrupted)


@each_run
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"), [(torch.optim.AdamW, "step"), (Learner, "take_step"), (History, "add")], ids=str
)
def test_an_interrupted_update_is_done_to_its_end(monkeypatch, tmp_path, make, owner, name, after):
    training = make()
    with monkeypatch.context() as patch:
        interrupt_at(patch, owner, name, call=2 * len(training.learners), after=after)  # in the third step
        with pytest.raises(KeyboardInterrupt):
            training.run(windows(), progress=False)
    assert training.step == 3 and all_of(training) == straight(make, until=3)
    save_checkpoint(tmp_path / "run", training)
    resumed = make()
    load_checkpoint(tmp_path / "run", resumed)
    resumed.run(windows(), progress=False)
    training.run(windows(), progress=False)
    assert all_of(training) == all_of(resumed) == straight(make)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@each_run
@pytest.mark.parametrize("name", ["clip_gradient", "learning_rate"])
def test_interrupted_before_the_update_nothing_is_done(monkeypatch, make, name):
    training = make()
    with monkeypatch.context() as patch:
        interrupt_at(patch, Learner, name, call=2 * len(training.learners), after=True)
        with pytest.raises(KeyboardInterrupt):
            training.run(windows(), progress=False)
    assert training.step == 2 and all_of(training) == straight(make, until=2)
    training.run(windows(), progress=False)
    assert all_of(training) == straight(make)


def test_a_metric_that_is_no_number_leaves_all_as_it_was():
    training = Training(
        decoder(0), CONFIG, lambda model, batch: (next_token_loss(model, batch), {"words": "none"})
    )
    before = copy.deepcopy(all_of(training))
    with pytest.raises(ValueError, match="the metric words must be a number, not 'none'"):
        training.run(windows(), progress=False)
    assert all_of(training) == before


@each_run
def test_a_callback_that_raises_leaves_a_whole_step(make):
    def stop(training):
        if training.step == 3:
            raise RuntimeError("enough")

    training = make()
    with pytest.raises(RuntimeError, match="enough"):
        training.run(windows(), watch=stop, progress=False)
    assert all_of(training) == straight(make, until=3)
    training.run(windows(), progress=False)
    assert all_of(training) == straight(make)


def test_an_interrupted_checkpoint_leaves_the_old_one(monkeypatch, tmp_path):
    training, path = one_learner(), tmp_path / "run"
    training.run(windows(), until=2, progress=False)
    save_checkpoint(path, training)
    before = path.read_bytes()
    training.run(windows(), until=4, progress=False)
    interrupt_at(monkeypatch, tensor_file, "save_file", call=0, after=True)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, training)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run"]


def test_loading_what_was_attached_is_done_to_its_end(monkeypatch, tmp_path):
    attached = attach(decoder(0), LoRA(2))
    for weight in attached.weights.values():
        nn.init.constant_(weight, 0.5)
    attached.save(tmp_path / "lora")
    other = attach(decoder(0), LoRA(2), seed=1)
    with monkeypatch.context() as patch:
        interrupt_at(patch, torch.Tensor, "copy_", call=1, after=False)
        with pytest.raises(KeyboardInterrupt):
            other.load(tmp_path / "lora")
    assert all((weight == 0.5).all() for weight in other.weights.values())


def test_merging_is_done_to_its_end(monkeypatch):
    model = decoder(0)
    attached = attach(model, LoRA(2, targets=("attention.query", "head")))
    for weight in attached.weights.values():
        nn.init.constant_(weight, 0.5)
    tokens = windows()(0)[0]
    wanted = model(tokens)
    with monkeypatch.context() as patch:
        interrupt_at(patch, type(attached), "detach", call=0, after=True)
        with pytest.raises(KeyboardInterrupt):
            attached.merge()
    torch.testing.assert_close(model(tokens), wanted)


def state_of(model):
    """Every module by its path, with its mode, and which weights are trained."""
    modules = {path: (id(module), module.training) for path, module in model.named_modules()}
    return modules, [weight.requires_grad for weight in model.parameters()]


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("reader", ["read_tensors", "load_checkpoint", "Attached.load", "load_peft"])
def test_an_interrupt_while_a_file_is_read_is_no_damage_of_the_file(monkeypatch, tmp_path, reader, call):
    training, model = one_learner(), tiny_decoder(torch.float32)
    save_checkpoint(tmp_path / "run", training)
    attached = attach(model, LoRA(2))
    attached.save(tmp_path / "lora")
    save_peft(tmp_path / "peft", attached)
    other = attached.detach().eval()
    before = state_of(other)
    read = {
        "read_tensors": lambda: tensor_file.read_tensors(tmp_path / "lora", "adapter"),
        "load_checkpoint": lambda: load_checkpoint(tmp_path / "run", training),
        "Attached.load": lambda: attach(tiny_decoder(torch.float32), LoRA(2)).load(tmp_path / "lora"),
        "load_peft": lambda: load_peft(other, tmp_path / "peft"),
    }[reader]
    with monkeypatch.context() as patch:
        interrupt_at(patch, torch, "frombuffer", call=call, after=False)
        with pytest.raises(KeyboardInterrupt):
            read()
    assert state_of(other) == before
    read()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_attach_leaves_the_model_as_it_was(monkeypatch, after, training):
    model = decoder(0).train(training)
    model.embedding.weight.requires_grad_(False)
    before = state_of(model)
    with monkeypatch.context() as patch:
        interrupt_at(patch, exchange_module, "_put", call=0, after=after)
        with pytest.raises(KeyboardInterrupt):
            attach(model, LoRA(2))
    assert state_of(model) == before
    attach(model, LoRA(2)).detach()
    assert state_of(model) == before


@pytest.mark.parametrize("training", [False, True])
def test_an_interrupted_load_peft_leaves_the_model_as_it_was(monkeypatch, tmp_path, training):
    model = tiny_decoder(torch.float32)
    attached = attach(model, LoRA(2))
    save_peft(tmp_path, attached)
    before = state_of(attached.detach().train(training))
    with monkeypatch.context() as patch:
        interrupt_at(patch, torch.Tensor, "copy_", call=1, after=False)
        with pytest.raises(KeyboardInterrupt):
            load_peft(model, tmp_path)
    assert state_of(model) == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [0, 1])
def test_interrupted_off_comes_back_on(monkeypatch, call, after):
    """The first exchange takes the wrappers out, the second puts them back."""
    model = decoder(0)
    attached = attach(model, LoRA(2))
    before = state_of(model)
    with monkeypatch.context() as patch:
        interrupt_at(patch, exchange_module, "_put", call=call, after=after)
        with pytest.raises(KeyboardInterrupt), attached.off():
            assert call == 1
    assert state_of(model) == before


def test_an_interrupted_detach_is_done_to_its_end(monkeypatch):
    model = decoder(0)
    before = state_of(model)
    attached = attach(model, LoRA(2))
    with monkeypatch.context() as patch:
        interrupt_at(patch, exchange_module, "_put", call=0, after=True)
        with pytest.raises(KeyboardInterrupt):
            attached.detach()
    assert state_of(model) == before


def test_only_the_block_is_uninterrupted_and_only_in_the_main_thread():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def elsewhere():
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done[1] is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
