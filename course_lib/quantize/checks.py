"""What the formats refuse, each with a message that says what to do."""

import reprlib

import torch
from torch import Tensor

from course_lib.model.checks import is_whole, require

# A weight that is lost counts if it is larger than this share of its matrix's largest.
NEGLIGIBLE = 1e-3
TOO_LARGE = "the weights are too large for scales of 16 bits (above 65,504)"


def require_tensors(**tensors: Tensor) -> None:
    """Raise TypeError, naming the argument, for what isn't a tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, as torch.tensor(…) makes one, not {reprlib.repr(tensor)}"
            )


def require_matrix(weight: Tensor) -> None:
    """Raise ValueError unless the weight is a matrix (rows, columns) of floating-point numbers."""
    require_tensors(weight=weight)
    require(
        weight.dim() == 2 and weight.numel() > 0 and weight.is_floating_point(),
        f"only matrices are quantized, not a tensor of shape {tuple(weight.shape)} and {weight.dtype}",
    )


def require_two_dims(weight: Tensor) -> None:
    """Raise ValueError for a tensor that isn't (rows, columns), TypeError for what is no tensor."""
    require_tensors(weight=weight)
    if weight.dim() != 2:
        raise ValueError(f"a weight has rows and columns, not the shape {tuple(weight.shape)}")


def require_format(format: object) -> None:
    """Raise ValueError for what can't store a weight, such as the class of a format instead of an object."""
    stores = not isinstance(format, type) and callable(getattr(format, "store", None))
    require(stores, f"give a format, such as NF4() or Uniform(bits=4), not {reprlib.repr(format)}")


def require_finite_matrix(weight: Tensor) -> None:
    """Raise ValueError unless the weight is a matrix (rows, columns) of finite values."""
    require_matrix(weight)
    require(
        not weight.is_meta, "the weights are on the meta device, where nothing has a value: load them first"
    )
    require(
        bool(weight.isfinite().all()),
        "the weights hold NaN or ∞, which have no place on a grid: look for what went wrong in training",
    )


def require_scales(groups: Tensor, scale: Tensor, minimum: Tensor | float = 0.0) -> None:
    """Raise ValueError for groups of weights (groups, size) that are too large or too small for their scales.

    scale, minimum: (groups, 1), as 16 bits hold them. A scale that is too large is infinite. One that is too
    small is 0, and makes every weight of its group the minimum. That is right where they are equal, and does
    no harm where they are next to nothing beside the rest of the matrix.
    """
    finite = bool(scale.isfinite().all()) and bool(torch.as_tensor(minimum).isfinite().all())
    require(finite, TOO_LARGE)
    if (scale != 0).all():
        return
    lost = (groups - minimum).abs()[scale.flatten() == 0]
    require(
        not (lost > NEGLIGIBLE * groups.abs().max()).any(),
        "the weights are too small for scales of 16 bits: some would become 0, or all alike. Store them in "
        "NF4, whose scales have 32 bits, or leave this matrix as it is",
    )


def require_rows(codes: Tensor, scale: Tensor) -> None:
    """Raise ValueError unless the codes (rows, columns) are int8, and the scales (rows, 1) are floats."""
    require_tensors(codes=codes, scale=scale)
    fit = codes.dtype == torch.int8 and codes.dim() == 2 and scale.shape == (len(codes), 1)
    require(
        fit and scale.is_floating_point(),
        f"give codes (rows, columns) of int8 and scales (rows, 1), not {tuple(codes.shape)} of "
        f"{codes.dtype} and {tuple(scale.shape)} of {scale.dtype}",
    )


def require_bits(bits: int, least: int = 1) -> None:
    """Raise ValueError unless a code has a whole number of bits, up to 8."""
    require(
        is_whole(bits, least, 8),
        f"bits must be a whole number from {least} to 8, not {bits!r}",
    )


def require_codes(codes: Tensor, bits: int) -> None:
    """Raise ValueError unless the codes are whole numbers that fit into so many bits."""
    require_tensors(codes=codes)
    require_bits(bits)
    codes = codes if codes.is_floating_point() else codes.long()
    fit = codes.numel() == 0 or bool((codes.min() >= 0) & (codes.max() < 2**bits))
    require(
        fit and bool((codes == codes.round()).all()),
        f"codes of {bits} bits are whole numbers from 0 to {2**bits - 1}; these aren't",
    )


def require_packed(packed: Tensor, bits: int, count: int) -> None:
    """Raise ValueError unless so many codes of so many bits can be read from the bytes."""
    require_tensors(packed=packed)
    require_bits(bits)
    bytes_given = packed.dtype == torch.uint8 and packed.dim() == 1
    require(
        bytes_given and is_whole(count, 0, 8 * packed.numel() // int(bits)),
        f"{count!r} codes of {bits} bits can't be read from {tuple(packed.shape)} of {packed.dtype}: "
        "give a row of enough bytes (uint8)",
    )


def require_bias(bias: Tensor | None, rows: int) -> None:
    """Raise ValueError unless there is a number for each row, or no bias at all."""
    given = tuple(bias.shape) if isinstance(bias, Tensor) else reprlib.repr(bias)
    if bias is not None and given != (rows,):
        raise ValueError(f"a bias for {rows} rows has the shape ({rows},), not {given}")
