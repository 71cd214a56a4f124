"""Another part in a part's place, and the old one back: one mechanism under quantized layers, kernels,
rounding, packing, adapters.
"""

import copy
import importlib
import signal
from functools import partial
from itertools import product

import pytest
import torch
from references import random_tokens, tiny_decoder
from torch import nn

from course_lib.generate import pack, packed_parts
from course_lib.kernels import kernel_parts, use_kernels
from course_lib.model import RMSNorm
from course_lib.model.exchange import REFUSED, Replacement, exchange, replacement_kinds, twin
from course_lib.quantize import (
    NF4,
    Q4_1,
    Uniform,
    finish_qat,
    gptq_linears,
    quantize_linears,
    quantized_linears,
    start_qat,
)
from course_lib.train import TrainConfig, train
from course_lib.train.peft import Bottleneck, LoRA, Prefix, SoftPrompt, attach

exchange_module = importlib.import_module("course_lib.model.exchange")
SIZES = {"d_model": 64, "d_head": 16, "d_ff": 64}
EVERY = ("query", "key", "value", "output", "gate", "up", "down")
JOINED = ("query_key_value", "output", "gate_and_up", "down")
CONFIG = TrainConfig(steps=1, learning_rate=1e-2)


def label(dial):
    """A short name of a format or a method."""
    return getattr(dial, "name", str(dial))


def model_of(dtype=torch.float32, **changes):
    return tiny_decoder(dtype, **SIZES | changes)


def batches(model):
    tokens = random_tokens(model, batch=2, time=13)
    return lambda step: (tokens[:, :-1], tokens[:, 1:])


def state_of(model):
    """Every module by its path, every number by its name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return modules, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model, state):
    modules, numbers = state_of(model)
    assert modules.keys() == state[0].keys() and all(part is state[0][path] for path, part in modules.items())
    assert numbers.keys() == state[1].keys() and all(
        torch.equal(numbers[name], old) for name, old in state[1].items()
    )


# The proof: what later lessons build


@pytest.mark.parametrize(
    "format",
    [*(pytest.param(format, marks=pytest.mark.slow) for format in (NF4(), Q4_1)), Uniform(bits=8)],
    ids=label,
)
def test_lora_over_a_quantized_model_with_kernels_trained_a_step_and_undone(format):
    model = model_of()
    tokens, whole = random_tokens(model), state_of(model)
    exact = model(tokens)
    quantized = exchange(model, quantized_linears(model, format))
    coarse, few_bits = model(tokens), state_of(model)
    kernels = exchange(model, kernel_parts(model, "triton"))
    fast = model(tokens)
    torch.testing.assert_close(fast, coarse, rtol=1e-3, atol=1e-3)
    attached = attach(model, LoRA(4, 8, EVERY))
    assert torch.equal(model(tokens), fast)
    train(model, batches(model), CONFIG, progress=False)
    assert not torch.equal(model.eval()(tokens), fast)
    with pytest.raises(ValueError, match="few bits can't take a fine change"):
        attached.merge()
    attached.detach()
    assert torch.equal(model(tokens), fast)
    kernels.undo()
    assert torch.equal(model(tokens), coarse)
    assert_same_state(model, few_bits)
    quantized.undo()
    assert torch.equal(model(tokens), exact) and not torch.equal(coarse, exact)
    assert_same_state(model, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", [None, Q4_1, Uniform(bits=8)], ids=label)
def test_an_adapter_beside_packed_layers_learns_and_comes_off(dtype, format):
    model = model_of(dtype)
    if format is not None:
        quantize_linears(model, format)
    tokens, before = random_tokens(model), state_of(model)
    packed = exchange(model, packed_parts(model))
    names = EVERY if not packed.new else JOINED  # in 32 bits a quantized model has no packed form
    plain = model(tokens)
    attached = attach(model, LoRA(4, 8, names))
    losses = train(model, batches(model), TrainConfig(steps=8, learning_rate=2e-2), progress=False).losses
    assert losses[-1] < losses[0] - 0.05
    if packed.new:
        with pytest.raises(ValueError, match="laid out for the processor"):
            attached.merge()
    attached.detach()
    assert torch.equal(model.eval()(tokens), plain)
    packed.undo()
    assert_same_state(model, before)


@pytest.mark.parametrize("format", [None, Q4_1, Uniform(bits=8)], ids=label)
def test_the_gradient_through_packed_layers_is_that_through_plain_ones(format):
    """What stands before the packed layers must learn from them as from the layers that they stand for."""
    model = model_of(torch.bfloat16)
    if format is not None:
        quantize_linears(model, format)
    layer, packed = model.blocks[0].feed_forward.down, packed_parts(model)["blocks.0.feed_forward"].down
    x = torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)
    way = torch.randn(5, 64, dtype=torch.bfloat16)
    (wanted,), (got,) = (torch.autograd.grad(part(x), x, way) for part in (layer, packed))
    assert (got - wanted).float().norm() < 0.01 * wanted.float().norm()


# What composes and what is refused, by the one rule


def qat(model):
    return start_qat(model, Uniform(4))


CHANGES = {
    "quantized": partial(quantize_linears, format=Q4_1),
    "qat": qat,
    "packed": pack,
    "kernels": use_kernels,
    "adapter": partial(attach, method=Bottleneck(2)),
}


@pytest.mark.parametrize("there, new", list(product(CHANGES, CHANGES)))
def test_every_pair_composes_or_is_refused_with_the_rule(there, new):
    model = model_of(torch.bfloat16)
    CHANGES[there](model)
    before = state_of(model)
    if (new, there) in REFUSED:
        with pytest.raises(ValueError) as error:
            CHANGES[new](model)
        assert REFUSED[new, there] in str(error.value)
        assert_same_state(model, before)
    elif new == there == "quantized" or (new, there) == ("qat", "quantized"):
        with pytest.raises(ValueError, match="no nn.Linear to round: they are quantized already"):
            CHANGES[new](model)
    else:
        CHANGES[new](model)
        assert_says_what_its_rounding_says(model, {there, new})


def assert_says_what_its_rounding_says(model, kinds):
    """Only few bits change the results; kernels, packing and fresh adapters but the last of 16 bits."""
    wanted, tokens = model_of(torch.bfloat16), random_tokens(model)
    for kind in kinds & {"quantized", "qat"}:
        CHANGES[kind](wanted)
    assert (model(tokens) - wanted(tokens)).float().norm() < 0.05 * wanted(tokens).float().norm()


def test_every_refusal_is_of_kinds_that_there_are():
    assert {kind for pair in REFUSED for kind in pair} <= {*CHANGES, "merge"}


@pytest.mark.parametrize("method", [LoRA(2), Bottleneck(2), SoftPrompt(2), Prefix(2)], ids=label)
def test_quantizing_under_an_adapter_is_refused_whatever_the_way(method):
    model = model_of()
    attach(model, method)
    before = state_of(model)
    ways = partial(quantize_linears, format=NF4()), partial(quantized_linears, format=NF4()), qat
    for way in (*ways, partial(gptq_linears, tokens=random_tokens(model), format=Uniform())):
        with pytest.raises(ValueError, match="something is attached"):
            way(model)
        assert_same_state(model, before)


@pytest.mark.parametrize("training", [False, True])
def test_an_interrupted_exchange_changes_nothing(monkeypatch, training):
    model = model_of().train(training)
    modes = {path: module.training for path, module in model.named_modules()}
    before = state_of(model)
    put = exchange_module._put

    def interrupted(*arguments):
        put(*arguments)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(exchange_module, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            exchange(model, {"head": nn.Linear(64, 61), "blocks.0.attention": nn.Identity()})
    assert_same_state(model, before)
    assert {path: module.training for path, module in model.named_modules()} == modes


def test_new_parts_are_in_the_mode_of_the_old_ones():
    model = model_of().eval()
    change = exchange(model, {"blocks.0.feed_forward": nn.Dropout(0.5)})
    assert not any(module.training for module in model.modules())
    change.undo()
    assert not any(module.training for module in model.modules())


def test_kernels_may_come_after_an_adapter_and_stay_when_it_leaves():
    model = quantize_linears(model_of(), Q4_1)
    tokens = random_tokens(model)
    attached = attach(model, LoRA(2))
    use_kernels(model, "triton")
    fast = model(tokens)
    with attached.off():
        assert torch.equal(model(tokens), fast)
    attached.detach()
    assert torch.equal(model(tokens), fast) and set(replacement_kinds(model).values()) == {"kernels"}


# The mechanism


class Doubled(Replacement, nn.Linear):
    kind = "kernels"

    def forward(self, x):
        return 2 * super().forward(x)


def test_changes_are_undone_in_the_opposite_order_only():
    model = model_of()
    state = state_of(model)
    path = "blocks.0.attention.query"
    first = exchange(model, {path: nn.Linear(64, 64)})
    second = exchange(model, {path: nn.Linear(64, 64)})
    with pytest.raises(ValueError, match="Undo what was done later first"):
        first.undo()
    second.undo()
    with pytest.raises(ValueError, match="aren't in place any more"):
        second.undo()
    first.undo()
    assert_same_state(model, state)


def test_undone_for_a_while():
    model = model_of()
    tokens, state = random_tokens(model), state_of(model)
    plain = model(tokens)
    change = exchange(model, {"head": twin(model.head, Doubled)})
    assert torch.equal(model(tokens), 2 * plain)
    with pytest.raises(KeyError), change.undone():
        assert torch.equal(model(tokens), plain)
        assert_same_state(model, state)
        raise KeyError
    assert change.is_active and torch.equal(model(tokens), 2 * plain)


@pytest.mark.parametrize("path", ["blocks.7.attention", "blocks.0.wings", "wings", ""])
def test_a_part_needs_a_place(path):
    model = model_of()
    state = state_of(model)
    with pytest.raises(ValueError, match="no part of that name|inside itself"):
        exchange(model, {"norm": nn.Identity(), path: nn.Identity()})
    assert_same_state(model, state)


def test_nested_parts_may_be_named_in_any_order():
    for paths in (("0", "0.0"), ("0.0", "0")):
        model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
        old = dict(model.named_modules())
        parts = {"0": nn.Sequential(nn.Identity()), "0.0": nn.Linear(2, 2, bias=False)}
        change = exchange(model, {path: parts[path] for path in paths})
        assert change.is_active and model[0][0] is parts["0.0"]
        change.undo()
        assert dict(model.named_modules()) == old and change.new["0"][0] is parts["0.0"]


def test_a_part_inside_one_that_has_no_place_for_it_is_refused_whole():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2))))
    old = dict(model.named_modules())
    with pytest.raises(ValueError, match="what is put at 0 has no place for 0.0.0"):
        exchange(model, {"0": nn.Identity(), "0.0.0": nn.Identity()})
    assert dict(model.named_modules()) == old


def test_undoing_puts_all_of_the_old_part_into_the_mode_that_the_new_one_had():
    model = nn.Sequential(nn.Sequential(nn.Dropout()))
    change = exchange(model, {"0": nn.Identity()})
    model.eval()
    assert not change.undo()[0][0].training


def test_a_twin_shares_everything_with_its_part():
    model = model_of()
    norm = model.blocks[0].attention_norm
    other = twin(norm, RMSNorm, scale=3)
    assert (
        other is not norm and other.weight is norm.weight and other.scale == 3 and not hasattr(norm, "scale")
    )
    other.double()
    assert norm.weight.dtype == torch.float64
    attention = model.blocks[0].attention
    shared = twin(attention, type(attention))
    shared.query = nn.Identity()
    assert attention.query is shared.query
    own = twin(attention, type(attention), {"output": attention.output})
    own.output = nn.Identity()
    assert isinstance(attention.output, nn.Linear) and "query" not in dict(own.named_modules())


def test_what_is_exchanged_inside_a_twin_stays_when_the_twin_leaves():
    model = model_of()
    kernels = exchange(model, kernel_parts(model, "torch"))
    attached = attach(model, LoRA(2))
    kernels.undo()
    assert set(replacement_kinds(model).values()) == {"adapter"}
    attached.detach()
    assert replacement_kinds(model) == {}


def test_training_or_not_is_as_the_model_was_told_last():
    model = model_of().eval()
    change = exchange(model, kernel_parts(model, "torch"))
    model.train()
    change.undo()
    assert all(part.training for part in model.modules())


def test_a_part_in_two_places_is_exchanged_in_both():
    model = model_of()
    model.blocks[1].attention_norm = model.blocks[0].attention_norm
    use_kernels(model, "torch")
    assert model.blocks[1].attention_norm is model.blocks[0].attention_norm
    assert isinstance(model.blocks[0].attention_norm, Replacement)


def test_exchanged_models_are_copied_whole():
    model = use_kernels(quantize_linears(model_of(), Q4_1), "torch")
    attach(model, LoRA(2))
    tokens, other = random_tokens(model), copy.deepcopy(model)
    before = other(tokens)
    for weight in model.parameters():
        weight.data.zero_()
    assert torch.equal(other(tokens), before)


def test_rounding_in_training_ends_where_plain_layers_would():
    model = model_of()
    start_qat(model, Uniform(4))
    names = set(model.state_dict())
    assert names == set(model_of().state_dict()) and set(replacement_kinds(model).values()) == {"qat"}
    assert set(replacement_kinds(finish_qat(model)).values()) == {"quantized"}
