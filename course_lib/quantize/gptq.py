"""Rounding one column after another, while the columns not yet rounded make good the error (Frantar et al. 2022, "GPTQ").

Rounding each weight to the nearest minimizes the error of the weights. What matters is the error of the outputs, ‖(W − Ŵ) Xᵀ‖²,
for inputs X as they really come. Inputs are correlated: if weight 3 was rounded up, and input 5 is large whenever input 3 is, weight
5 can be lowered a little. How much, says the inverse of H = Xᵀ X (their equation 2); its Cholesky factor holds all that is needed for
all columns at once (their step 3).

Not handled: choosing the order of columns, and the blocks of columns that make it fast on a GPU.
"""

from functools import partial

import torch
from torch import Tensor, nn

from course_lib.model.exchange import Exchange, exchange, require_composable
from course_lib.quantize.layers import QuantizedLinear, linears, require_finite
from course_lib.quantize.uniform import Uniform, UniformWeight


@torch.no_grad()
def gptq(weight: Tensor, inputs: Tensor, format: Uniform, damping: float = 0.01) -> UniformWeight:
    """Store weight (rows, columns), given inputs (samples, columns) such as it meets.

    The grids are those of `format.store`, fixed beforehand; only which level a weight gets is decided otherwise. damping: this part of
    the mean of H's diagonal is added to it, so that H can be inverted. Raises ValueError where shapes don't fit or numbers aren't finite.
    """
    require_finite(weight)
    if inputs.dim() != 2 or weight.shape[1] != inputs.shape[1] or not inputs.isfinite().all():
        raise ValueError(
            f"weights {tuple(weight.shape)} need finite inputs (samples, {weight.shape[1]}), not {tuple(inputs.shape)}"
        )
    codes, scale, minimum = format.codes(weight.float())
    steps, start = (x.double().expand(codes.shape).reshape(weight.shape) for x in (scale, minimum))
    factor = _inverse_factor(inputs.double(), damping)
    left, chosen = weight.to(torch.float64, copy=True), torch.empty_like(weight, dtype=torch.float64)
    for i in range(weight.shape[1]):
        chosen[:, i] = format.nearest(left[:, i], steps[:, i], start[:, i])
        error = left[:, i] - (steps[:, i] * chosen[:, i] + start[:, i])
        left[:, i + 1 :] -= torch.outer(error / factor[i, i], factor[i, i + 1 :])
    return UniformWeight(format, weight.shape, chosen.view(codes.shape), scale, minimum)


def _inverse_factor(inputs: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of H⁻¹, (columns, columns). A column that never meets an input other than 0 counts for nothing."""
    hessian = inputs.T @ inputs
    hessian.diagonal().add_(damping * hessian.diagonal().mean().clamp(min=1e-12))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


@torch.no_grad()
def gptq_linears(model: nn.Module, tokens: Tensor, format: Uniform) -> nn.Module:
    """`quantize_linears` with GPTQ: each layer's inputs are those that the model, rounded up to there, has for `tokens` (batch, time).

    In place, and returned. One run of the model for each layer. Raises ValueError as `quantize_linears` does; the model is then as it was.
    """
    require_composable(model, "quantized")
    done: list[Exchange] = []
    try:
        for name, layer in linears(model).items():
            stored = gptq(layer.weight, _inputs(model, layer, tokens), format)
            done.append(exchange(model, {name: QuantizedLinear(stored, layer.bias)}))
    except BaseException:
        for change in reversed(done):
            change.undo()
        raise
    return model


def _inputs(model: nn.Module, layer: nn.Module, tokens: Tensor) -> Tensor:
    """(samples, columns) of what the layer is given."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(partial(_keep, seen))
    try:
        model(tokens)
    finally:
        hook.remove()
    return torch.cat([x.flatten(0, -2) for x in seen])


def _keep(seen: list[Tensor], layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    seen.append(arguments[0])
