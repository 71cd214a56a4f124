"""Absmax quantization, on one page: round each weight to the nearest of evenly spaced levels around zero.

    scale = max |weight| / q           q = 2ᵇ⁻¹ − 1: 127 for 8 bits, 7 for 4 bits
    code  = round(weight / scale)      a whole number from −q to q
    weight ≈ scale · code              an error of half a scale at most

Each output channel, a row of the matrix, has its own scale (Dettmers et al. 2022, "LLM.int8()": absmax
quantization in section 2, a scale for each row in section 3.1). The other formats vary these three lines:
`uniform` and `blocks` change the range that a scale covers and may add a minimum, `nf4` changes the levels,
and `gptq` the choice of the code.

Not handled: rows of zeros, whose scale is 0; rows of very large weights, whose scale overflows in 16 bits;
storing a code in fewer than 8 bits. `uniform` handles zeros and few bits, and refuses weights that are too
large. In rows of very small weights (below about 1e-3 for 8 bits) the error can exceed half a scale, because
16 bits hold so small a scale with few digits; below about 4e-6 its digits are all 0, and so is the row.
`uniform` refuses to store such a row, unless it is next to nothing beside the others.
"""

import torch
from torch import Tensor

from course_lib.model.checks import plain
from course_lib.quantize.checks import require_bits, require_finite_matrix, require_rows


def absmax_quantize(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Return the codes of a weight (rows, columns), int8 of the same shape, and each row's scale, (rows, 1).

    >>> absmax_quantize(torch.tensor([[0.5, -1.3, 1.75, 0.6]]), bits=4)
    (tensor([[ 2, -5,  7,  2]], dtype=torch.int8), tensor([[0.2500]]))

    bits: 2 to 8. The scale is rounded to 16 bits, as it would be stored.

    Raises ValueError for other bits, and for what isn't a matrix of finite weights; TypeError for no tensor.
    """
    bits = plain(bits)
    require_finite_matrix(weight)
    require_bits(bits, least=2)
    largest_code = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True) / largest_code  # (rows, 1)
    scale = scale.half().float()  # stored in 16 bits, used in 32
    codes = (weight / scale).round().clamp(-largest_code, largest_code)  # (rows, columns)
    return codes.to(torch.int8), scale


def absmax_dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """Return the weights that the codes stand for, (rows, columns).

    >>> absmax_dequantize(*absmax_quantize(torch.tensor([[0.5, -1.3, 1.75, 0.6]]), bits=4))
    tensor([[ 0.5000, -1.2500,  1.7500,  0.5000]])

    Raises ValueError for codes and scales that `absmax_quantize` doesn't give.
    """
    require_rows(codes, scale)
    return scale * codes
