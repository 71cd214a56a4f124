"""Training: the course's loop beside the plainest one, and its Muon beside PyTorch's."""

from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import partial
from io import StringIO

import torch
import torch.nn.functional as F

from benchmarks.measure import profile, race, seconds
from benchmarks.report import Row, comparison
from course_lib.model import Decoder, ModelConfig
from course_lib.train import TrainConfig, Training, Windows
from course_lib.train.minute.recipe import MODEL
from course_lib.train.muon import Muon

CONFIG = ModelConfig(
    vocab_size=512, d_model=128, n_layers=2, n_heads=4, n_kv_heads=4, d_head=32, d_ff=384, context=128
)
BATCH, TIME, STEPS = 16, 128, 8
DIALS = TrainConfig(steps=10_000, warmup=10)


def fresh() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG)


def batches() -> Windows:
    ids = torch.randint(CONFIG.vocab_size, (100_000,), generator=torch.Generator().manual_seed(0))
    return Windows(ids, TIME, BATCH)


def plain_loop(model: Decoder, optimizer: torch.optim.Optimizer, windows: Windows) -> None:
    """Train for STEPS steps as in PyTorch's tutorials: no schedule, clipping, checks or progress."""
    for step in range(STEPS):
        tokens, targets = windows(step)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def course_loop(training: Training, windows: Windows) -> None:
    """Train for STEPS steps with all that the course's loop does, a hidden progress bar included."""
    with redirect_stderr(StringIO()):
        training.run(windows, until=training.step + STEPS)


def steps(optimizer: torch.optim.Optimizer) -> None:
    """Take STEPS steps, all with the gradients that the weights have."""
    for _ in range(STEPS):
        optimizer.step()


def matrices_with_gradients() -> list[torch.nn.Parameter]:
    """Return the matrices of the blocks of the small model of the world, with random gradients."""
    torch.manual_seed(0)
    matrices = [weight for weight in Decoder(MODEL).blocks.parameters() if weight.dim() == 2]
    for weight in matrices:
        weight.grad = torch.randn_like(weight)
    return matrices


def measure_muon(rounds: int) -> Iterator[Row]:
    """Compare steps of Muon on the matrices alone. PyTorch's computes in bfloat16 always."""
    weights = matrices_with_gradients()
    group = {"params": weights, "muon": True, "weight_decay": 0.1}
    optimizers = {
        "ours, fp32": Muon([group], lr=1e-3),
        "ours, bf16": Muon([group], lr=1e-3, dtype=torch.bfloat16),
        "torch.optim.Muon": torch.optim.Muon(weights, lr=1e-3, adjust_lr_fn="match_rms_adamw"),
    }
    contestants = {name: partial(seconds, steps, each) for name, each in optimizers.items()}
    times = race(contestants, rounds)
    for name, goal in (("fp32", 1.0), ("bf16", 2.0)):
        why = partial(profile, partial(steps, optimizers[f"ours, {name}"]))
        what = f"step of Muon, {len(weights)} matrices of 128 rows or columns, {name}"
        theirs = "torch.optim.Muon"
        yield comparison(what, times[f"ours, {name}"], theirs, times[theirs], goal, why, STEPS, "steps/s")


def measure(rounds: int) -> Iterator[Row]:
    yield from measure_loop(rounds)
    yield from measure_muon(rounds)


def measure_loop(rounds: int) -> Iterator[Row]:
    training, windows = Training(fresh(), DIALS), batches()
    ours = partial(course_loop, training, windows)
    contestants = {"ours": partial(seconds, ours)}
    for name, fused in (("plainest loop", None), ("plainest loop, fused AdamW", True)):
        model = fresh()
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        contestants[name] = partial(seconds, plain_loop, model, optimizer, windows)
    times = race(contestants, rounds)
    what = f"train {sum(map(torch.numel, training.weights)) / 1e6:.1f}M parameters, {BATCH}×{TIME}"
    # Clipping, which the plainest loop does without, takes about a hundredth of the time.
    for name, goal in (("plainest loop", 1.0), ("plainest loop, fused AdamW", 0.98)):
        why = partial(profile, ours)
        yield comparison(what, times["ours"], name, times[name], goal, why, STEPS * BATCH * TIME, "tokens/s")
