"""A model whose steps are the kernels of this room.

    use_kernels(model)                      # on a GPU: Triton; elsewhere: PyTorch, as before
    use_kernels(model, backend="torch")     # PyTorch everywhere

In each part's place comes a `twin` of it, of a class that computes the same by a kernel: over the same weights, under the same names,
with whatever is attached inside. So optimizers, checkpoints and LoRA notice nothing.
"""

from torch import Tensor, nn

from course_lib.kernels.experts import mixture, stack_experts, stackable
from course_lib.kernels.flash_attention import flash_attention
from course_lib.kernels.language import BACKENDS
from course_lib.kernels.norms import layer_norm, rms_norm
from course_lib.kernels.quantized_matmul import KernelLinear
from course_lib.kernels.rope import rope
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Attention, Experts, LayerNorm, Place, RMSNorm, SwiGLU
from course_lib.model.exchange import Exchanged, exchange, twin
from course_lib.model.trace import note
from course_lib.quantize import QuantizedLinear


class Kernel(Exchanged):
    """Mixed into all that `use_kernels` puts into a model. backend: where its calls go, as in `use_triton`."""

    kind = "kernels"
    backend: str


class KernelRMSNorm(Kernel, RMSNorm):
    """`RMSNorm` in one trip through memory."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.backend)


class KernelLayerNorm(Kernel, LayerNorm):
    """`LayerNorm` in one trip through memory."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps, self.backend)


class KernelSwiGLU(Kernel, SwiGLU):
    """`SwiGLU`, its middle in one trip through memory."""

    def forward(self, x: Tensor, trace=None) -> Tensor:
        hidden = note(trace, "hidden", swiglu(*self.project(x), self.backend))
        return note(trace, "output", self.down(hidden))


class KernelAttention(Kernel, Attention):
    """`Attention` whose scores never leave the chip.

    With a mask (ALiBi, padding, rows of different lengths) or soft caps, for a single query, which would leave a tile almost empty,
    and for somebody who watches the weights, it computes as before.
    """

    def turn(self, q: Tensor, k: Tensor, rotary: tuple) -> tuple[Tensor, Tensor]:
        if rotary[0].dim() != 2:  # rows with positions of their own
            return super().turn(q, k, rotary)
        return rope(q, *rotary, backend=self.backend), rope(k, *rotary, backend=self.backend)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, place: Place, trace) -> Tensor:
        watched, (mask, causal, window) = trace is not None and trace.wants("weights"), self._sees(place)
        plain = mask is None and self.cap is None and q.dtype == k.dtype == v.dtype
        if watched or not plain or q.shape[2] == 1:
            return super()._attend(q, k, v, place, trace)
        return flash_attention(q, k, v, causal, window, scale=self.scale, backend=self.backend)


class KernelExperts(Kernel, Experts):
    """`Experts`, all of them in three grouped products, where they are `stackable` and without capacity."""

    def _dispatch(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        if self.config.capacity is not None or not stackable(self):
            return super()._dispatch(x, shares, chosen)
        return mixture(x, shares, chosen, *stack_experts(self), backend=self.backend)


KERNELS = {
    RMSNorm: KernelRMSNorm,
    LayerNorm: KernelLayerNorm,
    SwiGLU: KernelSwiGLU,
    Attention: KernelAttention,
    Experts: KernelExperts,
    QuantizedLinear: KernelLinear,
}


def use_kernels(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Let the model's norms, rotations, attention, SwiGLUs, mixtures and quantized layers compute by kernels, in place; return it.

    backend: where each call goes, as in `use_triton`; may be changed by another call. Results agree with the model's own to
    rounding, and so do gradients. What has no kernel (other feed-forward layers, …) stays as it is.
    """
    exchange(model, kernel_parts(model, backend))
    return model


def kernel_parts(model: nn.Module, backend: str = "auto") -> dict[str, nn.Module]:
    """What `use_kernels` puts into the model, by path; for an `exchange` that can be undone."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; not {backend!r}")
    kinds = KERNELS | {kind: kind for kind in KERNELS.values()}
    places = {
        path: part
        for path, part in model.named_modules(remove_duplicate=False)
        if path and type(part) in kinds
    }
    twins = {
        part: twin(part, kinds[type(part)], backend=backend) for part in places.values()
    }  # one for a part in two places
    return {path: twins[part] for path, part in places.items()}
