"""Fewer bits.

Read in this order: `uniform` (rounding to a grid) with `bits` (packing what was rounded), `layers` (a model whose weights are stored
so), `blocks` (the formats of the file that the course's real model comes in), `nf4` (levels where weights are), `gptq` (errors made
good by the weights not yet rounded), `qat` (training with the rounding in view) and `fast` (kernels that compute with the bits).

    quantize_linears(model, Uniform(bits=4, group=32))      quantize_linears(model, NF4())      quantize_linears(model, Q4_1)
"""

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
from course_lib.quantize.qat import RoundedLinear, finish_qat, start_qat, straight_through
from course_lib.quantize.uniform import Uniform, UniformWeight

__all__ = [
    "NF4",
    "Q4_0",
    "Q4_1",
    "Q8_0",
    "BlockFormat",
    "BlockWeight",
    "Int4Linear",
    "Int8Linear",
    "NF4Weight",
    "QuantizedLinear",
    "RoundedLinear",
    "Stored",
    "Uniform",
    "UniformWeight",
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
