"""What a student may well write: masks where numbers are meant, edits in place, small numbers of NumPy."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from references import random_tokens, random_weights, tiny_config, tiny_decoder

from course_lib.generate import Batch, Request, best_of, generate, pack, sample, write
from course_lib.model import (
    Attention,
    Decoder,
    EncoderDecoder,
    Experts,
    ExpertsConfig,
    KVCache,
    Memory,
    ProjectedMemory,
    Trace,
    ablate_heads,
    alibi_bias,
    attend,
    attention_by_hand,
    count_parameters,
    cut_edges,
    rotary_tables,
    sinusoidal_table,
)
from course_lib.quantize import NF4, quantize_linears

LIKE = torch.zeros(())


@pytest.fixture
def model():
    return random_weights(tiny_decoder(), spread=0.3).float().requires_grad_(False)


@pytest.fixture
def translator():
    return random_weights(EncoderDecoder(tiny_config()), spread=0.3).float().requires_grad_(False)


def tokens(batch=2, time=3):
    return random_tokens(tiny_decoder(), batch, time)


# Masks where numbers are meant


@pytest.mark.parametrize("mask", [torch.tensor([False, True, True]), [True, False, True]])
def test_a_mask_is_no_list_of_rows_or_lengths(model, mask):
    cache = model.new_cache(batch=3)
    model(tokens(3, 1), cache)
    for change in (cache.select, cache.rewind):
        with pytest.raises(ValueError, match="must be whole numbers"):
            change(mask)
    with pytest.raises(ValueError, match="must be whole numbers"):
        cache.rewind(True)
    with pytest.raises(ValueError, match="must be whole numbers"):
        cache.update(0, *[torch.zeros(3, *cache.keys.shape[2:3], 1, cache.keys.shape[4])] * 2, mask)
    assert cache.lengths == [1, 1, 1]


def test_a_prompt_of_truth_values_is_refused():
    with pytest.raises(ValueError, match="a row of token ids"):
        Request([torch.tensor(True), 2])


def test_rows_of_a_memory_are_whole_numbers_of_rows_that_there_are(translator):
    memory = translator.decoder.project_memory(translator.encode(tokens()))
    for rows in ([True, False], [5], [-1], []):
        with pytest.raises(ValueError, match="rows"):
            memory.select(rows)


# Memories, caches and traces that aren't any


def test_a_mask_of_a_memory_that_would_broadcast_wrongly_is_refused(translator):
    real = torch.tensor([[True, True, True], [True, False, False]])
    memory = translator.encode(tokens(), real)
    for mask in (real, memory.mask.float(), memory.mask[:1], memory.mask.tolist()):
        with pytest.raises(ValueError, match="a memory's mask is true or false"):
            translator.decoder(tokens(2, 2), memory=Memory(memory.states, mask))


def test_a_memory_for_another_model_is_refused(translator):
    memory = translator.encode(tokens())
    with pytest.raises(ValueError, match="d_model = 24. of torch.float32 here, not .* of torch.float64"):
        translator.decoder(tokens(), memory=Memory(memory.states.double()))
    with pytest.raises(ValueError, match="states are .* here"):
        translator.decoder.project_memory(Memory(memory.states[..., 1:]))
    pairs = translator.decoder.project_memory(memory).pairs
    for other in (pairs[:-1], (*pairs, pairs[0])):
        with pytest.raises(ValueError, match="a memory for . layers can't go with"):
            translator.decoder(tokens(), memory=ProjectedMemory(other))
    with pytest.raises(ValueError, match="keys and values are"):
        translator.decoder(tokens(), memory=ProjectedMemory(tuple((k[:, :1], v) for k, v in pairs)))


def test_what_is_no_memory_cache_or_trace_is_named(model, translator):
    states = translator.encode(tokens()).states
    for memory in (states, (states, None)):
        with pytest.raises(ValueError, match="a memory is what an encoder returns"):
            translator.decoder(tokens(), memory=memory)
        with pytest.raises(ValueError, match="a memory is what an encoder returns"):
            generate(translator.decoder, [1], 3, memory=memory)
    for cache in (tokens(), Trace("logits")):
        with pytest.raises(ValueError, match="a cache is what the model's `new_cache` returns, not"):
            model(tokens(), cache)
    for stack in (model, translator):
        arguments = [tokens()] * (1 if stack is model else 2)
        with pytest.raises(ValueError, match="a trace is Trace"):
            stack(*arguments, trace="*.weights")
    for write_or_pack in (pack, lambda model: generate(model, [1], 3)):
        with pytest.raises(ValueError, match="a Decoder writes .*, not EncoderDecoder"):
            write_or_pack(translator)


def test_what_was_projected_is_a_memory_too(translator):
    memory = translator.encode(tokens(1))
    projected = translator.decoder.project_memory(memory)
    texts = [list(generate(translator.decoder, [1], 5, memory=each)) for each in (memory, projected)]
    assert texts[0] == texts[1]


# Traces


# An activation, and the next one, which is the same tensor.
SAME = [("embedding", "blocks.0.input"), ("blocks.0.output", "blocks.1.input")]


def zero_in_place(x):
    x[:] = 0
    return x


def test_an_edit_in_place_changes_nothing_that_is_kept_elsewhere(model):
    for kept, edited in SAME:
        traces = [Trace(kept, edits) for edits in (None, {edited: zero_in_place}, {edited: torch.zeros_like})]
        logits = [model(tokens(), trace=trace) for trace in traces]
        assert traces[0][kept].equal(traces[1][kept]) and logits[1].equal(logits[2])
        assert not logits[0].equal(logits[1])


def test_edits_given_as_names_to_keep_are_refused():
    with pytest.raises(ValueError, match="Trace.edits=…."):
        Trace(ablate_heads((0, 1)))


def test_a_trace_holds_the_last_run_only(model):
    trace = Trace("*.attention.weights")
    model(tokens(1), trace=trace)
    small = Decoder(tiny_config(n_layers=1))
    small(tokens(1, 5), trace=trace)
    assert trace.attention().shape[0] == 1 and trace.attention().shape[-1] == 5


@pytest.mark.parametrize("name", ["embedding", "blocks.0.attention.weights", "blocks.1.output", "logits"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_an_edit_in_another_dtype_is_named(model, name, dtype):
    with pytest.raises(ValueError, match=f"of torch.float32, and gave .* of {dtype}"):
        model(tokens(), trace=Trace(edits={name: lambda x: x.to(dtype)}))


def test_two_lists_of_edges_to_cut_are_refused_for_they_would_be_pairs():
    for where in ([0, 1], torch.tensor([0, 1]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="an index from 0, or a slice"):
            cut_edges(torch.full((1, 1, 4, 4), 0.25), where, 0)
    cut = cut_edges(torch.full((1, 1, 4, 4), 0.25), slice(2, 4), slice(0, 2))
    assert (cut == 0).nonzero()[:, 2:].tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]


# NumPy's small numbers


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_small_numbers_of_numpy_do_not_overflow(kind):
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    for queries in (q, q[:, :, -1:], q[:, :, -3:]):
        assert attend(queries, k, v, window=kind(3)).equal(attend(queries, k, v, window=3))
        by_hand = attention_by_hand(queries, k, v, window=kind(5))[0]
        assert by_hand.equal(attention_by_hand(queries, k, v, window=5)[0])
    layer, x = Attention(tiny_config(), True, kind(2)), torch.randn(1, 5, tiny_config().d_model)
    assert layer(x).isfinite().all()
    assert rotary_tables(kind(0), kind(6), 6, 1e4, LIKE)[0].equal(rotary_tables(0, 6, 6, 1e4, LIKE)[0])
    assert sinusoidal_table(kind(1), kind(5), 8, LIKE).equal(sinusoidal_table(1, 5, 8, LIKE))
    assert alibi_bias(4, kind(2), kind(3), LIKE).equal(alibi_bias(4, 2, 3, LIKE))
    every = tiny_config(window=4, global_every=256)
    assert every.window_of(kind(255)) is every.window_of(255) is None


def test_a_table_that_only_overflows_is_still_too_large():
    for make in (
        lambda n: alibi_bias(4, n, n, LIKE),
        lambda n: rotary_tables(0, n, n, 1e4, LIKE),
    ):
        with pytest.raises(ValueError, match="don't fit into any memory|positions run from"):
            make(np.int32(2**20))


# Modes, precisions, sizes


@pytest.mark.parametrize("prompts", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]])
def test_rows_of_any_lengths_are_written_under_autocast(model, prompts):
    with torch.autocast("cpu", torch.bfloat16):
        texts = write(model, [Request(prompt, 3) for prompt in prompts])
    assert [len(text) for text in texts] == [3, 3]


def test_a_cache_outlasts_inference_mode(model):
    with torch.inference_mode():
        cache = model.new_cache(16, 2)
        model(tokens(), cache, new_lengths=[3, 1])
        text = Batch(model, [Request([1, 2], 4), Request([3], 4)])
        text.step()
    with torch.no_grad():
        model(tokens(), cache, new_lengths=[3, 1])
        model(tokens(2, 1), text.cache)
    learner = tiny_decoder().requires_grad_(True)
    cache = learner.new_cache(16, 2)
    with torch.inference_mode():
        learner(tokens(), cache, new_lengths=[3, 1])
    cache.reset()
    assert learner(tokens(), cache, new_lengths=[3, 1]).requires_grad


@pytest.mark.parametrize("mask", [torch.tensor([True, False, True, True, False]), torch.tensor(True)])
@pytest.mark.parametrize("queries", [1, 3, 5])
def test_masks_of_few_axes_broadcast(mask, queries):
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind()
    q = q[:, :, :queries]
    for causal in (False, True):
        for each in (mask, mask.float()):
            fast = attend(q, k, v, each, causal)
            torch.testing.assert_close(fast, attention_by_hand(q, k, v, each, causal)[0], equal_nan=True)


def test_counting_parameters_that_are_none_any_more_is_refused():
    config = tiny_config()
    assert count_parameters(Decoder(config))[0] == sum(p.numel() for p in Decoder(config).parameters())
    model = Decoder(replace(config, d_model=64, d_ff=64))
    quantize_linears(model, NF4())
    for changed in (model, pack(Decoder(config))):
        with pytest.raises(ValueError, match="count them before"):
            count_parameters(changed)


def test_a_capacity_without_limit_is_none():
    sizes = tiny_config(experts=ExpertsConfig(4))
    x = torch.randn(2, 3, sizes.d_model)
    experts = Experts(sizes)
    free = experts(x)
    for factor in (1e20, 1e308):
        experts.config = ExpertsConfig(4, capacity_factor=factor)
        assert experts(x).equal(free)
    torch.testing.assert_close(Experts.forward(experts, x[0, 0]), free[0, 0])


def test_sizes_that_are_huge_together_are_refused_before_anything_is_built():
    for huge in ({"vocab_size": 2**30, "d_model": 2**20}, {"n_layers": 2**31 - 1}):
        with pytest.raises(ValueError, match="don't fit into any memory"):
            tiny_config(**huge)


def test_a_cache_of_whole_numbers_and_a_seed_for_a_generator_are_refused():
    with pytest.raises(ValueError, match="a cache holds fractions, not torch.int64"):
        KVCache(1, 1, 4, 4, dtype=torch.int64)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"torch.Generator\(\).manual_seed"):
            sample(torch.zeros(1, 4), temperature, generator=42)


def test_a_fraction_is_no_setting():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        sample(torch.zeros(1, 4), Fraction(7, 10))
    with pytest.raises(ValueError, match="norm_eps must be a finite number"):
        tiny_config(norm_eps=Fraction(1, 10))


def test_the_best_of_large_whole_numbers():
    assert best_of([2**53, 2**53 + 1], lambda score: score) == 2**53 + 1
    assert best_of([1, 2], lambda candidate: 10**400 * candidate) == 2
