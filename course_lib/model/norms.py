"""Keeping the size of activations steady."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale each channel (Zhang & Sennrich 2019, equation 4).

    (…, d_model) → (…, d_model). Unlike layer normalization it subtracts no mean and adds no bias.
    """

    def __init__(self, d_model: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
