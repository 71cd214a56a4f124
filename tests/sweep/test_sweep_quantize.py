"""The sweep of `course_lib.quantize`."""

import torch
from references import random_tokens, tiny_decoder
from sweep.frame import HUGE, Call, sweep

from course_lib.quantize import (
    NF4,
    Q4_0,
    Q4_1,
    Q8_0,
    BlockWeight,
    Int4Linear,
    Int8Linear,
    NF4Weight,
    QuantizedLinear,
    Uniform,
    UniformWeight,
    absmax_dequantize,
    absmax_quantize,
    fast_linear,
    finish_qat,
    gptq,
    gptq_linears,
    linears,
    model_bytes,
    nf4_levels,
    pack_bits,
    quantize_linears,
    quantized_linears,
    start_qat,
    straight_through,
    unpack_bits,
)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


MODEL = tiny_decoder(torch.float32, n_layers=1)
TOKENS = random_tokens(MODEL)
WEIGHT = numbers(16, 64)
U8, U4 = Uniform(), Uniform(4, group=32)
CODES, SCALE, MINIMUM = U4.codes(WEIGHT)
LEVELS = absmax_quantize(WEIGHT)
LAYERS = [QuantizedLinear(U8.store(WEIGHT)), QuantizedLinear(U8.store(WEIGHT))]


FEWER = {"weight is shorter": "a matrix of fewer rows"}
BIAS = {
    "bias holds nan": "a bias is kept as it is, and the outputs are NaN",
    "bias holds inf": "a bias is kept as it is, and the outputs are infinite",
    "bias holds whole numbers": "they are added all the same",
}


def store(format):
    """A format's way of storing, of a weight."""
    return Call(format.store, {"weight": WEIGHT}, FEWER)


CALLS = {
    "BlockWeight": Call(
        BlockWeight,
        {"format": Q8_0, "raw": Q8_0.store(WEIGHT).raw},
        {"raw is shorter": "fewer rows", "raw holds -1": "another byte"},
    ),
    "Int4Linear": Call(Int4Linear, {"stored": [Q4_1.store(WEIGHT)], "bias": numbers(16).bfloat16()}, BIAS),
    "Int8Linear": Call(Int8Linear, {"stored": [U8.store(WEIGHT)], "bias": numbers(16).bfloat16()}, BIAS),
    "NF4": Call(NF4, {"double_quantization": True}),
    "NF4.store": store(NF4()),
    "NF4Weight": Call(  # NF4 checks the setting
        NF4Weight, {"weight": WEIGHT, "double_quantization": True}, FEWER, keep=["double_quantization"]
    ),
    "Q4_0": store(Q4_0),
    "Q4_1": store(Q4_1),
    "Q8_0": store(Q8_0),
    "QuantizedLinear": Call(QuantizedLinear, {"stored": U8.store(WEIGHT), "bias": numbers(16)}, BIAS),
    "Uniform": Call(
        Uniform,
        {"bits": 4, "symmetric": True, "group": 32},
        {f"group is {HUGE}": "a matrix whose rows don't divide into such groups is refused when it comes"},
    ),
    "Uniform.store": store(U4),
    "UniformWeight": Call(  # the shape is that of the tensor that was stored
        UniformWeight,
        {"format": U4, "shape": WEIGHT.shape, "codes": CODES, "scale": SCALE, "minimum": MINIMUM},
        {"codes holds whole numbers": "they are whole anyway"},
        keep=["shape"],
    ),
    "absmax_dequantize": Call(
        absmax_dequantize,
        {"codes": LEVELS[0], "scale": LEVELS[1]},
        {"codes is narrower": "fewer columns", "codes holds -1": "another code"},
    ),
    "absmax_quantize": Call(
        absmax_quantize, {"weight": WEIGHT, "bits": 4}, FEWER | {"weight is narrower": "fewer columns"}
    ),
    "fast_linear": Call(fast_linear, {"layers": LAYERS}, {"layers is empty": "no kernel is needed"}),
    "finish_qat": Call(finish_qat, {"model": start_qat(tiny_decoder(torch.float32, n_layers=1), U8)}),
    "gptq": Call(
        gptq,
        {"weight": WEIGHT, "inputs": numbers(80, 64), "format": U4, "damping": 0.01},
        FEWER
        | {
            "inputs is empty": "without inputs each weight is rounded to its nearest level",
            "inputs is shorter": "fewer samples",
            "damping is 0.0": "these inputs need none",
        },
    ),
    "gptq_linears": Call(
        gptq_linears,
        {"model": MODEL, "tokens": TOKENS, "format": U8},
        {"tokens is narrower": "a shorter text"},
    ),
    "linears": Call(linears, {"model": MODEL}),
    "model_bytes": Call(model_bytes, {"model": MODEL}, {"model is another module": "it has no weights"}),
    "nf4_levels": Call(nf4_levels, {}),
    "pack_bits": Call(
        pack_bits,
        {"codes": torch.tensor([1, 2, 3, 0]), "bits": 2},
        dict.fromkeys(
            ("codes has one more dimension", "codes has one dimension less", "codes is shorter"),
            "codes may be of any shape",
        )
        | {"codes is narrower": "fewer codes", "codes holds Booleans": "1 and 0"},
    ),
    "quantize_linears": Call(quantize_linears, {"model": MODEL, "format": U8}),
    "quantized_linears": Call(quantized_linears, {"model": MODEL, "format": U8}),
    "start_qat": Call(start_qat, {"model": MODEL, "format": U8}),
    "straight_through": Call(straight_through, {"weight": WEIGHT, "format": U4}, FEWER),
    "unpack_bits": Call(
        unpack_bits,
        {"packed": torch.tensor([57, 3], dtype=torch.uint8), "bits": 2, "count": 6},
        {"packed holds -1": "another byte", "count is 0": "no codes"},
    ),
}
EXEMPT = {
    "BlockFormat": "the record of a format's functions, of which Q4_0, Q4_1 and Q8_0 are swept",
    "FakeQuantizedLinear": "made by start_qat as the twin of an nn.Linear, whose constructor it has",
    "frozen_product": "the product beneath the layers, of two functions that they give",
    "Stored": "the base class of what the formats store",
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.quantize", CALLS, EXEMPT)
