"""y = x Wᵀ with W in 4 or 8 bits: W's layout for the kernels, the choice of the kernel, and a layer.

    weight = prepare_weight(Q4_1.store(matrix)).to("cuda")
    y = quantized_matmul(x, weight)

`quantize` keeps the bits as they lie in files, with scales between the codes. On a GPU neighbouring threads
read neighbouring bytes, so here the codes, the scales and the minima are separate tensors.
"""

from operator import is_

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_floats, check_sizes
from course_lib.kernels.cost import Cost
from course_lib.kernels.int4_matmul import BLOCK_SIZE, int4_matmul, int4_matmul_cost
from course_lib.kernels.int8_matmul import int8_matmul, int8_matmul_cost
from course_lib.kernels.language import use_triton
from course_lib.model.checks import is_whole
from course_lib.quantize import QuantizedLinear, Stored, Uniform, nf4_levels
from course_lib.quantize.blocks import BlockWeight
from course_lib.quantize.nf4 import NF4Weight
from course_lib.quantize.uniform import UniformWeight


class PreparedWeight(Stored):
    """A quantized matrix W (d_out, d_in) in the layout that the kernels read.

        8 bits   codes · scale             codes (d_out, d_in) of int8, scale (d_out,)
        4 bits   codes · scale + minimum   codes (d_out, d_in / 2), scale and minimum (d_out, groups)
        NF4      levels[codes] · scale     codes (d_out, d_in / 2), levels (16,), scale (d_out · d_in / 64,)

    In 4 bits and NF4 a byte holds two codes. Raises ValueError for parts whose shapes don't fit.
    """

    def __init__(
        self, shape, codes: Tensor, scale: Tensor, minimum: Tensor | None = None, levels: Tensor | None = None
    ):
        super().__init__()
        _check_parts(shape, codes, scale, minimum, levels)
        self.shape = torch.Size(shape)
        parts = {"codes": codes, "scale": scale, "minimum": minimum, "levels": levels}
        for name, part in parts.items():
            self.register_buffer(name, None if part is None else part.contiguous())

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the dequantized weights, (d_out, d_in)."""
        if self.codes.dtype == torch.int8:
            return (self.codes * self.scale[:, None]).to(dtype)
        codes = self.codes.view(len(self.codes), -1, 1, 16)  # (d_out, blocks, 1, 16): two codes to a byte
        codes = torch.cat([codes & 15, codes >> 4], dim=2).flatten(1)  # (d_out, d_in)
        if self.levels is None:
            group = self.shape[1] // self.scale.shape[1]
            scale, minimum = (x.float().repeat_interleave(group, dim=1) for x in (self.scale, self.minimum))
            return (codes * scale + minimum).to(dtype)  # scale, minimum: (d_out, d_in)
        scale = self.scale.repeat_interleave(codes.numel() // len(self.scale)).view(codes.shape)
        return (self.levels[codes.int()] * scale).to(dtype)


def _check_parts(shape: tuple[int, int], codes: Tensor, scale: Tensor, minimum, levels) -> None:
    """Raise ValueError for parts of a `PreparedWeight` that don't fit each other."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2 or not all(map(is_whole, shape)):
        raise ValueError(f"shape must be the rows and columns of a matrix, not {shape!r}")
    parts = {"scale": scale, "minimum": minimum, "levels": levels}
    check_floats(**{name: part for name, part in parts.items() if part is not None})
    sizes = [None if x is None else tuple(x.shape) for x in parts.values()]
    rows, columns = map(int, shape)
    groups = scale.shape[-1] if minimum is not None and scale.dim() else 1
    if codes.dtype == torch.int8:
        fits = codes.shape == (rows, columns) and sizes == [(rows,), None, None]
    else:
        fits = (
            codes.shape == (rows, columns // 2) and columns % BLOCK_SIZE == 0 and codes.dtype == torch.uint8
        )
        affine, nf4 = [(rows, groups)] * 2 + [None], [(rows * columns // 64,), None, (16,)]
        fits = fits and (sizes == nf4 or (sizes == affine and groups > 0 and columns % groups == 0))
    if not fits:
        names = ", ".join(f"{name} {size}" for name, size in zip(parts, sizes, strict=True))
        raise ValueError(
            f"codes {tuple(codes.shape)} of {codes.dtype}, {names} don't make a matrix of {tuple(shape)}"
        )


def prepare_weight(stored: Stored) -> PreparedWeight:
    """Return a weight stored by `quantize` in the layout of the kernels.

    These formats have kernels: `Uniform` of 8 bits with one scale a row; `Uniform` of 4 bits with groups of
    whole rows or of a multiple of 32 columns; Q4_0; Q4_1; NF4, whose scales become float32 if they are
    quantized themselves. Raises ValueError for any other.
    """
    if isinstance(stored, UniformWeight):
        if stored.format == Uniform(bits=8):
            codes = (stored.codes().short() - 127).to(torch.int8)
            return PreparedWeight(stored.shape, codes.view(stored.shape), stored.scale.flatten().float())
        if stored.format.bits == 4 and stored.shape.numel() // len(stored.scale) % BLOCK_SIZE == 0:
            return _prepare_uniform(stored)
    if isinstance(stored, BlockWeight) and stored.format.int4_parts is not None:
        codes, scale, minimum = stored.int4_parts()
        return PreparedWeight(stored.shape, _two_a_byte(codes), scale.half(), minimum.half())
    if isinstance(stored, NF4Weight) and stored.shape[1] % BLOCK_SIZE == 0:
        codes = _two_a_byte(stored.codes().view(stored.shape))
        levels = nf4_levels().to(codes.device)
        return PreparedWeight(stored.shape, codes, stored.block_scales(), levels=levels)
    kind = type(stored).__name__
    raise ValueError(f"there is no kernel for {kind} of {tuple(stored.shape)} in this format")


def _prepare_uniform(stored: UniformWeight) -> PreparedWeight:
    """Return a 4-bit `Uniform` weight with a scale and a minimum, (d_out, groups) each.

    A symmetric format stores no minimum: it is −zero_code · scale. It is kept in 32
    bits, so that it isn't rounded. Raises ValueError for one scale a matrix.
    """
    d_out, group = stored.shape[0], stored.shape.numel() // len(stored.scale)
    if group > stored.shape[1]:
        groups = f"group by channel, or by a multiple of {BLOCK_SIZE} columns"
        raise ValueError(f"there is no kernel for one scale a matrix: {groups}")
    minimum = -stored.format.zero_code * stored.scale.float() if stored.minimum is None else stored.minimum
    codes = _two_a_byte(stored.codes().view(stored.shape))
    return PreparedWeight(stored.shape, codes, stored.scale.view(d_out, -1), minimum.view(d_out, -1))


def _two_a_byte(codes: Tensor) -> Tensor:
    """Return codes (d_out, d_in) as bytes (d_out, d_in / 2).

    The first 16 of each 32 codes are the low halves of 16 bytes, and the last 16 are their high halves.
    """
    low, high = codes.to(torch.uint8).view(len(codes), -1, 2, 16).unbind(2)  # (d_out, blocks, 16) each
    return (low | high << 4).flatten(1)


def quantized_matmul(x: Tensor, weight: PreparedWeight, backend: str = "auto") -> Tensor:
    """Return x Wᵀ, (…, d_in) → (…, d_out), summed in 32 bits and rounded to x's dtype.

    Differentiable in x: in backward, PyTorch multiplies by the dequantized weights, as in
    `quantize.QuantizedLinear`. Raises ValueError for a width that isn't the weight's; for other errors see
    `use_triton`.
    """
    if not x.dim() or x.shape[-1] != weight.shape[1]:
        shapes = f"x {tuple(x.shape)} doesn't fit a weight of {tuple(weight.shape)}"
        raise ValueError(f"{shapes}: {weight.shape[1]} are wanted")
    check_floats(x=x)
    many_tokens = x.numel() > x.shape[-1]
    if not use_triton(backend, x, weight.scale, products=many_tokens) or not x.numel():
        return F.linear(x, weight.weight(x.dtype))
    return _QuantizedProduct.apply(x, weight)


def quantized_matmul_cost(tokens: int, weight: PreparedWeight, bytes_each: int) -> Cost:
    """Return the cost of the kernel that `quantized_matmul` launches. bytes_each: of an element of x."""
    (tokens,) = check_sizes(tokens=tokens)
    bytes_each = check_bytes(bytes_each)
    if weight.codes.dtype == torch.int8:
        return int8_matmul_cost(tokens, *weight.shape, bytes_each)
    scale_bytes = weight.scale.itemsize + (0 if weight.minimum is None else weight.minimum.itemsize)
    return int4_matmul_cost(tokens, *weight.shape, bytes_each, weight.levels is not None, scale_bytes)


class _QuantizedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: PreparedWeight) -> Tensor:
        ctx.weight = weight
        tokens = x.reshape(-1, x.shape[-1])  # (tokens, d_in)
        tokens = tokens if tokens.stride(1) == 1 else tokens.contiguous()
        if weight.codes.dtype == torch.int8:
            y = int8_matmul(tokens, weight.codes, weight.scale)
        else:
            y = int4_matmul(tokens, weight.codes, weight.scale, weight.minimum, weight.levels)
        return y.view(*x.shape[:-1], y.shape[-1])  # (…, d_out)

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, None]:
        return grad_y @ ctx.weight.weight(grad_y.dtype), None


class KernelLinear(QuantizedLinear):
    """A `QuantizedLinear` that dequantizes its weight inside the product.

    backend: as in `use_triton`. Formats without a kernel compute as in `QuantizedLinear`. The weight in the
    layout of the kernels is kept beside the stored one, so that on a GPU both take memory.
    """

    kind = "kernels"
    backend: str = "auto"

    def forward(self, x: Tensor) -> Tensor:
        weight = self._prepared_weight()
        many_tokens = x.numel() > x.shape[-1]
        if weight is None or not use_triton(self.backend, x, weight.scale, products=many_tokens):
            return super().forward(x)
        y = quantized_matmul(x, weight, self.backend)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _prepared_weight(self) -> PreparedWeight | None:
        """Return the weight for the kernels, prepared at its first use, and anew when what is stored changes.

        None where PyTorch computes, or where the format has no kernel.
        """
        buffers = tuple(self.stored.buffers())
        device = buffers[0].device
        if self.backend == "torch" or (self.backend == "auto" and device.type != "cuda"):
            return None
        # The cache is a plain attribute and not a buffer, so that it is not part of the model's state.
        # PyTorch counts what is written into a tensor as its versions, unless it is made in inference mode.
        versions = [0 if buffer.is_inference() else buffer._version for buffer in buffers]
        cached = vars(self).get("prepared")
        if cached is None or cached[1] != versions or not all(map(is_, cached[0], buffers)):
            try:
                weight = prepare_weight(self.stored)
            except ValueError:
                weight = None
            cached = vars(self)["prepared"] = buffers, versions, weight
        return cached[2]

    def _load_from_state_dict(self, *args) -> None:
        vars(self).pop("prepared", None)  # it was prepared from the old weights
        super()._load_from_state_dict(*args)
