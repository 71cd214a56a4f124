"""Normalization: keeping the size of activations steady from layer to layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.checks import require, require_kind, require_size
from course_lib.model.config import ModelConfig


class LayerNorm(nn.Module):
    """Subtract each vector's mean, divide by its standard deviation, scale and shift each channel.

    (…, d_model) → the same shape (Ba et al. 2016). eps is added to the variance before its root is taken.
    bias=False leaves the shift out. Raises ValueError for a width or an eps that can't be.
    """

    def __init__(self, d_model: int, eps: float, bias: bool = True):
        super().__init__()
        _check_norm(d_model, eps)
        require_kind("bias", bias, bool)
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale each channel.

    (…, d_model) → the same shape (Zhang & Sennrich 2019, equation 4). Unlike layer normalization it subtracts
    no mean and adds no bias. Raises ValueError for a width or an eps that can't be.
    """

    def __init__(self, d_model: int, eps: float):
        super().__init__()
        _check_norm(d_model, eps)
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _check_norm(d_model: int, eps: float) -> None:
    require_size("d_model", d_model)
    require_kind("eps", eps, float)
    require(eps >= 0, f"eps is added to a mean square, so it can't be below 0; not {eps}")


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """Return the configuration's norm, (…, width) → the same shape. width: d_model by default."""
    width = config.d_model if width is None else width
    match config.norm:
        case "rms":
            return RMSNorm(width, config.norm_eps)
        case "layer":
            return LayerNorm(width, config.norm_eps, config.bias)
        case _:
            return nn.Identity()
