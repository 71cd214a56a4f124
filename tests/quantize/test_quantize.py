"""Quantization: grids, blocks, NF4, GPTQ, quantization-aware training, and layers over stored weights."""

import math
from copy import deepcopy
from functools import partial
from itertools import product
from threading import Thread

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Kind
from hypothesis import example, given, settings
from hypothesis import strategies as st
from references import failed_examples, random_tokens, tiny_config, tiny_decoder
from torch import nn

import course_lib.quantize
from course_lib.families import save_model
from course_lib.generate import generate
from course_lib.model import Decoder, EncoderDecoder, Experts
from course_lib.quantize import (
    NF4,
    Q4_0,
    Q4_1,
    Q8_0,
    BlockWeight,
    Int4Linear,
    Int8Linear,
    QuantizedLinear,
    Uniform,
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
    start_qat,
    unpack_bits,
)
from course_lib.quantize.nf4 import dynamic_levels
from course_lib.train import TrainConfig, Training, Windows, load_checkpoint, save_checkpoint

calm = settings(derandomize=True, deadline=None, max_examples=60)
BLOCKS = {Kind.Q4_0: Q4_0, Kind.Q4_1: Q4_1, Kind.Q8_0: Q8_0}
GRIDS = [
    Uniform(bits, symmetric, group)
    for bits, symmetric, group in product(range(2, 9), (True, False), ("tensor", "channel", 32, 8))
]
FORMATS = [
    Q4_0,
    Q4_1,
    Q8_0,
    NF4(),
    NF4(double_quantization=True),
    Uniform(),
    Uniform(3, False, 32),
    Uniform(4, True, "tensor"),
]
FAST = [Q4_0, Q4_1, Uniform()]


def label(value):
    return getattr(value, "name", None) or str(value)


formats = pytest.mark.parametrize("format", FORMATS, ids=label)
grids = pytest.mark.parametrize("format", GRIDS, ids=label)
kinds = pytest.mark.parametrize("kind", BLOCKS, ids=label)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decoder(dtype=torch.float32, **changes):
    """Wide enough for blocks of 32 and 64, and for the kernels."""
    sizes = {"d_model": 64, "d_head": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "d_ff": 96}
    return tiny_decoder(dtype, **(sizes | changes))


def dequantized(model):
    """The same model with plain layers of the stored weights."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight, plain.bias = nn.Parameter(layer.stored.weight()), layer.bias
            model.set_submodule(name, plain)
    return model


def everything(model):
    """All that a model is made of, to compare bit for bit."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def test_examples_in_the_docstrings_hold():
    assert failed_examples(course_lib.quantize) == 0


# Bits in bytes


@calm
@given(st.integers(2, 8), st.integers(0, 100), st.integers(0, 5))
def test_what_is_packed_is_unpacked(bits, count, seed):
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count * bits // 8)
    assert unpack_bits(packed, bits, count).equal(codes.to(torch.uint8))
    assert pack_bits(codes.float(), bits).equal(packed)
    as_one_number = sum(code << i * bits for i, code in enumerate(codes.tolist()))
    assert int.from_bytes(bytes(packed.tolist()), "little") == as_one_number


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        ([300, -1], 4),
        ([16], 4),
        ([-1], 4),
        ([256], 8),
        ([-1], 8),
        ([4], 2),
        ([2.5], 4),
        ([math.nan], 4),
        ([math.inf], 8),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, bits):
    with pytest.raises(ValueError, match=f"codes of {bits} bits are whole numbers from 0 to {2**bits - 1}"):
        pack_bits(torch.tensor(codes), bits)


@pytest.mark.parametrize("bits", [0, 9, -1, 4.0, "4", None, True])
def test_bits_in_bytes_are_a_whole_number(bits):
    for call in (lambda: pack_bits(torch.tensor([1]), bits), lambda: unpack_bits(torch.tensor([1]), bits, 1)):
        with pytest.raises(ValueError, match="bits must be a whole number from 1 to 8"):
            call()


@pytest.mark.parametrize(
    ("packed", "bits", "count"),
    [
        (torch.zeros(2, dtype=torch.uint8), 8, 3),
        (torch.zeros(2, dtype=torch.uint8), 4, 5),
        (torch.zeros(2, dtype=torch.uint8), 3, 6),
        (torch.zeros(2, dtype=torch.uint8), 4, -1),
        (torch.zeros(2, dtype=torch.uint8), 4, 1.5),
        (torch.zeros(2), 4, 1),
        (torch.zeros(2, 2, dtype=torch.uint8), 4, 1),
    ],
)
def test_more_codes_than_there_are_bytes_are_refused(packed, bits, count):
    with pytest.raises(ValueError, match=f"codes of {bits} bits can't be read from"):
        unpack_bits(packed, bits, count)


# The file's blocks


def theirs(kind, weight):
    return gguf.quantize(np.ascontiguousarray(weight.numpy()), kind)


def encoded(kind, weight):
    """The weight as `store` stores it, and also where `store` refuses it."""
    blocks = BLOCKS[kind].encode(weight.reshape(-1, 32))
    stored = BlockWeight(BLOCKS[kind], blocks.view(len(weight), -1))
    try:
        assert BLOCKS[kind].store(weight).raw.equal(stored.raw)
    except ValueError as error:
        assert "too small" in str(error)
    return stored


def some_weights(seed, step, scale):
    """Normally distributed; with a step, on a grid: full of ties, zeros and constant blocks."""
    weight = normal(40, 64, seed=seed)
    if step:
        weight = (weight / step).round() * step
    return weight * scale + 0.0  # of a block's zeros of both signs, either may count as the smallest


@kinds
@calm
@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 0.125, 0.5, 1, 4]),
    st.sampled_from([1e-30, 1e-6, 1e-3, 0.3, 1, 500, 1e4]),
)
def test_blocks_are_the_packages_bit_for_bit(kind, seed, step, scale):
    weight = some_weights(seed, step, scale)
    stored, expected = encoded(kind, weight), theirs(kind, weight)
    assert stored.raw.numpy().tobytes() == expected.tobytes()
    assert stored.weight().numpy().tobytes() == gguf.dequantize(expected, kind).tobytes()
    assert stored.nbytes == expected.nbytes


finite_floats = st.floats(-60_000, 60_000, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)


@kinds
@calm
@given(st.lists(finite_floats, min_size=32, max_size=32))
@example([0.0] * 32)
@example([-0.0] * 32)
@example([0.3] * 32)
@example([-0.3] * 32)
@example([1.0, -1.0] * 16)
@example([127.0, *(i + 0.5 for i in range(31))])
@example([-8.0, *(i - 0.5 for i in range(-7, 8)), *[0.0] * 16])
@example([60_000.0, -60_000.0] + [1e-7] * 30)
def test_any_block_is_the_packages_bit_for_bit(kind, block):
    weight = torch.tensor([block])
    assert encoded(kind, weight).raw.numpy().tobytes() == theirs(kind, weight).tobytes()


@kinds
def test_zeros_of_both_signs_are_zeros(kind):
    weight = torch.tensor([[-0.0, 0.0] * 16, [-0.0, 1.0] * 16])
    assert BLOCKS[kind].store(weight).weight().numpy() == pytest.approx(
        gguf.dequantize(theirs(kind, weight), kind), abs=0
    )


@kinds
@pytest.mark.parametrize("scale", [1e-37, 1e-38, 1e-40, 1e-45])
def test_weights_too_small_for_any_scale_are_encoded_as_nothing(kind, scale):
    """1 / scale overflows, so the package's codes depend on the processor; a scale of 0 makes all 0."""
    assert encoded(kind, normal(4, 64) * scale).weight().abs().max() == 0


@kinds
def test_storing_what_was_stored_loses_little_more(kind):
    """The grid moves only by the rounding of its ends to 16 bits."""
    once = BLOCKS[kind].store(normal(8, 64)).weight()
    torch.testing.assert_close(BLOCKS[kind].store(once).weight(), once, atol=4e-3, rtol=0)


@pytest.mark.parametrize("format", [Q4_0, Q4_1], ids=label)
def test_codes_scales_and_minima_make_the_weights(format):
    stored = format.store(normal(6, 96))
    codes, scale, minimum = stored.int4_parts()
    assert codes.shape == (6, 96) and scale.shape == minimum.shape == (6, 3)
    assert set(codes.unique().tolist()) <= set(range(16))
    wide = [x.repeat_interleave(32, dim=1) for x in (scale, minimum)]
    torch.testing.assert_close(codes * wide[0] + wide[1], stored.weight(), atol=1e-6, rtol=0)


# NF4


def bitsandbytes_nf4(weight, double):
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)


def test_the_levels_are_those_of_the_paper():
    """Appendix E, as bitsandbytes has them."""
    from bitsandbytes.functional import create_dynamic_map, get_4bit_type

    assert nf4_levels().equal(get_4bit_type("nf4", device="cpu"))
    assert dynamic_levels().equal(create_dynamic_map())
    printed = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    torch.testing.assert_close(nf4_levels()[:5], torch.tensor(printed), atol=1e-7, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, 256, 300, 771])
@pytest.mark.parametrize("step", [0, 0.125])
@pytest.mark.parametrize("scale", [1e-30, 0.02, 1, 1e4])
def test_nf4_is_bitsandbytes_bit_for_bit(rows, step, scale):
    from bitsandbytes.functional import dequantize_4bit

    weight = normal(rows, 64, seed=rows)
    weight = (weight if not step else (weight / step).round() * step) * scale
    packed, state = bitsandbytes_nf4(weight, double=False)
    ours = NF4().store(weight)
    assert ours.packed.equal(packed.flatten())
    assert ours.scales.equal(state.absmax)
    assert ours.weight().equal(dequantize_4bit(packed, state))


def looked_up(scales, offset, block_scales):
    """Codes as bitsandbytes finds them on a CPU: each number is first rounded to one of 65,536 places."""
    relative = (scales - offset) / block_scales.repeat_interleave(256)[: len(scales)]
    places = ((relative + 1) / 2 * 65_535 + 0.5).floor()
    levels = dynamic_levels()
    return torch.bucketize(places / 65_535 * 2 - 1, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


@pytest.mark.parametrize("rows", [4, 256, 300, 771, 3000])
def test_double_quantized_nf4_is_bitsandbytes_up_to_its_table(rows):
    weight = normal(rows, 64, seed=rows) * normal(rows, 1, seed=1).exp()
    packed, state = bitsandbytes_nf4(weight, double=True)
    ours = NF4(double_quantization=True).store(weight)
    assert ours.packed.equal(packed.flatten())
    assert ours.offset.equal(state.offset)
    assert ours.scales_of_scales.equal(state.state2.absmax)
    exact = NF4().store(weight).scales
    relative = (exact - ours.offset) / ours.scales_of_scales.repeat_interleave(256)[:rows]
    levels, differ = dynamic_levels(), ours.scales != state.absmax
    nearer, farther = (
        (levels[codes.int()] - relative).abs()[differ] for codes in (ours.scales, state.absmax)
    )
    assert differ.float().mean() < 0.01
    assert (nearer <= farther + 1e-7).all() and (farther - nearer < 4 / 65_535).all()
    table = looked_up(exact, ours.offset, ours.scales_of_scales)
    assert (table != state.absmax).float().mean() <= 0.001


@pytest.mark.parametrize("rows", [4, 300, 771])
def test_bitsandbytes_reads_what_we_double_quantized(rows):
    from bitsandbytes.functional import dequantize_4bit

    ours = NF4(double_quantization=True).store(normal(rows, 64, seed=rows))
    packed, state = bitsandbytes_nf4(normal(rows, 64, seed=rows), double=True)
    state.absmax = ours.scales
    assert ours.weight().equal(dequantize_4bit(packed, state))


def test_nf4_has_the_papers_bytes():
    """Section 3: a 32-bit scale for 64 weights takes 0.5 bits a weight; with double quantization 0.127."""
    weight = normal(512, 512)
    bits = [8 * NF4(double).store(weight).nbytes / weight.numel() for double in (False, True)]
    assert bits == pytest.approx([4.5, 4.127], abs=1e-3)


def test_zero_stays_zero_in_nf4():
    weight = normal(8, 64)
    weight[:, ::3] = 0
    weight[0] = 0
    for double in (False, True):
        assert (NF4(double).store(weight).weight()[weight == 0] == 0).all()


# Grids


def step_of(format, stored):
    size = stored.shape.numel() // len(stored.scale)
    wide = stored.scale.float().expand(-1, size)
    return wide.reshape(stored.shape)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_plain_version_is_the_symmetric_grid_with_a_scale_for_each_row(bits):
    weight, format = normal(40, 64), Uniform(bits)
    codes, scale = absmax_quantize(weight, bits)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    wanted_codes, wanted_scale, _ = format.codes(weight)
    assert (codes.float() + format.zero_code).equal(wanted_codes) and scale.equal(wanted_scale)
    assert absmax_dequantize(codes, scale).equal(format.round(weight))


@pytest.mark.parametrize("largest", [1e-4, 1.76e-5, 1e-6, 1e-7, 1e-8])
@pytest.mark.parametrize("bits", range(2, 9))
def test_very_small_rows_get_the_largest_code_and_keep_their_signs(largest, bits):
    """The scale is rounded down by 16 bits, so that the largest weights lie beyond the last level."""
    weight = normal(40, 64)
    weight *= largest / weight.abs().amax(dim=1, keepdim=True)
    codes, scale = absmax_quantize(weight, bits)
    assert codes.abs().max() <= 2 ** (bits - 1) - 1
    rounded = absmax_dequantize(codes, scale)
    assert rounded.equal(Uniform(bits).round(weight)) and (rounded * weight >= 0).all()


def slack(format, weight):
    """How far the ends of the grid may miss the weights because scale and minimum have 16 bits."""
    ends = weight.abs().max() * 2**-11
    return 2 * ends + 2**-24 * (2**format.bits)


@grids
def test_every_weight_is_at_most_half_a_step_from_its_grid(format):
    weight = normal(6, 64)
    stored = format.store(weight)
    assert ((stored.weight() - weight).abs() <= step_of(format, stored) / 2 + slack(format, weight)).all()
    assert stored.codes().max() <= format.max_code
    assert format.round(weight).equal(stored.weight())


@grids
def test_a_grid_takes_bits_for_codes_and_two_bytes_for_each_scale_and_minimum(format):
    weight = normal(6, 64)
    groups = {"tensor": 1, "channel": 6}.get(format.group) or weight.numel() // format.group
    halves = groups * (1 if format.symmetric else 2)
    assert format.store(weight).nbytes == weight.numel() * format.bits // 8 + 2 * halves


@grids
def test_no_level_is_nearer_than_the_one_chosen(format):
    weight = normal(6, 64)
    codes, scale, minimum = format.codes(weight)
    levels = scale.unsqueeze(-1) * torch.arange(format.max_code + 1) + minimum.unsqueeze(-1)
    grouped = weight.view(len(codes), -1)
    nearest = (levels - grouped.unsqueeze(-1)).abs().amin(dim=-1)
    torch.testing.assert_close((codes * scale + minimum - grouped).abs(), nearest, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", ["tensor", "channel", 16])
def test_a_symmetric_grid_keeps_what_is_on_it(bits, group):
    once = Uniform(bits, group=group).round(normal(6, 64))
    assert Uniform(bits, group=group).round(once).equal(once)
    assert (Uniform(bits, group=group).round(-once) == -once).all()


@calm
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_one_scale_for_a_tensor_is_pytorchs_fake_quantization(seed, bits):
    weight, half = normal(7, 24, seed=seed), 2 ** (bits - 1) - 1
    scale = (weight.abs().max() / half).half().float()
    expected = torch.fake_quantize_per_tensor_affine(weight, scale.item(), 0, -half, half)
    ours = Uniform(bits, group="tensor").round(weight)
    assert (ours - expected).abs().max() <= scale * (1 if touches_a_tie(weight, scale) else 1e-5)


@calm
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_a_scale_a_row_is_pytorchs_fake_quantization_per_channel(seed, bits):
    weight, half = normal(7, 24, seed=seed), 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(dim=1) / half).half().float()
    zeros = torch.zeros(7, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -half, half)
    ours = Uniform(bits).round(weight)
    assert (ours - expected).abs().max() <= scale.max() * (
        1 if touches_a_tie(weight, scale[:, None]) else 1e-5
    )


def touches_a_tie(weight, scale):
    """PyTorch multiplies by the inverse of the scale, which may carry a number over a tie."""
    steps = weight / scale
    return ((steps - steps.floor() - 0.5).abs() < 1e-5).any()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_smaller_groups_have_smaller_errors(bits, symmetric):
    weight = normal(32, 128) * normal(32, 1, seed=1).exp()
    weight[3, 5] = 30.0
    errors = [
        (Uniform(bits, symmetric, group).round(weight) - weight).square().sum()
        for group in (8, 32, "channel", "tensor")
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.5, -3.0])
@grids
def test_constant_weights_are_kept(format, value):
    weight = torch.full((2, 32), value)
    torch.testing.assert_close(
        format.store(weight).weight(), weight, atol=slack(format, weight).item(), rtol=0
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_symmetric_grid_has_one_level_fewer(bits):
    assert Uniform(bits, symmetric=False).max_code == 2**bits - 1
    assert Uniform(bits).max_code == 2**bits - 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_nan_makes_its_group_nan_and_no_other(symmetric):
    weight = normal(2, 8)
    weight[0, 1] = torch.nan
    rounded = Uniform(4, symmetric, group=4).round(weight)
    assert rounded[0, :4].isnan().all() and rounded[0, 4:].isfinite().all() and rounded[1].isfinite().all()


def test_an_asymmetric_grid_reaches_from_the_smallest_to_the_largest():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert Uniform(2, symmetric=False).round(weight).equal(weight)
    assert Uniform(2, symmetric=False).store(weight).codes().tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 1},
        {"bits": 9},
        {"bits": 4.0},
        {"bits": "4"},
        {"bits": True},
        {"group": 0},
        {"group": -1},
        {"group": "row"},
        {"group": 2.5},
        {"group": True},
        {"symmetric": "no"},
        {"symmetric": None},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Uniform(**options)


# Any format


@formats
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(format, wrong):
    weight = normal(64, 64)
    weight[5, 7] = wrong
    with pytest.raises(ValueError, match="NaN or ∞"):
        format.store(weight)


@formats
@pytest.mark.parametrize("shape", [(0, 64), (64, 0), (64,), (64, 64, 2), ()])
def test_what_is_no_matrix_is_refused(format, shape):
    with pytest.raises(ValueError, match="only matrices are quantized"):
        format.store(torch.zeros(shape))


@formats
def test_weights_too_large_for_a_scale_of_16_bits_are_refused(format):
    weight = torch.full((64, 64), 1e30)
    weight[:, ::2] *= -1
    if isinstance(format, NF4):
        assert format.store(weight).weight().isfinite().all()
        return
    with pytest.raises(ValueError, match="too large for scales of 16 bits"):
        format.store(weight)


TINY = [
    Uniform(),
    Uniform(4),
    Uniform(8, group=32),
    Uniform(8, group="tensor"),
    Uniform(8, False),
    Uniform(2),
    Q8_0,
]
TINY += [Q4_0, Q4_1]


@pytest.mark.parametrize("format", TINY, ids=label)
def test_weights_too_small_for_a_scale_of_16_bits_are_refused_and_not_lost(format):
    """Multiplied by 1e-6 and less, weights either keep their signs and most of their size or are refused."""
    weight = normal(16, 64)
    for size in (1.0, 1e-3, 1e-6, 1e-7, 1e-9, 1e-30):
        try:
            stored = format.store(weight * size).weight() / size
        except ValueError as error:
            assert "too small for scales of 16 bits" in str(error) and size < 1e-5
            assert "NF4" in str(error)
        else:
            largest = weight.abs() == weight.abs().amax(dim=1, keepdim=True)
            assert (stored * weight)[largest].min() > 0
    with pytest.raises(ValueError, match="too small for scales of 16 bits"):
        format.store(weight * 1e-9)
    small = NF4().store(weight * 1e-9).weight()
    torch.testing.assert_close(small * 1e9, NF4().store(weight).weight())


@pytest.mark.parametrize("format", TINY, ids=label)
def test_rows_that_are_next_to_nothing_beside_the_others_may_become_nothing(format):
    """A channel that died in training mustn't keep a model from being stored."""
    weight = normal(16, 64)
    weight[3] *= 1e-9
    stored = format.store(weight).weight()
    assert stored[3].abs().max() < 1e-3 and stored[4].abs().max() > 1e-1
    assert format.store(torch.zeros(16, 64)).weight().equal(torch.zeros(16, 64))


def test_a_model_of_tiny_weights_is_refused_by_each_way_of_rounding():
    for start in (
        lambda model: quantize_linears(model, Uniform()),
        lambda model: quantize_linears(model, Q8_0),
        lambda model: start_qat(model, Uniform()),
        lambda model: gptq_linears(model, random_tokens(model), Uniform()),
    ):
        model = decoder()
        with torch.no_grad():
            model.blocks[1].feed_forward.down.weight *= 1e-8
        before = everything(model)
        with pytest.raises(ValueError, match="too small for scales of 16 bits"):
            start(model)
        assert same(before, everything(model))


@pytest.mark.parametrize("format", [Q4_0, Q4_1, Q8_0, Uniform(group=32)], ids=label)
def test_rows_that_do_not_divide_are_refused(format):
    with pytest.raises(ValueError, match="rows of 33 weights don't divide into .* of 32"):
        format.store(normal(32, 33))
    with pytest.raises(ValueError, match="99 weights don't divide into blocks of 64"):
        NF4().store(normal(9, 11))


@formats
def test_weights_without_values_are_refused(format):
    with pytest.raises(ValueError, match="meta device"):
        format.store(torch.empty(64, 64, device="meta"))


@formats
def test_a_weight_is_stored_alike_however_it_lies_in_memory(format):
    weight = normal(64, 64)
    expected = format.store(weight).weight()
    assert format.store(weight.T.contiguous().T).weight().equal(expected)
    assert format.store(normal(64, 128).narrow(1, 0, 64).copy_(weight)).weight().equal(expected)
    assert format.store(weight.double()).weight().equal(expected)


@formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weight_of_16_bits_is_stored_as_its_values_in_32(format, dtype):
    weight = normal(64, 64).to(dtype)
    assert format.store(weight).weight().equal(format.store(weight.float()).weight())


@formats
def test_storing_changes_no_weight_and_keeps_no_graph(format):
    weight = nn.Parameter(normal(64, 64))
    before = weight.detach().clone()
    stored = format.store(weight)
    assert weight.equal(before) and not any(buffer.requires_grad for buffer in stored.buffers())
    assert deepcopy(stored).weight().equal(stored.weight())


@formats
def test_what_was_stored_without_gradients_is_used_with_them(format):
    with torch.inference_mode():
        layer = QuantizedLinear(format.store(normal(64, 64)))
    x = normal(3, 64).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.isfinite().all()


# A layer of stored weights


@formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_is_a_plain_one_of_the_stored_weights(format, dtype, biased):
    stored, bias = format.store(normal(32, 64)), normal(32, seed=1) if biased else None
    layer = QuantizedLinear(stored, bias).to(dtype)
    ours, theirs = (normal(2, 5, 64, seed=2).to(dtype).requires_grad_() for _ in range(2))
    expected = F.linear(theirs, stored.weight(dtype))
    expected = expected if bias is None else expected + bias.to(dtype)
    y = layer(ours)
    assert y.equal(expected) and y.dtype == dtype
    upstream = normal(2, 5, 32, seed=3).to(dtype)
    y.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not [weight for weight in layer.parameters() if weight.requires_grad]


def test_gradients_are_those_of_finite_differences():
    layer = QuantizedLinear(Uniform(4, group=4).store(normal(3, 8)), normal(3)).double()
    x = normal(2, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("biased", [True, False])
def test_under_autocast_a_layer_does_as_a_plain_one(biased):
    stored, bias = Uniform(4, group=32).store(normal(32, 64)), normal(32, seed=1) if biased else None
    plain = nn.Linear(64, 32, bias=biased).requires_grad_(False)
    plain.weight.copy_(stored.weight())
    if biased:
        plain.bias.copy_(bias)
    inputs = [normal(5, 64, seed=2).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = QuantizedLinear(stored, bias)(inputs[0]), plain(inputs[1])
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, atol=0.1, rtol=0.02)
    for each in (y, expected):
        each.float().square().sum().backward()
    assert inputs[0].grad.dtype == torch.float32
    assert F.cosine_similarity(inputs[0].grad.flatten(), inputs[1].grad.flatten(), dim=0) > 0.999


@formats
def test_another_precision_leaves_the_stored_bits_alone(format):
    layer = QuantizedLinear(format.store(normal(32, 64)), normal(32))
    before, y = everything(layer.stored), layer(normal(3, 64))
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        layer.to(dtype)
        assert layer.bias.dtype == dtype and same(before, everything(layer.stored))
        assert {name: x.dtype for name, x in before.items()} == {
            name: x.dtype for name, x in layer.stored.state_dict().items()
        }
    torch.testing.assert_close(layer(normal(3, 64)), y, atol=0.02, rtol=0.02)
    assert layer.half().to(torch.device("meta")).stored.weight().is_meta


@formats
def test_a_copy_is_another_and_a_state_dict_is_whole(format):
    first, second = (
        QuantizedLinear(format.store(normal(32, 64, seed=i)), normal(32, seed=i)) for i in range(2)
    )
    copy, x = deepcopy(first), normal(3, 64)
    assert copy(x).equal(first(x)) and not first(x).equal(second(x))
    second.load_state_dict(first.state_dict())
    assert second(x).equal(first(x))
    for buffer in copy.buffers():
        buffer.zero_()
    assert second(x).equal(first(x)) and not copy(x).equal(first(x))


@formats
def test_a_layer_knows_its_bytes(format):
    stored = format.store(normal(32, 64))
    assert (
        QuantizedLinear(stored).nbytes == stored.nbytes == sum(x.nbytes for x in stored.state_dict().values())
    )
    assert (
        QuantizedLinear(stored, normal(32)).nbytes
        == stored.nbytes + 128
        == model_bytes(QuantizedLinear(stored, normal(32)))
    )


@pytest.mark.parametrize(
    "format", [Uniform(8), Uniform(3, False), Uniform(5, group="tensor"), Uniform(2, group=1)], ids=label
)
def test_matrices_of_one_column_or_row_are_stored(format):
    for shape in ((5, 1), (1, 5), (1, 1)):
        weight = normal(*shape)
        layer, x = QuantizedLinear(format.store(weight)), normal(2, shape[1], seed=1)
        assert layer(x).equal(F.linear(x, format.round(weight)))


def test_several_threads_may_use_a_layer():
    layer, x, results = QuantizedLinear(NF4(True).store(normal(64, 64))), normal(9, 64), {}
    expected = layer(x)
    threads = [Thread(target=lambda i=i: results.update({i: layer(x)})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(y.equal(expected) for y in results.values())


# A model of stored weights


@formats
def test_a_quantized_model_is_a_plain_one_of_the_stored_weights(format):
    model = quantize_linears(decoder(), format)
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens), dequantized(deepcopy(model))(tokens))


@formats
def test_a_quantized_model_writes_and_remembers(format):
    model = quantize_linears(decoder(), format)
    tokens = random_tokens(model)
    cache = model.new_cache(12)
    logits = torch.cat([model(piece, cache) for piece in tokens.split([7, 1, 4], dim=1)], dim=1)
    torch.testing.assert_close(logits, model(tokens), atol=1e-4, rtol=1e-4)
    prompt = tokens[0].tolist()
    assert list(generate(model, prompt, 12)) == list(generate(model, prompt, 12, cached=False))
    assert list(generate(model, prompt, 12)) == list(generate(dequantized(deepcopy(model)), prompt, 12))


def test_only_head_embedding_norms_and_routers_stay_plain():
    model = quantize_linears(decoder(n_experts=3, n_active=2, n_shared=1), Q4_1)
    plain = {name for name, part in model.named_modules() if type(part) is nn.Linear}
    assert plain == {"head", "blocks.0.feed_forward.router", "blocks.1.feed_forward.router"}
    assert sum(isinstance(part, QuantizedLinear) for part in model.modules()) == 2 * (4 + 4 * 3)
    assert model.head.weight is model.embedding.weight


def test_experts_compute_with_stored_weights():
    model = quantize_linears(decoder(n_experts=3, n_active=2), Uniform(4, group=32))
    tokens = random_tokens(model)
    assert isinstance(model.blocks[0].feed_forward, Experts)
    torch.testing.assert_close(model(tokens), dequantized(deepcopy(model))(tokens))


@formats
def test_encoder_and_decoder_compute_with_stored_weights(format):
    torch.manual_seed(0)
    model = EncoderDecoder(
        tiny_config(d_model=64, d_head=16, n_heads=4, n_kv_heads=2, d_ff=64, bias=True)
    ).eval()
    model = quantize_linears(model.requires_grad_(False), format)
    source, target = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6]])
    torch.testing.assert_close(model(source, target), dequantized(deepcopy(model))(source, target))
    memory = model.encode(source)
    assert len(list(generate(model.decoder, [5, 6], 4, memory=memory))) == 4


def test_biases_are_kept():
    model = decoder(bias=True)
    biases = {name: weight.clone() for name, weight in model.named_parameters() if name.endswith("bias")}
    quantize_linears(model, Q4_1)
    after = dict(model.named_parameters())
    assert biases and all(after[name].equal(bias) for name, bias in biases.items())


def test_a_model_that_cannot_be_stored_stays_as_it_was():
    model = decoder()
    model.blocks[1].feed_forward.down.weight[0, 0] = float("nan")
    before, parts = everything(model), list(model.modules())
    with pytest.raises(ValueError, match="blocks.1.feed_forward.down: the weights hold NaN"):
        quantize_linears(model, Q4_1)
    assert all(a is b for a, b in zip(parts, model.modules(), strict=True))
    assert all(before[n].nan_to_num(7).equal(x.nan_to_num(7)) for n, x in model.state_dict().items())
    with pytest.raises(ValueError, match="blocks.0.attention.query: rows of 24 .* blocks of 32"):
        quantize_linears(tiny_decoder(torch.float32), Q4_1)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.ModuleDict({"head": nn.Linear(32, 32)})], ids=str)
def test_a_model_without_layers_to_round_is_refused(model):
    with pytest.raises(ValueError, match="no nn.Linear to round, apart from head and router"):
        quantize_linears(model, Q4_1)


def test_quantizing_twice_is_refused():
    model = quantize_linears(decoder(), Q4_1)
    before = everything(model)
    for again in (partial(quantize_linears, format=NF4()), partial(start_qat, format=Uniform())):
        with pytest.raises(ValueError, match="no nn.Linear to round: they are quantized"):
            again(model)
    with pytest.raises(ValueError, match="no nn.Linear to round"):
        gptq_linears(model, random_tokens(model), Uniform())
    assert same(before, everything(model))


@pytest.mark.parametrize(
    "format, bits",
    [(Q8_0, 8.5), (Q4_0, 4.5), (Q4_1, 5), (NF4(), 4.5), (Uniform(2, group=32), 2.5)],
    ids=label,
)
def test_a_models_bytes_are_counted(format, bits):
    model = decoder()
    assert model_bytes(model) == sum(4 * weight.numel() for weight in model.parameters())
    inner = sum(layer.weight.numel() for layer in linears(model).values())
    outer = model_bytes(model) - 4 * inner
    assert model_bytes(quantize_linears(model, format)) == outer + inner * bits / 8


def test_shared_weights_are_counted_once():
    tied, untied = (decoder(tie_embeddings=tie) for tie in (True, False))
    assert model_bytes(untied) - model_bytes(tied) == 4 * 61 * 64


def test_a_quantized_model_is_not_saved_as_a_plain_one(tmp_path):
    with pytest.raises(ValueError, match="save it before packing or changing it"):
        save_model(tmp_path / "model", quantize_linears(decoder(), Q4_1))
    assert not list(tmp_path.iterdir())


# Kernels that compute with the bits


def close_in_16_bits(y, expected):
    """Each weight, the input and the sum keep 8 bits."""
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.015 * expected.abs().max()


def layer_of(format, rows, columns, seed=0, biased=False):
    return QuantizedLinear(
        format.store(0.1 * normal(rows, columns, seed=seed)), normal(rows, seed=9) if biased else None
    )


@pytest.mark.parametrize("format", FAST, ids=label)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows, columns", [(16, 32), (48, 96), (80, 64), (64, 576), (192, 160)])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (1, 33), ()])
def test_kernels_agree_with_the_stored_weights(format, biased, rows, columns, shape):
    layer = layer_of(format, rows, columns, biased=biased)
    fast = fast_linear([layer])
    assert isinstance(fast, Int8Linear if format == Uniform() else Int4Linear)
    assert (fast.out_features, fast.in_features) == (rows, columns)
    x = normal(*shape, columns, seed=1).bfloat16()
    y = fast(x)
    assert y.shape == (*shape, rows)
    close_in_16_bits(y, layer(x.float()))


@pytest.mark.parametrize("format", FAST, ids=label)
def test_kernels_take_inputs_however_they_lie_and_none(format):
    layer = layer_of(format, 16, 32)
    fast, wide = fast_linear([layer]), normal(4, 64).bfloat16()
    for x in (wide[:, ::2], wide[:, :32], normal(32, 4).bfloat16().T):
        close_in_16_bits(fast(x), layer(x.float()))
    assert fast(wide[:0, :32]).shape == (0, 16)


@pytest.mark.parametrize("format", FAST, ids=label)
def test_layers_with_the_same_input_become_one(format):
    layers = [layer_of(format, rows, 64, seed, biased=True) for seed, rows in enumerate((32, 16, 48))]
    x = normal(3, 64).bfloat16()
    close_in_16_bits(fast_linear(layers)(x), torch.cat([layer(x.float()) for layer in layers], dim=-1))


def test_4_bit_blocks_of_two_kinds_may_be_joined():
    layers, x = [layer_of(Q4_0, 16, 64), layer_of(Q4_1, 32, 64)], normal(3, 64).bfloat16()
    close_in_16_bits(fast_linear(layers)(x), torch.cat([layer(x.float()) for layer in layers], dim=-1))


SLOW = {
    "rows not by 16": lambda: [layer_of(Q4_1, 24, 32)],
    "columns that the 8-bit kernel would read beyond": lambda: [layer_of(Uniform(), 16, 30)],
    "one column": lambda: [layer_of(Uniform(), 16, 1)],
    "blocks of 8 bits": lambda: [layer_of(Q8_0, 16, 32)],
    "NF4": lambda: [layer_of(NF4(), 16, 64)],
    "another grid": lambda: [layer_of(Uniform(8, symmetric=False), 16, 32)],
    "groups": lambda: [layer_of(Uniform(8, group=32), 16, 32)],
    "two kinds": lambda: [layer_of(Uniform(), 16, 32), layer_of(Q4_1, 16, 32)],
    "one bias of two": lambda: [layer_of(Q4_1, 16, 32, biased=True), layer_of(Q4_1, 16, 32)],
    "the other bias of two": lambda: [layer_of(Uniform(), 16, 32), layer_of(Uniform(), 16, 32, biased=True)],
}


@pytest.mark.parametrize("name", SLOW)
def test_where_no_kernel_fits_there_is_no_fast_layer(name):
    assert fast_linear(SLOW[name]()) is None


def test_matrices_that_a_kernel_would_read_beyond_are_refused():
    for layer, stored in (
        (Int8Linear, [Uniform().store(normal(16, 30))]),
        (Int8Linear, [Uniform(4).store(normal(16, 32))]),
        (Int8Linear, [Uniform().store(normal(16, 32)), Uniform().store(normal(16, 64))]),
        (Int8Linear, []),
        (Int4Linear, [Q4_1.store(normal(8, 32))]),
        (Int4Linear, [Q8_0.store(normal(16, 32))]),
        (Int4Linear, [Q4_1.store(normal(16, 32)), Q4_1.store(normal(16, 64))]),
        (Int4Linear, []),
    ):
        with pytest.raises(ValueError, match="give matrices in"):
            layer(stored)
    assert fast_linear([]) is None


def test_a_bias_has_a_number_for_each_row():
    for layer, format in ((QuantizedLinear, Uniform()), (QuantizedLinear, NF4())):
        with pytest.raises(ValueError, match=r"a bias for 32 rows has the shape \(32,\), not \(1,\)"):
            layer(format.store(normal(32, 64)), torch.ones(1))
    for layer, format in ((Int8Linear, Uniform()), (Int4Linear, Q4_0)):
        with pytest.raises(ValueError, match="a bias for 32 rows"):
            layer([format.store(normal(32, 64))], torch.ones(64))


# GPTQ


def correlated(samples, columns, seed, rank=4):
    """Inputs that are mostly mixtures of a few directions, as those of real layers are."""
    few, mix, noise = (
        normal(*shape, seed=seed + i)
        for i, shape in enumerate([(samples, rank), (rank, columns), (samples, columns)])
    )
    return few @ mix + 0.3 * noise


def output_error(weight, stored, inputs):
    return (inputs.double() @ (weight.double() - stored.weight().double()).T).square().sum().item()


def obq(weight, inputs, format, damping=0.01):
    """GPTQ's plain version: for each column, invert the Hessian of the remaining columns anew.

    Frantar et al. (2022), equations 2 and 3, in a fixed order.
    """
    left, x = weight.double().clone(), inputs.double()
    hessian = x.T @ x
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    codes, scale, minimum = format.codes(weight)
    steps, start = (part.double().expand(codes.shape).reshape(weight.shape) for part in (scale, minimum))
    for i in range(weight.shape[1]):
        inverse = torch.linalg.inv(hessian[i:, i:])
        code = ((left[:, i] - start[:, i]) / steps[:, i]).round().clamp(0, format.max_code)
        error = left[:, i] - (code * steps[:, i] + start[:, i])
        left[:, i:] -= torch.outer(error / inverse[0, 0], inverse[0])
    return left


@pytest.mark.parametrize(
    "format", [Uniform(3), Uniform(4, False, 8), Uniform(2, True, 16), Uniform(3, False, "tensor")], ids=label
)
def test_gptq_is_obq_column_after_column(format):
    weight, inputs = normal(8, 32), correlated(200, 32, seed=5)
    torch.testing.assert_close(
        gptq(weight, inputs, format).weight().double(), obq(weight, inputs, format), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "format", [Uniform(2), Uniform(3), Uniform(4, False, 16), Uniform(4, group="tensor")], ids=label
)
def test_gptq_makes_the_outputs_errors_smaller(format):
    total = {"nearest": 0.0, "gptq": 0.0}
    for seed in range(8):
        weight, inputs = normal(16, 48, seed=seed), correlated(300, 48, seed=100 * seed)
        errors = {
            "nearest": output_error(weight, format.store(weight), inputs),
            "gptq": output_error(weight, gptq(weight, inputs, format), inputs),
        }
        assert errors["gptq"] <= 1.01 * errors["nearest"]
        total = {name: total[name] + errors[name] for name in total}
    assert total["gptq"] < 0.8 * total["nearest"]


@pytest.mark.parametrize("format", [Uniform(3), Uniform(4, False, 8), Uniform(4, group="tensor")], ids=label)
def test_with_uncorrelated_inputs_gptq_is_rounding_to_the_nearest(format):
    inputs = torch.linalg.qr(normal(64, 32, dtype=torch.float64))[0]
    weight = normal(8, 32)
    assert same(everything(gptq(weight, inputs, format)), everything(format.store(weight)))


def test_columns_that_never_meet_an_input_are_rounded_to_the_nearest():
    weight, inputs, format = normal(8, 32), correlated(100, 32, seed=0), Uniform(3)
    dead = [0, 7, 31]
    inputs[:, dead] = 0
    assert gptq(weight, inputs, format).weight()[:, dead].equal(format.round(weight)[:, dead])
    assert gptq(weight, torch.zeros(5, 32), format).weight().equal(format.round(weight))
    assert gptq(weight, torch.zeros(0, 32), format).weight().equal(format.round(weight))


@pytest.mark.parametrize("samples", [1, 3])
def test_fewer_samples_than_columns_are_enough(samples):
    weight, inputs = normal(4, 32), normal(samples, 32, seed=1)
    error = output_error(weight, gptq(weight, inputs, Uniform(4)), inputs)
    assert error < output_error(weight, Uniform(4).store(weight), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gptq_leaves_weight_and_inputs_as_they_are(dtype):
    weight, inputs = nn.Parameter(normal(4, 32).to(dtype)), correlated(50, 32, seed=0).to(dtype)
    before = weight.detach().clone(), inputs.clone()
    stored = gptq(weight, inputs, Uniform(4))
    assert weight.equal(before[0]) and inputs.equal(before[1])
    assert not any(buffer.requires_grad for buffer in stored.buffers())


def test_gptq_uses_the_grid_that_rounding_uses():
    weight, inputs = normal(4, 32), correlated(50, 32, seed=0)
    stored, plain = gptq(weight, inputs, Uniform(3, False, 8)), Uniform(3, False, 8).store(weight)
    assert (
        stored.scale.equal(plain.scale)
        and stored.minimum.equal(plain.minimum)
        and stored.nbytes == plain.nbytes
    )


@pytest.mark.parametrize(
    "weight, inputs",
    [
        (torch.ones(4, 8), torch.ones(5, 7)),
        (torch.ones(4, 8), torch.ones(8)),
        (torch.ones(4, 8), torch.ones(2, 3, 8)),
        (torch.ones(4, 8), torch.full((5, 8), torch.nan)),
        (torch.full((4, 8), torch.inf), torch.ones(5, 8)),
        (torch.ones(8), torch.ones(5, 8)),
    ],
)
def test_gptq_refuses_what_does_not_fit(weight, inputs):
    with pytest.raises(ValueError, match="finite inputs|NaN or ∞|only matrices"):
        gptq(weight, inputs, Uniform(4))


@pytest.mark.parametrize("damping", [-0.1, math.nan, math.inf, "0.01", None])
def test_gptqs_damping_is_a_number(damping):
    with pytest.raises(ValueError, match="damping must be 0 or more"):
        gptq(normal(4, 8), normal(20, 8), Uniform(4), damping)


def test_gptq_without_damping_asks_for_some_where_it_is_needed():
    inputs = normal(20, 1).expand(20, 8).contiguous()  # all columns alike: H can't be inverted
    with pytest.raises(ValueError, match="damping=0"):
        gptq(normal(4, 8), inputs, Uniform(4), damping=0)
    assert gptq(normal(4, 8), inputs, Uniform(4)).weight().isfinite().all()


def test_gptq_of_a_model_comes_closer_than_plain_rounding():
    model, format = decoder(seed=3), Uniform(3)
    tokens, others = random_tokens(model, 16, 24, seed=1), random_tokens(model, 16, 24, seed=2)
    careful, plain = gptq_linears(deepcopy(model), tokens, format), quantize_linears(deepcopy(model), format)
    assert sum(isinstance(part, QuantizedLinear) for part in careful.modules()) == 14
    errors = [(each(others) - model(others)).square().mean() for each in (careful, plain)]
    assert errors[0] < errors[1]
    assert model_bytes(careful) == model_bytes(plain)


def test_gptq_of_a_model_gives_experts_and_biases_their_due():
    model = decoder(n_experts=4, n_active=1, normalize_shares=False, bias=True)
    careful = gptq_linears(
        deepcopy(model), random_tokens(model, 1, 2), Uniform(4)
    )  # some experts see nothing
    assert careful(random_tokens(model)).isfinite().all()
    assert careful.blocks[0].attention.query.bias.equal(model.blocks[0].attention.query.bias)


def test_gptq_of_a_model_that_fails_leaves_it_as_it_was():
    model = decoder()
    model.blocks[1].feed_forward.down.weight[0, 0] = float("nan")
    parts = list(model.modules())
    with pytest.raises(ValueError, match="NaN"):
        gptq_linears(model, random_tokens(model), Uniform(4))
    assert all(a is b for a, b in zip(parts, model.modules(), strict=True))
    assert not any(part._forward_pre_hooks for part in model.modules())


# Quantization-aware training


def fresh(**changes):
    torch.manual_seed(0)
    return Decoder(tiny_config(n_layers=1, **changes))


def batches(seed=0):
    return Windows(torch.randint(61, (100,), generator=torch.Generator().manual_seed(seed)), 8, 4, seed)


def test_the_gradient_passes_straight_through():
    weight, x, format = normal(4, 8), normal(5, 8, seed=1), Uniform(3)
    layer = nn.Sequential(nn.Linear(8, 4))
    layer[0].weight.data.copy_(weight)
    start_qat(layer, format)
    y, upstream = layer(x), normal(5, 4, seed=2)
    torch.testing.assert_close(y, F.linear(x, format.round(weight), layer[0].bias))
    y.backward(upstream)
    torch.testing.assert_close(layer[0].weight.grad, upstream.T @ x)
    torch.testing.assert_close(layer[0].bias.grad, upstream.sum(0))


@pytest.mark.parametrize("format", [Uniform(2), Uniform(4, False, 8), Uniform(3, group="tensor")], ids=label)
def test_what_was_trained_rounded_is_stored_and_says_the_same(format):
    model = start_qat(fresh(), format)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    training(model).run(batches(), progress=False)
    assert all(not weight.equal(before[name]) for name, weight in model.named_parameters())
    model.eval().requires_grad_(False)
    tokens = random_tokens(model)
    trained = model(tokens)
    assert finish_qat(model) is model
    assert sum(isinstance(part, QuantizedLinear) for part in model.modules()) == 7
    torch.testing.assert_close(model(tokens), trained, atol=1e-5, rtol=1e-5)


def test_training_with_rounding_learns_where_rounding_afterwards_fails():
    """With two levels and zero, a network trained with the rounding fits what a rounded one can't."""
    x = normal(256, 16)
    y, format = torch.tanh(x @ normal(16, 4, seed=1)), Uniform(2)

    def learn(net):
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
        return net

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))

    afterwards, in_view = (
        quantize_linears(learn(network()), format),
        finish_qat(learn(start_qat(network(), format))),
    )
    losses = [F.mse_loss(net(x), y).item() for net in (afterwards, in_view)]
    assert losses[1] < 0.5 * losses[0]


def training(model=None):
    return Training(model or start_qat(fresh(), Uniform(3)), TrainConfig(steps=8, warmup=2))


def test_training_with_rounding_is_deterministic():
    runs = [training() for _ in range(2)]
    for run in runs:
        run.run(batches(), progress=False)
    assert runs[0].history == runs[1].history
    assert same(everything(finish_qat(runs[0].model)), everything(finish_qat(runs[1].model)))


def test_training_with_rounding_is_begun_once_and_ended_once():
    model = start_qat(fresh(), Uniform(3))
    with pytest.raises(ValueError, match="in quantization-aware training already"):
        start_qat(model, Uniform(4))
    with pytest.raises(ValueError, match="in quantization-aware training already"):
        quantize_linears(model, Uniform(4))
    finish_qat(model)
    for again in (finish_qat, partial(start_qat, format=Uniform(3))):
        with pytest.raises(ValueError, match="begin with start_qat|quantized already"):
            again(model)
    with pytest.raises(ValueError, match="begin with start_qat"):
        finish_qat(fresh())


@pytest.mark.parametrize("wrong", ["NaN", "too large", "groups that don't divide"])
def test_training_with_rounding_is_not_begun_halfway(wrong):
    model = fresh()
    format = Uniform(4, group=16) if wrong.startswith("groups") else Uniform(4)
    if not wrong.startswith("groups"):
        model.blocks[0].feed_forward.down.weight.data[0, 0] = {"NaN": torch.nan, "too large": 1e30}[wrong]
    parts = list(model.modules())
    with pytest.raises(ValueError):
        start_qat(model, format)
    assert all(a is b and type(a) is type(b) for a, b in zip(parts, model.modules(), strict=True))
    assert len(linears(model)) == 7


def test_training_that_went_wrong_is_not_stored_and_not_lost():
    model = start_qat(fresh(), Uniform(4))
    model.blocks[0].feed_forward.down.weight.data[0, 0] = torch.nan
    before = set(model.state_dict())
    with pytest.raises(ValueError, match="NaN"):
        finish_qat(model)
    assert set(model.state_dict()) == before


def test_a_model_in_such_training_is_saved_and_goes_on(tmp_path):
    whole, first, second = training(), training(), training()
    whole.run(batches(), progress=False)
    first.run(batches(), until=4, progress=False)
    save_checkpoint(tmp_path / "run", first)
    load_checkpoint(tmp_path / "run", second)
    second.run(batches(), progress=False)
    assert second.history == whole.history
    assert same(everything(finish_qat(second.model)), everything(finish_qat(whole.model)))


def test_such_a_checkpoint_is_not_taken_for_another_models(tmp_path):
    save_checkpoint(tmp_path / "run", training())
    for other in (fresh(), quantize_linears(fresh(), Uniform(3))):
        before = everything(other)
        with pytest.raises(ValueError, match="exchanged parts of model differs"):
            load_checkpoint(tmp_path / "run", training(other))
        assert same(before, everything(other))


def test_whole_numbers_of_numpy_are_bits_and_counts():
    codes, weight = torch.arange(4), torch.linspace(-2, 3, 64).view(4, 16)
    for bits in range(2, 9):
        packed = pack_bits(codes, np.int64(bits))
        assert packed.equal(pack_bits(codes, bits))
        for count in (np.int64(4), 4):
            assert unpack_bits(packed, np.int64(bits), count).equal(codes.to(torch.uint8))
        for mine, theirs in zip(
            absmax_quantize(weight, np.int64(bits)), absmax_quantize(weight, bits), strict=True
        ):
            assert mine.equal(theirs) and mine.dtype == theirs.dtype
    format = Uniform(np.int64(4), group=np.int64(8))
    assert format == Uniform(4, group=8) and type(format.bits) is type(format.group) is int
    with pytest.raises(ValueError, match="5 codes of 8 bits can't be read"):
        unpack_bits(packed, 8, np.int64(5))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: pack_bits([1, 2], 4), "codes"),
        (lambda: unpack_bits([57], 2, 4), "packed"),
        (lambda: absmax_quantize([[0.5, 1.0]], 4), "weight"),
        (lambda: absmax_dequantize([[1]], torch.ones(1, 1)), "codes"),
        (lambda: absmax_dequantize(torch.ones(1, 1, dtype=torch.int8), 0.5), "scale"),
    ],
)
def test_what_is_no_tensor_is_named(call, name):
    with pytest.raises(TypeError, match=rf"{name} must be a tensor, as torch.tensor\(…\) makes one, not"):
        call()
