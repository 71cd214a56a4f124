"""What each token does alone, after it has listened to the others."""

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.trace import note


class SwiGLU(nn.Module):
    """down(silu(gate x) ⊙ up x), (…, d_model) → (…, d_model) through d_ff channels (Shazeer 2020, section 2)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, trace=None) -> Tensor:
        gate, up = self.project(x)
        hidden = note(trace, "hidden", F.silu(gate) * up)
        return note(trace, "output", self.down(hidden))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gate(x), self.up(x)
