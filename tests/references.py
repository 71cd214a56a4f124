"""What the library is compared with: other implementations, and slow ones that are plain to see right."""

import doctest
import importlib
import os
import pkgutil
from collections import Counter
from functools import cache
from itertools import pairwise

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from course_lib.families import find_smollm2, load_smollm2
from course_lib.model import Decoder, ModelConfig
from course_lib.text import TIE_RULES
from course_lib.text.vocabulary_files import gpt2_characters

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # threads of several workers only wait for each other

smollm2 = cache(load_smollm2)


def failed_examples(room):
    """How many of the examples in the docstrings of a package's modules give something else than they say."""
    modules = [
        importlib.import_module(f"{room.__name__}.{m.name}") for m in pkgutil.iter_modules(room.__path__)
    ]
    return sum(doctest.testmod(module).failed for module in modules)


# Tokenizers


@cache
def smollm2_tokenizer():
    """Hugging Face's `tokenizers`, put together from the file's own tokens and merges."""
    fields = gguf.GGUFReader(find_smollm2()).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in merges],
        unk_token="<|endoftext|>",
    )
    tokenizer = FastTokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), gpt2_pre_tokenizer()]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gpt2_pre_tokenizer():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def visible(token: bytes) -> str:
    """A token as GPT-2's vocabulary files write it."""
    return "".join(gpt2_characters()[byte] for byte in token)


def recounted_merges(words, vocabulary, vocab_size, ties):
    """`learn_merges`, counting every pair of the whole text again after every merge."""
    words, merges = dict(words), {}
    while len(vocabulary) < vocab_size:
        counts = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                counts[pair] += times
        if not counts:
            break

        def order(pair, counts=counts):
            return -counts[pair], TIE_RULES[ties](pair, vocabulary[pair[0]], vocabulary[pair[1]])

        pair = min(counts, key=order)
        merged = vocabulary[pair[0]] + vocabulary[pair[1]]
        if merged not in vocabulary:
            vocabulary.append(merged)
        merges[pair] = vocabulary.index(merged)
        changed = Counter()
        for word, times in words.items():
            changed[merge_everywhere(word, pair, merges[pair])] += times
        words = changed
    return merges


def merge_everywhere(word, pair, new):
    out, i = [], 0
    while i < len(word):
        found = word[i : i + 2] == pair
        out.append(new if found else word[i])
        i += 2 if found else 1
    return tuple(out)


def searched_merges(ids, ranks):
    """`replay_merges`, looking through the whole piece for the earliest-learned pair before every merge."""
    ids = list(ids)
    while known := [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]:
        (_, new), i = min(known)
        ids[i : i + 2] = [new]
    return ids


# Models


IN_ATTENTION = ("qk_norm", "window", "global_every", "scale", "cap")
IN_EXPERTS = ("n_experts", "n_active", "n_shared", "normalize_shares", "capacity_factor")


def grouped(changes):
    """The fields of `ModelConfig.from_dict` where tests name a sub-configuration's fields like any other; 0
    experts are none.
    """
    attention = {name: changes[name] for name in IN_ATTENTION if name in changes}
    experts = {name: changes[name] for name in IN_EXPERTS if name in changes}
    rest = {name: value for name, value in changes.items() if name not in attention.keys() | experts.keys()}
    groups = {"attention": attention, "experts": experts if experts.get("n_experts") else None}
    return rest | {name: group for name, group in groups.items() if group}


TINY_SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layers": 3,
    "n_heads": 6,
    "n_kv_heads": 2,
    "d_head": 8,
    "d_ff": 40,
    "context": 48,
}


def tiny_config(**changes):
    return ModelConfig.from_dict(grouped(TINY_SIZES | changes))


def tiny_decoder(dtype=torch.float64, seed=0, **changes):
    """A decoder of random weights, large enough that attention is not uniform; norms other than 1."""
    torch.manual_seed(seed)
    model = Decoder(tiny_config(**changes)).to(dtype).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model


def random_weights(model, seed=0, spread=0.3):
    """In float64; norms' weights about 1."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, weight in model.named_parameters():
        weight.data = torch.randn(weight.shape, dtype=torch.float64, generator=generator) * spread
        if "norm" in name and name.endswith("weight"):
            weight.data += 1
    return model


def random_tokens(model, batch=1, time=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (batch, time), generator=generator)


PARTS = {
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def transformers_twin(model: Decoder):
    """transformers' Llama with the same weights, or its Qwen3 where queries and keys are normalized."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    c = model.config
    make_config, make_model = LlamaConfig, LlamaForCausalLM
    if c.attention.qk_norm:
        make_config, make_model = Qwen3Config, Qwen3ForCausalLM
    config = make_config(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.d_head,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        tie_word_embeddings=c.tie_embeddings,
        attn_implementation="eager",
    )
    twin = make_model(config).to(model.embedding.weight.dtype).eval()
    weights = {_llama_name(name): weight for name, weight in model.state_dict().items()}
    twin.load_state_dict(weights)
    return twin


def _llama_name(name):
    outside = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    if not name.startswith("blocks."):
        return outside.get(name, "lm_head.weight")
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"model.layers.{layer}.{PARTS[part]}.weight"


# Files

TINY = {"d_model": 64, "d_head": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "d_ff": 96, "context": 32}
TINY_TOKENS = ["<|endoftext|>", "<|im_end|>", *map(gpt2_characters().get, range(256)), "ab", "abc"]
TINY_FIELDS = {
    "llama.vocab_size": len(TINY_TOKENS),
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 96,
    "llama.context_length": 32,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TINY_TOKENS,
    "tokenizer.ggml.merges": ["a b", "ab c"],
    "tokenizer.ggml.token_type": [3, 3] + [1] * 258,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.chat_template": (
        "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
    ),
}
GGUF_NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}


def write_gguf(path, model, fields=None, kind=Kind.F32, extra=None):
    """Write a decoder of TINY's size to a GGUF file as llama.cpp's converter does. fields: settings to add
    (in front), change or (None) leave out. kind: how matrices are stored. extra: further tensors.
    """
    writer = gguf.GGUFWriter(path, "llama")
    fields = fields or {}
    for key, value in (fields | TINY_FIELDS | fields).items():
        add = {
            str: writer.add_string,
            float: writer.add_float32,
            list: writer.add_array,
            int: writer.add_uint32,
        }
        if value is not None:
            add[type(value)](key, value)
    for name, weight in model.named_parameters():
        name, weight = _as_llama_cpp(name, weight.float().numpy(), model.config)
        stored = kind if weight.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quantize(weight, stored), raw_dtype=stored)
    for name, weight in (extra or {}).items():
        stored = kind if weight.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _as_llama_cpp(name, weight, config):
    """Its name, and its rows in its order: the two coordinates of a rotary pair side by side
    (`LlamaModel.permute`).
    """
    part, place = name.removesuffix(".weight"), ""
    if part.startswith("blocks."):
        _, layer, part = part.split(".", 2)
        place = f"blk.{layer}."
    if part in ("attention.query", "attention.key"):
        heads = len(weight) // config.d_head
        halves = weight.reshape(heads, 2, config.d_head // 2, -1)
        weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
    return f"{place}{GGUF_NAMES[part]}.weight", weight
