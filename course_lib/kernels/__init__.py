"""The same operations for a GPU, in Triton, each beside its few lines of PyTorch.

Read `plain_flash_attention` first: the idea that made kernels famous, on one page. Then, in this order: `language`
(how a kernel is launched), `chosen_tiles`, `cost` and `meter` (bytes and operations, calculated and counted);
`softmax`, the gentlest kernel, then `norms`, `swiglu`, `rope` and `cross_entropy`, whose limit is the memory;
`flash_tiles`, `flash_attention` and `flash_backward`; `paged_attention` (decoding); `linear_cross_entropy`;
`int8_matmul`, `int4_matmul` and `quantized_matmul`, which chooses between them; `permute`, `grouped_matmul` and
`experts` (mixtures); `use` (a model that computes by all these); and `compiled`, what the compiler makes of them.

    rms_norm(x, weight)                            on a GPU Triton's kernel, elsewhere PyTorch
    rms_norm(x, weight, backend="triton")          on a CPU: in Triton's interpreter
    use_kernels(model)                             the same for every part of a model
"""

from course_lib.kernels.compiled import Compiled, compile_for
from course_lib.kernels.cost import Cost
from course_lib.kernels.cross_entropy import cross_entropy, cross_entropy_cost, token_losses
from course_lib.kernels.experts import mixture, stack_experts
from course_lib.kernels.flash_attention import attention_cost, flash_attention, naive_attention_cost
from course_lib.kernels.flash_backward import attention_backward_cost
from course_lib.kernels.grouped_matmul import grouped_matmul, grouped_matmul_cost
from course_lib.kernels.language import BACKENDS, use_triton
from course_lib.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_cost
from course_lib.kernels.meter import Meter
from course_lib.kernels.norms import layer_norm, rms_norm, rms_norm_cost
from course_lib.kernels.paged_attention import paged_attention, paged_attention_cost
from course_lib.kernels.permute import group_by_expert, group_by_expert_cost
from course_lib.kernels.plain_flash_attention import plain_flash_attention
from course_lib.kernels.quantized_matmul import (
    PreparedWeight,
    prepare_weight,
    quantized_matmul,
    quantized_matmul_cost,
)
from course_lib.kernels.rope import rope, rope_cost
from course_lib.kernels.softmax import softmax, softmax_cost
from course_lib.kernels.swiglu import swiglu, swiglu_cost
from course_lib.kernels.use import KernelAttention, kernel_parts, use_kernels

__all__ = [
    "BACKENDS",
    "Compiled",
    "Cost",
    "KernelAttention",
    "Meter",
    "PreparedWeight",
    "attention_backward_cost",
    "attention_cost",
    "compile_for",
    "cross_entropy",
    "cross_entropy_cost",
    "flash_attention",
    "group_by_expert",
    "group_by_expert_cost",
    "grouped_matmul",
    "grouped_matmul_cost",
    "kernel_parts",
    "layer_norm",
    "linear_cross_entropy",
    "linear_cross_entropy_cost",
    "mixture",
    "naive_attention_cost",
    "paged_attention",
    "paged_attention_cost",
    "plain_flash_attention",
    "prepare_weight",
    "quantized_matmul",
    "quantized_matmul_cost",
    "rms_norm",
    "rms_norm_cost",
    "rope",
    "rope_cost",
    "softmax",
    "softmax_cost",
    "stack_experts",
    "swiglu",
    "swiglu_cost",
    "token_losses",
    "use_kernels",
    "use_triton",
]
