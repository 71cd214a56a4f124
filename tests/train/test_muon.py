"""Muon: equal to PyTorch's own, to the singular value decomposition, and to AdamW where AdamW trains."""

import math
from dataclasses import replace

import pytest
import torch
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


def test_a_step_is_that_of_pytorchs_own_muon():
    generator = torch.Generator().manual_seed(2)
    weights = [
        nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((16, 16), (40, 16), (16, 40))
    ]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in weights]
    own = Muon([{"params": weights, "muon": True, "weight_decay": 0.1}], 0.02, dtype=torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, their in zip(weights, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            their.grad = mine.grad.clone()
        own.step()
        other.step()
    for mine, their in zip(weights, theirs, strict=True):
        moved = 4 * 0.02 * 0.2 * math.sqrt(max(mine.shape))  # about the length of an entry's way
        assert (mine - their).abs().max() < 0.05 * moved  # both round to bfloat16, in another order


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


def test_what_isnt_the_blocks_matrices_takes_adamws_step():
    ours, theirs = fresh(), fresh()
    for name, weight in ours.named_parameters():  # the blocks' matrices get no gradient
        if name == "embedding.weight" or "norm" in name:
            weight.grad = torch.full_like(weight, 0.3)
            theirs.get_parameter(name).grad = weight.grad.clone()
    make_optimizer(ours, MUON).step()
    make_optimizer(theirs, TrainConfig(steps=8, learning_rate=1e-2)).step()
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, theirs.get_parameter(name)), name


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
