"""GPTQ (Frantar et al. 2022): round column after column, and compensate each error in the later columns.

Rounding each weight to the nearest level minimizes the error of the weights. What matters is the error of the
layer's outputs,

    ‖(W − Ŵ) Xᵀ‖²          W: (rows, columns)     X: (samples, columns), inputs that the layer really receives

Inputs are correlated. If weight 3 was rounded up, and input 5 is large whenever input 3 is, then lowering
weight 5 a little compensates. The inverse of the Hessian H = Xᵀ X says by how much (the paper's equation 2):

    for each column i:     code_i  = nearest level to w_i
                           error_i = w_i − rounded w_i
                           w_j    −= error_i / U_ii · U_ij      for each later column j

    U: the upper Cholesky factor of H⁻¹

One Cholesky factor serves all columns (the paper's step 3).

Not handled: choosing the order of the columns (`act_order`), and processing the columns in blocks, which
makes it fast on a GPU.
"""

from functools import partial

import torch
from torch import Tensor, nn

from course_lib.model.checks import is_a, require
from course_lib.model.exchange import Exchange, exchange, require_composable
from course_lib.quantize.checks import require_tensors
from course_lib.quantize.layers import QuantizedLinear, linears
from course_lib.quantize.uniform import Uniform, UniformWeight, require_uniform


@torch.no_grad()
def gptq(weight: Tensor, inputs: Tensor, format: Uniform, damping: float = 0.01) -> UniformWeight:
    """Return the weight (rows, columns), rounded for inputs (samples, columns) like those given, and packed.

    The grids are those of `format.store`, computed before the first column is rounded; only the choice of the
    levels differs.

    damping: this fraction of the mean of H's diagonal is added to the diagonal, so that H can be inverted.

    Raises ValueError where the shapes don't fit, the inputs aren't finite, the damping is negative or too
    small to invert H, or `format.check` refuses the weight.
    """
    require_uniform(format)
    format.check(weight)
    _check_inputs(weight, inputs, damping)
    scale, minimum = format.grid(weight.float())  # (groups, 1) each
    group_size = weight.numel() // len(scale)
    # For each weight, (rows, columns) each.
    scales, minima = (x.double().expand(-1, group_size).reshape(weight.shape) for x in (scale, minimum))
    factor = _inverse_hessian_factor(inputs.double(), damping)  # (columns, columns)
    remaining = weight.to(torch.float64, copy=True)  # (rows, columns)
    codes = torch.empty_like(remaining)
    for i in range(weight.shape[1]):
        codes[:, i] = format.nearest(remaining[:, i], scales[:, i], minima[:, i])
        error = remaining[:, i] - (scales[:, i] * codes[:, i] + minima[:, i])  # (rows,)
        remaining[:, i + 1 :] -= torch.outer(error / factor[i, i], factor[i, i + 1 :])
    return UniformWeight(format, weight.shape, codes.view(-1, group_size), scale, minimum)


def _check_inputs(weight: Tensor, inputs: Tensor, damping: float) -> None:
    require_tensors(inputs=inputs)
    fit = inputs.dim() == 2 and weight.shape[1] == inputs.shape[1] and inputs.is_floating_point()
    require(
        fit and bool(inputs.isfinite().all()),
        f"weights {tuple(weight.shape)} need finite inputs (samples, {weight.shape[1]}), "
        f"not {tuple(inputs.shape)} of {inputs.dtype}",
    )
    require(
        is_a(damping, float) and damping >= 0,
        f"damping must be 0 or more, not {damping!r}",
    )


def _inverse_hessian_factor(inputs: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of H⁻¹, (columns, columns), for inputs (samples, columns).

    A column whose inputs are all 0 is rounded to the nearest level and changes no other column.
    """
    hessian = inputs.T @ inputs
    hessian.diagonal().add_(damping * hessian.diagonal().mean().clamp(min=1e-12))
    try:
        return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    except torch.linalg.LinAlgError:
        raise ValueError(
            f"the inputs are too much alike at damping={damping}: give a larger damping, or more inputs"
        ) from None


@torch.no_grad()
def gptq_linears(model: nn.Module, tokens: Tensor, format: Uniform) -> nn.Module:
    """Quantize the model's linear layers with GPTQ, in place, as `quantize_linears` does; return the model.

    tokens: the calibration text, (batch, time). The inputs of a layer are computed by the model whose earlier
    layers are quantized already, so the model runs once for each layer.

    Raises ValueError as `quantize_linears` does, for an encoder-decoder and for another format; the model is
    then unchanged.
    """
    require_uniform(format)
    require(
        not hasattr(model, "encoder"),
        "an encoder-decoder reads two texts, and there is one here: use quantize_linears",
    )
    require_composable(model, "quantized")
    done: list[Exchange] = []
    try:
        for name, layer in linears(model).items():
            stored = gptq(layer.weight, _layer_inputs(model, layer, tokens), format)
            done.append(exchange(model, {name: QuantizedLinear(stored, layer.bias)}))
    except BaseException:
        for change in reversed(done):
            change.undo()
        raise
    return model


def _layer_inputs(model: nn.Module, layer: nn.Module, tokens: Tensor) -> Tensor:
    """Run the model on tokens (batch, time) and return all inputs of one layer, (samples, columns)."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(partial(_append_input, inputs))
    try:
        model(tokens)
    finally:
        handle.remove()
    return torch.cat([x.flatten(0, -2) for x in inputs])


def _append_input(inputs: list[Tensor], layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    inputs.append(arguments[0])
