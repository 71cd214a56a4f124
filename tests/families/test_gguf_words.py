"""GGUF files of other makers: what they may leave out, what isn't called damaged, and tokens of all types."""

import math
import re
import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from families.mutations import put_together, take_apart
from families.test_families import tiny_model
from gguf import GGMLQuantizationType as Kind
from gguf import TokenType
from references import TINY_FIELDS, TINY_TOKENS, gpt2_pre_tokenizer, random_tokens, write_gguf
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as FastTokenizer

from course_lib.families import FAMILIES, LLAMA, read_gguf

DAMAGED = "may be damaged"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.gguf"


def refusal(path, **options):
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_gguf(path, **options)
    return str(caught.value)


def change(path, edit):
    """Take a file apart, edit its parts, and write it again."""
    parts = take_apart(path.read_bytes())
    edit(parts)
    path.write_bytes(put_together(parts))


# What may be missing


def test_the_size_of_the_vocabulary_and_the_types_of_tokens_may_be_missing(path):
    """Special are then the tokens that the file names for a purpose, as in llama.cpp."""
    model, left_out = tiny_model(), {"llama.vocab_size": None, "tokenizer.ggml.token_type": None}
    write_gguf(path, model, left_out | {"tokenizer.ggml.eos_token_id": 1})
    lm, tokens = read_gguf(path), random_tokens(model)
    assert lm.model.config.vocab_size == len(TINY_TOKENS) == lm.tokenizer.vocab_size
    assert lm.tokenizer.special == {"<|endoftext|>": 0, "<|im_end|>": 1}
    assert lm.model(tokens).equal(model(tokens))


def test_without_types_a_token_that_nothing_names_is_ordinary(path):
    write_gguf(path, tiny_model(), {"tokenizer.ggml.token_type": None})
    lm = read_gguf(path)
    assert lm.tokenizer.special == {"<|endoftext|>": 0}  # the unknown one
    assert len(lm.tokenizer.encode("<|im_end|>", allow_special=True)) == len("<|im_end|>")


# Not handled, and not called damaged

NOT_HANDLED = {
    "another pre-tokenizer": (
        {"tokenizer.ggml.pre": "qwen2"},
        "pre-tokenizer 'qwen2'; handled are .*'smollm'",
    ),
    "another vocabulary": ({"tokenizer.ggml.model": "llama"}, "a 'llama' vocabulary .* handled are 'gpt2'"),
    "scaled positions": (
        {"llama.rope.scaling.type": "linear"},
        "its llama.rope.scaling.type is 'linear', which changes what the model computes and isn't handled",
    ),
    "heads by layer": (
        {"llama.attention.head_count": [4, 4]},
        "llama.attention.head_count is a list; handled",
    ),
    "one of several files": ({"split.count": 3}, "one of a model's several files; join them"),
}


@pytest.mark.parametrize(("fields", "words"), NOT_HANDLED.values(), ids=list(NOT_HANDLED))
def test_a_file_in_order_is_not_called_damaged(path, fields, words):
    write_gguf(path, tiny_model(), fields)
    said = refusal(path)
    assert re.search(words, said) and DAMAGED not in said


UNREAD = {
    "rope.scaling.factor": (1.0, 4.0),
    "rope.scale_linear": (1.0, 2.0),
    "attention.scale": (0.0, 0.5),
    "attention.temperature_scale": (0.0, 0.5),
    "attention.output_scale": (1.0, 0.5),
    "attention.shared_kv_layers": (0, 1),
    "embedding_scale": (1.0, 12.0),
    "residual_scale": (1.0, 0.25),
    "logit_scale": (0.0, 8.0),
    "rescale_every_n_layers": (0, 6),
    "use_parallel_residual": (0, 1),
    "swin_norm": (0, 1),
    "attention.sliding_window": (0, 8),
    "attn_logit_softcapping": (0.0, 50.0),
    "final_logit_softcapping": (0.0, 30.0),
    "expert_count": (0, 8),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_setting_that_changes_results_is_refused_where_the_family_does_not_read_it(path, name):
    neutral, other = UNREAD[name]
    write_gguf(path, tiny_model(), {f"llama.{name}": neutral})
    read_gguf(path)
    write_gguf(path, tiny_model(), {f"llama.{name}": other})
    said = refusal(path)
    assert f"llama.{name} is {other}, which changes what the model computes" in said and DAMAGED not in said


def test_a_setting_that_the_family_reads_is_handled(path):
    write_gguf(path, tiny_model(), {"llama.attention.sliding_window": 8, "llama.final_logit_softcapping": 30})
    shared = {name: value for name, value in LLAMA.shared_config.items() if name != "logit_cap"}
    settings = {"attention.window": "attention.sliding_window", "logit_cap": "final_logit_softcapping"}
    family = replace(LLAMA, shared_config=shared | {"attention": None}, optional_settings=settings)
    del family.shared_config["attention"]
    config = read_gguf(path, families={"llama": family}).model.config
    assert (config.attention.window, config.logit_cap) == (8, 30)


def test_a_model_that_sees_the_future_is_refused():
    settings = TINY_FIELDS | {"llama.attention.causal": False}
    with pytest.raises(ValueError, match="llama.attention.causal is False, which changes"):
        LLAMA.config("llama", settings, vocab_size=260)
    assert LLAMA.config("llama", settings | {"llama.attention.causal": True}, vocab_size=260).d_model == 64


@pytest.mark.parametrize("kind", [Kind.Q5_1, Kind.BF16])
def test_a_type_that_is_not_handled_is_named_with_those_that_are(path, kind):
    write_gguf(path, tiny_model(), kind=kind)
    said = refusal(path)
    assert f"is stored as {kind.name}; handled are F32, F16, Q8_0, Q4_0, Q4_1" in said and DAMAGED not in said


def test_a_type_of_tomorrow_is_named_by_its_number(path):
    write_gguf(path, tiny_model())

    def edit(parts):
        name, sizes, _, offset = parts.tensors[3]
        parts.tensors[3] = (name, sizes, 77, offset)

    change(path, edit)
    assert "is stored as type 77; handled are F32" in refusal(path)


def test_a_tensor_without_a_place_is_no_damage(path):
    write_gguf(path, tiny_model(), extra={"rope_freqs.weight": np.ones(8, np.float32)})
    said = refusal(path)
    assert "'rope_freqs.weight', which this decoder has no place for" in said and DAMAGED not in said


@pytest.mark.parametrize(("version", "words"), [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")])
def test_another_version_is_no_damage(path, version, words):
    write_gguf(path, tiny_model())
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", version) + content[8:])
    said = refusal(path)
    assert (
        f"{words} GGUF file; handled are little-endian ones of version 2 or 3" in said and DAMAGED not in said
    )


def test_the_architecture_is_looked_at_before_anything_else_is_read(path):
    """Nothing of the file but its first setting is there."""
    write_gguf(path, tiny_model())
    content = path.read_bytes()
    end = content.index(b"llama") + len(b"llama")
    path.write_bytes(content[: end - len(b"llama")] + b"mamba")
    said = refusal(path)
    assert "it holds a 'mamba' model; handled are llama" in said and DAMAGED not in said
    path.write_bytes(content[:end])
    assert DAMAGED in refusal(path)


def test_an_architecture_further_back_is_found(path):
    write_gguf(path, tiny_model())
    change(path, lambda parts: parts.settings.append(parts.settings.pop(0)))
    assert read_gguf(path).model.config.n_layers == 2


# Damaged


def test_tensors_that_share_bytes_are_refused(path):
    model = tiny_model()
    write_gguf(path, model)

    def edit(parts):
        offsets = {name: offset for name, _, _, offset in parts.tensors}
        parts.tensors = [
            (name, sizes, kind, offsets[b"blk.0.ffn_up.weight"] if name == b"blk.1.ffn_up.weight" else offset)
            for name, sizes, kind, offset in parts.tensors
        ]

    change(path, edit)
    said = refusal(path)
    assert "blk.0.ffn_up.weight and blk.1.ffn_up.weight share bytes" in said and DAMAGED in said


def test_a_missing_weight_is_named(path):
    write_gguf(path, tiny_model())

    def edit(parts):
        parts.tensors = [tensor for tensor in parts.tensors if tensor[0] != b"blk.1.attn_v.weight"]
        parts.counts[0] -= 1

    change(path, edit)
    assert "it has no tensor for blocks.1.attention.value.weight (1 in all)" in refusal(path)


def test_a_weight_of_another_shape_is_named_with_both(path):
    write_gguf(path, tiny_model(), {"llama.feed_forward_length": 128})
    said = refusal(path)
    assert re.search(r"blk.0.ffn_gate.weight has the shape \(96, 64\), and should have \(128, 64\)", said)


def test_sizes_that_nothing_can_have_are_refused_in_words(path):
    sizes = {"llama.embedding_length": 2**31 - 8, "llama.feed_forward_length": 2**31 - 8}
    write_gguf(path, tiny_model(), sizes)
    assert "260 × 2147483640 numbers don't fit into any memory" in refusal(path)


def test_layers_of_experts_are_not_built_for_a_number_that_the_file_cannot_hold(path):
    """A family with experts, and a file that says that there are millions."""
    experts = replace(LLAMA, shared_config=LLAMA.shared_config | {"experts.n_active": 2})
    experts = replace(experts, optional_settings={"experts.n_experts": "expert_count"})
    del experts.shared_config["experts"]
    write_gguf(path, tiny_model(), {"llama.expert_count": 1 << 20})
    assert re.search(
        "says 2097152 layers or experts, and the file has 20 tensors",
        refusal(path, families={"llama": experts}),
    )


# Weights that are not finite


def test_large_weights_whose_sum_is_infinite_are_read(path):
    model = tiny_model()
    model.blocks[0].feed_forward.up.weight.fill_(3e38)
    write_gguf(path, model)
    assert read_gguf(path).model.blocks[0].feed_forward.up.weight.eq(3e38).all()


def test_weights_too_large_for_the_precision_are_refused(path):
    model = tiny_model()
    model.blocks[0].feed_forward.up.weight[3, 4] = 1e5
    write_gguf(path, model)
    said = refusal(path, dtype=torch.float16)
    assert "blk.0.ffn_up.weight holds values that are not finite in torch.float16" in said
    assert read_gguf(path, torch.bfloat16).model.config.n_layers == 2


@pytest.mark.parametrize("pair", [[np.inf, -np.inf], [np.nan, 1.0]])
def test_infinities_that_cancel_are_refused(path, pair):
    model = tiny_model()
    model.norm.weight[:2] = torch.tensor(pair)
    write_gguf(path, model)
    assert "output_norm.weight holds values that are not finite" in refusal(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32", None])
def test_a_dtype_that_no_model_computes_in_is_refused(path, dtype):
    write_gguf(path, tiny_model())
    with pytest.raises(
        ValueError, match="a model's weights are torch.float32, bfloat16, float16 or float64, not"
    ):
        read_gguf(path, dtype)


# Tokens

THINK = {"tokenizer.ggml.tokens": [*TINY_TOKENS, "<think>", "  \n"], "llama.vocab_size": len(TINY_TOKENS) + 2}
THINK_TYPES = [3, 3] + [1] * 258 + [TokenType.USER_DEFINED.value] * 2


@pytest.fixture
def thinking(path):
    """A model with two user-defined tokens."""
    model = tiny_model(vocab_size=len(TINY_TOKENS) + 2)
    write_gguf(path, model, THINK | {"tokenizer.ggml.token_type": THINK_TYPES})
    return read_gguf(path)


def their_tokenizer():
    """Hugging Face's, in which such tokens are added ones that aren't special."""
    merges = [tuple(merge.split()) for merge in TINY_FIELDS["tokenizer.ggml.merges"]]
    tokenizer = FastTokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(TINY_TOKENS)}, merges=merges)
    )
    tokenizer.pre_tokenizer = gpt2_pre_tokenizer()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "  \n")])
    return tokenizer


@pytest.mark.parametrize(
    "text", ["abc<think>ab", "<think>", "a  \nb   \n", "<think><|im_end|><think", "<thin k>"]
)
def test_user_defined_tokens_are_matched_whole_as_by_tokenizers(thinking, text):
    assert thinking.tokenizer.encode(text, allow_special=True) == their_tokenizer().encode(text).ids


def test_user_defined_tokens_are_matched_in_plain_text_too_and_never_hidden(thinking):
    ids = thinking.tokenizer.encode("<think>abc<|im_end|>")
    think, abc = len(TINY_TOKENS), TINY_TOKENS.index("abc")
    assert ids[:2] == [think, abc] and len(ids) == 2 + len("<|im_end|>")
    assert thinking.tokenizer.decode([1, think, abc], skip_special=True) == "<think>abc"
    assert thinking.tokenizer.special == {"<|endoftext|>": 0, "<|im_end|>": 1}


def test_a_token_of_the_type_unknown_is_special(path):
    write_gguf(path, tiny_model(), {"tokenizer.ggml.token_type": [TokenType.UNKNOWN.value, 3] + [1] * 258})
    assert read_gguf(path).tokenizer.special == {"<|endoftext|>": 0, "<|im_end|>": 1}


# Chat templates


@pytest.mark.parametrize("template", ["{% for", "{% include 'more' %}", "{{ messages | no_such_filter }}"])
def test_a_template_beyond_reach_is_an_error_only_when_it_is_used(path, template):
    model = tiny_model()
    write_gguf(path, model, {"tokenizer.chat_template": template})
    lm, tokens = read_gguf(path), random_tokens(model)
    assert lm.model(tokens).equal(model(tokens))
    for use in (lm.chat.render, lm.chat.encode):
        with pytest.raises(ValueError, match="template"):
            use("hi")


def test_a_template_knows_the_tokens_that_begin_and_end_a_text(path):
    template = "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}"
    ends = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}
    write_gguf(path, tiny_model(), ends | {"tokenizer.chat_template": template})
    lm = read_gguf(path)
    assert lm.chat.render("ab") == "<|endoftext|>ab<|im_end|>"
    assert lm.chat.encode("ab") == [0, TINY_TOKENS.index("ab"), 1]


def test_two_tensors_for_one_weight_are_both_named(path):
    write_gguf(path, tiny_model())

    def edit(parts):  # a further tensor, at the end of the data
        other = next(tensor for tensor in parts.tensors if tensor[0] == b"blk.0.attn_q.weight")
        size = math.prod(other[1]) * 4
        parts.tensors.append((b"blk.0.attn_p.weight", other[1], 0, len(parts.data)))
        parts.counts[0] += 1
        parts.data += bytes(size)

    change(path, edit)
    double = replace(LLAMA, block_tensors=LLAMA.block_tensors | {"attn_p": "attention.query"})
    said = refusal(path, families={"llama": double})
    name = "blocks.0.attention.query.weight"
    assert f"blk.0.attn_q.weight and blk.0.attn_p.weight are both {name}" in said


def test_families_as_before_have_no_further_requirement():
    assert FAMILIES["llama"].required_settings == {"norm_eps": "attention.layer_norm_rms_epsilon"}
    assert gguf.GGUF_VERSION == 3  # what the reader handles; a newer package may write more
