"""What isn't a number stays visible, and what can't be is refused in words that name it."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from references import random_tokens, random_weights, tiny_config, tiny_decoder

from course_lib.evaluate import perplexity
from course_lib.generate import generate
from course_lib.model import (
    Attention,
    AttentionConfig,
    Decoder,
    Encoder,
    EncoderDecoder,
    ExpertsConfig,
    KVCache,
    LayerNorm,
    Memory,
    ModelConfig,
    RMSNorm,
    Trace,
    ablate_heads,
    alibi_bias,
    attend,
    attention_by_hand,
    cut_edges,
    fast_dtype,
    load_balancing_loss,
    patch_heads,
    rotary_tables,
    rotate,
    route,
    sinusoidal_table,
    soft_cap,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LIKE = torch.zeros(())


def qkv(queries, keys, dtype=torch.float32):
    """Random queries, keys and values of 4 heads and 2 key-value heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 4, queries, 8), (1, 2, keys, 8), (1, 2, keys, 8)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def both_ways(q, k, v, *args, **kwargs):
    """`attend`, after a check that it agrees with `attention_by_hand`."""
    fast, by_hand = attend(q, k, v, *args, **kwargs), attention_by_hand(q, k, v, *args, **kwargs)[0]
    torch.testing.assert_close(fast, by_hand, atol=0.05 if q.itemsize == 2 else 1e-5, rtol=0, equal_nan=True)
    return fast


# NaN


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 5), (5, 5), (3, 5), (40, 40), (513, 513)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_nan_or_inf_comes_out_as_it_does_by_hand(dtype, queries, keys, bad, which):
    for where in [(0, 1, 0, 0), (0, 0, -1, 3), ...]:  # an early token, the last one, all
        tensors = qkv(queries, keys, dtype)
        tensors[which][where] = bad
        both_ways(*tensors)


def test_a_query_of_nan_has_an_output_of_nan_and_spoils_no_other():
    q, k, v = qkv(5, 5)
    q[0, 2, 3] = math.nan
    out = both_ways(q, k, v)
    assert out[0, 2, 3].isnan().all() and out.isnan().sum() == 8
    assert attend(q[:, :, 3:4], k, v)[0, 2].isnan().all()


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_may_attend_to_nothing_has_an_output_of_nan(dtype, queries):
    q, k, v = qkv(queries, 6, dtype)
    seen = torch.ones(1, 1, queries, 6, dtype=torch.bool)
    seen[..., -1, :] = False
    for mask in (seen, torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -math.inf)):
        out = both_ways(q, k, v, mask, causal=False)
        assert out[:, :, -1].isnan().all() and out[:, :, :-1].isfinite().all()


def test_more_queries_than_keys_leave_the_first_without_a_key():
    out = both_ways(*qkv(5, 3))
    assert out[:, :, :2].isnan().all() and out[:, :, 2:].isfinite().all()
    assert both_ways(*qkv(5, 3), causal=False).isfinite().all()


def test_outputs_that_are_zero_stay_zero():
    q, k, v = qkv(4, 4)
    assert (both_ways(q, k, torch.zeros_like(v)) == 0).all()


def test_gradients_of_nan_are_nan_too():
    q, k, v = (x.requires_grad_() for x in qkv(3, 3))
    with torch.no_grad():
        q[0, 0, 0] = math.nan
    for attention in (attend, lambda *x: attention_by_hand(*x)[0]):
        of_q, of_v = torch.autograd.grad(attention(q, k, v)[0, 0, 0].sum(), [q, v])
        assert of_q[0, 0, 0].isnan().all() and of_v[0, 0, 0].isnan().all()


@pytest.mark.parametrize("part", ["query", "key", "value", "output"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_weights_of_nan_says_so(part, dtype):
    model = tiny_decoder(dtype)
    getattr(model.blocks[1].attention, part).weight.fill_(math.nan)
    tokens = random_tokens(model)
    assert model(tokens).isnan().all()
    cache = model.new_cache(12)
    assert (
        torch.cat([model(piece, cache) for piece in tokens.split([1, 6, 1, 4], dim=1)], dim=1).isnan().all()
    )
    with pytest.raises((ValueError, FloatingPointError), match="NaN|nan"):
        list(generate(model, [1, 2], 3))
    with pytest.raises((ValueError, FloatingPointError), match="NaN|nan"):
        perplexity(model, tokens[0].tolist(), window=12)


@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_padding_brings_no_nan_into_training(positions):
    model = random_weights(EncoderDecoder(tiny_config(positions=positions))).float().requires_grad_()
    source, target = random_tokens(model, 2, 9), random_tokens(model, 2, 6, seed=1)
    real = torch.arange(9) < torch.tensor([[9], [1]])
    logits = model(source, target, real)
    assert logits.isfinite().all()
    logits.log_softmax(-1)[..., 0].sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("positions", ["rope", "alibi"])
@pytest.mark.parametrize("window", [None, 2])
def test_padding_before_a_text_changes_nothing_in_it(positions, window):
    """Tokens of padding attend to themselves, so that their states, which mean nothing, aren't nan."""
    model = random_weights(Decoder(tiny_config(positions=positions, window=window)))
    tokens, real = torch.tensor([[7, 7, 3, 1, 4]]), torch.tensor([[False, False, True, True, True]])
    states = model.run_layers(tokens, real=real)
    assert states.isfinite().all()
    torch.testing.assert_close(states[:, 2:], model.run_layers(tokens[:, 2:]))


@pytest.mark.parametrize("positions", ["rope", "alibi", "learned"])
def test_padding_behind_a_row_is_finite_where_a_window_ends_before_it(positions):
    model = random_weights(Decoder(tiny_config(positions=positions, window=2)))
    tokens, cache = random_tokens(model, 2, 12), model.new_cache(30, batch=2)
    model(tokens, cache, new_lengths=[12, 3])
    logits = model(tokens[:, :6], cache, new_lengths=[1, 6])
    assert logits.isfinite().all()
    row = torch.cat([tokens[0], tokens[0, :1]])
    torch.testing.assert_close(logits[0, 0], model(row[None])[0, -1])


# Attention


ODD_ATTENTION = {
    "more key-value heads": (lambda q, k, v: (q[:, :1], k, v), "1 query heads can't share 2 key-value heads"),
    "uneven heads": (lambda q, k, v: (q[:, :3], k, v), "3 query heads can't share 2 key-value heads"),
    "narrow keys": (lambda q, k, v: (q, k[..., :7], v), r"not \(1, 4, 5, 8\), \(1, 2, 5, 7\)"),
    "fewer values": (lambda q, k, v: (q, k, v[:, :, 1:]), "with at least 1 of each"),
    "no queries": (lambda q, k, v: (q[:, :, :0], k, v), "with at least 1 of each"),
    "no keys": (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), "with at least 1 of each"),
    "no batch": (lambda q, k, v: (q[0], k[0], v[0]), "with at least 1 of each"),
    "two precisions": (lambda q, k, v: (q, k.double(), v), "of one dtype, not torch.float32, torch.float64"),
    "whole numbers": (lambda q, k, v: (q.long(), k.long(), v.long()), "fractions of one dtype"),
}


@pytest.mark.parametrize("name", ODD_ATTENTION)
@pytest.mark.parametrize("attention", [attend, attention_by_hand])
def test_attention_of_what_does_not_fit_is_refused(attention, name):
    change, message = ODD_ATTENTION[name]
    with pytest.raises(ValueError, match=message):
        attention(*change(*qkv(5, 5)))


@pytest.mark.parametrize("attention", [attend, attention_by_hand])
@pytest.mark.parametrize(
    "odd, message",
    [
        ({"mask": torch.ones(5, 4).bool()}, r"broadcasts to .* = \(1, 4, 5, 5\); not \(5, 4\)"),
        ({"mask": torch.ones(5, 5).long()}, "not .* of torch.int64"),
        ({"mask": torch.ones(1, 1, 1, 5, 5).bool()}, "a mask is true or false"),
        ({"window": 0}, "at least 1 key wide"),
        ({"window": 2.5}, "at least 1 key wide: causal=True, window=2.5"),
        ({"window": 2, "causal": False}, "a window is for causal attention"),
        ({"causal": "no"}, "causal must be True or False, not 'no'"),
        ({"cap": 0.0}, "a cap is a finite number above 0, not 0.0"),
        ({"cap": math.nan}, "not nan"),
        ({"scale": math.inf}, "the scale of scores is a finite number above 0, or None; not inf"),
        ({"scale": "0.5"}, "not '0.5'"),
        ({"scale": -1.0}, "not -1.0"),
    ],
)
def test_dials_of_attention_that_cannot_be_are_refused(attention, odd, message):
    with pytest.raises(ValueError, match=message):
        attention(*qkv(5, 5), **odd)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mask_to_add_may_be_of_another_precision(dtype):
    q, k, v = qkv(5, 5, dtype)
    mask = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both_ways(q, k, v, mask)
    both_ways(q[:, :, :1], k, v, mask[:1])


def test_values_may_be_narrower_than_keys():
    q, k, v = qkv(3, 5)
    out = both_ways(q, k, v[..., :6])
    torch.testing.assert_close(both_ways(q[:, :, 2:], k, v[..., :6]), out[:, :, 2:])


# The cache


@pytest.fixture
def cache():
    return KVCache(layers=2, kv_heads=1, d_head=4, capacity=6, batch=2)


def store(cache, time, new_lengths=None, value=1.0):
    for layer in range(2):
        cache.update(layer, *(torch.full((2, 1, time, 4), value) for _ in range(2)), new_lengths)


def test_a_cache_does_not_advance_over_what_was_not_written(cache):
    with pytest.raises(ValueError, match=r"\[0, 0\] tokens can't become \[2, 2\] long .* hasn't in \[0, 1\]"):
        cache.advance(2)
    cache.update(0, *(torch.ones(2, 1, 2, 4) for _ in range(2)))
    with pytest.raises(ValueError, match=r"hasn't in \[1\]"):
        cache.advance(2)
    store(cache, 2)
    for time, lengths in [(3, None), (1, None), (2, [2, 1])]:
        with pytest.raises(ValueError, match="can't become"):
            cache.advance(time, lengths)
    assert cache.lengths == [0, 0]
    cache.advance(2)
    with pytest.raises(ValueError, match="can't become"):  # what is written counts once
        cache.advance(2)
    store(cache, 3, [3, 1])
    cache.advance(3, [3, 1])
    assert cache.lengths == [5, 3]
    store(cache, 1)
    cache.rewind(2)
    with pytest.raises(ValueError, match="can't become"):
        cache.advance(1)


@pytest.mark.parametrize("time, lengths", [(-1, None), (0, None), (2.0, None), (True, None), (7, None)])
def test_a_cache_advances_by_what_can_be(cache, time, lengths):
    with pytest.raises(ValueError):
        cache.advance(time, lengths)
    assert cache.lengths == [0, 0]


@pytest.mark.parametrize("lengths", [[1], [1, 2, 2], [-1, 2], [3, 2], [1.0, 2], [None, 2], ["1", 2]])
def test_new_lengths_that_cannot_be_are_refused(cache, lengths):
    keys = torch.ones(2, 1, 2, 4)
    for call in (lambda: cache.update(0, keys, keys, lengths), lambda: cache.advance(2, lengths)):
        with pytest.raises(ValueError, match="new_lengths must"):
            call()
    model = tiny_decoder()
    with pytest.raises(ValueError, match="new_lengths must"):
        model(random_tokens(model, 2, 2), model.new_cache(6, batch=2), new_lengths=lengths)


@pytest.mark.parametrize("layer", [-1, 2, 0.0, True, "0"])
def test_a_layer_that_a_cache_does_not_have_is_refused(cache, layer):
    keys = torch.ones(2, 1, 2, 4)
    with pytest.raises(ValueError, match=f"has layers 0 to 1, not {layer!r}"):
        cache.update(layer, keys, keys)
    assert not cache.keys.any()


@pytest.mark.parametrize(
    "keys, values",
    [
        (torch.ones(2, 1, 2, 4), torch.ones(2, 1, 1, 4)),
        (torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4)),
        (torch.ones(2, 1, 2, 1), torch.ones(2, 1, 2, 1)),
        (torch.ones(2, 1, 0, 4), torch.ones(2, 1, 0, 4)),
        (torch.ones(2, 1, 4), torch.ones(2, 1, 4)),
        (torch.ones(2, 1, 2, 4).double(), torch.ones(2, 1, 2, 4)),
        (torch.ones(2, 1, 2, 4).long(), torch.ones(2, 1, 2, 4).long()),
    ],
)
def test_keys_and_values_that_are_not_for_a_cache_are_refused(cache, keys, values):
    with pytest.raises(ValueError, match="here, .batch, kv_heads, time, d_head.; not"):
        cache.update(0, keys, values)
    assert not cache.keys.any() and not cache.values.any()


def test_rewinding_and_choosing_rows_take_whole_numbers(cache):
    store(cache, 3)
    cache.advance(3)
    for lengths in (1.5, [1.5, 2], [None, 1], "12", [4, 0], -1):
        with pytest.raises((ValueError, TypeError)):
            cache.rewind(lengths)
    for rows in ([0.0], [-1], [2], [None], [], "0"):
        with pytest.raises(ValueError):
            cache.select(rows)
    for capacity in (2, 0, 6.0, "6"):
        with pytest.raises(ValueError, match="capacity"):
            cache.select([0], capacity)
    assert cache.lengths == [3, 3]
    assert cache.select(torch.tensor([1])).lengths == cache.select(np.array([1])).lengths == [3]
    cache.rewind(np.array([1, 2]))
    assert cache.lengths == [1, 2] and all(type(length) is int for length in cache.lengths)


@pytest.mark.parametrize("size", ["layers", "kv_heads", "d_head", "capacity", "batch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", 2**62])
def test_a_cache_of_a_size_that_cannot_be_is_refused(size, value):
    sizes = {"layers": 1, "kv_heads": 1, "d_head": 4, "capacity": 4, "batch": 1}
    with pytest.raises(ValueError, match=f"a cache's {size} must be"):
        KVCache(**sizes | {size: value})
    with pytest.raises(ValueError, match="don't fit into any memory"):
        KVCache(
            **sizes | {size: 2**31 - 1, "kv_heads": 2**20} | ({"d_head": 2**20} if size == "kv_heads" else {})
        )


# Configurations

WRONG = {
    "n_layers": ["2", 2.0, math.nan, math.inf, True, None, [2], 2**62, np.float64(2), np.int64(2**40)],
    "context": [math.nan, "48", 1e3],
    "vocab_size": [True, 10.5, 2**31],
    "rope_base": ["1e4", math.inf, math.nan, None, True, 10**400],
    "norm_eps": [math.inf, math.nan, "1e-5", None],
    "logit_cap": [math.inf, "30", True],
    "bias": ["yes", 1, None],
    "residual": [0, "no"],
    "tie_embeddings": ["false", None],
    "norm": [3, None, ["rms"]],
    "positions": [True, b"rope"],
    "attention": [None, {}, 3, "full"],
    "experts": [{}, 4, [], False],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_a_wrong_type_names_its_field(name):
    fields = {field: value for field, value in vars(tiny_config()).items()}
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, not "):
            ModelConfig(**fields | {name: value})


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("attention", "experts")])
def test_a_wrong_value_from_a_file_is_a_value_error(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"{name} must be "):
            ModelConfig.from_dict(asdict(tiny_config()) | {name: value})


@pytest.mark.parametrize(
    "fields", [None, 3, [], ["vocab_size"], "vocab_size", [("vocab_size", 3)], {1: 2}, {None: None}]
)
def test_fields_that_are_none_are_refused(fields):
    with pytest.raises(ValueError):
        ModelConfig.from_dict(fields)
    with pytest.raises(ValueError):
        ModelConfig.from_dict(asdict(tiny_config()) | {"experts": fields} if fields else {})


@pytest.mark.parametrize(
    "odd",
    [
        {"qk_norm": "yes"}, {"qk_norm": None}, {"window": "3"}, {"window": 3.0}, {"window": math.nan},
        {"window": True}, {"global_every": None}, {"global_every": 2.0}, {"global_every": False},
        {"scale": "1"}, {"scale": math.inf}, {"cap": math.nan}, {"cap": [1.0]},
    ],
)  # fmt: skip
def test_a_wrong_dial_of_attention_is_named(odd):
    with pytest.raises(ValueError, match=f"^attention.{next(iter(odd))} must be "):
        AttentionConfig(**odd)
    with pytest.raises(ValueError, match=f"^attention.{next(iter(odd))} must be "):
        ModelConfig.from_dict(asdict(tiny_config()) | {"attention": odd})


@pytest.mark.parametrize(
    "odd",
    [
        {"n_experts": "4"}, {"n_experts": 4.0}, {"n_experts": None}, {"n_experts": 2**62}, {"n_active": True},
        {"n_active": math.nan}, {"n_shared": "0"}, {"normalize_shares": 1}, {"capacity_factor": "1"},
        {"capacity_factor": math.nan},
    ],
)  # fmt: skip
def test_a_wrong_dial_of_experts_is_named(odd):
    with pytest.raises(ValueError, match=f"^experts.{next(iter(odd))} must be "):
        ExpertsConfig(**{"n_experts": 4} | odd)


def test_whole_numbers_count_as_fractions_and_a_configuration_survives_json():
    fields = {"rope_base": 10_000, "norm_eps": 0, "logit_cap": 30, "scale": 1, "cap": 50, "n_experts": 4}
    config = tiny_config(**fields)
    assert ModelConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
    assert config == tiny_config(
        **{name: n if name == "n_experts" else float(n) for name, n in fields.items()}
    )


# The small functions


def test_a_layout_that_does_not_exist_is_refused():
    x = torch.ones(1, 2, 3, 4)
    with pytest.raises(ValueError, match="half-split or interleaved, not 'foo'"):
        rotate(x, *rotary_tables(0, 3, 4, 100.0, x), "foo")


@pytest.mark.parametrize("time, width", [(2, 4), (1, 4), (3, 2), (3, 8)])
def test_tables_that_do_not_fit_are_refused(time, width):
    x = torch.ones(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"not \(1, 2, 3, 4\) of torch.float32"):
        rotate(x, *rotary_tables(0, time, width, 100.0, x))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rotary_tables(0, 3, 7, 100.0, LIKE), "d_head is even; not 7"),
        (lambda: rotary_tables(-1, 3, 8, 100.0, LIKE), "start must be at least 0, not -1"),
        (lambda: rotary_tables(torch.tensor([3, -1]), 3, 8, 100.0, LIKE), "from 0 to 16777216, not from -1"),
        (lambda: rotary_tables(torch.tensor([0.5]), 3, 8, 100.0, LIKE), "int64"),
        (lambda: rotary_tables(2**24, 3, 8, 100.0, LIKE), "positions run from 0 to 16777216"),
        (lambda: rotary_tables(0, 2**62, 8, 100.0, LIKE), "the number of positions must be"),
        (lambda: rotary_tables(0, 3, 8, 0.0, LIKE), "base of the angles must be above 0"),
        (lambda: rotary_tables(0, 3, 8, math.nan, LIKE), "base must be a finite number, not nan"),
        (lambda: sinusoidal_table(0, 0, 8, LIKE), "at least 1, not 0"),
        (lambda: sinusoidal_table(0, 3, 8, torch.zeros((), dtype=torch.long)), "not torch.int64"),
        (lambda: sinusoidal_table(0, 2**24, 2**20, LIKE), "don't fit into any memory"),
        (lambda: alibi_bias(0, 2, 3, LIKE), "must be at least 1, not 0"),
        (lambda: alibi_bias(4, 3, 2, LIKE), "3 can't be among 2"),
        (lambda: soft_cap(torch.ones(2), -1.0), "a cap is a finite number above 0, not -1.0"),
        (lambda: route(torch.ones(3, 4), 5, True), "a token can't use 5 of 4 experts"),
        (lambda: route(torch.ones(3, 4), 0, True), "n_active must be at least 1, not 0"),
        (lambda: route(torch.ones(3, 4).long(), 2, True), "scores are fractions"),
        (lambda: load_balancing_loss(torch.ones(4), 2), "of at least one token"),
        (lambda: load_balancing_loss(torch.ones(0, 4), 2), "at least one token"),
        (lambda: cut_edges(torch.rand(1, 2, 3, 3), 3, 0), "of 3 queries and 3 keys there is no query 3"),
        (lambda: cut_edges(torch.rand(1, 2, 3, 3), True, 0), "no query True"),
        (lambda: cut_edges(torch.rand(2, 3, 3), 0, 0), r"not \(2, 3, 3\)"),
        (lambda: ablate_heads(3), "pairs of whole numbers .layer, head., not 3"),
        (lambda: ablate_heads((1, 2.0)), r"not \(1, 2.0\)"),
        (lambda: patch_heads(None, (1, 2)), "other_run must be of class Trace, not None"),
        (lambda: Trace(keep=["embedding", None]), "a pattern of names must be a word in quotes, not None"),
        (lambda: Trace(edits={"logits": 3}), "edit of 'logits' must be a function of a tensor, not 3"),
        (lambda: RMSNorm(8, -1.0), "can't be below 0; not -1.0"),
        (lambda: RMSNorm(8, math.inf), "eps must be a finite number, not inf"),
        (lambda: LayerNorm(0, 1e-5), "d_model must be at least 1, not 0"),
        (lambda: LayerNorm(8.0, 1e-5), "d_model must be a whole number"),
        (lambda: Attention(tiny_config(), window=0), "at least 1 key wide"),
        (lambda: fast_dtype("gpu"), "a device is called cpu, cuda or cuda:0, not 'gpu'"),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_numbers_of_numpy_are_whole_numbers():
    """Such as those of `np.unravel_index(scores.argmax(), scores.shape)`."""
    one, two, three = np.arange(1, 4)
    assert ablate_heads((one, two)).keys() == ablate_heads((1, 2)).keys()
    q = torch.randn(1, 2, 4, 8)
    assert attend(q, q, q, window=two).equal(attend(q, q, q, window=2))
    assert alibi_bias(three, one, two, q).equal(alibi_bias(3, 1, 2, q))
    assert rotary_tables(two, three, 8, 1e4, q)[0].equal(rotary_tables(2, 3, 8, 1e4, q)[0])
    assert route(torch.ones(3, 4), two, True)[1].shape == (3, 2)
    assert tiny_decoder().new_cache(capacity=three).capacity == 3


def test_a_cache_of_sizes_of_numpy_is_one_of_pythons():
    two, three = np.int64(2), np.int64(3)
    cache = KVCache(np.int64(1), two, np.int64(4), three, two)
    assert type(cache.capacity) is int and cache.lengths == [0, 0] and cache.keys.shape == (1, 2, 2, 3, 4)
    cache.update(0, torch.ones(2, 2, 2, 4), torch.ones(2, 2, 2, 4))
    cache.advance(two)
    assert cache.lengths == [2, 2] and type(cache.lengths[0]) is int
    cache.rewind(np.int64(1))
    assert cache.lengths == [1, 1]
    with pytest.raises(ValueError, match="can't be rewound to 3"):
        cache.rewind(three)


def test_a_configuration_stores_numbers_of_numpy_as_pythons():
    eps = np.float32(1e-5)
    config = tiny_config(vocab_size=np.int64(61), norm_eps=eps, logit_cap=np.float16(30))
    assert config == tiny_config(vocab_size=61, norm_eps=float(eps), logit_cap=30.0)
    assert json.loads(json.dumps(asdict(config)))["vocab_size"] == 61
    assert type(AttentionConfig(window=np.int32(4)).window) is int
    assert type(ExpertsConfig(np.int64(4), capacity_factor=np.float64(2)).capacity_factor) is float
    for wrong in (np.float32("nan"), np.float32("inf"), np.bool_(True), np.float64(1e-5) * 1j):
        with pytest.raises(ValueError, match="norm_eps must be a finite number"):
            tiny_config(norm_eps=wrong)
    with pytest.raises(ValueError, match="vocab_size must be a whole number below 2³¹, not "):
        tiny_config(vocab_size=np.float64(61))


def test_a_scale_of_numpy_is_a_scale():
    q = torch.randn(1, 2, 4, 8)
    for tokens in (q, q[:, :, :1]):
        assert attend(tokens, q, q, causal=False, scale=np.float32(0.5)).equal(
            attend(tokens, q, q, causal=False, scale=0.5)
        )
    assert attention_by_hand(q, q, q, scale=np.float32(0.5))[0].equal(
        attention_by_hand(q, q, q, scale=0.5)[0]
    )


@pytest.mark.parametrize("tokens", [[[1, 2]], None, np.array([[1, 2]]), "a text"])
def test_tokens_that_are_no_tensor_are_refused(tokens):
    with pytest.raises(TypeError, match="tokens must be a tensor of ids .*such as torch.tensor"):
        tiny_decoder()(tokens)
    with pytest.raises(TypeError, match="tokens must be a tensor of ids"):
        Encoder(tiny_config())(tokens)


# Runs of a model


def test_ids_of_32_bits_are_read_and_others_are_told_how_to_become_ids():
    model = tiny_decoder()
    tokens = random_tokens(model)
    assert model(tokens.int()).equal(model(tokens))
    for dtype in (torch.uint16, torch.int16, torch.uint8, torch.float32):
        with pytest.raises(ValueError, match=rf"tokens.long\(\) makes them such.* of {dtype}"):
            model(tokens.to(dtype))


@pytest.mark.parametrize("states", [torch.ones(1, 4, 23), torch.ones(1, 0, 24), torch.ones(1, 24)])
def test_a_memory_of_another_width_is_refused(states):
    model = EncoderDecoder(tiny_config())
    with pytest.raises(
        ValueError, match=r"states are \(batch = 1, time, d_model = 24\) of torch.float32 here, not"
    ):
        model.decoder(torch.tensor([[1, 2]]), memory=Memory(states))


def test_a_decoder_without_cross_attention_projects_no_memory():
    model = tiny_decoder()
    with pytest.raises(ValueError, match="this one has none"):
        model.project_memory(Memory(torch.ones(1, 4, 24)))


@pytest.mark.parametrize("capacity", [0, 49, "3", 3.0, True, math.nan])
def test_a_new_cache_holds_what_can_be(capacity):
    with pytest.raises(ValueError, match=f"1 to 48 tokens .*, not {capacity!r}"):
        tiny_decoder().new_cache(capacity)


def test_a_text_of_one_real_token_among_padding_is_read_as_it_is_alone():
    model = random_weights(Encoder(tiny_config()))
    tokens = random_tokens(model, time=5)
    real = torch.arange(5)[None] == 2
    assert model(tokens, real).states.isfinite().all()
