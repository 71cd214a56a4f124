"""Muon: equal to PyTorch's own, to the singular value decomposition, and to AdamW where AdamW trains."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.model import Decoder, ModelConfig
from course_lib.train import (
    TrainConfig,
    Training,
    Windows,
    load_checkpoint,
    make_optimizer,
    rate_share,
    save_checkpoint,
    train_plainly,
)
from course_lib.train.muon import Muon, orthogonalize

CONFIG = ModelConfig(
    vocab_size=30, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_head=8, d_ff=24, context=16
)
MUON = TrainConfig(steps=8, learning_rate=1e-2, warmup=2, optimizer="muon", schedule="linear", decay=0.5)
WINDOWS = Windows(torch.arange(400) * 7 % 30, 8, 2)


def fresh() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 40), (2, 40, 16)])
def test_it_makes_all_singular_values_nearly_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape and result.dtype == matrices.dtype
    # A square matrix of random numbers has some singular values near 0, which five rounds don't lift to 1.
    kept = torch.linalg.svdvals(matrices) > 0.05 * torch.linalg.matrix_norm(matrices)[:, None]
    values = torch.linalg.svdvals(result)[kept]
    assert 0.65 < values.min() and values.max() < 1.25
    # The directions are those of the gradient: U Vᵀ of the same decomposition, not of another matrix.
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    cosine = nn.functional.cosine_similarity(result.flatten(1), (u @ vh).flatten(1))
    assert cosine.min() > 0.97


def test_the_polynomial_is_that_of_the_formula():
    matrix = torch.diag(torch.tensor([0.8, 0.6]).double())  # its norm is 1 already
    x = matrix.diagonal()
    for _ in range(5):
        x = 3.4445 * x - 4.775 * x**3 + 2.0315 * x**5
    assert torch.allclose(orthogonalize(matrix[None], torch.float64)[0], torch.diag(x))


def test_steps_are_those_of_the_formula():
    weight = nn.Parameter(torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    expected, average = weight.detach().clone(), torch.zeros(6, 4, dtype=torch.float64)
    optimizer = Muon([{"params": [weight], "muon": True, "weight_decay": 0.3}], 0.02, dtype=torch.float64)
    for seed in range(4):
        weight.grad = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        average = 0.95 * average + weight.grad
        direction = orthogonalize((weight.grad + 0.95 * average)[None], torch.float64)[0]
        expected -= 0.02 * 0.3 * expected
        expected -= 0.02 * 0.2 * math.sqrt(6) * direction
        optimizer.step()
        assert torch.allclose(weight, expected, rtol=1e-12)


def test_a_step_is_that_of_pytorchs_own_muon():
    generator = torch.Generator().manual_seed(2)
    shapes = ((16, 16), (40, 16), (16, 40), (16, 16))
    weights = [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in weights]
    before = [weight.detach().clone() for weight in weights]
    own = Muon([{"params": weights, "muon": True, "weight_decay": 0.0}], 0.02, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, their in zip(weights, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            their.grad = mine.grad.clone()
        own.step()
        other.step()
    for mine, their, start in zip(weights, theirs, before, strict=True):
        # Both compute in bfloat16, in another order.
        assert (mine - their).norm() < 0.02 * (their - start).norm()


def test_it_trains_the_blocks_matrices_and_adamw_the_rest():
    optimizer = make_optimizer(fresh(), MUON)
    names = {
        (group["muon"], group["weight_decay"]): group["param_names"]
        for group in optimizer.state_dict()["param_groups"]
    }
    assert names.keys() == {(True, 0.1), (False, 0.1), (False, 0.0)}
    assert len(names[True, 0.1]) == 2 * 7 and all(name.startswith("blocks.") for name in names[True, 0.1])
    assert names[False, 0.1] == ["embedding.weight"]
    assert all("norm" in name for name in names[False, 0.0])


def test_what_isnt_the_blocks_matrices_takes_adamws_steps():
    ours, theirs = fresh(), fresh()
    config = replace(MUON, betas=(0.7, 0.8))
    optimizers = make_optimizer(ours, config), make_optimizer(theirs, replace(config, optimizer="adamw"))
    for seed in range(3):
        for name, weight in ours.named_parameters():  # the blocks' matrices get no gradient
            if name == "embedding.weight" or "norm" in name:
                weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
                theirs.get_parameter(name).grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, theirs.get_parameter(name)), name
        assert torch.equal(weight, fresh().get_parameter(name)) == (weight.grad is None)


def test_frozen_weights_are_left_out_and_a_model_without_others_is_refused():
    model = fresh()
    model.blocks[0].requires_grad_(False)
    optimizer = make_optimizer(model, MUON)
    names = [name for group in optimizer.state_dict()["param_groups"] for name in group["param_names"]]
    assert names and not any(name.startswith("blocks.0.") for name in names)
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        make_optimizer(model.requires_grad_(False), MUON)


def test_other_weights_than_matrices_are_refused():
    with pytest.raises(ValueError, match="Muon trains matrices"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "muon": True, "weight_decay": 0.0}], 0.1)


def test_a_damaged_average_is_refused(tmp_path):
    training = Training(fresh(), MUON)
    training.run(WINDOWS, until=2, progress=False)
    save_checkpoint(tmp_path / "run", training)
    name = "model/optimizer/blocks.0.attention.query.weight/momentum_buffer"
    tensors = load_file(tmp_path / "run")
    with safe_open(tmp_path / "run", "pt") as file:
        facts = file.metadata()
    tensors[name][0, 0] = math.nan
    save_file(tensors, tmp_path / "run", facts)
    with pytest.raises(ValueError, match="is damaged: what the optimizer keeps for blocks.0"):
        load_checkpoint(tmp_path / "run", Training(fresh(), MUON))


def test_the_plain_loop_computes_the_same_weights():
    plain, full = fresh(), fresh()
    train_plainly(plain, WINDOWS, MUON)
    history = Training(full, MUON).run(WINDOWS, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), full.parameters(), strict=True))
    assert history.losses[-1] < history.losses[0]


def test_a_run_resumes_bit_for_bit(tmp_path):
    whole, half, resumed = (Training(fresh(), MUON) for _ in range(3))
    whole.run(WINDOWS, progress=False)
    half.run(WINDOWS, until=4, progress=False)
    save_checkpoint(tmp_path / "run", half)
    load_checkpoint(tmp_path / "run", resumed)
    resumed.run(WINDOWS, progress=False)
    assert resumed.history == whole.history
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    )


def test_a_run_of_another_optimizer_is_refused(tmp_path):
    training = Training(fresh(), MUON)
    training.run(WINDOWS, until=2, progress=False)
    save_checkpoint(tmp_path / "run", training)
    with pytest.raises(ValueError, match="run of model"):
        load_checkpoint(tmp_path / "run", Training(fresh(), replace(MUON, optimizer="adamw")))


def test_with_the_linear_schedule_the_rate_rises_stays_and_falls():
    config = TrainConfig(steps=10, warmup=2, schedule="linear", decay=0.5, final=0.0)
    shares = [round(rate_share(step, config), 2) for step in range(10)]
    assert shares == [0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]
    assert rate_share(9, TrainConfig(steps=10, schedule="linear", decay=0.0)) == 1.0
