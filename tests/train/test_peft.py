"""Parameter-efficient fine-tuning: against the package `peft`, by hand, attached, detached and merged."""

import copy
import hashlib
import json
import pkgutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from references import failed_examples, random_tokens, tiny_config, tiny_decoder, transformers_twin
from torch import nn

import course_lib.train.peft
from course_lib.families import load_model, load_smollm2, load_world, save_model
from course_lib.families.tensor_file import read_tensors, write_tensors
from course_lib.generate import generate, pack
from course_lib.model import Encoder, EncoderDecoder, Trace
from course_lib.quantize import NF4, Uniform, quantize_linears
from course_lib.train import (
    IGNORE,
    Examples,
    TrainConfig,
    Training,
    Windows,
    adamw,
    answer_only,
    load_checkpoint,
    next_token_loss,
    save_checkpoint,
    train,
)
from course_lib.train.peft import (
    Bottleneck,
    LoRA,
    LoRALinear,
    Prefix,
    SoftPrompt,
    attach,
    in_front,
    load_peft,
    save_peft,
)

calm = settings(derandomize=True, deadline=None, max_examples=25)
quiet = partial(train, progress=False)
single = partial(tiny_decoder, torch.float32)
FEW = ("attention.query", "attention.value")
EVERY = (
    *(f"attention.{part}" for part in ("query", "key", "value", "output")),
    *(f"feed_forward.{part}" for part in ("gate", "up", "down")),
)
METHODS = [LoRA(3, 6, EVERY), LoRA(2, 5), Bottleneck(5), SoftPrompt(4), Prefix(4)]
METHODS += [SoftPrompt(3, "random"), Prefix(3, "random")]
each_method = pytest.mark.parametrize("method", METHODS, ids=str)


def hashes_of(model):
    """A hash of every tensor of the model's own."""
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def perturb(attached, seed=0, size=0.2):
    """Add random values to the attached parameters, as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in attached.weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight) * size)
    return attached


def prompt_of(attached):
    return attached.method.ids(attached.model) if isinstance(attached.method, SoftPrompt) else []


def outputs(attached, tokens):
    """Logits at the text's own positions, (batch, time, vocab_size)."""
    ids = prompt_of(attached)
    rows = torch.cat([torch.tensor(ids, dtype=torch.long).expand(len(tokens), -1), tokens], dim=1)
    return attached.model(rows)[:, len(ids) :]


def batches_for(attached, batches):
    ids = prompt_of(attached)
    return in_front(ids, batches) if ids else batches


def windows(time=8, batch=3, seed=0):
    ids = torch.randint(61, (100,), generator=torch.Generator().manual_seed(seed))
    return Windows(ids, time, batch, seed)


def test_the_examples_in_docstrings():
    assert failed_examples(course_lib.train.peft) == 0
    assert len(list(pkgutil.iter_modules(course_lib.train.peft.__path__))) == 5


# By hand


def by_hand(base, A, B, alpha=3.0):
    """A LoRALinear of these matrices."""
    layer = nn.Linear(*reversed(base.shape), bias=False)
    layer.weight.data = base
    lora = LoRALinear(layer, len(A), alpha, torch.Generator())
    lora.A.data, lora.B.data = A, B
    return lora


def test_a_rank_one_change_that_can_be_checked_by_hand():
    A, B = torch.tensor([[1.0, 0, 2, 0]]), torch.tensor([[1.0], [0], [0], [3]])
    lora = by_hand(torch.eye(4), A, B, alpha=2.0)
    x = torch.tensor([[1.0, 10, 100, 1000]])  # A x = 201, times 2, times B
    assert lora(x).tolist() == [[1.0 + 402, 10, 100, 1000 + 1206]]
    assert lora.change().tolist() == [[2, 0, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0], [6, 0, 12, 0]]
    assert torch.linalg.matrix_rank(lora.change()) == 1


@calm
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_shapes_ranks_and_the_formula(width, height, data):
    rank = data.draw(st.integers(1, min(width, height)))
    generator = torch.Generator().manual_seed(width * 100 + height)
    base, x, A, B = (
        torch.randn(s, generator=generator)
        for s in ((height, width), (5, width), (rank, width), (height, rank))
    )
    lora = by_hand(base, A, B)
    wanted = x @ base.T + 3.0 / rank * x @ (B @ A).T
    torch.testing.assert_close(lora(x), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lora.merged()(x), wanted, atol=1e-5, rtol=1e-4)
    assert torch.linalg.matrix_rank(lora.change()) <= rank
    assert lora.A.numel() + lora.B.numel() == rank * (width + height)


@calm
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20))
def test_a_rank_above_the_matrix_is_refused(width, height, more):
    with pytest.raises(ValueError, match="at most"):
        LoRALinear(nn.Linear(width, height), min(width, height) + more, 1.0, torch.Generator())


def test_one_step_of_descent_by_hand():
    """At B = 0 only B learns: its gradient is scale · gᵀ (x Aᵀ), and A's is zero."""
    A, x = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 3.0]])
    lora = by_hand(torch.eye(2), A, torch.zeros(2, 1), alpha=4.0)
    lora(x).square().sum().div(2).backward()  # so g is the output itself, (2, 3)
    assert lora.A.grad.tolist() == [[0, 0]]
    assert lora.B.grad.tolist() == [[4 * 2 * -2.0], [4 * 3 * -2.0]]  # x Aᵀ = 1 − 3 = −2


def test_the_loss_of_a_masked_answer_by_hand():
    batch = answer_only([([1, 2], [3, 4])])
    model = single()
    attached = attach(model, LoRA(2))
    logits = model(batch[0])[0].log_softmax(dim=-1)
    wanted = -(logits[1, 3] + logits[2, 4]) / 2
    assert next_token_loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-6)
    next_token_loss(model, batch).backward()
    assert all(weight.grad is not None for weight in attached.weights.values())


# Attached and detached


@each_method
def test_at_first_nothing_is_changed_but_by_prompts(method):
    model, tokens = single(), random_tokens(single(), batch=2)
    before = model(tokens)
    attached = attach(model, method)
    same = torch.equal(outputs(attached, tokens), before)
    assert same == isinstance(method, LoRA | Bottleneck)


@each_method
def test_off_and_detached_it_is_the_old_model_bit_for_bit(method):
    model, tokens = single(), random_tokens(single(), batch=2)
    model.blocks[0].attention.query.weight.requires_grad_(True)
    modules, flags = dict(model.named_modules()), [weight.requires_grad for weight in model.parameters()]
    before, hashes = model(tokens).detach(), hashes_of(model)
    attached = perturb(attach(model, method))
    changed = outputs(attached, tokens)
    assert not torch.allclose(changed, before, atol=1e-3)
    with attached.off() as old:
        assert old is model and torch.equal(model(tokens), before)
    assert torch.equal(outputs(attached, tokens), changed)
    assert attached.detach() is model
    assert torch.equal(model(tokens), before) and hashes_of(model) == hashes
    assert dict(model.named_modules()) == modules
    assert [weight.requires_grad for weight in model.parameters()] == flags


def test_off_comes_back_on_after_an_error():
    model = single()
    attached = attach(model, LoRA(2))
    with pytest.raises(KeyError), attached.off():
        raise KeyError
    assert isinstance(model.blocks[0].attention.query, LoRALinear)


@pytest.mark.parametrize("change", [partial(attach, method=Bottleneck(2)), pack], ids=["attach", "pack"])
def test_a_change_of_the_parts_while_they_are_off_is_an_error(change):
    model = single()
    attached = attach(model, LoRA(2))
    with pytest.raises(ValueError, match="stays off"), attached.off():
        change(model)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    with pytest.raises(ValueError, match="any more"):
        attached.detach()


@each_method
def test_what_is_trained_is_counted_and_the_rest_frozen(method):
    model = single()
    c, layers = model.config, model.config.n_layers
    attached = attach(model, method)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable == set(attached.weights)
    query, value = c.d_model + c.n_heads * c.d_head, c.d_model + c.n_kv_heads * c.d_head
    wanted = {
        LoRA(2, 5): layers * 2 * (query + value),
        Bottleneck(5): layers * 2 * (2 * 5 * c.d_model + 5 + c.d_model),
        SoftPrompt(4): 4 * c.d_model,
        Prefix(4): layers * 2 * 4 * c.n_kv_heads * c.d_head,
    }
    assert (
        attached.count
        == wanted.get(method, attached.count)
        == sum(w.numel() for w in attached.weights.values())
    )


@each_method
def test_training_leaves_every_bit_of_the_base(method):
    model = single()
    hashes = hashes_of(model)
    attached = attach(model, method)
    first = {name: weight.clone() for name, weight in attached.weights.items()}
    history = quiet(model, batches_for(attached, windows()), TrainConfig(steps=25, learning_rate=2e-2))
    assert min(history.losses[-5:]) < history.losses[0] - 0.1
    assert all(not torch.equal(first[name], weight) for name, weight in attached.weights.items())
    attached.detach()
    assert hashes_of(model) == hashes


@each_method
def test_it_writes_the_same_with_a_cache_and_without(method):
    model = single()
    attached = perturb(attach(model, method))
    prompt = [*prompt_of(attached), 5, 6, 7]
    written = [list(generate(model, prompt, 12, cached=cached)) for cached in (True, False)]
    assert written[0] == written[1]
    assert max(written[0]) < model.config.vocab_size


@each_method
def test_a_trace_sees_the_run_and_keeps_it_as_it_is(method):
    model, tokens = single(), random_tokens(single())
    attached = perturb(attach(model, method))
    rows = torch.cat([torch.tensor([prompt_of(attached)], dtype=torch.long), tokens], dim=1)
    trace = Trace(keep=("*.attention.weights", "*.feed_forward.output"))
    plain, traced = model(rows), model(rows, trace=trace)
    assert torch.equal(plain, traced)
    extra = method.tokens if isinstance(method, Prefix) else 0
    weights = trace["blocks.1.attention.weights"]
    assert weights.shape[-2:] == (rows.shape[1], rows.shape[1] + extra)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert not weights[..., extra:].triu(1).any() and weights[..., :extra].all()


@each_method
def test_first_values_depend_on_the_seed_alone(method):
    one, two, three = (list(attach(single(), method, seed).weights.values()) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, two)) and not all(map(torch.equal, one, three))


def test_attaching_does_not_draw_from_the_global_generator():
    model = single()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for method in METHODS:
        attach(model, method).detach()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none", "rope-interleaved"])
def test_a_prefix_is_seen_by_every_query_wherever_it_stands(positions):
    """Compared with attention over keys and values put in front by hand."""
    model = tiny_decoder(n_layers=1, positions=positions)
    attached = perturb(attach(model, Prefix(2)))
    part, tokens = attached.parts["blocks.0.attention"], random_tokens(model, time=5)
    trace = Trace(keep=("*.query", "*.key", "*.value", "*.heads"))
    model(tokens, trace=trace)
    q, k, v, heads = (trace[f"blocks.0.attention.{name}"] for name in ("query", "key", "value", "heads"))
    k, v = (torch.cat([own.unsqueeze(0), x], dim=2) for own, x in ((part.keys, k), (part.values, v)))
    k, v = (x.repeat_interleave(3, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / model.config.d_head**0.5
    hidden = torch.cat([torch.zeros(5, 2), torch.ones(5, 5).triu(1)], dim=1).bool()
    torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v, heads)


def test_a_prefix_is_seen_under_a_mask_of_either_kind():
    model = tiny_decoder(n_layers=1, positions="none")
    attached = perturb(attach(model, Prefix(2)))
    part, x = (
        attached.parts["blocks.0.attention"],
        torch.randn(1, 5, model.config.d_model, dtype=torch.float64),
    )
    allowed = torch.ones(5, 5).tril().bool()  # (query, key)
    added = torch.zeros(5, 5, dtype=x.dtype).masked_fill(~allowed, -torch.inf)
    torch.testing.assert_close(part(x, mask=added), part(x, mask=allowed))
    torch.testing.assert_close(part(x, mask=added), part(x))


def test_random_keys_and_values_have_the_spread_of_real_ones():
    real, drawn = (attach(single(), Prefix(8, start)).parts for start in ("vocabulary", "random"))
    for path in real:
        for name in ("keys", "values"):
            one, other = getattr(real[path], name), getattr(drawn[path], name)
            assert one.shape == other.shape and not one.equal(other)
            assert 0.5 < other.std() / one.std() < 2


def test_virtual_tokens_stand_like_the_tokens_they_begin_as():
    model = single()
    attached = attach(model, SoftPrompt(3))
    table = model.embedding.base.weight
    drawn = [int((table == vector).all(dim=1).nonzero()) for vector in attached.weights["embedding.vectors"]]
    tokens = random_tokens(model)
    with attached.off():
        real = model(torch.cat([torch.tensor([drawn]), tokens], dim=1))[:, 3:]
    assert torch.equal(outputs(attached, tokens), real)


def test_virtual_tokens_are_ids_only_while_they_are_attached():
    model = single()
    attached = attach(model, SoftPrompt(2))
    assert attached.method.ids(model) == [61, 62]
    assert model(torch.tensor([[61, 62, 60, 0]])).shape[-1] == 61
    for wrong in (63, -1):
        with pytest.raises(ValueError, match="vocabulary"):
            model(torch.tensor([[wrong, 1]]))
    with attached.off(), pytest.raises(ValueError, match="vocabulary"):
        model(torch.tensor([[61, 1]]))
    with pytest.raises(ValueError, match="context"):
        model(torch.full((1, 49), 61))


def test_a_prompt_in_front_is_there_in_every_batch():
    source = in_front(map(int, "98"), lambda step: (torch.tensor([[5, 6]]), torch.tensor([[6, 7]])))
    assert source(0)[0].tolist() == source(1)[0].tolist() == [[9, 8, 5, 6]]
    with pytest.raises(ValueError, match="the ids in front must be token ids, not text"):
        in_front("prompt", windows())


def test_no_prompt_in_front_changes_nothing():
    tokens, targets = in_front([], windows())(0)
    assert tokens.equal(windows()(0)[0]) and targets.equal(windows()(0)[1]) and tokens.dtype == torch.int64


def test_batches_with_a_prompt_in_front():
    tokens, targets = in_front([61, 62], lambda step: answer_only([([1, 2], [3, 4])]))(0)
    assert tokens.tolist() == [[61, 62, 1, 2, 3]]
    assert targets.tolist() == [[IGNORE, IGNORE, IGNORE, 3, 4]]


def test_experts_and_biases_are_wrapped_too():
    tokens = torch.tensor([[1, 2, 3]])
    for changes in ({"n_experts": 3}, {"bias": True, "feed_forward": "gelu", "norm": "layer"}):
        model = single(**changes)
        before = model(tokens)
        attached = attach(model, LoRA(2, 4, ("attention.query", "up")))
        assert torch.equal(model(tokens), before)
        perturb(attached)
        merged = model(tokens)
        torch.testing.assert_close(attached.merge()(tokens), merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [LoRA(2), Bottleneck(2)], ids=str)
def test_both_stacks_of_an_encoder_decoder_are_wrapped(method, tmp_path):
    torch.manual_seed(0)
    model, tokens = EncoderDecoder(tiny_config()).eval(), torch.tensor([[1, 2, 3]])
    before = model(tokens, tokens)
    attached = attach(model, method)
    assert {path.partition(".")[0] for path in attached.parts} == {"encoder", "decoder"}
    assert torch.equal(model(tokens, tokens), before)
    perturb(attached).save(tmp_path / "small.safetensors")
    attached.load(tmp_path / "small.safetensors")
    assert not torch.allclose(model(tokens, tokens), before, atol=1e-3)
    assert torch.equal(attached.detach()(tokens, tokens), before)


# Refused, with nothing changed


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(2, 4, ("attention.qurey",)), "there are attention.key, .*head"),
        (LoRA(2, 4, ("attention",)), "not a linear layer"),
        (LoRA(25), "at most"),
        (SoftPrompt(48), "no room"),
        (Prefix(62), "no room"),
    ],
)
def test_what_does_not_fit_is_refused(method, message):
    model = single()
    modules = dict(model.named_modules())
    model.requires_grad_(True)
    with pytest.raises(ValueError, match=message):
        attach(model, method)
    assert dict(model.named_modules()) == modules and all(w.requires_grad for w in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(0), "rank"),
        (lambda: LoRA(1.5), "rank"),
        (lambda: LoRA(1, 0), "alpha"),
        (lambda: LoRA(True), "rank"),
        (lambda: LoRA(np.float64(2)), "rank"),
        (lambda: LoRA(2, np.float64("nan")), "alpha"),
        (lambda: LoRA(2, True), "alpha"),
        (lambda: LoRA(1, float("nan")), "alpha"),
        (lambda: LoRA(1, 10**400), "alpha"),
        (lambda: LoRA(1, torch.tensor(2.0)), "alpha"),  # no file could hold it
        (lambda: LoRA(1, "2"), "alpha"),
        (lambda: LoRA(1, 1, ()), "target"),
        (lambda: LoRA(1, 1, None), "target"),
        (lambda: LoRA(1, 1, 5), "target"),
        (lambda: LoRA(1, 1, ["attention.query", 5]), "target"),
        (lambda: Bottleneck(0), "width"),
        (lambda: SoftPrompt(0), "tokens"),
        (lambda: SoftPrompt(1, "zero"), "start"),
        (lambda: Prefix(-1), "tokens"),
    ],
)
def test_settings_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_become_pythons_own(tmp_path):
    two, four = np.int64(2), np.float64(4)
    pairs = [(LoRA(two, four), LoRA(2, 4.0)), (LoRA(2, np.int64(4)), LoRA(2, 4.0))]
    pairs += [(Bottleneck(two), Bottleneck(2)), (SoftPrompt(two), SoftPrompt(2)), (Prefix(two), Prefix(2))]
    for method, same in pairs:
        numbers = [value for value in vars(method).values() if not isinstance(value, str | tuple)]
        assert method == same and all(type(value) in (int, float) for value in numbers)
        attach(single(), method).save(tmp_path / "adapter")  # JSON holds Python's own only
        attach(single(), same).load(tmp_path / "adapter")
    assert type(LoRA(8, 16).alpha) is int


def test_what_is_no_method_no_model_or_no_seed_is_refused_at_the_door():
    model = single()
    for method in (None, LoRA, "LoRA", LoRA.wrap):
        with pytest.raises(
            ValueError, match=r"give a method with its settings, LoRA\(rank=8\) for example, not"
        ):
            attach(model, method)
    for other in (nn.Sequential(), nn.Linear(2, 2), None, "model"):
        for method in (LoRA(2), Bottleneck(2), SoftPrompt(2), Prefix(2)):
            with pytest.raises(ValueError, match=f"an embedding table.*not a {type(other).__name__}"):
                attach(other, method)
    for seed in (None, 1.0, -1, "1", True):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            attach(model, LoRA(2), seed)
    seeds = [attach(single(), LoRA(2), seed).weights for seed in (1, np.int64(1), np.uint8(1))]
    assert all(w[name].equal(seeds[0][name]) for w in seeds for name in w)


class Misplaced:
    """A user's own method, which wraps what isn't there."""

    def wrap(self, model, generator):
        return {"nowhere": LoRALinear(nn.Linear(2, 2), 1, 1, generator)}


def test_a_method_that_wraps_what_is_not_there_freezes_nothing():
    model = single().requires_grad_(True)
    with pytest.raises(ValueError, match="no part of that name"):
        attach(model, Misplaced())
    assert all(weight.requires_grad for weight in model.parameters())


def test_what_can_not_be_attached_to():
    model = single()
    attached = attach(model, LoRA(2))
    with pytest.raises(ValueError, match="already"):
        attach(model, Bottleneck(2))
    attached.detach()
    attach(model, Bottleneck(2)).detach()
    with pytest.raises(
        ValueError,
        match="no layer is called 'attention.query'; there are attention.output, attention.query_key_value",
    ):
        attach(pack(model), LoRA(2))  # its layers are joined, and called otherwise
    with pytest.raises(ValueError, match="ALiBi"):
        attach(single(positions="alibi"), Prefix(2))
    attach(single(positions="alibi"), SoftPrompt(2))
    for other in (Encoder(tiny_config()), EncoderDecoder(tiny_config())):
        for method in (SoftPrompt(2), Prefix(2)):
            with pytest.raises(ValueError, match="decoder that stands alone"):
                attach(other, method)


def test_what_was_detached_or_merged_is_at_an_end():
    for end in ("detach", "merge"):
        model = single()
        attached = attach(model, LoRA(2))
        getattr(attached, end)()
        for again in (attached.detach, attached.merge, attached.off().__enter__):
            with pytest.raises(ValueError, match="any more"):
                again()


@each_method
def test_a_model_with_something_attached_is_not_quantized(method):
    attached = attach(tiny_decoder(torch.float32), method)
    tokens, own = random_tokens(attached.model), hashes_of(attached.model)
    before = outputs(attached, tokens)
    with pytest.raises(ValueError, match="merge or detach it first"):
        quantize_linears(attached.model, Uniform(8))
    assert outputs(attached, tokens).equal(before) and hashes_of(attached.model) == own


@each_method
def test_a_model_with_something_attached_is_not_packed(method):
    attached = attach(tiny_decoder(torch.float32), method)
    tokens = random_tokens(attached.model)
    before = outputs(attached, tokens)
    with pytest.raises(ValueError, match="merge or detach it first"):
        pack(attached.model)
    assert outputs(attached, tokens).equal(before)


def test_a_model_with_something_attached_is_not_stored_as_a_plain_one(tmp_path):
    model = single()
    attach(model, LoRA(2))
    with pytest.raises(ValueError, match="parts"):
        save_model(tmp_path / "model.safetensors", model)


# Merged


@pytest.mark.parametrize("targets", [FEW, EVERY, (*EVERY, "head")])
def test_merged_it_is_an_ordinary_model_with_the_same_outputs(targets, tmp_path):
    model, tokens = single(), random_tokens(single(), batch=2)
    names, flags = list(model.state_dict()), [w.requires_grad for w in model.parameters()]
    original = model.blocks[0].attention.query
    kept = original.weight.clone()
    attached = perturb(attach(model, LoRA(3, 6, targets)), size=0.05)
    wanted = model(tokens)
    assert attached.merge() is model
    torch.testing.assert_close(model(tokens), wanted, atol=1e-5, rtol=1e-5)
    assert type(model.blocks[0].attention.query) is nn.Linear
    assert list(model.state_dict()) == names
    assert {w.requires_grad for w in model.parameters()} == set(flags)
    assert torch.equal(original.weight, kept)
    torch.testing.assert_close(pack(copy.deepcopy(model))(tokens), wanted, atol=1e-5, rtol=1e-5)


def whole_model(kind):
    """A model with tied weights, the path of its head, and an input."""
    if kind == "decoder":
        model = single(head_bias=True)
        return model, "head", (random_tokens(model, batch=2),)
    torch.manual_seed(0)
    model = EncoderDecoder(tiny_config())
    return model, "decoder.head", (random_tokens(model, batch=2), random_tokens(model, batch=2, seed=1))


@pytest.mark.parametrize("kind", ["decoder", "encoder and decoder"])
def test_merged_onto_a_tied_head_nothing_is_lost(kind, tmp_path):
    """The head gets a matrix of its own, in the configuration too, and the embedding table stays."""
    model, path, inputs = whole_model(kind)
    table = model.get_submodule(path.replace("head", "embedding")).weight.clone()
    attached = perturb(attach(model, LoRA(3, 6, (*FEW, "head"))))
    wanted, config = model(*inputs), model.config
    assert attached.merge() is model and config.tie_embeddings
    merged = model(*inputs)
    torch.testing.assert_close(merged, wanted, atol=1e-5, rtol=1e-5)
    assert not any(part.config.tie_embeddings for part in model.modules() if hasattr(part, "config"))
    head, embedding = (model.get_submodule(path.replace("head", name)) for name in ("head", "embedding"))
    assert embedding.weight.equal(table) and not head.weight.equal(table)
    (model if kind == "decoder" else model.decoder).tie()  # does nothing any more
    assert model(*inputs).equal(merged)

    save_model(tmp_path / "model", model, torch.float32)
    loaded, _ = load_model(tmp_path / "model", type(model))
    assert loaded(*inputs).equal(merged) and loaded.config == model.config
    assert quantize_linears(copy.deepcopy(model), Uniform(8)).get_submodule(path).weight.equal(head.weight)
    if kind == "decoder":
        torch.testing.assert_close(pack(copy.deepcopy(model))(*inputs), merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder and decoder"])
def test_training_goes_on_after_merging_onto_a_tied_head(kind, tmp_path):
    def source(step):
        tokens, targets = windows()(step)
        return (tokens, targets) if kind == "decoder" else (tokens, tokens, None, targets)

    model, _, inputs = whole_model(kind)
    perturb(attach(model, LoRA(3, 6, (*FEW, "head")))).merge()
    model.requires_grad_(True)
    straight = Training(model, config := TrainConfig(steps=4))
    straight.run(source, until=2, progress=False)
    save_checkpoint(tmp_path / "run", straight)
    resumed = Training(type(model)(model.config), config)
    load_checkpoint(tmp_path / "run", resumed)
    for training in (straight, resumed):
        training.run(source, progress=False)
    assert resumed.model(*inputs).equal(model(*inputs)) and resumed.history == straight.history


def test_what_was_merged_onto_a_tied_head_can_still_be_saved_for_its_base(tmp_path):
    tokens = random_tokens(single())
    attached = perturb(attach(single(), LoRA(2, targets="head")))
    wanted = attached.model(tokens)
    attached.merge()
    attached.save(tmp_path / "lora")
    again = attach(single(), LoRA(2, targets="head"))
    again.load(tmp_path / "lora")
    assert again.model(tokens).equal(wanted)
    other = attach(attached.model, LoRA(2, targets="head"))
    with pytest.raises(ValueError, match="tie_embeddings is True in the file and False here"):
        other.load(tmp_path / "lora")
    assert attached.model.config == other.detach().config


def test_merged_onto_other_layers_a_head_stays_tied():
    for config, targets in (({}, FEW), ({"tie_embeddings": False}, (*FEW, "head"))):
        model = single(**config)
        before = model.config
        perturb(attach(model, LoRA(2, targets=targets))).merge()
        assert model.config is before
    model = single()
    perturb(attach(model, LoRA(2, targets=FEW))).merge()
    assert model.head.weight is model.embedding.weight


def test_merged_weights_are_as_trainable_as_before():
    model = single().requires_grad_(True)
    model.blocks[1].attention.query.weight.requires_grad_(False)
    flags = {name: weight.requires_grad for name, weight in model.named_parameters()}
    attach(model, LoRA(2)).merge()
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == flags


def test_merging_can_not_be_undone_by_taking_away():
    lora = by_hand(torch.tensor([[0.1]]), torch.tensor([[1000.0]]), torch.tensor([[1.0]]), alpha=1.0)
    back = lora.merged().weight - lora.change()
    assert back.item() != pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("method", [Bottleneck(2), SoftPrompt(2), Prefix(2)], ids=str)
def test_only_lora_merges(method):
    model = single()
    attached = attach(model, method)
    with pytest.raises(ValueError, match=type(method).__name__):
        attached.merge()
    attached.detach()


# Files


@each_method
def test_saved_and_loaded(method, tmp_path):
    path, tokens = tmp_path / "small.safetensors", random_tokens(single())
    attached = perturb(attach(single(), method))
    attached.save(path)
    other = attach(single(), method, seed=5)
    other.load(path)
    assert torch.equal(outputs(other, tokens), outputs(attached, tokens))
    stored, _ = read_tensors(path, "adapter")
    assert stored.keys() == {*attached.weights, "base"}
    other.detach()
    other.save(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_file_for_something_else_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "small.safetensors"
    perturb(attach(single(), LoRA(2))).save(path)
    others = {
        "rank is 2 in the file and 3": (single(), LoRA(3)),
        "alpha": (single(), LoRA(2, 3)),
        "targets": (single(), LoRA(2, targets="attention.key")),
        "width": (single(), Bottleneck(2)),
        "n_layers": (single(n_layers=2), LoRA(2)),
        "other weights": (single(seed=1), LoRA(2)),
    }
    for message, (model, method) in others.items():
        attached = attach(model, method)
        before = {name: weight.clone() for name, weight in attached.weights.items()}
        with pytest.raises(ValueError, match=message):
            attached.load(path)
        assert all(torch.equal(before[name], weight) for name, weight in attached.weights.items())
    attached = attach(single(), LoRA(2))
    attached.load(path)


def test_a_file_fits_the_same_base_in_16_bits(tmp_path):
    path = tmp_path / "small.safetensors"
    attached = perturb(attach(single(), LoRA(2)))
    attached.save(path)
    half = attach(single().bfloat16(), LoRA(2))
    half.load(path)
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    assert half.model(torch.tensor([[1, 2]])).dtype == torch.bfloat16


def test_a_file_in_another_precision_fits_and_one_without_finite_values_does_not(tmp_path):
    path = tmp_path / "small.safetensors"
    attached = perturb(attach(single(), LoRA(2)))
    attached.save(path)
    tensors, facts = read_tensors(path, "adapter")
    wanted = {name: weight.clone() for name, weight in attached.weights.items()}
    write_tensors(path, {name: tensor.double() for name, tensor in tensors.items()}, facts)
    perturb(attached).load(path)
    assert all(torch.equal(wanted[name], weight) for name, weight in attached.weights.items())
    last = list(wanted)[-1]
    for bad in (tensors[last] * float("nan"), tensors[last].double() + 1e39, tensors[last].int()):
        write_tensors(path, tensors | {last: bad}, facts)
        with pytest.raises(ValueError, match="finite"):
            attached.load(path)
        assert all(torch.equal(wanted[name], weight) for name, weight in attached.weights.items())
    write_tensors(path, tensors, {"kind": "adapter", "method": ["LoRA"], "model": "tiny"})
    with pytest.raises(ValueError, match="differs"):
        attached.load(path)


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "small.safetensors"
    attached = attach(single(), LoRA(2))
    attached.save(path)
    whole = path.read_bytes()
    tensors, facts = read_tensors(path, "adapter")
    for damage in (whole[:-5], whole[:20], b"", b"PK" + whole):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="damaged"):
            attached.load(path)
    lacking = dict(list(tensors.items())[1:])
    for content in (lacking, {**lacking, "stranger": torch.zeros(2)}):
        write_tensors(path, content, facts)
        with pytest.raises(ValueError, match="differs|other weights"):
            attached.load(path)
    write_tensors(path, tensors, {"kind": "model"})
    with pytest.raises(ValueError, match="not a adapter"):
        attached.load(path)
    with pytest.raises(FileNotFoundError):
        attached.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError):
        attached.save(tmp_path / "nowhere" / "small.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def stopped_and_continued(make, batches, path):
    """Two models after the same steps: one without a stop, one with."""
    config, whole, first, second = (
        TrainConfig(steps=6, learning_rate=1e-2),
        *(make(seed) for seed in (0, 0, 9)),
    )
    Training(whole, config).run(batches, progress=False)
    training = Training(first, config)
    training.run(batches, until=3, progress=False)
    save_checkpoint(path, training)
    training = Training(second, config)
    load_checkpoint(path, training)
    training.run(batches, progress=False)
    return whole.state_dict(), second.state_dict()


@each_method
def test_a_run_over_an_adapter_can_be_stopped_and_continued(method, tmp_path):
    batches = batches_for(attach(single(), method), windows())
    whole, second = stopped_and_continued(
        lambda seed: attach(single(), method, seed).model, batches, tmp_path / "run.safetensors"
    )
    assert all(torch.equal(whole[name], second[name]) for name in whole)


def test_weights_that_lie_column_by_column_are_continued_too(tmp_path):
    """Their averages come from the file row by row, and the fused AdamW walks through memory."""

    def make(seed):
        model = single().requires_grad_(True)
        for block in model.blocks:
            weight = block.attention.query.weight
            weight.data = weight.data.t().contiguous().t()
        return model

    whole, second = stopped_and_continued(make, windows(), tmp_path / "run.safetensors")
    assert all(torch.equal(whole[name], second[name]) for name in whole)


# Against the package peft


def peft_twin(model, targets, rank=3, alpha=6):
    from peft import LoraConfig, get_peft_model

    names = [course_lib.train.peft.peft_files.PEFT_PATHS[target].rpartition(".")[2] for target in targets]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM")
    return get_peft_model(transformers_twin(model), config).eval()


TARGETS = [FEW, ("attention.output", "feed_forward.down"), EVERY]
each_targets = pytest.mark.parametrize("targets", TARGETS, ids=len)


@each_targets
def test_what_is_written_here_works_in_peft(targets, tmp_path):
    from peft import PeftModel

    model, tokens = single(), random_tokens(single(), batch=2)
    twin = transformers_twin(model)
    attached = perturb(attach(model, LoRA(3, 6, targets)), size=0.05)
    save_peft(tmp_path / "lora", attached)
    theirs = PeftModel.from_pretrained(twin, tmp_path / "lora").eval()
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=1e-5)
    assert sorted(file.name for file in (tmp_path / "lora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(merged(tokens).logits, attached.merge()(tokens), atol=1e-5, rtol=1e-5)


@each_targets
def test_what_peft_writes_works_here(targets, tmp_path):
    model, tokens = single(), random_tokens(single(), batch=2)
    theirs = peft_twin(model, targets)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    theirs.save_pretrained(tmp_path)
    attached = load_peft(model, tmp_path)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert attached.count == sum(w.numel() for w in theirs.parameters() if w.requires_grad)
    save_peft(tmp_path / "again", attached)
    assert {t.name for t in tmp_path.glob("again/*")} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_steps_here_are_two_steps_of_peft(optimizer, tmp_path):
    """From the same first values, on the same batch."""
    model, batch = single(), windows()(0)
    theirs = peft_twin(model, FEW)
    theirs.save_pretrained(tmp_path)
    attached = load_peft(model, tmp_path)
    their_weights = [weight for weight in theirs.parameters() if weight.requires_grad]
    if optimizer == "sgd":
        make = partial(torch.optim.SGD, lr=0.5)
        ours, their_optimizer = make(attached.weights.values()), make(their_weights)
    else:
        ours = adamw(model, TrainConfig(steps=1, learning_rate=1e-2))
        settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
        their_optimizer = torch.optim.AdamW(their_weights, **settings)
    for _ in range(2):
        loss = next_token_loss(model, batch)
        their_loss = F.cross_entropy(theirs(batch[0]).logits.flatten(0, 1), batch[1].flatten())
        assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
        for each, value in ((ours, loss), (their_optimizer, their_loss)):
            each.zero_grad()
            value.backward()
            each.step()
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=2e-5, rtol=1e-5)


def test_first_values_are_drawn_as_in_peft():
    """A uniform from −1/√in to 1/√in, and B zero."""
    model = single(d_model=300)
    theirs = peft_twin(model, ("attention.query",), rank=24)
    attached = attach(model, LoRA(24, targets="attention.query"))
    A = attached.weights["blocks.0.attention.query.A"]
    their_A = theirs.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    for weight in (A.detach(), their_A.detach()):
        assert 0.99 < weight.abs().max() * 300**0.5 <= 1
        assert weight.std() == pytest.approx(300**-0.5 / 3**0.5, rel=0.03)
    assert not attached.weights["blocks.0.attention.query.B"].any()


def change_config(folder, **changes):
    path = Path(folder) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True}, "use_rslora"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "base's weights"),
        ({"alora_invocation_tokens": [5]}, "alora"),
        ({"target_modules": "all-linear"}, "targets"),
        ({"target_modules": ["c_attn"]}, "targets"),
        ({"peft_type": "IA3"}, "LoRA"),
        ({"r": "3"}, "numbers"),
        ({"r": 4}, "differs"),
        ({"target_modules": ["q_proj"]}, "differs"),
    ],
)
def test_other_than_plain_lora_is_refused(changes, message, tmp_path):
    model = single()
    attached = attach(model, LoRA(3, 6))
    save_peft(tmp_path, attached)
    attached.detach()
    modules = dict(model.named_modules())
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_peft(model, tmp_path)
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize("name", ["use_dora", "target_modules", "init_lora_weights", "r"])
def test_a_setting_without_end_is_not_printed_whole(name, tmp_path):
    nested = 5
    for _ in range(900):
        nested = [nested]
    for value in (nested, "x" * 10_000):
        attached = attach(single(), LoRA(3, 6))
        save_peft(tmp_path, attached)
        model = attached.detach()
        change_config(tmp_path, **{name: value})
        with pytest.raises(ValueError, match="adapter_config.json") as caught:
            load_peft(model, tmp_path)
        assert len(str(caught.value)) < 1000


def test_complex_weights_are_refused_without_a_warning(tmp_path):
    attached = attach(single(), LoRA(3, 6))
    attached.save(tmp_path / "lora")
    tensors, facts = read_tensors(tmp_path / "lora", "adapter")
    changed = {name: x if name == "base" else x.to(torch.complex64) for name, x in tensors.items()}
    write_tensors(tmp_path / "lora", changed, facts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="isn't made of finite numbers"):
            attached.load(tmp_path / "lora")


def test_a_byte_order_mark_is_read_over(tmp_path):
    model, tokens = single(), random_tokens(single())
    attached = perturb(attach(model, LoRA(3, 6)))
    wanted = model(tokens)
    save_peft(tmp_path, attached)
    attached.detach()
    path = tmp_path / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    load_peft(model, tmp_path)
    assert model(tokens).equal(wanted)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"r": ' + b"1" * 5000 + b"}", b"\xff\xfe{", b""]
)
def test_json_that_cannot_be_read_is_called_damaged(content, tmp_path):
    attached = attach(single(), LoRA(3, 6))
    save_peft(tmp_path, attached)
    model = attached.detach()
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(ValueError, match="adapter_config.json is damaged: it is no JSON"):
        load_peft(model, tmp_path)


def test_damaged_folders_and_other_architectures(tmp_path):
    model = single()
    with pytest.raises(FileNotFoundError):
        load_peft(model, tmp_path)
    attached = attach(model, LoRA(3, 6))
    save_peft(tmp_path, attached)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    attached.detach()
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load_peft(model, tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        load_peft(model, tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_peft(model, tmp_path)
    for stack in (Encoder(tiny_config()), EncoderDecoder(tiny_config())):
        with pytest.raises(ValueError, match="Llama"):
            save_peft(tmp_path / "new", attach(stack, LoRA(2)))
    for changes in ({"positions": "learned"}, {"feed_forward": "gelu"}, {"n_experts": 2}, {"norm": "layer"}):
        with pytest.raises(ValueError, match="Llama"):
            load_peft(single(**changes), tmp_path)
    with pytest.raises(ValueError, match="only LoRA"):
        save_peft(tmp_path / "new", attach(model, Bottleneck(2)))
    other = attach(single(tie_embeddings=False), LoRA(2, targets="head"))
    with pytest.raises(ValueError, match="no counterpart"):
        save_peft(tmp_path / "new", other)
    assert not (tmp_path / "new").exists()


# The real model and the small one of the world


@pytest.mark.parametrize("method", [LoRA(4), Bottleneck(4), SoftPrompt(4), Prefix(4)], ids=str)
def test_on_the_world_model_it_learns_an_answer(method):
    lm = load_world()
    before = hashes_of(lm.model)
    examples = [(lm.tokenizer.encode("The tiger"), lm.tokenizer.encode(" drum drum"))]
    attached = attach(lm.model, method)
    batches = batches_for(attached, Examples(examples, 1, answer_only))
    quiet(lm.model, batches, TrainConfig(steps=60, learning_rate=1e-1, weight_decay=0.0))
    assert next_token_loss(lm.model, batches(0)) < 0.5
    attached.detach()
    assert hashes_of(lm.model) == before


def test_on_the_real_model_in_16_bits():
    lm = load_smollm2(torch.bfloat16)
    ids = torch.tensor([lm.tokenizer.encode("The tiger jumped out of a tree")])
    with torch.no_grad():
        before = lm.model(ids)
        attached = attach(lm.model, LoRA(2))
        assert attached.count == 30 * 2 * (576 + 576 + 576 + 192)
        assert torch.equal(lm.model(ids), before)
        perturb(attached)
        assert not torch.equal(lm.model(ids), before)
        with attached.off():
            assert torch.equal(lm.model(ids), before)


# Over few bits


class Rounded(nn.Module):
    """A stand-in for a quantized layer: whole numbers and a scale, its input differentiable."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scale = layer.weight.abs().max() / 7
        self.register_buffer("few", (layer.weight / self.scale).round().to(torch.int8).detach())

    def forward(self, x):
        return F.linear(x, self.few.to(x.dtype) * self.scale)


def test_lora_over_any_layer_that_is_called_like_a_linear_one():
    model = single()
    for block in model.blocks:
        for name in ("query", "key", "value", "output"):
            setattr(block.attention, name, Rounded(getattr(block.attention, name)).requires_grad_(False))
    hashes, tokens = hashes_of(model), random_tokens(model)
    before = model(tokens)
    attached = attach(model, LoRA(4))
    assert torch.equal(model(tokens), before)
    history = quiet(model, windows(), TrainConfig(steps=20, learning_rate=2e-2))
    assert history.losses[-1] < history.losses[0]
    with pytest.raises(
        ValueError,
        match="the base is a Rounded, and a change can only be added to the weights of an nn.Linear",
    ):
        attached.merge()
    attached.detach()
    assert hashes_of(model) == hashes and torch.equal(model(tokens), before)


def test_qlora_trains_over_four_bits_that_stay(tmp_path):
    model = single(d_model=64, d_head=16, n_heads=4)
    quantize_linears(model, NF4())
    hashes, tokens = hashes_of(model), random_tokens(model)
    before = model(tokens)
    attached = attach(model, LoRA(4, 8, EVERY))
    assert torch.equal(model(tokens), before) and attached.count > 0
    history = quiet(model, windows(), TrainConfig(steps=20, learning_rate=2e-2))
    assert history.losses[-1] < history.losses[0] - 0.1
    with attached.off():
        assert torch.equal(model(tokens), before)
    with pytest.raises(ValueError, match="few bits"):
        attached.merge()
    attached.save(tmp_path / "over_few.safetensors")
    attached.detach()
    assert hashes_of(model) == hashes
    whole = attach(single(d_model=64, d_head=16, n_heads=4), LoRA(4, 8, EVERY))
    whole.load(tmp_path / "over_few.safetensors")  # learned over four bits, merged into the whole weights
    wanted = whole.model(tokens)
    torch.testing.assert_close(whole.merge()(tokens), wanted, atol=1e-4, rtol=1e-4)


def test_the_comparison_scores_what_would_be_written():
    from course_lib.course.lessons.parameter_efficient_fine_tuning.experiment import judge, tell_who

    lm = load_world()
    examples = tell_who(lm, 2, "held_out", 4)
    spoken = [(list(prompt), list(generate(lm.model, prompt, 3))) for prompt, _ in examples]
    assert judge(lm.model, spoken)["exact"] == 1
    off_by_one = [(prompt, [answer[0], (answer[1] + 1) % 1440, *answer[2:]]) for prompt, answer in spoken]
    assert judge(lm.model, off_by_one)["exact"] == 0
    assert lm.tokenizer.decode(examples[0][1]).startswith("the ")
