"""A family of models is a row of a table: adding one takes no code."""

import re
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from references import TINY_FIELDS, TINY_TOKENS, tiny_config
from transformers import Qwen3Config, Qwen3ForCausalLM

from course_lib.families import FAMILIES, LLAMA, Family, read_gguf
from course_lib.families.family import BLOCK_TENSORS
from course_lib.model import AttentionConfig
from course_lib.text import GPT2

# The row: normalized queries and keys, heads as wide as the file says, rows in transformers' own order.
QWEN3 = Family(
    shared_config=LLAMA.shared_config | {"attention": AttentionConfig(qk_norm=True)},
    required_settings={"norm_eps": "attention.layer_norm_rms_epsilon", "d_head": "attention.key_length"},
    block_tensors=BLOCK_TENSORS
    | {"attn_q_norm": "attention.query_norm", "attn_k_norm": "attention.key_norm"},
    pre_tokenizers={"qwen2": GPT2},
    transformers_names=LLAMA.transformers_names,
)
FILES_NAMES = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def theirs():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(TINY_TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
    )
    model = Qwen3ForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)
    return model


def as_llama_cpp_calls_it(name):
    if name in ("model.embed_tokens.weight", "model.norm.weight"):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
            name
        ]
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()
    return f"blk.{layer}.{FILES_NAMES[part]}.weight"


def write_qwen3(path, model):
    """As llama.cpp's converter does: settings under the architecture's name, rows as they are."""
    fields = {name: value for name, value in TINY_FIELDS.items() if name.startswith("tokenizer.")}
    settings = {
        "embedding_length": 64,
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "feed_forward_length": 96,
        "context_length": 128,
        "attention.key_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 5e5,
    }
    writer = gguf.GGUFWriter(path, "qwen3")
    add = {str: writer.add_string, float: writer.add_float32, list: writer.add_array, int: writer.add_uint32}
    for name, value in (
        fields | {"tokenizer.ggml.pre": "qwen2"} | {f"qwen3.{k}": v for k, v in settings.items()}
    ).items():
        add[type(value)](name, value)
    for name, weight in model.named_parameters():
        writer.add_tensor(as_llama_cpp_calls_it(name), np.ascontiguousarray(weight.detach().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tmp_path):
    write_qwen3(tmp_path / "qwen3.gguf", theirs())
    return tmp_path / "qwen3.gguf"


def test_a_family_added_as_a_row_computes_what_transformers_computes(path):
    lm = read_gguf(path, families=FAMILIES | {"qwen3": QWEN3})
    tokens = torch.randint(len(TINY_TOKENS), (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(tokens), theirs()(tokens).logits, rtol=1e-4, atol=1e-4)
    assert lm.model.config.d_head == 32 and lm.model.config.rope_base == 5e5 and lm.tokenizer.pattern == GPT2


@pytest.mark.parametrize(
    "wrong",
    [
        replace(QWEN3, interleaved_rows=True),
        replace(QWEN3, shared_config=QWEN3.shared_config | {"positions": "rope-interleaved"}),
    ],
    ids=["rows in pairs", "interleaved"],
)
def test_a_row_with_a_wrong_entry_is_seen_in_the_logits(path, wrong):
    lm, tokens = read_gguf(path, families={"qwen3": wrong}), torch.arange(20)[None]
    with torch.no_grad():
        assert (lm.model(tokens) - theirs()(tokens).logits).abs().max() > 0.01


def test_without_the_row_the_family_is_refused_by_name(path):
    with pytest.raises(ValueError, match="holds a 'qwen3' model; handled are llama"):
        read_gguf(path)


def test_a_row_that_lacks_a_name_says_which_tensor_has_no_place(path):
    with pytest.raises(
        ValueError, match="a tensor 'blk.0.attn_k_norm.weight', which this decoder has no place for"
    ):
        read_gguf(
            path,
            families={
                "qwen3": replace(QWEN3, block_tensors=BLOCK_TENSORS | {"attn_q_norm": "attention.query_norm"})
            },
        )


def test_a_row_that_needs_a_setting_says_which_the_file_lacks(path):
    with pytest.raises(ValueError, match="it lacks qwen3.attention.sliding_window"):
        read_gguf(
            path,
            families={
                "qwen3": replace(
                    QWEN3,
                    required_settings=QWEN3.required_settings
                    | {"attention.window": "attention.sliding_window"},
                )
            },
        )


def test_a_model_is_of_the_family_whose_shared_configuration_it_has():
    plain = tiny_config(vocab_size=300)
    assert LLAMA.matches(plain) and not QWEN3.matches(plain)
    for fields in (
        {"attention": AttentionConfig(qk_norm=True)},
        {"attention": AttentionConfig(window=4)},
        {"bias": True},
        {"logit_cap": 3.0},
        {"positions": "alibi"},
    ):
        assert not LLAMA.matches(replace(plain, **fields))


def test_experts_that_a_model_has_not_are_no_match():
    experts = Family({"experts.n_experts": 8})
    assert not experts.matches(tiny_config()) and experts.matches(tiny_config(n_experts=8))


@pytest.mark.parametrize("name", ["attention.windw", "norm.x", "experts.", "attention.window.more", 1])
def test_a_field_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"{name!r} is no field of ModelConfig"):
        Family({name: 2})


def test_what_is_no_configuration_and_no_table_is_named(path):
    with pytest.raises(TypeError, match="config must be a ModelConfig, not None"):
        LLAMA.matches(None)
    for arguments in (("llama", None), (5, {})):
        with pytest.raises(TypeError, match="architecture must be a name, and settings a mapping"):
            LLAMA.config(*arguments)
    with pytest.raises(TypeError, match="families must map names to Family"):
        read_gguf(path, families={1: LLAMA})
