"""The course's own files, damaged or with values that can't be right: models and checkpoints."""

import json
import os
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families.test_families import seconds
from references import random_tokens, tiny_decoder
from torch import nn

from course_lib.families import load_model, save_model
from course_lib.families.tensor_file import is_finite, read_tensors, write_tensors
from course_lib.model import Decoder
from course_lib.model.exchange import Replacement, exchange, twin
from course_lib.model.norms import RMSNorm
from course_lib.train import TrainConfig, Training, load_checkpoint, save_checkpoint

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def saved(path, **changes):
    """A model's file; return its tensors and what else it says."""
    save_model(path, tiny_decoder(torch.float32, **changes), torch.float32)
    return read_tensors(path, "model")


# Sizes that the file can't hold

HUGE = pytest.mark.parametrize(
    "size", [2**20, 2**30, 2**40, 2**62, 10**400], ids=lambda size: f"{float(min(size, 10**300)):.0e}"
)


def refused(path, match):
    with seconds(8), pytest.raises(ValueError, match=match):
        load_model(path)


@HUGE
def test_more_layers_than_the_file_has_tensors_are_refused_at_once(path, size):
    tensors, header = saved(path)
    header["config"]["n_layers"] = size
    write_tensors(path, tensors, header)
    refused(path, "n_layers|layers or experts, and the file has|fit into any memory")


@HUGE
def test_more_experts_than_the_file_has_tensors_are_refused_at_once(path, size):
    tensors, header = saved(path, n_experts=4)
    header["config"]["experts"]["n_experts"] = size
    write_tensors(path, tensors, header)
    refused(path, "n_experts|layers or experts, and the file has|fit into any memory")


@pytest.mark.parametrize("name", ["vocab_size", "d_model", "d_head", "d_ff", "context"])
@HUGE
def test_huge_sizes_are_refused_before_anything_is_allocated(path, name, size):
    tensors, header = saved(path, positions="learned")
    header["config"][name] = size
    write_tensors(path, tensors, header)
    refused(path, f"{name}|the model differs|fit into any memory")


def test_nothing_is_built_in_memory_for_a_file_that_does_not_fit(path):
    devices = []

    class Noted(Decoder):
        def __init__(self, config):
            super().__init__(config)
            devices.append(self.embedding.weight.device.type)

    save_model(path, Noted(tiny_decoder().config))
    devices.clear()
    load_model(path, Noted)
    assert devices == ["meta", "cpu"]
    tensors, header = read_tensors(path, "model")
    header["config"]["d_ff"] = 2**28
    write_tensors(path, tensors, header)
    devices.clear()
    with pytest.raises(ValueError, match="the model differs"):
        load_model(path, Noted)
    assert devices == ["meta"]


@pytest.mark.parametrize(
    "value", ["9" * 5_000, "[" * 950 + "]" * 950, "[" * 99_999 + "]" * 99_999, "NaN", "1e999"]
)
@pytest.mark.parametrize("place", ["n_layers", "class"])
def test_numbers_and_lists_without_end_are_refused_briefly(path, value, place):
    """Written by hand: `json` has no such values."""
    _, header = saved(path)
    text = json.dumps(header).replace(json.dumps(header["class"]), '"?"') if place == "class" else None
    text = text or json.dumps(header).replace('"n_layers": 3', '"n_layers": "?"')
    entry = json.dumps({"__metadata__": {"thirsty-tiger": text.replace('"?"', value)}})
    path.write_bytes(struct.pack("<Q", len(entry)) + entry.encode())
    with pytest.raises(ValueError) as caught:
        load_model(path)
    assert len(str(caught.value)) < 500 + len(str(path))


# Weights that aren't finite


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_a_model_with_weights_that_are_not_finite_is_refused_by_their_name(path, value):
    tensors, header = saved(path)
    tensors["blocks.1.attention.key.weight"][2, 3] = value
    write_tensors(path, tensors, header)
    refused(path, "blocks.1.attention.key.weight holds values that are not finite in torch.float32")


def test_a_weight_that_the_wanted_precision_cannot_hold_is_refused(path):
    tensors, header = saved(path)
    tensors["norm.weight"][0] = 1e5
    write_tensors(path, tensors, header)
    with pytest.raises(ValueError, match="norm.weight holds values that are not finite in torch.float16"):
        load_model(path, dtype=torch.float16)
    assert load_model(path, dtype=torch.bfloat16)[0].norm.weight[0] == torch.tensor(1e5).bfloat16()


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e5m2, None, "float32"]
)
def test_a_dtype_that_no_model_computes_in_is_refused(path, dtype):
    saved(path)
    with pytest.raises(ValueError, match="a model's weights are torch.float32"):
        load_model(path, dtype=dtype)


def test_finite_is_what_is_finite_also_where_the_sum_is_not():
    largest = torch.finfo(torch.float32).max
    assert (
        is_finite(torch.full((3, 4), largest))
        and is_finite(torch.zeros(0))
        and is_finite(torch.ones(2).long())
    )
    for values in ([INF, -INF], [NAN, 0.0], [INF, 1.0], [largest, largest, -INF]):
        assert not is_finite(torch.tensor(values))


# Checkpoints


def training(value=None):
    model = tiny_decoder(torch.float32, n_layers=1).requires_grad_(True)
    return Training(
        model, TrainConfig(steps=9), lambda model, ids: (model(ids).square().mean(), {"reward": NAN})
    )


def half_way(path):
    run = training()
    for _ in range(3):
        run.learn(random_tokens(run.model))
    save_checkpoint(path, run)
    return run, *read_tensors(path, "checkpoint")


def unchanged(run):
    return run.step == 0 and not run.optimizer.state and not run.metrics


WRONG = {
    "an infinite weight": ("weights/norm.weight", INF, "norm.weight holds values that are not finite"),
    "a weight that is no number": (
        "weights/norm.weight",
        NAN,
        "norm.weight holds values that are not finite",
    ),
    "a mean that is no number": (
        "optimizer/norm.weight/exp_avg",
        NAN,
        "keeps for norm.weight can't be right",
    ),
    "an infinite mean": ("optimizer/norm.weight/exp_avg", -INF, "keeps for norm.weight can't be right"),
    "a square below 0": ("optimizer/norm.weight/exp_avg_sq", -1.0, "keeps for norm.weight can't be right"),
    "a square that is no number": (
        "optimizer/norm.weight/exp_avg_sq",
        NAN,
        "keeps for norm.weight can't be right",
    ),
    "no steps": ("optimizer/norm.weight/step", 0.0, "keeps for norm.weight can't be right"),
    "endless steps": ("optimizer/norm.weight/step", INF, "keeps for norm.weight can't be right"),
    "an infinite loss": ("history/losses", INF, "its history isn't whole"),
    "a loss that is no number": ("history/losses", NAN, "its history isn't whole"),
    "infinitely many tokens": ("history/tokens", INF, "its history isn't whole"),
}


@pytest.mark.parametrize(("name", "value", "words"), WRONG.values(), ids=list(WRONG))
def test_a_checkpoint_with_values_that_cannot_be_changes_nothing(path, name, value, words):
    _, tensors, facts = half_way(path)
    tensors[f"model/{name}"].view(-1)[0] = value
    write_tensors(path, tensors, facts)
    run = training()
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_checkpoint(path, run)
    assert unchanged(run) and all(
        weight.equal(before[name]) for name, weight in run.model.state_dict().items()
    )


def test_what_a_run_may_come_to_is_loaded(path):
    """A metric may be NaN (here it is), and a mean square may overflow to ∞."""
    saved, tensors, facts = half_way(path)
    tensors["model/optimizer/norm.weight/exp_avg_sq"][0] = INF
    write_tensors(path, tensors, facts)
    run = training()
    load_checkpoint(path, run)
    assert run.step == 3 and run.history == saved.history and len(run.metrics["reward"]) == 3
    assert run.model.norm.weight.equal(saved.model.norm.weight)


def test_a_mask_of_infinities_is_no_weight(path):
    """Buffers may hold −∞, which masks are made of."""
    runs = []
    for _ in range(2):
        runs.append(training())
        runs[-1].model.register_buffer("mask", torch.full((4, 4), -INF).triu(1))
    save_checkpoint(path, runs[0])
    runs[1].model.mask.zero_()
    load_checkpoint(path, runs[1])
    assert runs[1].model.mask.equal(runs[0].model.mask)


@pytest.mark.parametrize("value", [INF, NAN])
def test_a_run_whose_weights_are_not_finite_does_not_replace_a_checkpoint(path, value):
    run, _, _ = half_way(path)
    before = path.read_bytes()
    with torch.no_grad():
        run.model.norm.weight[3] = value
    with pytest.raises(
        ValueError, match="this run can't be saved: norm.weight holds values that are not finite"
    ):
        save_checkpoint(path, run)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "wrong", [torch.tensor(0.5), torch.zeros(3, 1), torch.zeros(3), torch.zeros(2).double()]
)
def test_a_metric_or_history_of_another_form_is_refused(path, wrong):
    for name in ("metrics/reward", "model/history/losses"):
        _, tensors, facts = half_way(path)
        facts["holds"][name] = list(wrong.shape)
        write_tensors(path, tensors | {name: wrong}, facts)
        run = training()
        with pytest.raises(ValueError, match="is damaged: its histor"):
            load_checkpoint(path, run)
        assert unchanged(run)


@pytest.mark.parametrize("learners", [{"model": 5}, {"model": None}, [], "model", {"model": {"run": 7}}])
def test_a_checkpoint_that_describes_nothing_is_refused(path, learners):
    _, tensors, facts = half_way(path)
    write_tensors(path, tensors, facts | {"learners": learners})
    with pytest.raises(ValueError, match="learners are|the run of model differs"):
        load_checkpoint(path, training())


def test_the_model_that_is_loaded_is_the_one_that_was_saved(path):
    model = tiny_decoder(torch.float32, n_experts=4, positions="learned", tie_embeddings=False)
    save_model(path, model, torch.float32, note="as before")
    loaded, facts = load_model(path)
    tokens = random_tokens(model)
    assert loaded(tokens).equal(model(tokens)) and facts == {"note": "as before"}
    assert asdict(loaded.config) == asdict(model.config) and not loaded.training


# What can't be stored so that it is read again


def changed(change):
    model = tiny_decoder(torch.float32, n_layers=2, tie_embeddings=False)
    other = change(model)
    return model if other is None else other


def with_other_feed_forward(model):
    other = tiny_decoder(torch.float32, n_layers=2, feed_forward="geglu")
    model.blocks[1].feed_forward = other.blocks[1].feed_forward


def with_other_class(model):
    model.blocks[0].attention.__class__ = type("Other", (type(model.blocks[0].attention),), {})


def with_other_base(model):
    model.config = replace(model.config, rope_base=99.0)


def with_another_part(model):
    model.blocks.append(nn.Identity())


def with_other_norm(make):
    def change(model):
        model.norm.weight = nn.Parameter(make(model.norm.weight.detach()), requires_grad=False)

    return change


@pytest.mark.parametrize(
    "change, says",
    [
        (with_other_feed_forward, "blocks.1.feed_forward differs"),
        (with_other_class, "blocks.0.attention differs"),
        (with_other_base, "positions differs"),
        (with_another_part, "blocks.2 differs"),
        (with_other_norm(lambda weight: weight[:3]), "norm.weight differs"),
        (with_other_norm(torch.Tensor.long), "norm.weight differs"),
        (with_other_norm(lambda weight: weight.to(torch.complex64)), "norm.weight differs"),
        (with_other_norm(torch.Tensor.to_sparse), "norm.weight is sparse or on the device meta"),
        (with_other_norm(lambda weight: weight.to("meta")), "norm.weight is sparse or on the device meta"),
        (torch.compile, "OptimizedModule can't be built from its ModelConfig alone"),
    ],
)
def test_a_model_that_could_not_be_built_again_is_refused(path, change, says):
    with pytest.raises(ValueError, match=says):
        save_model(path, changed(change))
    assert not path.exists()


def test_a_class_with_another_argument_is_refused(path):
    class Other(Decoder):
        def __init__(self, config, more):
            super().__init__(config)

    with pytest.raises(ValueError, match="Other can't be built from its ModelConfig alone .*more"):
        save_model(path, Other(tiny_decoder().config, 1))


def test_kernels_change_no_file(path):
    model = tiny_decoder(torch.float32)
    exchange(model, {"norm": twin(model.norm, type("Kernel", (Replacement, RMSNorm), {"kind": "kernels"}))})
    save_model(path, model, torch.float32)
    assert load_model(path)[0].norm.weight.equal(model.norm.weight)


def test_weights_that_share_memory_are_each_stored(path):
    model = tiny_decoder(torch.float32, tie_embeddings=False)
    model.head.weight.data = model.embedding.weight.data
    save_model(path, model, torch.float32)
    tokens = random_tokens(model)
    assert load_model(path)[0](tokens).equal(model(tokens))


def nested(depth):
    return [nested(depth - 1)] if depth else "x"


@pytest.mark.parametrize(
    "fact, error, says",
    [
        ({1: "a", "b": 2}, TypeError, "the fact note holds the key 1; JSON has no keys but text"),
        ([{"a": ({None: 1},)}], TypeError, "the fact note holds the key None"),
        (np.float32(1), TypeError, "the fact note holds a float32, which is not JSON serializable"),
        (torch.ones(1), TypeError, "the fact note holds a Tensor"),
        ({"a": [Path("x")]}, TypeError, "the fact note holds a PosixPath"),
        (nested(900), ValueError, "the fact note holds lists and dicts nested more than 100 deep"),
    ],
)
def test_a_fact_that_cannot_be_stored_is_named(path, fact, error, says):
    with pytest.raises(error, match=says):
        save_model(path, tiny_decoder(), note=fact)
    assert not path.exists()


def test_facts_of_every_kind_that_json_holds_are_read_again(path):
    facts = {"a": None, "b": [1, 2.5, {"c": True}], "d": "text", "e": nested(100)}
    save_model(path, tiny_decoder(), **facts, f=(1, 2))
    assert load_model(path)[1] == facts | {"f": [1, 2]}


def test_a_model_is_loaded_with_its_weights_where_others_have_none(path):
    model = tiny_decoder(torch.float32)
    save_model(path, model, torch.float32)
    with torch.device("meta"):
        loaded, _ = load_model(path)
    assert loaded.norm.weight.equal(model.norm.weight)


# What is in the way


def test_what_is_no_file_is_not_replaced(tmp_path):
    """Such as a device: here a pipe, and a folder."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        with pytest.raises(ValueError, match="(no file that may be replaced|a folder): give the name of a f"):
            save_model(place, tiny_decoder(torch.float32))
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(ValueError, match="pipe is no file"):
        save_model(tmp_path / "link", tiny_decoder(torch.float32))
    assert pipe.is_fifo()


def test_a_link_stays_a_link(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    for seed in (0, 1):  # to a new file, and to one that exists
        save_model(link, tiny_decoder(torch.float32), seed=seed)
        assert link.is_symlink() and load_model(path)[1] == {"seed": seed}
    assert set(tmp_path.iterdir()) == {path, link}


@pytest.mark.parametrize("facts", [None, 5, ["score"]])
def test_facts_without_names_are_refused(path, facts):
    tensors, header = saved(path)
    write_tensors(path, tensors, header | {"facts": facts})
    with pytest.raises(ValueError, match="should hold facts by name, not"):
        load_model(path)
