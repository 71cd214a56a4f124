"""Logits → text: the cache, the loop that writes, and the faster layout of weights."""

from copy import deepcopy
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import failed_examples, random_tokens, smollm2, tiny_config, tiny_decoder

import course_lib.generate
from course_lib.evaluate import evaluation_text, perplexity
from course_lib.families import load_smollm2
from course_lib.generate import complete, generate, pack, sample
from course_lib.model import KVCache, LanguageModel, Trace
from course_lib.quantize import (
    NF4,
    Q4_0,
    Q4_1,
    Q8_0,
    Int4Linear,
    Int8Linear,
    QuantizedLinear,
    Uniform,
    model_bytes,
    quantize_linears,
)
from course_lib.text import Tokenizer

calm = settings(derandomize=True, deadline=None, max_examples=40)
DOUBLE = torch.float64


TIGER = "The tiger jumped out of a tree to get a drink because it was thirsty."


def written(*args, **options):
    return list(generate(*args, **options))


@cache
def really_written():
    """A short prompt, and 40 tokens that the real model writes after it."""
    lm = smollm2()
    prompt = lm.tokenizer.encode("The tiger was thirsty, so")
    return prompt, written(lm.model, prompt, 40)


@pytest.fixture
def model():
    return tiny_decoder()


@pytest.fixture
def tokens(model):
    return random_tokens(model)


# The cache


@calm
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 2), st.sampled_from([1, 2, 6]))
def test_reading_in_pieces_is_reading_at_once(pieces, batch, kv_heads):
    model = tiny_decoder(n_kv_heads=kv_heads, context=120)
    tokens = random_tokens(model, batch, sum(pieces))
    cache = model.new_cache(sum(pieces), batch)
    logits = torch.cat([model(piece, cache) for piece in tokens.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(tokens))
    assert cache.length == sum(pieces)


def test_what_is_cached_is_what_a_trace_sees(model, tokens):
    cache, trace = model.new_cache(48), Trace(keep="*")
    model(tokens, cache, trace)
    for i in range(3):
        assert cache.keys[i, :, :, :12].equal(trace[f"blocks.{i}.attention.key"])
        assert cache.values[i, :, :, :12].equal(trace[f"blocks.{i}.attention.value"])


def test_a_trace_through_a_cache_sees_all_keys(model, tokens):
    cache, trace, whole = model.new_cache(48), Trace("*.weights"), Trace("*.weights")
    model(tokens[:, :7], cache)
    logits = model(tokens[:, 7:], cache, trace)
    torch.testing.assert_close(logits, model(tokens, trace=whole)[:, 7:])
    torch.testing.assert_close(trace.attention(), whole.attention()[:, :, 7:])


@pytest.mark.parametrize("end", [11, 12])
def test_a_cache_that_overflows_says_so_and_stays_usable(model, tokens, end):
    cache = model.new_cache(10)
    model(tokens[:, :8], cache)
    with pytest.raises(ValueError, match=f"cache holds 10 tokens and {end} were asked of it; make it larger"):
        model(tokens[:, 8:end], cache)
    assert cache.length == 8
    torch.testing.assert_close(model(tokens[:, 8:10], cache), model(tokens[:, :10])[:, 8:])


def test_the_context_limits_a_cache_too(model):
    cache = model.new_cache(48)
    model(random_tokens(model, time=40), cache)
    with pytest.raises(ValueError, match="49 tokens are more than the 48"):
        model(random_tokens(model, time=9), cache)
    assert cache.length == 40


@pytest.mark.parametrize("name", tiny_decoder().activation_names())
def test_a_run_that_fails_leaves_the_cache_as_it_was(model, tokens, name):
    def fail(value):
        raise InterruptedError

    cache = model.new_cache(12)
    model(tokens[:, :7], cache)
    with pytest.raises(InterruptedError):
        model(tokens[:, 7:], cache, Trace(edits={name: fail}))
    assert cache.length == 7
    torch.testing.assert_close(model(tokens[:, 7:], cache), model(tokens)[:, 7:])


@pytest.mark.parametrize("capacity", [0, -1, 49])
def test_a_cache_of_impossible_size_is_refused(capacity):
    with pytest.raises(ValueError, match=f"a cache holds 1 to 48 tokens .*, not {capacity}"):
        tiny_decoder().new_cache(capacity)
    with pytest.raises(ValueError, match="must be at least 1, not"):
        KVCache(3, 2, 8, *((min(capacity, 0), 1) if capacity < 1 else (capacity, 0)))


def cache_for(config, capacity, **dials):
    return KVCache(config.n_layers, config.n_kv_heads, config.d_head, capacity, **dials)


OTHER_CACHES = {
    "another batch": lambda: cache_for(tiny_config(), 12, batch=2, dtype=DOUBLE),
    "more layers": lambda: cache_for(tiny_config(n_layers=4), 12, dtype=DOUBLE),
    "fewer layers": lambda: cache_for(tiny_config(n_layers=2), 24, dtype=DOUBLE),
    "other heads": lambda: cache_for(tiny_config(n_kv_heads=1), 12, dtype=DOUBLE),
    "wider heads": lambda: cache_for(tiny_config(d_head=16), 12, dtype=DOUBLE),
    "another precision": lambda: cache_for(tiny_config(), 12),
}


@pytest.mark.parametrize("name", OTHER_CACHES)
def test_a_cache_made_for_something_else_is_refused(model, tokens, name):
    cache = OTHER_CACHES[name]()
    with pytest.raises(ValueError, match="cache"):
        model(tokens, cache)
    assert cache.length == 0


def test_a_cache_knows_its_bytes():
    assert cache_for(tiny_config(), 10, batch=2, dtype=torch.bfloat16).bytes == 2 * 3 * 2 * 2 * 10 * 8 * 2


# The loop


@calm
@given(st.integers(1, 47), st.integers(0, 60), st.integers(0, 5))
def test_writing_with_a_cache_is_writing_without(length, n, seed):
    model = tiny_decoder(seed=seed)
    prompt = random_tokens(model, time=length, seed=seed)[0].tolist()
    assert written(model, prompt, n) == written(model, prompt, n, cached=False)


def test_greedy_tokens_are_the_likeliest_of_each_step(model, tokens):
    text = tokens[0].tolist()
    for token in written(model, text, 9):
        assert token == model(torch.tensor([text]))[0, -1].argmax()
        text.append(token)


@pytest.mark.slow
def test_the_real_model_writes_the_same_with_and_without_a_cache():
    prompt, tokens = really_written()
    assert len(tokens) == 40
    assert written(smollm2().model, prompt, 40, cached=False) == tokens


@torch.no_grad()
def test_the_real_models_logits_are_close_with_and_without_a_cache():
    lm = smollm2()
    tokens, memory = torch.tensor([lm.tokenizer.encode(TIGER)]), lm.model.new_cache(16)
    logits = torch.cat([lm.model(piece, memory) for piece in tokens.split([5, 1, 1, 9], dim=1)], dim=1)
    torch.testing.assert_close(logits, lm.model(tokens), atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [1, 40, 46, 47, 48])
@pytest.mark.parametrize("cached", [True, False])
def test_writing_ends_when_the_context_is_full(model, length, cached):
    """The last token is chosen from a full context and need not be read, so it is one more than there is room
    for.
    """
    prompt = random_tokens(model, time=length)[0].tolist()
    assert len(written(model, prompt, 1_000, cached=cached)) == 48 - length + 1


def test_a_prompt_longer_than_the_context_is_refused_at_the_call(model):
    with pytest.raises(ValueError, match="prompt's 49 tokens don't fit the context of 48"):
        generate(model, [1] * 49)


def test_an_empty_prompt_is_refused_at_the_call(model):
    with pytest.raises(ValueError, match="the prompt is empty.*at least one token"):
        generate(model, [])


def test_tokens_of_another_vocabulary_are_refused(model):
    with pytest.raises(ValueError, match="vocabulary holds 0 to 60"):
        written(model, [61])


def test_no_new_tokens_are_none(model):
    assert written(model, [1, 2], max_new_tokens=0) == []


@pytest.mark.parametrize("n", [-1, -2, -100])
def test_fewer_than_no_new_tokens_are_refused_at_the_call(model, n):
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, [1, 2], max_new_tokens=n)


@pytest.mark.parametrize("cached", [True, False])
def test_writing_ends_before_a_stop_token(model, tokens, cached):
    prompt = tokens[0].tolist()
    free = written(model, prompt, 20)
    for stop in set(free):
        assert written(model, prompt, 20, stop=[stop], cached=cached) == free[: free.index(stop)]
    absent = set(range(61)) - set(free)
    assert written(model, prompt, 20, stop=absent, cached=cached) == free


def test_tokens_come_one_at_a_time(model, tokens):
    read = []
    model.register_forward_hook(lambda *_: read.append(1))
    model.blocks[0].register_forward_hook(lambda *_: read.append(1))
    stream = generate(model, tokens[0].tolist(), 5)
    assert read == []
    next(stream)
    assert len(read) == 1


def test_the_prompt_is_not_changed_and_may_be_a_tensor(model, tokens):
    prompt = tokens[0].tolist()
    free = written(model, prompt, 5)
    assert len(prompt) == 12
    assert written(model, tuple(prompt), 5) == written(model, tokens[0], 5) == free


def test_writing_keeps_no_gradients_and_leaves_the_mode_alone(tokens):
    model, seen = tiny_decoder().requires_grad_(), []

    def choose(logits):
        seen.append(logits.requires_grad)
        return sample(logits)

    for _ in generate(model, tokens[0].tolist(), 3, choose):
        assert torch.is_grad_enabled()
    assert seen == [False] * 3


def test_two_streams_do_not_disturb_each_other(model):
    both = [[1, 2, 3], [4, 5]]
    streams = [generate(model, prompt, 8) for prompt in both]
    mixed = list(zip(*streams, strict=True))
    assert [list(tokens) for tokens in zip(*mixed, strict=True)] == [
        written(model, prompt, 8) for prompt in both
    ]


def test_sampling_with_a_seed_is_reproducible(model, tokens):
    def once(seed):
        generator = torch.Generator().manual_seed(seed)
        return written(model, tokens[0].tolist(), 20, partial(sample, temperature=2.0, generator=generator))

    assert once(0) == once(0)
    assert once(0) != once(1)


def test_choosing_may_be_anyones(model):
    assert written(model, [1], 4, choose=lambda logits: logits.argmin(-1)) != written(model, [1], 4)
    assert written(model, [1], 4, choose=lambda logits: 7) == [7] * 4


# Weights laid out for speed


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request):
    return request.param


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (3, 12)])
def test_packing_in_32_bits_changes_rounding_only(shape, tied):
    """Sums of 40 products of about 1: their order matters in the last places of 24 bits."""
    plain, packed = (tiny_decoder(torch.float32, tie_embeddings=tied) for _ in range(2))
    tokens = random_tokens(plain, *shape)
    assert pack(packed) is packed
    assert not any(isinstance(part, torch.nn.Linear) for part in packed.modules())
    torch.testing.assert_close(packed(tokens), plain(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (3, 12)])
def test_packing_in_16_bits_changes_rounding_only(shape, tied):
    """bfloat16 keeps 8 bits: both are equally far from the truth, a few hundredths on logits of about 5."""
    truth, plain, packed = (tiny_decoder(tie_embeddings=tied) for _ in range(3))
    tokens = random_tokens(truth, *shape)
    errors = [
        (model.bfloat16()(tokens).double() - truth(tokens)).abs()
        for model in (plain, pack(packed.bfloat16()))
    ]
    assert errors[1].mean() < 1.5 * errors[0].mean()
    assert errors[1].max() < 3 * errors[0].max()


@pytest.mark.parametrize("dtype", [torch.float16, DOUBLE])
def test_packing_leaves_other_precisions_as_they_are(dtype):
    model = tiny_decoder(dtype)
    tokens = random_tokens(model)
    before = model(tokens)
    assert pack(model)(tokens).equal(before)


def test_packing_twice_is_packing_once():
    model = pack(tiny_decoder(torch.float32))
    tokens = random_tokens(model)
    before = model(tokens)
    assert pack(model)(tokens).equal(before)


def test_a_packed_model_can_be_watched_and_cached():
    plain, packed = tiny_decoder(torch.float32), pack(tiny_decoder(torch.float32))
    tokens, traces, cache = (
        random_tokens(plain),
        [Trace("*.weights"), Trace("*.weights")],
        plain.new_cache(12),
    )
    plain(tokens, trace=traces[0])
    packed(tokens, cache, traces[1])
    torch.testing.assert_close(traces[1].attention(), traces[0].attention(), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_packed_real_model_writes_the_same():
    packed, (prompt, expected) = pack(deepcopy(smollm2().model)), really_written()
    assert written(packed, prompt, 40) == expected
    tokens = torch.tensor([prompt + expected])
    torch.testing.assert_close(packed(tokens), smollm2().model(tokens), atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_packed_real_model_in_16_bits_says_nearly_the_same():
    """bfloat16's mean KL divergence from 32 bits is about 0.001 nats for this model; ten times that would be
    a mistake.
    """
    lm = smollm2()
    packed = pack(deepcopy(lm.model).bfloat16())
    tokens = torch.tensor([lm.tokenizer.encode(TIGER)])
    full, coarse = (model(tokens).float().log_softmax(-1) for model in (lm.model, packed))
    assert (full.exp() * (full - coarse)).sum(-1).mean() < 0.01


# Weights in few bits, laid out for speed


def wide(**changes):
    """Wide enough for blocks of 32 and for the kernels."""
    sizes = {"d_model": 64, "d_head": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "d_ff": 96}
    return tiny_decoder(torch.float32, **(sizes | changes))


def kinds_of_layers(model):
    return {type(part) for part in model.modules() if "Linear" in type(part).__name__}


KERNELS = {"Q4_1": (Q4_1, Int4Linear), "Q4_0": (Q4_0, Int4Linear), "8 bits": (Uniform(), Int8Linear)}
NO_KERNEL = {"Q8_0": Q8_0, "NF4": NF4(), "groups": Uniform(4, group=32)}


def errors_in_16_bits(plain, packed):
    """Of the plain layers in 16 bits and of the packed ones, from the same stored weights in 32."""
    tokens = random_tokens(plain, 2)
    truth = plain(tokens)
    return [(model(tokens).float() - truth).abs().mean() for model in (deepcopy(plain).bfloat16(), packed)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_packing_quantized_layers_changes_rounding_only(name, bias):
    """Scales lose 3 of their 11 bits, which is as much as bfloat16 takes from everything else."""
    format, kernel = KERNELS[name]
    plain = quantize_linears(wide(bias=bias), format)
    packed = pack(deepcopy(plain).bfloat16())
    assert kernel in kinds_of_layers(packed) and QuantizedLinear not in kinds_of_layers(packed)
    errors = errors_in_16_bits(plain, packed)
    assert errors[1] < 3 * errors[0]


@pytest.mark.parametrize("name", NO_KERNEL)
def test_quantized_layers_without_a_kernel_stay_as_they_are(name):
    plain = quantize_linears(wide(), NO_KERNEL[name])
    packed = pack(deepcopy(plain).bfloat16())
    assert QuantizedLinear in kinds_of_layers(packed) and not {Int4Linear, Int8Linear} & kinds_of_layers(
        packed
    )
    errors = errors_in_16_bits(plain, packed)
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize(
    "changes", [{"d_model": 30, "d_head": 10, "n_heads": 3, "n_kv_heads": 1, "d_ff": 17}, {"d_ff": 33}]
)
def test_shapes_that_the_8_bit_kernel_would_read_beyond_are_left_alone(changes):
    plain = quantize_linears(wide(**changes), Uniform())
    packed = pack(deepcopy(plain).bfloat16())
    assert QuantizedLinear in kinds_of_layers(packed)
    errors = errors_in_16_bits(plain, packed)
    assert errors[1] < 3 * errors[0]


@pytest.mark.parametrize("exchange", ["query", "key", "value"])
def test_layers_stored_in_different_ways_stand_side_by_side(exchange):
    plain = wide()
    for block in plain.blocks:
        layer = getattr(block.attention, exchange)
        setattr(block.attention, exchange, QuantizedLinear(Q4_1.store(layer.weight)))
    errors = errors_in_16_bits(plain, pack(deepcopy(plain).bfloat16()))
    assert errors[1] < 2 * errors[0]
    for block in plain.blocks:
        block.attention.output = QuantizedLinear(NF4().store(block.attention.output.weight))
        block.feed_forward.gate = QuantizedLinear(Uniform().store(block.feed_forward.gate.weight))
        block.feed_forward.up = QuantizedLinear(Q4_0.store(block.feed_forward.up.weight))
    errors = errors_in_16_bits(plain, pack(deepcopy(plain).bfloat16()))
    assert errors[1] < 2 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, DOUBLE])
def test_packing_leaves_quantized_models_of_other_precisions_as_they_are(dtype):
    model = quantize_linears(wide(), Q4_1).to(dtype)
    tokens = random_tokens(model)
    before = model(tokens)
    assert pack(model)(tokens).equal(before)


def test_a_packed_quantized_model_of_experts_and_a_cache():
    plain = quantize_linears(wide(n_experts=3, n_active=2), Q4_1)
    packed = pack(deepcopy(plain).bfloat16())
    tokens = random_tokens(plain)
    cache = packed.new_cache(12)
    logits = torch.cat([packed(piece, cache) for piece in tokens.split([7, 1, 4], dim=1)], dim=1)
    assert (logits.float() - packed(tokens).float()).abs().mean() < 0.1 * packed(tokens).float().std()
    assert pack(packed) is packed and not torch.is_inference(logits)


@cache
def packed_in_4_bits():
    """The real model in the file's own 4 bits, laid out for speed, and its bytes before that."""
    model = load_smollm2(torch.bfloat16, quantized=True).model
    return pack(deepcopy(model)), model_bytes(model)


def test_the_real_model_in_its_4_bits_takes_a_quarter_of_the_bytes():
    assert packed_in_4_bits()[1] <= model_bytes(smollm2().model) / 4


def test_the_real_model_in_its_4_bits_writes_nearly_the_same():
    prompt, expected = really_written()
    packed, _ = packed_in_4_bits()
    assert {Int4Linear} <= kinds_of_layers(packed)
    tokens = written(packed, prompt, 40)
    assert tokens[:8] == expected[:8]


@pytest.mark.slow
def test_the_real_model_in_its_4_bits_is_as_good_as_in_32():
    """Perplexity within 1% of that of the same weights as numbers of 32 bits."""
    text = smollm2().tokenizer.encode(evaluation_text())
    full, packed = (perplexity(model, text) for model in (smollm2().model, packed_in_4_bits()[0]))
    assert abs(packed / full - 1) < 0.01


# Text


def test_the_text_streamed_is_the_text_of_the_tokens():
    lm = smollm2()
    _, ids = really_written()
    pieces = list(complete(lm, "The tiger was thirsty, so", 12, chat=False))
    assert "".join(pieces) == lm.tokenizer.decode(ids[:12])
    assert len(pieces) == 13


def test_the_real_model_answers_and_stops():
    answer = "".join(complete(smollm2(), "What is the capital of France?"))
    assert answer == "The capital of France is Paris."


def test_a_stream_of_text_never_holds_half_a_character():
    """A model that can only write the bytes of a tiger, which are four."""
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], {})
    lm, bytes_to_come = (
        LanguageModel("tiger", tiny_decoder(vocab_size=256), tokenizer, chat=None),
        iter("🐯🐯".encode()),
    )
    text = list(complete(lm, "a", 8, choose=lambda logits: next(bytes_to_come), chat=False))
    assert text == ["", "", "", "🐯", "", "", "", "🐯", ""]


def test_completing_nothing_or_too_much_is_refused():
    lm = smollm2()
    with pytest.raises(ValueError, match="prompt is empty"):
        complete(lm, "", chat=False)
    with pytest.raises(ValueError, match="don't fit the context of 8192"):
        complete(lm, "tiger " * 9_000)


def test_a_model_without_a_chat_template_says_how_to_go_on():
    tokenizer = Tokenizer.train("ab ab", 257)
    lm = LanguageModel("plain", tiny_decoder(vocab_size=257), tokenizer, chat=None)
    assert isinstance("".join(complete(lm, "ab", 3, chat=False)), str)
    with pytest.raises(ValueError, match="chat=False"):
        complete(lm, "ab", 3)


def test_examples_in_the_docstrings_hold():
    assert failed_examples(course_lib.generate) == 0
