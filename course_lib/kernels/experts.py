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

from course_lib.kernels.expert_checks import check_mixture
from course_lib.kernels.grouped_matmul import multiply_groups
from course_lib.kernels.language import in_product_dtype
from course_lib.kernels.permute import group_by_expert
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Experts, SwiGLU


def mixture(
    x: Tensor, router_weights: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    backend: str = "auto", check: bool = False,
) -> Tensor:  # fmt: skip
    """Return Σ over a token's experts of p · down(silu(gate x) ⊙ up x), (tokens, d_model) as x.

    router_weights, chosen: (tokens, n_active), the result of `model.route`.
    gate, up: (experts, d_ff, d_model). down: (experts, d_model, d_ff). Differentiable in all but `chosen`.
    check: on a GPU too, check the experts' ids; on a CPU they always are.
    Raises ValueError for shapes that don't fit; for other errors see `grouped_matmul` and `group_by_expert`.
    """
    x, gate, up, down = in_product_dtype(x, gate, up, down)
    check_mixture(x, router_weights, chosen, gate, up, down)
    order, starts = group_by_expert(chosen, len(gate), backend, check)
    n_active = chosen.shape[1]
    gate_and_up = (multiply_groups(x, weight, starts, order, n_active, backend) for weight in (gate, up))
    hidden = swiglu(*gate_and_up, backend)  # (tokens · n_active, d_ff), expert after expert
    by_expert = multiply_groups(hidden, down, starts, None, 1, backend)  # (tokens · n_active, d_model)
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
