"""A mixture of SwiGLU experts: y = Σ over a token's experts e of p_e · down_e(silu(gate_e x) ⊙ up_e x).

p_e is the router weight of expert e: the router's probability for it, which `model.route` returns.

    chosen (tokens, n_active)
      → group_by_expert                      order, starts: the choices, sorted by expert
      → grouped_matmul of x, gate and of x, up       (choices, d_ff), reading the rows of x in that order
      → swiglu                               (choices, d_ff)
      → grouped_matmul with down             (choices, d_model)
      → back in the tokens' order, times the router weights, summed over each token's experts

The result is (tokens, d_model). `model.Experts` computes the same expert by expert, and synchronizes the CPU
with the GPU once, to read all the counts of tokens.
"""

import torch
from torch import Tensor, nn

from course_lib.kernels.grouped_matmul import grouped_matmul
from course_lib.kernels.permute import group_by_expert
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Experts, SwiGLU


def mixture(
    x: Tensor, router_weights: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Return Σ over a token's experts of p · down(silu(gate x) ⊙ up x), (tokens, d_model) as x.

    router_weights, chosen: (tokens, n_active), the result of `model.route`.
    gate, up: (experts, d_ff, d_model). down: (experts, d_model, d_ff). Differentiable in all but `chosen`.
    Raises ValueError for shapes that don't fit; for other errors see `grouped_matmul` and `group_by_expert`.
    """
    if chosen.dim() != 2 or router_weights.shape != chosen.shape or len(chosen) != len(x):
        shapes = f"router_weights {tuple(router_weights.shape)} and chosen {tuple(chosen.shape)}"
        raise ValueError(f"{shapes} for x {tuple(x.shape)}: both must be (tokens, n_active)")
    order, starts = group_by_expert(chosen, len(gate), backend)
    n_active = chosen.shape[1]
    gate_and_up = (grouped_matmul(x, weight, starts, order, n_active, backend) for weight in (gate, up))
    hidden = swiglu(*gate_and_up, backend)  # (tokens · n_active, d_ff), expert after expert
    by_expert = grouped_matmul(hidden, down, starts, backend=backend)  # (tokens · n_active, d_model)
    by_token = torch.empty_like(by_expert).index_copy_(0, order.long(), by_expert)
    by_token = by_token.view(*chosen.shape, down.shape[1])  # (tokens, n_active, d_model)
    return (by_token * router_weights.to(by_token.dtype).unsqueeze(-1)).sum(1)


def stackable(experts: Experts) -> bool:
    """Return whether all experts are SwiGLUs of plain linear layers: no biases, quantization or adapters."""
    swiglus = all(isinstance(e, SwiGLU) and e.activation is SwiGLU.activation for e in experts.experts)
    layers = [layer for expert in experts.experts for layer in expert.children()]
    return swiglus and all(isinstance(layer, nn.Linear) and layer.bias is None for layer in layers)


def stack_experts(experts: Experts) -> tuple[Tensor, Tensor, Tensor]:
    """Return gate, up (experts, d_ff, d_model) and down (experts, d_model, d_ff) of all experts.

    Each call copies the weights; gradients reach the experts' own. Raises ValueError for experts that aren't
    `stackable`.
    """
    if not stackable(experts):
        raise ValueError(
            "only SwiGLU experts without biases can be stacked, with nothing quantized or attached to them"
        )
    return tuple(
        torch.stack([getattr(expert, name).weight for expert in experts.experts])
        for name in ("gate", "up", "down")
    )
