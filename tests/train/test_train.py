"""Training: batches, losses, the optimizer, the loop, checkpoints and model files."""

import math
import re
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from references import failed_examples, tiny_config
from torch import nn

import course_lib.train
from course_lib.families import load_model, save_model
from course_lib.families.tensor_file import read_tensors, write_tensors
from course_lib.generate import pack
from course_lib.model import Decoder, EncoderDecoder
from course_lib.show import draw_loss, live_loss
from course_lib.show.training import smooth
from course_lib.train import (
    IGNORE,
    Examples,
    History,
    TrainConfig,
    Training,
    Windows,
    adamw,
    answer_only,
    fused_next_token_loss,
    join,
    load_checkpoint,
    next_token_loss,
    pad,
    parameter_groups,
    save_checkpoint,
    source_and_target,
    token_log_probs,
    train,
    train_plainly,
    uses_bf16,
    warmup_cosine,
)

calm = settings(derandomize=True, deadline=None, max_examples=40)
DOUBLE = torch.float64
quiet = partial(train, progress=False)


def fresh(dtype=DOUBLE, **changes):
    """The same untrained decoder each time, small enough to train in milliseconds."""
    torch.manual_seed(0)
    return Decoder(tiny_config(n_layers=2, **changes)).to(dtype)


def windows(seed=0, batch=3, time=8):
    ids = torch.randint(61, (100,), generator=torch.Generator().manual_seed(seed))
    return Windows(ids, time, batch, seed)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def same_file(a, b):
    return a.read_bytes() == b.read_bytes()


def test_the_examples_in_docstrings():
    assert failed_examples(course_lib.train) == 0


# Batches


@calm
@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_windows_cover_a_circle(length, time, batch, seed):
    if length <= time:
        with pytest.raises(ValueError, match=f"at least {time + 1} ids"):
            Windows(torch.arange(length), time, batch, seed)
        return
    draw, per_epoch = Windows(torch.arange(length), time, batch, seed), length // time
    targets = []
    for step in range(math.ceil(2 * per_epoch / batch)):
        tokens, following = draw(step)
        assert tokens.shape == following.shape == (batch, time)
        assert following.equal((tokens + 1) % length)
        targets += following.tolist()
    for epoch in (targets[:per_epoch], targets[per_epoch : 2 * per_epoch]):
        seen = [token for window in epoch for token in window]
        assert len(seen) == len(set(seen)) == per_epoch * time > length - time


@calm
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 2**31))
def test_a_batch_depends_on_seed_and_step_only(steps, seed):
    first, second = windows(seed), windows(seed)
    in_turn = {step: first(step)[0] for step in steps}
    assert all(second(step)[0].equal(in_turn[step]) for step in reversed(steps))


def test_another_seed_and_another_epoch_give_another_order():
    ids = torch.arange(1000)
    a, b = Windows(ids, 10, 100, seed=0), Windows(ids, 10, 100, seed=1)
    assert not a(0)[0].equal(b(0)[0]) and not a(0)[0].equal(a(1)[0])


def test_windows_start_elsewhere_in_each_epoch():
    draw = Windows(torch.arange(1000), 10, 100)
    assert len({int(draw(epoch)[0][0, 0] % 10) for epoch in range(20)}) > 3


@calm
@given(st.integers(1, 30), st.integers(1, 40))
def test_examples_come_once_an_epoch(count, batch):
    draw = Examples(range(count), batch, collate=lambda chosen: (torch.tensor(chosen),))
    drawn = torch.cat([draw(step)[0] for step in range(math.ceil(2 * count / batch))]).tolist()
    assert sorted(drawn[:count]) == sorted(drawn[count : 2 * count]) == list(range(count))
    assert draw(1)[0].equal(draw(1)[0])


def test_examples_of_another_seed_come_in_another_order():
    orders = [Examples(range(50), 50, lambda chosen: (torch.tensor(chosen),), seed)(0)[0] for seed in (0, 1)]
    assert not orders[0].equal(orders[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Windows(torch.arange(9), time=0, batch=1),
        lambda: Windows(torch.arange(9), time=3, batch=0),
        lambda: Windows(torch.ones(9, 9).long(), time=3, batch=1),
        lambda: Examples([], 1, answer_only),
        lambda: Examples([([1], [2])], 0, answer_only),
    ],
)
def test_data_that_gives_no_batch_says_so(make):
    with pytest.raises(ValueError, match="at least|from 1 to"):
        make()


# The loss


def test_the_loss_is_the_mean_surprise():
    model, (tokens, targets) = fresh(), windows()(0)
    chances = model(tokens).softmax(-1)
    surprise = [-chances[b, t, targets[b, t]].log() for b in range(3) for t in range(8)]
    torch.testing.assert_close(next_token_loss(model, (tokens, targets)), torch.stack(surprise).mean())


def test_only_answers_count_and_padding_changes_nothing():
    model, pairs = fresh(), [([1, 2, 3], [4, 5]), ([6], [7]), ([8, 9], [10, 11, 12, 13])]
    together = next_token_loss(model, answer_only(pairs, padding=60))
    counts = torch.tensor([2.0, 1.0, 4.0], dtype=DOUBLE)
    alone = torch.stack([next_token_loss(model, answer_only([pair])) for pair in pairs])
    torch.testing.assert_close(together, (alone * counts).sum() / counts.sum())
    torch.testing.assert_close(together, next_token_loss(model, answer_only(pairs, padding=0)))


def test_an_encoder_decoder_reads_two_texts_and_no_padding():
    pairs = [([1, 2, 3], [4, 5]), ([6], [7])]
    source, tokens, real, targets = source_and_target(pairs, start=9, padding=0)
    assert source.tolist() == [[1, 2, 3], [6, 0, 0]] and real.tolist() == [[True] * 3, [True, False, False]]
    assert tokens.tolist() == [[9, 4], [9, 0]] and targets.tolist() == [[4, 5], [7, IGNORE]]
    torch.manual_seed(0)
    model = EncoderDecoder(tiny_config()).double()
    alone = [next_token_loss(model, source_and_target([pair], start=9, padding=0)) for pair in pairs]
    together = next_token_loss(model, (source, tokens, real, targets))
    torch.testing.assert_close(together, (2 * alone[0] + alone[1]) / 3)


def test_padding_needs_a_row():
    for collate in (answer_only, partial(source_and_target, start=1, padding=0)):
        with pytest.raises(ValueError, match="at least one example"):
            collate([])


@pytest.mark.parametrize("loss", [lambda m, b: m(b[0]).sum(-1), lambda m, b: m(b[0]).sum().detach()])
def test_a_loss_is_one_number_that_depends_on_the_weights(loss):
    with pytest.raises(ValueError, match="one number"):
        Training(fresh(), TrainConfig(steps=1), loss).learn(windows()(0))


def test_experts_train_in_16_bits():
    model = fresh(torch.float32, n_experts=4)
    history = quiet(model, windows(), TrainConfig(steps=3, precision="bf16"))
    assert len(history.losses) == 3


def test_pad_and_join_keep_whole_numbers():
    assert join([[1], [], [2, 3]], end=9).tolist() == [1, 9, 9, 2, 3, 9] and join([], 9).dtype == torch.long
    assert pad([[], [1]], 5).tolist() == [[5], [1]]


# The optimizer


def test_one_step_of_adamw_by_hand():
    layer = nn.Linear(3, 2).double()
    config = TrainConfig(steps=9, learning_rate=0.1, weight_decay=0.5, betas=(0.8, 0.9))
    optimizer = adamw(layer, config)
    averages = {
        name: (torch.zeros_like(w), torch.zeros_like(w), w.detach().clone())
        for name, w in layer.named_parameters()
    }
    for t in (1, 2):
        layer.zero_grad()
        layer(torch.tensor([[1.0, -2.0, t]], dtype=DOUBLE)).square().sum().backward()
        optimizer.step()
        for name, weight in layer.named_parameters():
            m, v, w = averages[name]
            g = weight.grad
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            w = w - 0.1 * (0.5 if name == "weight" else 0.0) * w
            w = w - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
            averages[name] = m, v, w
            torch.testing.assert_close(weight.detach(), w, rtol=1e-12, atol=1e-12)


def test_matrices_decay_and_vectors_do_not():
    model = fresh()
    decaying, plain = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all("norm" in name for name, _ in plain["params"])
    names = [name for group in (decaying, plain) for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert "embedding.weight" in dict(decaying["params"])


def test_frozen_parameters_are_left_alone():
    model = fresh()
    model.embedding.requires_grad_(False)
    before = model.embedding.weight.clone()
    quiet(model, windows(), TrainConfig(steps=3))
    assert model.embedding.weight.equal(before)
    with pytest.raises(ValueError, match="unfreeze"):
        adamw(model.requires_grad_(False), TrainConfig(steps=1))


@calm
@given(st.integers(1, 500), st.integers(0, 500), st.floats(0, 1), st.integers(0, 600))
def test_the_schedule_stays_within_its_bounds(steps, warmup, final, step):
    warmup = min(warmup, steps)
    rate = partial(warmup_cosine, steps=steps, warmup=warmup, final=final)
    assert 0 < rate(step) <= 1 if step < warmup else final - 1e-12 <= rate(step) <= 1
    assert (rate(step) <= rate(step + 1)) if step + 1 < warmup else (rate(step) >= rate(step + 1) - 1e-12)


def test_a_run_that_only_warms_up_never_reaches_its_final_rate():
    assert [warmup_cosine(step, steps=4, warmup=4, final=0.1) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_the_schedule_at_its_corners():
    rate = partial(warmup_cosine, steps=100, warmup=10, final=0.2)
    assert [rate(0), rate(9), rate(99), rate(1000)] == pytest.approx([0.1, 1.0, 0.2, 0.2])
    assert rate(54) == pytest.approx(0.6)  # half way down
    assert warmup_cosine(3, steps=4, warmup=4) == 1.0


# The loop


def pytorch_loop(model, batches, config):
    """The same run written with PyTorch only; returns its losses."""
    matrices = [w for w in model.parameters() if w.dim() > 1]
    vectors = [w for w in model.parameters() if w.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=config.betas,
        fused=True,
    )
    losses = []
    for step in range(config.steps):
        tokens, targets = batches(step)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], config.clip)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(
                step, config.steps, config.warmup, config.final
            )
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_loop_is_a_loop_in_pytorch_bit_for_bit(dtype):
    config = TrainConfig(steps=12, learning_rate=1e-2, warmup=3, clip=0.5)
    ours, plain = fresh(dtype), fresh(dtype)
    history = quiet(ours, windows(), config)
    assert history.losses == pytorch_loop(plain, windows(), config)
    assert weights(ours).equal(weights(plain))
    assert history.learning_rates == [1e-2 * warmup_cosine(step, 12, 3, 0.1) for step in range(12)]
    assert history.tokens == [24 * (step + 1) for step in range(12)] and history.total_tokens == 288


PAIRS = [([1, 2, 3], [4, 5]), ([6], [7]), ([8, 9], [10, 11, 12, 13])]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("source", [windows(), Examples(PAIRS, 2, answer_only)], ids=["text", "answers"])
def test_the_plain_loop_computes_the_same_weights_bit_for_bit(dtype, source):
    config = TrainConfig(steps=12, learning_rate=1e-2, warmup=3, clip=0.5)
    model, plain = fresh(dtype), fresh(dtype).eval()
    before = weights(plain)
    train_plainly(plain, source, config)
    quiet(model, source, config)
    assert weights(plain).equal(weights(model)) and not weights(plain).equal(before) and plain.training


def test_it_learns():
    row = torch.arange(40).repeat(5)
    losses = quiet(fresh(torch.float32), Windows(row, 8, 8), TrainConfig(steps=80, learning_rate=1e-2)).losses
    assert losses[0] > 3 and losses[-1] < 0.1


@pytest.mark.parametrize("clip", [0.01, 1e9, math.inf])
def test_a_long_gradient_is_cut_to_length(clip):
    training = Training(fresh(), TrainConfig(steps=1, clip=clip))
    reference = fresh()
    next_token_loss(reference, windows()(0)).backward()
    whole = torch.cat([weight.grad.flatten() for weight in reference.parameters()])
    training.run(windows(), progress=False)
    kept = torch.cat([weight.grad.flatten() for weight in training.model.parameters()])
    assert training.history.grad_norms == [pytest.approx(whole.norm().item())]
    torch.testing.assert_close(kept, whole * min(1.0, clip / whole.norm().item()), rtol=1e-4, atol=0)


def broken_at(step, value=math.nan):
    """The loss, multiplied by `value` in one call."""
    calls = iter(range(1000))
    return lambda model, batch: next_token_loss(model, batch) * (value if next(calls) == step else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_does_harm(value):
    config = TrainConfig(steps=9)
    broken, whole = Training(fresh(), config, broken_at(4, value)), Training(fresh(), config)
    with pytest.raises(FloatingPointError, match="at step 4 the loss is .* learning rate below"):
        broken.run(windows(), progress=False)
    whole.run(windows(), until=4, progress=False)
    assert weights(broken.model).equal(weights(whole.model)) and broken.history == whole.history
    broken.run(windows(), progress=False)
    whole.run(windows(), progress=False)
    assert weights(broken.model).equal(weights(whole.model))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = fresh()
    with torch.no_grad():
        model.blocks[1].feed_forward.down.weight[0, 0] = value
    training = Training(model, TrainConfig(steps=9))
    with pytest.raises(
        FloatingPointError,
        match=r"step 0 the model's weights hold NaN or ∞ already, in blocks.1.feed_forward.down",
    ):
        training.run(windows(), progress=False)
    assert training.step == 0


def test_a_gradient_that_is_not_finite_stops_too():
    def steep(model, batch):
        # The added term is 0, and its gradient infinite.
        return next_token_loss(model, batch) + (model.norm.weight.sum() * 0).sqrt()

    model, before = fresh(), weights(fresh())
    with pytest.raises(FloatingPointError, match="at step 0 the loss is 4.* gradient's length nan"):
        quiet(model, windows(), TrainConfig(steps=1), loss=steep)
    assert weights(model).equal(before)


def test_a_batch_without_a_target_is_named():
    nothing = (torch.ones(1, 4, dtype=torch.long), torch.full((1, 4), IGNORE))
    with pytest.raises(FloatingPointError, match="target that counts"):
        quiet(fresh(), lambda step: nothing, TrainConfig(steps=1))


def test_a_callback_is_called_after_each_step_of_a_run_in_parts():
    seen = []
    training = Training(fresh(), TrainConfig(steps=5))
    training.model.eval()
    for until in (2, 2, None):
        training.run(windows(), watch=lambda t: seen.append((t.step, t.history.losses[-1])), until=until)
    assert seen == list(enumerate(training.history.losses, start=1)) and len(seen) == 5
    assert training.model.training
    assert quiet(fresh(), windows(), TrainConfig(steps=5)) == training.history


def test_the_bar_shows_loss_and_speed(capsys):
    history = train(fresh(), windows(), TrainConfig(steps=3))
    shown = capsys.readouterr().err
    assert "3/3" in shown and f"loss {history.losses[-1]:.3f}" in shown and "tokens/s" in shown


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": 10},
        {"warmup": -1},
        {"final": 1.5},
        {"weight_decay": -0.1},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"clip": 0.0},
        {"precision": "fp8"},
        {"steps": 2.0},
        {"steps": True},
        {"steps": "9"},
        {"steps": None},
        {"learning_rate": "3e-4"},
        {"learning_rate": None},
        {"learning_rate": True},
        {"learning_rate": math.inf},
        {"learning_rate": torch.tensor(0.1)},
        {"learning_rate": np.float32(0.1)},  # a checkpoint couldn't hold it
        {"warmup": math.nan},
        {"warmup": 2.5},
        {"warmup": "2"},
        {"final": "0.1"},
        {"final": math.nan},
        {"weight_decay": None},
        {"weight_decay": math.nan},
        {"betas": None},
        {"betas": 0.9},
        {"betas": "ab"},
        {"betas": ("0.9", 0.95)},
        {"betas": (math.nan, 0.95)},
        {"betas": torch.tensor([0.9, 0.95])},
        {"clip": "1"},
        {"clip": math.nan},
        {"precision": None},
        {"precision": torch.float32},
    ],
    ids=str,
)
def test_a_setting_outside_its_range_is_named(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be .*, not"):
        TrainConfig(**({"steps": 9} | setting))


def test_settings_of_any_number_python_has_are_accepted():
    config = TrainConfig(9, learning_rate=1, betas=[0, 0.5], clip=math.inf, final=np.float64(0.5), warmup=9)
    assert config.betas == (0, 0.5) and Training(fresh(), config).run(windows(), progress=False).losses


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 9), "step"),
        ((0.5, 9), "step"),
        ((0, 0), "steps"),
        ((0, math.nan), "steps"),
        ((0, 9, -1), "warmup"),
        ((0, 9, "2"), "warmup"),
        ((0, 9, 0, math.nan), "final"),
        ((0, 9, 0, None), "final"),
    ],
)
def test_a_schedule_of_numbers_that_no_run_has_is_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        warmup_cosine(*arguments)


def test_an_unknown_precision_and_decay_are_refused():
    for precision in ("fp8", None, torch.bfloat16):
        with pytest.raises(ValueError, match="precision must be one of fp32, bf16, auto"):
            uses_bf16(precision, fresh())
    assert not uses_bf16("auto", nn.Identity())
    for decay in (-0.1, math.nan, "0.1", None):
        with pytest.raises(ValueError, match="weight_decay must be"):
            parameter_groups(fresh(), decay)


# Targets and ids in every form


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16])
def test_targets_and_ids_may_have_few_bits(dtype):
    model, (tokens, targets) = fresh(), windows()(0)
    wanted = next_token_loss(model, (tokens, targets))
    assert next_token_loss(model, (tokens, targets.to(dtype))).equal(wanted)
    assert token_log_probs(model, tokens, targets.to(dtype)).equal(token_log_probs(model, tokens, targets))
    model = fresh(torch.float32)
    losses = [fused_next_token_loss(model, (tokens, each)) for each in (targets, targets.to(dtype))]
    assert losses[0].equal(losses[1])
    ids = torch.randint(61, (100,), generator=torch.Generator().manual_seed(0))
    source, few = Windows(ids, 8, 3), Windows(ids.to(dtype), 8, 3)
    for step in range(20):
        assert all(x.equal(y) and y.dtype == torch.long for x, y in zip(source(step), few(step), strict=True))


def losses_of(model, tokens, targets):
    return (
        lambda: next_token_loss(model, (tokens, targets)),
        lambda: token_log_probs(model, tokens, targets),
        lambda: fused_next_token_loss(model, (tokens, targets)),
    )


def test_targets_that_are_no_ids_are_refused():
    model, (tokens, targets) = fresh(torch.float32), windows()(0)
    for wrong in (targets.float(), targets > 3, targets[:, :-1], targets[None]):
        for loss in losses_of(model, tokens, wrong):
            with pytest.raises(
                ValueError,
                match="targets must be whole numbers (3, 8), one for each".replace("(3, 8)", r"\(3, 8\)"),
            ):
                loss()
    for wrong in (-1, 61, 2**40, -101):
        odd = targets.clone()
        odd[0, 0] = wrong
        for loss in losses_of(model, tokens, odd):
            with pytest.raises(
                ValueError, match=f"targets run from .*{wrong}.*, but the vocabulary holds 0 to 60"
            ):
                loss()


@pytest.mark.parametrize("batch", [None, torch.ones(3, 4).long(), (torch.ones(3, 4).long(),), "batch", []])
def test_a_batch_is_a_tuple_of_inputs_and_targets(batch):
    with pytest.raises(
        ValueError, match="a batch must be a tuple of the model's inputs and then the targets"
    ):
        next_token_loss(fresh(), batch)


def test_ids_may_be_an_array_that_lies_in_a_file(tmp_path):
    """As nanoGPT's train.bin: 16 bits for each id, mapped and never read as a whole."""
    ids = torch.randint(61, (100,), generator=torch.Generator().manual_seed(0))
    ids.numpy().astype(np.uint16).tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    source, wanted = Windows(mapped, 8, 3), Windows(ids, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Windows(mapped, 8, 3)
    assert source.ids.data_ptr() == mapped.ctypes.data
    for form in (source, Windows(ids.tolist(), 8, 3), Windows(ids.numpy()[::-1][::-1], 8, 3)):
        assert all(x.equal(y) and x.dtype == torch.long for x, y in zip(form(2), wanted(2), strict=True))


@pytest.mark.parametrize(
    "ids", [torch.rand(50), np.random.rand(50), "some text", ["a", "b"], torch.ones(50).bool()]
)
def test_what_is_no_id_is_not_cut_into_windows(ids):
    with pytest.raises(ValueError, match="ids must be whole numbers"):
        Windows(ids, 3, 1)


@pytest.mark.parametrize("size", [1.5, "3", None, math.nan, True, -1])
def test_sizes_of_batches_are_whole_numbers(size):
    ids = torch.arange(50)
    for name, make in (
        ("time", lambda: Windows(ids, size, 1)),
        ("batch", lambda: Windows(ids, 3, size)),
        ("seed", lambda: Windows(ids, 3, 1, size)),
        ("batch", lambda: Examples([1, 2], size, tuple)),
        ("seed", lambda: Examples([1, 2], 1, tuple, size)),
    ):
        with pytest.raises(
            ValueError, match=f"{name} must be a whole number, (at least [01]|from 1 to 1000000), not"
        ):
            make()


# Whatever is used up when it is read once


def test_documents_and_pairs_may_come_from_generators():
    assert join((map(int, word) for word in ("56", "7")), end=0).tolist() == [5, 6, 0, 7, 0]
    assert join([torch.tensor([5, 6]), np.array([7])], end=0).tolist() == [5, 6, 0, 7, 0]
    assert join([], end=0).tolist() == []
    assert pad(map(list, ((1, 2), (3,))), 0).tolist() == [[1, 2], [3, 0]]
    assert pad((map(int, word) for word in ("12", "3")), 0).tolist() == [[1, 2], [3, 0]]
    pairs = [([5, 6], [7, 8]), ([9], [7])]

    def used_up():
        return ((iter(prompt), map(int, answer)) for prompt, answer in pairs)

    for ours, wanted in (
        (answer_only(used_up()), answer_only(pairs)),
        (source_and_target(used_up(), 1, 0), source_and_target(pairs, 1, 0)),
    ):
        assert all(x.equal(y) for x, y in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("text", ["text", ["text"], [[1.5]], [None], [[None]], 5, [5], [["a"]], [[2**70]]])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(ValueError, match="document"):
        join(text, end=0)
    with pytest.raises(ValueError, match="end must be a whole number"):
        join([[1]], end="<|endoftext|>")


@pytest.mark.parametrize(
    "pairs",
    ["ab", ["ab"], [("question", "answer")], [([1], [2], [3])], [([1.5], [2])], {"a": "b"}, 5, [None]],
)
def test_what_is_no_pair_of_ids_is_refused(pairs):
    for function in (answer_only, lambda pairs: source_and_target(pairs, 1, 0)):
        with pytest.raises(ValueError, match="pair"):
            function(pairs)


@pytest.mark.parametrize("rows", [[["a"]], [[1.5]], "text", [[None]]])
def test_rows_to_pad_are_whole_numbers(rows):
    with pytest.raises(ValueError, match="rows must be whole numbers"):
        pad(rows, 0)


# Precision


def test_bf16_multiplies_in_16_bits_and_keeps_32():
    kinds = []
    model = fresh(torch.float32)
    model.blocks[0].feed_forward.register_forward_hook(lambda module, read, out: kinds.append(out.dtype))
    history = quiet(model, windows(), TrainConfig(steps=3, precision="bf16"))
    assert kinds == [torch.bfloat16] * 3
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert history.losses == pytest.approx(
        quiet(fresh(torch.float32), windows(), TrainConfig(steps=3)).losses, rel=0.01
    )


def test_auto_is_for_hardware_and_models_that_gain(monkeypatch):
    small, large = nn.Linear(10, 10), nn.Linear(1000, 1000)
    for amx, faster in product((True, False), (torch.bfloat16, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr("course_lib.train.learner.fast_dtype", lambda device, faster=faster: faster)
        assert [uses_bf16("auto", model) for model in (small, large)] == [
            False,
            amx and faster == torch.bfloat16,
        ]
    assert not uses_bf16("fp32", large) and uses_bf16("bf16", small)
    assert not uses_bf16("auto", large.to("meta"))


@pytest.mark.parametrize("real", [True, False])
def test_auto_on_a_gpu_asks_for_real_bf16(monkeypatch, real):
    class Weight:
        device = torch.device("cuda")

    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: real and not including_emulation
    )
    model = nn.Module()
    monkeypatch.setattr(model, "parameters", lambda: iter([Weight()]))
    assert uses_bf16("auto", model) is real


# Checkpoints


def half_way(path, dtype=DOUBLE, config=None, **changes):
    """A run of 20 steps, saved after 10."""
    training = Training(
        fresh(dtype, **changes), config or TrainConfig(steps=20, warmup=5, learning_rate=1e-2)
    )
    training.run(windows(), until=10, progress=False)
    save_checkpoint(path, training)
    return training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("tied", [True, False])
def test_a_resumed_run_is_the_same_run(tmp_path, dtype, tied, precision):
    config = TrainConfig(steps=20, warmup=5, learning_rate=1e-2, precision=precision)
    straight = half_way(tmp_path / "run.safetensors", dtype, config, tie_embeddings=tied)
    straight.run(windows(), progress=False)
    torch.manual_seed(1)
    resumed = Training(Decoder(straight.model.config).to(dtype), config)
    load_checkpoint(tmp_path / "run.safetensors", resumed)
    assert resumed.step == 10 and resumed.optimizer.param_groups[0]["fused"]
    resumed.run(windows(), progress=False)
    assert weights(resumed.model).equal(weights(straight.model)) and resumed.history == straight.history
    for training in (straight, resumed):
        save_checkpoint(tmp_path / f"{training is resumed}", training)
    assert same_file(tmp_path / "True", tmp_path / "False")


def test_what_never_had_a_gradient_resumes_too(tmp_path):
    class WithSpare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)
            self.register_buffer("count", torch.tensor(7))

    def loss(model, batch):
        return model.used(batch[0]).square().mean()

    runs = [Training(WithSpare(), TrainConfig(steps=4), loss) for _ in range(2)]
    runs[0].run(lambda step: (torch.ones(1, 2),), until=2, progress=False)
    save_checkpoint(tmp_path / "run", runs[0])
    load_checkpoint(tmp_path / "run", runs[1])
    for run in runs:
        run.run(lambda step: (torch.ones(1, 2),), progress=False)
    assert weights(runs[0].model).equal(weights(runs[1].model)) and runs[1].model.count == 7


@pytest.mark.parametrize(
    ("changes", "setting", "message"),
    [
        (
            {},
            {"learning_rate": 1.0},
            "the run of model differs: learning_rate is 0.01 in the file and 1.0 here",
        ),
        ({"d_ff": 48}, {}, "the configuration of model differs: d_ff is 40 in the file and 48 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, setting, message):
    saved = half_way(tmp_path / "run")
    other = Training(fresh(**changes), replace(saved.config, **setting))
    before = weights(other.model)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "run", other)
    assert weights(other.model).equal(before) and other.step == 0


def test_another_precision_is_another_model(tmp_path):
    saved = half_way(tmp_path / "run")
    with pytest.raises(ValueError, match="the model differs: embedding.weight is .*float64.* in the file"):
        load_checkpoint(tmp_path / "run", Training(fresh(torch.float32), saved.config))


@pytest.mark.parametrize(
    "lost", ["model/history/losses", "model/optimizer/norm.weight/step", "model/weights/norm.weight"]
)
@pytest.mark.parametrize("shape", [None, (3, 1)])
def test_a_checkpoint_that_is_not_whole_changes_nothing(tmp_path, lost, shape):
    saved = half_way(tmp_path / "run")
    tensors, facts = read_tensors(tmp_path / "run", "checkpoint")
    tensors.pop(lost)
    write_tensors(tmp_path / "run", tensors | ({lost: torch.ones(shape)} if shape else {}), facts)
    other = Training(fresh(), saved.config)
    before = weights(other.model)
    with pytest.raises(ValueError, match="damaged|differs"):
        load_checkpoint(tmp_path / "run", other)
    assert weights(other.model).equal(before) and other.step == 0 and not other.optimizer.state


@pytest.mark.parametrize(
    "name, change", [("tokens", -1.0), ("tokens", 0.3), ("grad_norms", -2.0), ("learning_rates", -2.0)]
)
def test_a_history_that_no_run_has_is_refused(tmp_path, name, change):
    saved, name = half_way(tmp_path / "run"), f"model/history/{name}"
    tensors, facts = read_tensors(tmp_path / "run", "checkpoint")
    write_tensors(tmp_path / "run", tensors | {name: tensors[name] * change}, facts)
    with pytest.raises(ValueError, match="no run has the history"):
        load_checkpoint(tmp_path / "run", Training(fresh(), saved.config))


# Files


def test_a_cut_file_is_called_damaged(tmp_path):
    saved = half_way(tmp_path / "run")
    whole = (tmp_path / "run").read_bytes()
    for size in (0, 4, 8, 100, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(tmp_path / "cut", Training(fresh(), saved.config))


def test_a_changed_header_is_an_error_or_harmless(tmp_path):
    save_model(tmp_path / "model", fresh(), dtype=DOUBLE, seed=0)
    whole = (tmp_path / "model").read_bytes()
    header, refused = 8 + int.from_bytes(whole[:8], "little"), 0
    for position in range(0, header, 3):
        changed = bytearray(whole)
        changed[position] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        try:
            model, _ = load_model(tmp_path / "changed", dtype=DOUBLE)
            assert weights(model).isfinite().all()
        except ValueError:
            refused += 1
    assert refused > header / 3 * 0.8


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"{}", bytes(range(256)) * 2])
def test_a_foreign_file_is_called_so(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_model(tmp_path / "file")


def test_a_file_of_another_kind_is_called_so(tmp_path):
    saved = half_way(tmp_path / "run")
    with pytest.raises(ValueError, match="not a model of this course"):
        load_model(tmp_path / "run")
    for facts in ({}, [1]):
        write_tensors(tmp_path / "other", {"a": torch.ones(2)}, facts)
        with pytest.raises(ValueError, match="not a checkpoint of this course"):
            load_checkpoint(tmp_path / "other", Training(fresh(), saved.config))
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")


def half_written(tensors, path, metadata):
    path.write_bytes(b"half a file")
    raise OSError("no space left on device")


def not_allowed(old, new):
    raise PermissionError("no space for you")


@pytest.mark.parametrize(
    ("function", "fails"),
    [("course_lib.families.tensor_file.save_file", half_written), ("os.replace", not_allowed)],
)
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, function, fails):
    save_model(tmp_path / "model", fresh(), score=1)
    before = (tmp_path / "model").read_bytes()
    monkeypatch.setattr(function, fails)
    with pytest.raises(OSError, match="no space"):
        save_model(tmp_path / "model", fresh(), score=2)
    assert (tmp_path / "model").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model"]


# Model files


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_loaded_with_the_facts_saved_with_it(tmp_path, tied):
    model = fresh(torch.float32, tie_embeddings=tied)
    save_model(tmp_path / "model", model, recipe="make it", seed=3, score=0.5)
    random_state = torch.get_rng_state()
    loaded, facts = load_model(tmp_path / "model")
    assert torch.get_rng_state().equal(random_state)
    assert facts == {"recipe": "make it", "seed": 3, "score": 0.5}
    assert loaded.config == model.config and not loaded.training
    assert (loaded.head.weight is loaded.embedding.weight) is tied
    assert weights(loaded).equal(weights(model).half().float())
    tensors, _ = read_tensors(tmp_path / "model", "model")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16} and (
        "head.weight" in tensors
    ) is not tied
    save_model(tmp_path / "again", loaded, **facts)
    assert same_file(tmp_path / "model", tmp_path / "again")


def test_whole_numbers_of_a_model_stay_whole(tmp_path):
    class Counting(Decoder):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("count", torch.tensor(70_001))

    save_model(tmp_path / "model", Counting(tiny_config()), dtype=torch.bfloat16)
    assert load_model(tmp_path / "model", build=Counting)[0].count == 70_001
    with pytest.raises(ValueError, match="holds a Counting, not a Decoder"):
        load_model(tmp_path / "model")


def test_a_weight_that_16_bits_cannot_hold_is_named(tmp_path):
    model = fresh(torch.float32)
    with torch.no_grad():
        model.norm.weight[3] = 1e6
    with pytest.raises(ValueError, match="norm.weight isn't finite in torch.float16"):
        save_model(tmp_path / "model", model)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("config", [None, {"wings": 2}, {}])
def test_a_configuration_from_elsewhere_is_refused(tmp_path, config):
    about = {"kind": "model", "class": "Decoder", "config": config}
    write_tensors(tmp_path / "model", {"a": torch.ones(2)}, {k: v for k, v in about.items() if v is not None})
    with pytest.raises(ValueError, match="no configuration that this ModelConfig accepts"):
        load_model(tmp_path / "model")


# The loss curve


def history_of(losses):
    history = History()
    for loss in losses:
        history.add(loss, 1.0, 0.1, targets=10)
    return history


def test_smoothing_is_a_mean_of_what_came_before():
    assert smooth([5.0] * 7).tolist() == pytest.approx([5.0] * 7)
    assert smooth([1.0, 3.0], memory=1).tolist() == [1.0, 3.0]
    kept = 1 - 1 / 4
    assert smooth([1.0, 3.0], memory=4).tolist() == pytest.approx([1.0, (kept * 1 + 3) / (1 + kept)])


def test_the_loss_curve_shows_each_run():
    figure = draw_loss(
        {"small": history_of([3, 2, 1]), "large": history_of([2, 1])}, levels={"chance": math.log(61)}
    )
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["small", "large"]
    assert "chance" in [text.get_text() for text in ax.texts]
    assert ax.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    one = draw_loss(history_of([3, 2, 1])).axes[0]
    assert one.get_legend() is None
    with pytest.raises(ValueError, match="no step"):
        draw_loss(History())


def test_the_live_curve_draws_nothing_outside_notebooks(capsys):
    watch = live_loss()
    quiet(fresh(), windows(), TrainConfig(steps=3), watch=watch)
    assert capsys.readouterr().out == "" and watch.picture.value == ""
    InteractiveShell.instance()  # IPython in a terminal: no kernel, so no widgets
    with capture_output() as page:
        quiet(fresh(), windows(), TrainConfig(steps=3), watch=live_loss())
    InteractiveShell.clear_instance()
    assert page.outputs == [] and page.stdout == ""


def test_the_live_curve_shows_the_last_step_of_a_run_in_parts(monkeypatch):
    monkeypatch.setattr("course_lib.show.training.in_notebook", lambda: True)
    monkeypatch.setattr("course_lib.show.training.display", lambda widget: None)
    watch, training = live_loss(), Training(fresh(), TrainConfig(steps=50))
    for until in (20, 23, 50):
        watch.next_redraw = math.inf  # no time for any redraw but the last
        training.run(windows(), watch=watch, until=until, progress=False)
        assert f"The loss after {until} steps: {training.history.losses[-1]:.2f}." in watch.picture.value


def test_the_live_curve_of_several_models_is_the_first_ones(monkeypatch):
    monkeypatch.setattr("course_lib.show.training.in_notebook", lambda: True)
    monkeypatch.setattr("course_lib.show.training.display", lambda widget: None)
    losses = lambda models, batch: {
        "one": next_token_loss(models["one"], batch),
        "other": 2 * next_token_loss(models["other"], batch),
    }
    watch, training = live_loss(), Training({"one": fresh(), "other": fresh()}, TrainConfig(steps=2), losses)
    history = training.run(windows(), watch=watch, progress=False)
    assert f"The loss after 2 steps: {history.losses[-1]:.2f}." in watch.picture.value


def test_the_live_curve_replaces_its_picture(monkeypatch):
    now = iter(range(0, 10**6, 10))  # each call of the clock is ten seconds later
    monkeypatch.setattr("course_lib.show.training.perf_counter", lambda: next(now))
    monkeypatch.setattr("course_lib.show.training.in_notebook", lambda: True)
    pictures = []
    InteractiveShell.instance()
    with capture_output() as page:
        watch = live_loss(levels={"guessing": math.log(61)})
        quiet(
            fresh(),
            windows(),
            TrainConfig(steps=60),
            watch=lambda t: (watch(t), pictures.append(watch.picture.value)),
        )
    InteractiveShell.clear_instance()
    assert len(page.outputs) == 1 and page.outputs[0].data["text/plain"] == "HTML(value='')"
    assert all(
        re.match(r'<img alt="The loss after \d+ steps: \d\.\d\d\." width="650" src="data:image/png', html)
        for html in pictures
    )
    changes = sum(old != new for old, new in pairwise(pictures))
    assert (
        1 < changes < 10 and pictures[-1] != pictures[-2]
    )  # some steps redraw nothing, but the last one does


def test_a_model_without_a_weight_is_refused(tmp_path):
    save_model(tmp_path / "model", fresh())
    tensors, about = read_tensors(tmp_path / "model", "model")
    del tensors["norm.weight"]
    write_tensors(tmp_path / "model", tensors, about)
    with pytest.raises(ValueError, match="the model differs: norm.weight is None in the file"):
        load_model(tmp_path / "model")


def test_facts_that_json_cannot_hold_leave_no_file(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(tmp_path / "model", fresh(), score=torch.ones(1))
    assert not any(tmp_path.iterdir())


def test_a_packed_model_is_not_saved_for_it_could_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="before packing"):
        save_model(tmp_path / "model", pack(fresh(torch.float32)))
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*deeper"):
        save_model(tmp_path / "deeper" / "model", fresh())
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_model(tmp_path)


@pytest.mark.parametrize("lost", ["model/optimizer/", "model/history/losses", "model/weights/blocks.0"])
def test_a_checkpoint_that_lost_a_part_is_refused(tmp_path, lost):
    training = Training(fresh(), TrainConfig(steps=4))
    training.run(windows(), progress=False)
    save_checkpoint(tmp_path / "run", training)
    tensors, facts = read_tensors(tmp_path / "run", "checkpoint")
    write_tensors(tmp_path / "run", {n: t for n, t in tensors.items() if not n.startswith(lost)}, facts)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "run", Training(fresh(), TrainConfig(steps=4)))


def overwrite(path):
    """Change a file in place: whoever still reads from it sees other bytes."""
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    config, path, batches = TrainConfig(steps=4), tmp_path / "run", Windows(torch.arange(40) % 30, 4, 2)
    training = Training(fresh(), config)
    training.run(batches, until=2, progress=False)
    save_checkpoint(path, training)
    resumed, tensors = Training(fresh(), config), read_tensors(path, "checkpoint")[0]
    wanted = {name: tensor.clone() for name, tensor in tensors.items()}
    load_checkpoint(path, resumed)
    overwrite(path)
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert {float(state["step"]) for state in resumed.optimizer.state.values()} == {2.0}
    assert resumed.run(batches, progress=False) == training.run(batches, progress=False)
