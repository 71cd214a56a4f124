"""Muon: steps that are equally long in all directions (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

For a matrix W of the blocks, with its gradient G:

    M ← μ M + G                         momentum, μ = 0.95
    O ← orthogonalize(G + μ M)          Nesterov's momentum, U S Vᵀ, becomes about U Vᵀ
    W ← W − η λ W                       weight decay, as in AdamW
    W ← W − η 0.2 √max(rows, columns) O

A gradient's largest singular values are many times its smallest, so that a plain step moves W along a few
directions only. The factor gives a step about the length of AdamW's (Liu et al. 2025, section 2.2), so that
both share one learning rate. AdamW trains the rest: embedding, head, norms and biases.

`torch.optim.Muon` computes the same with adjust_lr_fn="match_rms_adamw", one matrix after another and always
in bfloat16. Here matrices of one shape are orthogonalized together. For the small model of the world that is
twice as fast in bfloat16, and as fast in float32 (`benchmarks/training.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step

COEFFICIENTS = 3.4445, -4.775, 2.0315  # of x ← a x + b x³ + c x⁵, which takes (0, 1] to near 1 in few rounds
ROUNDS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return about U Vᵀ for each matrix U S Vᵀ, (n, rows, columns), by five rounds of Newton–Schulz.

    Each round applies an odd polynomial to the singular values, with matrix products alone. All but the very
    small ones end between 0.7 and 1.2. More rounds wouldn't bring them to 1: the coefficients are chosen to
    lift small values fast.

    dtype: in which the products are computed. The result is in the matrices' own.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # the largest singular value is at most 1
    for _ in range(ROUNDS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b (X Xᵀ) + c (X Xᵀ)²
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a X + b (X Xᵀ) X + c (X Xᵀ)² X
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for groups of matrices with "muon" true, and AdamW for the others.

    groups: as PyTorch's optimizers take them, each with "muon" and "weight_decay". Those of AdamW may have
        "fused": whether one kernel updates all their weights.
    betas: AdamW's. Muon's momentum is the first of `momentum`.
    dtype: in which matrices are orthogonalized.
    """

    def __init__(
        self,
        groups: Iterable[Mapping],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype
        super().__init__(groups, {"lr": lr, "betas": betas, "momentum": momentum, "fused": False})
        for group in self.param_groups:
            if group["muon"] and any(weight.dim() != 2 for weight in group["params"]):
                raise ValueError("Muon trains matrices: give weights of other dimensions to AdamW's groups")

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            (self._muon_step if group["muon"] else self._adamw_step)(weights, group)

    def _muon_step(self, weights: list[nn.Parameter], group: dict) -> None:
        kinds = defaultdict(list)
        for weight in weights:
            kinds[weight.shape, weight.dtype, weight.device].append(weight)
        for (shape, _, _), alike in kinds.items():
            averages = [self._average(weight) for weight in alike]
            gradients = torch.stack([weight.grad for weight in alike])  # (n, rows, columns)
            torch._foreach_mul_(averages, group["momentum"])
            torch._foreach_add_(averages, list(gradients))
            ahead = gradients.add(torch.stack(averages), alpha=group["momentum"])  # Nesterov's momentum
            steps = orthogonalize(ahead, self.dtype)
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(alike, list(steps), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _average(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]

    def _adamw_step(self, weights: list[nn.Parameter], group: dict) -> None:
        for weight in weights:
            if not self.state[weight]:
                averages = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
                step = torch.zeros((), device=weight.device if group["fused"] else None)
                self.state[weight] = {"step": step, **averages}
        states = [self.state[weight] for weight in weights]
        adamw_step(
            weights,
            [weight.grad for weight in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
