"""The model's operations as Triton kernels for a GPU.

Almost every kernel stands beside the few lines of PyTorch that it equals, which run where the kernel can't.
`plain_flash_attention` has a kernel alone; the PyTorch that it equals is in its docstring.

Read in this order:

    plain_flash_attention         a first kernel: the idea of FlashAttention, on one page
    language, interpreted         how a kernel is launched, compiled or interpreted
    chosen_tiles                  the tile that a kernel works on
    cost, meter                   the bytes and operations of a kernel, calculated and counted
    softmax                       the simplest kernel, with its gradient
    norms, swiglu, rope           more kernels whose limit is the memory
    cross_entropy                 the loss of logits, without storing probabilities
    flash_tiles, flash_attention, flash_backward      attention without storing scores
    paged_attention               attention of one new token to a paged cache
    checks, attention_checks, attention_costs         arguments' checks; attention's bytes and operations
    linear_cross_entropy          the last linear layer and the loss, in chunks of tokens
    int8_matmul, int4_matmul, quantized_matmul        products with quantized weights
    permute, grouped_matmul, experts, expert_checks   a mixture of experts
    use                           a model whose parts compute by these kernels
    compiled                      the code that the compiler makes of the kernels

    rms_norm(x, weight)                            on a GPU the Triton kernel, elsewhere PyTorch
    rms_norm(x, weight, backend="triton")          on a CPU the kernel in Triton's interpreter
    use_kernels(model)                             the kernels in every part of a model
"""

from course_lib.kernels.attention_costs import (
    attention_backward_cost,
    attention_cost,
    naive_attention_cost,
    paged_attention_cost,
)
from course_lib.kernels.compiled import Compiled, compile_for
from course_lib.kernels.cost import Cost
from course_lib.kernels.cross_entropy import cross_entropy, cross_entropy_cost, token_losses
from course_lib.kernels.experts import mixture, stack_experts
from course_lib.kernels.flash_attention import flash_attention
from course_lib.kernels.grouped_matmul import grouped_matmul, grouped_matmul_cost
from course_lib.kernels.language import BACKENDS, use_triton
from course_lib.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_cost
from course_lib.kernels.meter import Meter
from course_lib.kernels.norms import layer_norm, rms_norm, rms_norm_cost
from course_lib.kernels.paged_attention import paged_attention
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
