"""From gradients to a step: the optimizers and the schedule of the learning rate.

AdamW (Loshchilov & Hutter 2019; Kingma & Ba 2015): for a weight w, with its gradient g, at step t = 1, 2, …

    m ← β₁ m + (1 − β₁) g           moving average of the gradient
    v ← β₂ v + (1 − β₂) g²          moving average of its square
    w ← w − η λ w                   weight decay, decoupled from the gradient: the W in AdamW
    w ← w − η (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
"""

import math

import torch
from torch import nn

from course_lib.model import fast_dtype
from course_lib.train.checks import check_number, check_share, own_whole
from course_lib.train.config import TrainConfig
from course_lib.train.muon import Muon


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the configuration names, over the model's trainable parameters.

    Raises ValueError when every parameter is frozen.
    """
    return (adamw if config.optimizer == "adamw" else muon)(model, config)


def muon(model: nn.Module, config: TrainConfig) -> Muon:
    """Return Muon over the matrices of the blocks (a mixture's routers too), and AdamW over the rest.

    With the precision "auto" Muon orthogonalizes in bfloat16 where the processor computes it fast. Raises
    ValueError when every parameter is frozen.
    """
    hidden = {
        id(layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and "blocks" in name.split(".")
    }
    groups, fused = [], next(model.parameters()).device.type in ("cpu", "cuda")
    for group in _trainable_groups(model, config):
        for is_hidden in (True, False):
            chosen = [
                (name, weight) for name, weight in group["params"] if (id(weight) in hidden) == is_hidden
            ]
            if chosen:
                kind = {"muon": is_hidden, "fused": fused and not is_hidden}
                groups.append({**group, "params": chosen, **kind})
    return Muon(groups, config.learning_rate, tuple(map(float, config.betas)), dtype=_dtype(model, config))


def _dtype(model: nn.Module, config: TrainConfig) -> torch.dtype:
    """Return the dtype in which Muon orthogonalizes."""
    if config.precision == "auto":
        return fast_dtype(next(model.parameters()).device)
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return PyTorch's AdamW over the model's trainable parameters.

    On a CPU or an NVIDIA GPU one fused kernel updates all of them. Raises ValueError when every parameter is
    frozen.
    """
    groups = _trainable_groups(model, config)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    betas = tuple(map(float, config.betas))
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused)


def _trainable_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    groups = parameter_groups(model, config.weight_decay)
    if not groups:
        raise ValueError("no parameter of the model is trainable: unfreeze some with requires_grad_(True)")
    return groups


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return trainable parameters in two groups: matrices, which decay, and vectors, which don't.

    The number of dimensions decides, so that a new layer needs no list of names here. One-dimensional
    parameters are the weights of norms, and biases. Two or more dimensions decay. The embedding does so as in
    nanoGPT: tied, it is also the output layer. The learned vectors of prompt and prefix tuning (`peft`) decay
    too, because they are rows of tensors with two and three dimensions. A group without parameters is left
    out. Raises ValueError for a weight decay that isn't a number from 0 on.
    """
    check_number("weight_decay", weight_decay, 0)
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [(name, weight) for name, weight in trainable if weight.dim() >= 2]
    vectors = [(name, weight) for name, weight in trainable if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def rate_share(step: int, config: TrainConfig) -> float:
    """Return the share of the highest learning rate that `step`, counted from 0, uses.

    With the schedule "cosine" it is that of `warmup_cosine`. With "linear" it is the smaller one of two: a
    line that reaches 1 at the last of `warmup` steps, and one that falls from 1 to `final` in the last
    `decay` of the run (the "linear cooldown" of Hägele et al. 2024).
    """
    if config.schedule == "cosine":
        return warmup_cosine(step, config.steps, config.warmup, config.final)
    step = own_whole("step", step, 0)
    falling = config.decay * config.steps  # steps
    left = max(0, config.steps - step - 1)
    fallen = max(0.0, falling - left) / falling if falling else 0.0
    return min((step + 1) / max(1, config.warmup), 1 - (1 - config.final) * fallen)


def warmup_cosine(step: int, steps: int, warmup: int = 0, final: float = 0.1) -> float:
    """Return the share of the highest learning rate that `step`, counted from 0, uses.

    The share grows linearly to 1 at the last of `warmup` steps, then falls along half a cosine to `final` at
    the last of `steps`. Where `warmup` equals `steps`, the run ends at 1, and `final` is never reached. The
    current step is counted as done: the first one uses 1 / warmup of the rate. In `transformers` it isn't
    counted yet, so that the same schedule comes one step later, and the first step, at rate 0, changes
    nothing. Raises ValueError for numbers that no run has.

    >>> [round(warmup_cosine(step, steps=8, warmup=4, final=0.0), 2) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    steps, warmup = own_whole("steps", steps, 1), own_whole("warmup", warmup, 0)
    check_share(final)
    done = own_whole("step", step, 0) + 1
    if done <= warmup:
        return done / warmup
    progress = min(1.0, (done - warmup) / max(1, steps - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
