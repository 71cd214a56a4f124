"""Products with weights of 4 and 8 bits, whatever the format: laying the bits out, choosing the kernel, and a layer.

    weight = prepare_weight(Q4_1.store(matrix)).to("cuda")
    y = quantized_matmul(x, weight)

The bits of `quantize` lie as files have them, scales among the codes. A GPU reads neighbouring bytes by neighbouring threads, so
here codes, scales and minima have tensors of their own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.cost import Cost
from course_lib.kernels.int4_matmul import GRID_BLOCK, int4_matmul, int4_matmul_cost
from course_lib.kernels.int8_matmul import int8_matmul, int8_matmul_cost
from course_lib.kernels.language import use_triton
from course_lib.quantize import QuantizedLinear, Stored, Uniform, nf4_levels
from course_lib.quantize.blocks import BlockWeight
from course_lib.quantize.nf4 import NF4Weight
from course_lib.quantize.uniform import UniformWeight


class PreparedWeight(Stored):
    """A stored matrix as the kernels read it. codes: int8, or bytes of two codes; scale; on a grid of 4 bits minimum; of NF4 levels."""

    def __init__(
        self, shape, codes: Tensor, scale: Tensor, minimum: Tensor | None = None, levels: Tensor | None = None
    ):
        super().__init__()
        self.shape = torch.Size(shape)
        parts = {"codes": codes, "scale": scale, "minimum": minimum, "levels": levels}
        for name, part in parts.items():
            self.register_buffer(name, None if part is None else part.contiguous())

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights as numbers again, (rows, columns)."""
        if self.codes.dtype == torch.int8:
            return (self.codes * self.scale[:, None]).to(dtype)
        codes = self.codes.view(len(self.codes), -1, 1, 16)
        codes = torch.cat([codes & 15, codes >> 4], dim=2).flatten(1)  # both halves of each block
        if self.levels is None:
            group = self.shape[1] // self.scale.shape[1]
            scale, minimum = (x.float().repeat_interleave(group, dim=1) for x in (self.scale, self.minimum))
            return (codes * scale + minimum).to(dtype)
        scale = self.scale.repeat_interleave(codes.numel() // len(self.scale)).view(codes.shape)
        return (self.levels[codes.int()] * scale).to(dtype)


def prepare_weight(stored: Stored) -> PreparedWeight:
    """What `quantize`'s formats store, laid out for the kernels: 8 bits with a scale a row; Q4_0, Q4_1, and `Uniform` of 4 bits in groups of a
    multiple of 32 columns or whole rows; NF4 (whose scales, if quantized themselves, become numbers of 32 bits). Raises ValueError for
    what has no kernel."""
    if isinstance(stored, UniformWeight) and stored.format == Uniform(bits=8):
        codes = (stored.codes().short() - 127).to(torch.int8)
        return PreparedWeight(stored.shape, codes.view(stored.shape), stored.scale.flatten().float())
    if (
        isinstance(stored, UniformWeight)
        and stored.format.bits == 4
        and stored.shape.numel() // len(stored.scale) % GRID_BLOCK == 0
    ):
        return _prepare_uniform(stored)
    if isinstance(stored, BlockWeight) and stored.format.affine is not None:
        codes, scale, minimum = stored.affine()
        return PreparedWeight(stored.shape, _two_a_byte(codes), scale.half(), minimum.half())
    if isinstance(stored, NF4Weight) and stored.shape[1] % GRID_BLOCK == 0:
        codes = _two_a_byte(stored.codes().view(stored.shape))
        return PreparedWeight(
            stored.shape, codes, stored.block_scales(), levels=nf4_levels().to(codes.device)
        )
    raise ValueError(
        f"there is no kernel for {type(stored).__name__} of {tuple(stored.shape)} in this format"
    )


def _prepare_uniform(stored: UniformWeight) -> PreparedWeight:
    """A scale and a minimum for each group of a row. Where zero has a code, the minimum is so many scales, in 32 bits, lest it be rounded."""
    rows, group = stored.shape[0], stored.shape.numel() // len(stored.scale)
    if group > stored.shape[1]:
        raise ValueError(
            f"there is no kernel for one scale a matrix: group by channel, or by a multiple of {GRID_BLOCK} columns"
        )
    minimum = -stored.format.zero * stored.scale.float() if stored.minimum is None else stored.minimum
    codes = _two_a_byte(stored.codes().view(stored.shape))
    return PreparedWeight(stored.shape, codes, stored.scale.view(rows, -1), minimum.view(rows, -1))


def _two_a_byte(codes: Tensor) -> Tensor:
    """(rows, columns) codes → (rows, columns / 2) bytes: of each 32, the first 16 in the low halves, the others in the high ones."""
    low, high = codes.to(torch.uint8).view(len(codes), -1, 2, 16).unbind(2)
    return (low | high << 4).flatten(1)


def quantized_matmul(x: Tensor, weight: PreparedWeight, backend: str = "auto") -> Tensor:
    """x Wᵀ, (…, columns) → (…, rows) in x's dtype; sums in 32 bits. Differentiable in x: the way back multiplies by the weights as
    numbers, by PyTorch, as `quantize.QuantizedLinear` does.

    Raises ValueError for a width that isn't the weight's; for other errors see `use_triton`.
    """
    if not x.dim() or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} has no columns for a weight of {tuple(weight.shape)}: {weight.shape[1]} are wanted"
        )
    if not use_triton(backend, x, weight.scale, products=x.numel() > x.shape[-1]) or not x.numel():
        return F.linear(x, weight.weight(x.dtype))
    return _Product.apply(x, weight)


def quantized_matmul_cost(tokens: int, weight: PreparedWeight, bytes_each: int) -> Cost:
    """What the kernel that `quantized_matmul` would choose asks of memory, and computes."""
    if weight.codes.dtype == torch.int8:
        return int8_matmul_cost(tokens, *weight.shape, bytes_each)
    scale_bytes = weight.scale.itemsize + (0 if weight.minimum is None else weight.minimum.itemsize)
    return int4_matmul_cost(tokens, *weight.shape, bytes_each, weight.levels is not None, scale_bytes)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: PreparedWeight) -> Tensor:
        ctx.weight = weight
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        if weight.codes.dtype == torch.int8:
            y = int8_matmul(rows, weight.codes, weight.scale)
        else:
            y = int4_matmul(rows, weight.codes, weight.scale, weight.minimum, weight.levels)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, None]:
        return grad_y @ ctx.weight.weight(grad_y.dtype), None


class KernelLinear(QuantizedLinear):
    """`QuantizedLinear` whose bits become numbers inside the product. Formats without a kernel compute as before.
    backend: as in `use_triton`.

    The weight laid out for the kernels is kept beside the stored one, so that on a GPU both take memory.
    """

    kind = "kernels"
    backend: str = "auto"

    def forward(self, x: Tensor) -> Tensor:
        weight = self._prepared()
        if weight is None or not use_triton(self.backend, x, weight.scale, products=x.numel() > x.shape[-1]):
            return super().forward(x)
        y = quantized_matmul(x, weight, self.backend)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _prepared(self) -> PreparedWeight | None:
        """The weight for the kernels, made at first use on a device; None where there is no kernel, or none is wanted."""
        where = next(self.stored.buffers()).device
        if self.backend == "torch" or (self.backend == "auto" and where.type != "cuda"):
            return None
        made = vars(self).get("prepared")  # a plain attribute: no part of the model's state
        if made is None or made[0] is not self.stored or made[1] != where:
            try:
                weight = prepare_weight(self.stored)
            except ValueError:
                weight = None
            made = vars(self)["prepared"] = self.stored, where, weight
        return made[2]

    def _load_from_state_dict(self, *args) -> None:
        vars(self).pop("prepared", None)  # it was made of other weights
        super()._load_from_state_dict(*args)
