"""A model whose layers compute with the kernels of this package.

    use_kernels(model)                      # on a GPU: Triton; elsewhere: PyTorch, as before
    use_kernels(model, backend="torch")     # PyTorch everywhere

Each part is replaced by a twin of it: an object of another class, which computes the same with a kernel and
shares the part's weights, under the same names, and whatever is attached to them. So optimizers, checkpoints
and LoRA work as before. `model.exchange` makes the twins (`twin`) and puts them in the parts' places
(`exchange`).
"""

from torch import Tensor, nn

from course_lib.kernels.experts import mixture, stack_experts, stackable
from course_lib.kernels.flash_attention import flash_attention
from course_lib.kernels.language import BACKENDS
from course_lib.kernels.norms import layer_norm, rms_norm
from course_lib.kernels.quantized_matmul import KernelLinear
from course_lib.kernels.rope import rope
from course_lib.kernels.swiglu import swiglu
from course_lib.model import Attention, Experts, LayerNorm, RMSNorm, SwiGLU
from course_lib.model.exchange import Replacement, exchange, twin
from course_lib.model.positions import Rotary
from course_lib.model.trace import record
from course_lib.quantize import QuantizedLinear


class Kernel(Replacement):
    """A mixin for every class that `use_kernels` puts into a model. backend: as in `use_triton`."""

    kind = "kernels"
    backend: str


class KernelRMSNorm(Kernel, RMSNorm):
    """`RMSNorm` that reads and writes each element once."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.backend)


class KernelLayerNorm(Kernel, LayerNorm):
    """`LayerNorm` that reads and writes each element once."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps, self.backend)


class KernelSwiGLU(Kernel, SwiGLU):
    """`SwiGLU` whose silu(gate) ⊙ up reads and writes each element once."""

    def forward(self, x: Tensor, trace=None) -> Tensor:
        hidden = record(trace, "hidden", swiglu(*self.project(x), self.backend))
        return record(trace, "output", self.down(hidden))


class KernelAttention(Kernel, Attention):
    """`Attention` whose scores are never written to memory.

    Falls back to `Attention` for: a mask (ALiBi, padding, sequences of different lengths); a soft cap; q, k
    and v of different dtypes; a single query, which would leave a tile almost empty; a trace that keeps or
    edits the weights.
    """

    def apply_rotary(self, q: Tensor, k: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        if rotary[0].dim() != 2:  # each sequence has positions of its own
            return super().apply_rotary(q, k, rotary)
        return rope(q, *rotary, backend=self.backend), rope(k, *rotary, backend=self.backend)

    def attend_heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, trace=None) -> Tensor:
        weights_wanted = trace is not None and trace.wants("weights")
        plain = mask is None and self.cap is None and q.dtype == k.dtype == v.dtype
        if weights_wanted or not plain or q.shape[2] == 1:
            return super().attend_heads(q, k, v, mask, trace)
        return flash_attention(q, k, v, self.causal, self.window, scale=self.scale, backend=self.backend)


class KernelExperts(Kernel, Experts):
    """`Experts` computed in three grouped products, where they are `stackable` and have no capacity."""

    def dispatch(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        if self.config.capacity_factor is not None or not stackable(self):
            return super().dispatch(x, shares, chosen)
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
    """Make the model's norms, rotations, attention, SwiGLUs, mixtures and quantized layers use kernels, in
    place; return it.

    backend: as in `use_triton`; another call may change it. Results and gradients agree with the model's own
    to rounding. Parts for which there is no kernel (other feed-forward layers, …) stay as they are.
    """
    exchange(model, kernel_parts(model, backend))
    return model


def kernel_parts(model: nn.Module, backend: str = "auto") -> dict[str, nn.Module]:
    """Return path → what `use_kernels` puts there; for an `exchange` that can be undone."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; not {backend!r}")
    kinds = KERNELS | {kind: kind for kind in KERNELS.values()}
    parts = {
        path: part
        for path, part in model.named_modules(remove_duplicate=False)
        if path and type(part) in kinds
    }
    # A part that stands at two paths gets one twin.
    twins = {part: twin(part, kinds[type(part)], backend=backend) for part in parts.values()}
    return {path: twins[part] for path, part in parts.items()}
