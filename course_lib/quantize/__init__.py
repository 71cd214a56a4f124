"""Weights in fewer bits.

Read in this order:

    absmax     round to nearest with one scale for each row: the idea, on one page
    uniform    the same grid with all its options: 2 to 8 bits, groups, a minimum
    bits       packing its codes into bytes
    layers     a linear layer over stored weights; exchanging all of a model's linear layers for it
    blocks     llama.cpp's formats Q8_0, Q4_0 and Q4_1; SmolLM2, the course's pretrained model, is in Q4_1
    nf4        QLoRA's NormalFloat: unevenly spaced levels for normally distributed weights
    gptq       rounding that compensates each column's error in the columns that are not rounded yet
    qat        quantization-aware training with the straight-through estimator
    fast       CPU kernels that multiply by 4-bit and 8-bit weights

`checks` holds error messages.

    quantize_linears(model, Uniform(bits=4, group=32))
    quantize_linears(model, NF4())
    quantize_linears(model, Q4_1)

The package's name `gptq` is the function. For other names of that module, write
`from course_lib.quantize.gptq import …`.
"""

from course_lib.quantize.absmax import absmax_dequantize, absmax_quantize
from course_lib.quantize.bits import pack_bits, unpack_bits
from course_lib.quantize.blocks import Q4_0, Q4_1, Q8_0, BlockFormat, BlockWeight
from course_lib.quantize.fast import Int4Linear, Int8Linear, fast_linear
from course_lib.quantize.gptq import gptq, gptq_linears
from course_lib.quantize.layers import (
    QuantizedLinear,
    Stored,
    frozen_product,
    linears,
    model_bytes,
    quantize_linears,
    quantized_linears,
)
from course_lib.quantize.nf4 import NF4, NF4Weight, nf4_levels
from course_lib.quantize.qat import FakeQuantizedLinear, finish_qat, start_qat, straight_through
from course_lib.quantize.uniform import Uniform, UniformWeight

__all__ = [
    "NF4",
    "Q4_0",
    "Q4_1",
    "Q8_0",
    "BlockFormat",
    "BlockWeight",
    "FakeQuantizedLinear",
    "Int4Linear",
    "Int8Linear",
    "NF4Weight",
    "QuantizedLinear",
    "Stored",
    "Uniform",
    "UniformWeight",
    "absmax_dequantize",
    "absmax_quantize",
    "fast_linear",
    "finish_qat",
    "frozen_product",
    "gptq",
    "gptq_linears",
    "linears",
    "model_bytes",
    "nf4_levels",
    "pack_bits",
    "quantize_linears",
    "quantized_linears",
    "start_qat",
    "straight_through",
    "unpack_bits",
]
