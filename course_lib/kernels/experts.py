"""A mixture of SwiGLU experts, from the router's choices to the sum, in five steps on the GPU.

    chosen ─ group_by_expert → order, starts
    x ─ grouped_matmul(gate), grouped_matmul(up), each reading x in that order ─ swiglu ─ grouped_matmul(down)
      ─ back in the tokens' order, weighted by the shares, each token's choices added up

`model.Experts` does the same expert by expert, which makes the processor wait once to learn how many tokens each has.
"""

import torch
from torch import Tensor

from course_lib.kernels.grouped_matmul import grouped_matmul
from course_lib.kernels.permute import group_by_expert
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Experts, SwiGLU


def mixture(
    x: Tensor, shares: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor, backend: str = "auto"
) -> Tensor:
    """Σ over a token's experts of share · down(silu(gate x) ⊙ up x), (tokens, d_model) → the same shape.

    shares, chosen: (tokens, n_active), as `model.route` gives them. gate, up: (experts, d_ff, d_model); down: (experts,
    d_model, d_ff). Differentiable in all but `chosen`. Errors: `grouped_matmul`, `group_by_expert`.
    """
    order, starts = group_by_expert(chosen, len(gate), backend)
    n_active = chosen.shape[1]
    hidden = swiglu(*(grouped_matmul(x, w, starts, order, n_active, backend) for w in (gate, up)), backend)
    done = grouped_matmul(hidden, down, starts, backend=backend)
    back = torch.empty_like(order)
    back[order.long()] = torch.arange(len(order), device=order.device, dtype=order.dtype)
    found = done[back.long()].view(*chosen.shape, -1)
    return (found * shares.to(found.dtype).unsqueeze(-1)).sum(1)


def stack_experts(experts: Experts) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up and down of all experts, one behind the other: (experts, d_ff, d_model) twice, (experts, d_model, d_ff).

    Gradients reach the experts' own weights. It copies them, at each call. Raises ValueError for other experts than SwiGLUs
    without biases.
    """
    if not all(isinstance(one, SwiGLU) and one.activation is SwiGLU.activation and one.down.bias is None for one in experts.experts):
        raise ValueError("only SwiGLU experts without biases can be stacked")
    return tuple(torch.stack([getattr(one, name).weight for one in experts.experts]) for name in ("gate", "up", "down"))
