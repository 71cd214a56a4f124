"""Formats, weights and numbers that can't be meant: refused, or taken as what they are."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from references import tiny_config, tiny_decoder
from torch import nn

from course_lib.model import EncoderDecoder
from course_lib.quantize import (
    NF4,
    Q4_0,
    Q4_1,
    Q8_0,
    BlockWeight,
    Int4Linear,
    Int8Linear,
    Uniform,
    UniformWeight,
    absmax_quantize,
    finish_qat,
    gptq,
    gptq_linears,
    linears,
    nf4_levels,
    pack_bits,
    quantize_linears,
    start_qat,
    straight_through,
    unpack_bits,
)
from course_lib.quantize.nf4 import dynamic_levels
from course_lib.train.peft import LoRA

WEIGHT = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3]])


def kinds(model):
    return {path: type(module) for path, module in model.named_modules()}


@pytest.mark.parametrize("levels", [nf4_levels, dynamic_levels])
def test_a_table_of_levels_may_be_written_to(levels):
    before, stored = levels().clone(), NF4(True).store(WEIGHT).weight()
    levels().mul_(3)
    assert torch.equal(levels(), before) and torch.equal(NF4(True).store(WEIGHT).weight(), stored)


@pytest.mark.parametrize("start", ["set_default_device('meta')", "set_default_dtype(torch.float64)"])
def test_levels_do_not_depend_on_pytorchs_defaults(start):
    code = (
        f"import torch; from course_lib.quantize import nf4_levels; from course_lib.quantize.nf4 import "
        f"dynamic_levels; torch.{start}; levels = [nf4_levels(), dynamic_levels()]; "
        "print([(str(x.device), str(x.dtype), x.double().cpu().sum().item()) for x in levels])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tables = [nf4_levels(), dynamic_levels()]
    assert ran.stdout.strip() == str([("cpu", "torch.float32", x.double().sum().item()) for x in tables])


@pytest.mark.parametrize("make", [np.uint8, np.int8, np.int64])
def test_bits_and_counts_may_be_numpys(make):
    for bits in (3, 7, 8):
        codes = torch.arange(400) % 2**bits
        packed = pack_bits(codes, bits)
        assert torch.equal(pack_bits(codes, make(bits)), packed)
        assert torch.equal(unpack_bits(packed, make(bits), 400), codes)
        assert torch.equal(unpack_bits(packed, bits, make(100)), codes[:100])
        assert all(map(torch.equal, absmax_quantize(WEIGHT, make(bits)), absmax_quantize(WEIGHT, bits)))


@pytest.mark.parametrize(
    "format, weight",
    [
        (NF4(), torch.full((1, 64), 1e300, dtype=torch.float64)),
        (NF4(True), torch.full((4, 64), 3e38)),
    ],
)
def test_weights_too_large_for_scales_of_32_bits_are_refused(format, weight):
    with pytest.raises(ValueError, match="too large for scales of 32 bits"):
        format.store(weight)


@pytest.mark.parametrize("format", [Uniform(), Uniform(4, symmetric=False)])
def test_rounding_what_is_too_large_is_refused(format):
    weight = torch.tensor([[1e8, -1e8, 1.0, 0.0]])
    for round in (format.round, lambda x: straight_through(x, format)):
        with pytest.raises(ValueError, match="too large for scales of 16 bits"):
            round(weight)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), ()])
def test_only_rows_and_columns_are_rounded(shape):
    for use in (Uniform().round, Uniform().codes, Uniform().grid):
        with pytest.raises(ValueError, match="rows and columns"):
            use(torch.ones(shape))


def test_parts_of_a_matrix_that_do_not_fit_are_refused():
    codes, scale, minimum = Uniform(4).codes(WEIGHT)

    def refused(match, format=None, shape=WEIGHT.shape, codes=codes, scale=scale, minimum=minimum):
        with pytest.raises(ValueError, match=match):
            UniformWeight(format or Uniform(4), shape, codes, scale, minimum)

    refused("go to 14 at most", codes=codes * 0 + 15)
    refused("too large for scales", scale=scale * 0 + 1e6)
    refused("its minimum", minimum=minimum * 0 + 5)
    refused("don't make a matrix", format=Uniform(4, group=32))
    refused("don't make a matrix", shape=(4, 16, 64))
    assert torch.equal(
        UniformWeight(Uniform(4), (64, 64), codes, scale, minimum).weight(), Uniform(4).round(WEIGHT)
    )


@pytest.mark.parametrize("format", [Q8_0, Q4_1])
def test_blocks_may_lie_anywhere_in_memory(format):
    stored = format.store(WEIGHT)
    wide = torch.cat([stored.raw, stored.raw], dim=1)[:, : stored.raw.shape[1]]
    assert torch.equal(BlockWeight(format, wide).weight(), stored.weight())


@pytest.mark.parametrize("format", [NF4, Uniform, "nf4", torch.int8, None, LoRA(2)])
def test_what_is_no_format_is_refused(format):
    with pytest.raises(ValueError, match="give a format"):
        quantize_linears(tiny_decoder(torch.float32), format)


@pytest.mark.parametrize("format", [NF4(), Q4_0, Uniform, None])
def test_only_a_uniform_format_rounds_to_a_grid(format):
    model = tiny_decoder(torch.float32)
    before = kinds(model)
    for use in (
        lambda: start_qat(model, format),
        lambda: gptq(WEIGHT, WEIGHT, format),
        lambda: gptq_linears(model, TOKENS, format),
        lambda: straight_through(WEIGHT, format),
    ):
        with pytest.raises(ValueError, match="Uniform format"):
            use()
    assert kinds(model) == before


def test_gptq_says_what_it_takes():
    for damping in (10**400, True, -1, float("nan"), "0"):
        with pytest.raises(ValueError, match="damping must be 0 or more"):
            gptq(WEIGHT, WEIGHT, Uniform(4), damping)
    with pytest.raises(TypeError, match="inputs must be a tensor"):
        gptq(WEIGHT, WEIGHT.tolist(), Uniform(4))
    with pytest.raises(ValueError, match="an encoder-decoder reads two texts"):
        gptq_linears(EncoderDecoder(tiny_config(n_layers=1)), TOKENS, Uniform(4))
    a, b = (gptq(WEIGHT, WEIGHT, Uniform(4), damping).weight() for damping in (0.5, np.float32(0.5)))
    assert torch.equal(a, b)


def test_four_bits_of_eight_are_refused():
    with pytest.raises(ValueError, match="Q8_0 has no codes of 4 bits"):
        Q8_0.store(WEIGHT).int4_parts()


@pytest.mark.parametrize("layer", [Int4Linear([Q4_1.store(WEIGHT)]), Int8Linear([Uniform().store(WEIGHT)])])
@pytest.mark.parametrize(
    "x", [torch.ones(2, 64), torch.ones(2, 32).bfloat16(), torch.ones(1, 128).bfloat16()]
)
def test_fast_layers_refuse_other_inputs(layer, x):
    with pytest.raises(ValueError, match=r"takes \(…, 64\) of bfloat16"):
        layer(x)


class Interrupting(Uniform):
    """A format that is interrupted at the third matrix that it stores."""

    def store(self, weight):
        counted.append(weight)
        if len(counted) == 3:
            raise KeyboardInterrupt
        return super().store(weight)


counted = []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_finishing_quantization_aware_training_is_done_wholly_or_not_at_all(error):
    model = tiny_decoder(torch.float32)
    start_qat(model, Interrupting(4) if error is KeyboardInterrupt else Uniform(4, group=8))
    if error is ValueError:
        model.extra = nn.Linear(5, 5)
    before, wanted = kinds(model), model(TOKENS)
    counted.clear()
    with pytest.raises(error):
        finish_qat(model)
    assert kinds(model) == before and torch.equal(model(TOKENS), wanted)
    if error is ValueError:
        del model.extra
    torch.testing.assert_close(finish_qat(model)(TOKENS), wanted)
    with pytest.raises(ValueError, match="quantized already"):
        linears(model)
