"""A mixture of SwiGLU experts, from the router's choices to the sum, in five steps on the GPU.

    chosen ─ group_by_expert → order, starts
    x ─ grouped_matmul(gate), grouped_matmul(up), each reading x in that order ─ swiglu ─ grouped_matmul(down)
      ─ back in the tokens' order, weighted by the shares, each token's choices added up

`model.Experts` does the same expert by expert, which makes the processor wait once to learn how many tokens each has.
"""

import torch
from torch import Tensor, nn

from course_lib.kernels.grouped_matmul import grouped_matmul
from course_lib.kernels.permute import group_by_expert
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Experts, SwiGLU


def mixture(
    x: Tensor, shares: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor, backend: str = "auto"
) -> Tensor:
    """Σ over a token's experts of share · down(silu(gate x) ⊙ up x), (tokens, d_model) → the same shape.

    shares, chosen: (tokens, n_active), as `model.route` gives them. gate, up: (experts, d_ff, d_model); down: (experts,
    d_model, d_ff). Differentiable in all but `chosen`. Raises ValueError for shapes that don't fit; other errors:
    `grouped_matmul`, `group_by_expert`.
    """
    if chosen.dim() != 2 or shares.shape != chosen.shape or len(chosen) != len(x):
        shapes = f"shares {tuple(shares.shape)} and chosen {tuple(chosen.shape)} for x {tuple(x.shape)}"
        raise ValueError(f"{shapes}: both must be (tokens, n_active)")
    order, starts = group_by_expert(chosen, len(gate), backend)
    n_active = chosen.shape[1]
    hidden = swiglu(*(grouped_matmul(x, w, starts, order, n_active, backend) for w in (gate, up)), backend)
    done = grouped_matmul(hidden, down, starts, backend=backend)
    found = torch.empty_like(done).index_copy_(0, order.long(), done).view(*chosen.shape, down.shape[1])
    return (found * shares.to(found.dtype).unsqueeze(-1)).sum(1)


def stackable(experts: Experts) -> bool:
    """Whether all experts are SwiGLUs of ordinary linear layers without biases: not quantized, and nothing attached to them."""
    swiglus = all(isinstance(one, SwiGLU) and one.activation is SwiGLU.activation for one in experts.experts)
    parts = [part for one in experts.experts for part in one.children()]
    return swiglus and all(isinstance(part, nn.Linear) and part.bias is None for part in parts)


def stack_experts(experts: Experts) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up and down of all experts, one behind the other: (experts, d_ff, d_model) twice, (experts, d_model, d_ff).

    Gradients reach the experts' own weights. It copies them, at each call. Raises ValueError for experts that aren't
    `stackable`.
    """
    if not stackable(experts):
        raise ValueError(
            "only SwiGLU experts without biases can be stacked, with nothing quantized or attached to them"
        )
    return tuple(
        torch.stack([getattr(one, name).weight for one in experts.experts]) for name in ("gate", "up", "down")
    )
