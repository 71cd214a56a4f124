"""Tokens → logits, against PyTorch's own parts and transformers' Llama."""

import math
from dataclasses import asdict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from references import failed_examples, random_tokens, tiny_config, tiny_decoder, transformers_twin
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, rotate_half

import course_lib.model
from course_lib.model import (
    Decoder,
    EncoderDecoder,
    ModelConfig,
    ProjectedMemory,
    RMSNorm,
    SwiGLU,
    Trace,
    ablate_heads,
    attend,
    attention_by_hand,
    cut_edges,
    patch_heads,
    rotary_tables,
    rotate,
)

calm = settings(derandomize=True, deadline=None, max_examples=60)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Attention

SHAPES = [(1, 1), (1, 7), (7, 7), (3, 7)]
HEADS = [(1, 1), (4, 4), (6, 2), (6, 1), (9, 3)]


@pytest.mark.parametrize("queries, keys", SHAPES)
@pytest.mark.parametrize("heads, kv_heads", HEADS)
def test_attention_is_pytorchs(queries, keys, heads, kv_heads):
    q, k, v = (
        randn(2, heads, queries, 8),
        randn(2, kv_heads, keys, 8, seed=1),
        randn(2, kv_heads, keys, 8, seed=2),
    )
    visible = torch.ones(queries, keys).tril(keys - queries).bool()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
    by_hand, weights = attention_by_hand(q, k, v)
    torch.testing.assert_close(by_hand, expected)
    torch.testing.assert_close(attend(q, k, v), expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, heads, queries).double())
    assert (weights[..., ~visible] == 0).all()


@pytest.mark.parametrize("queries, keys", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_fast_attention_is_attention_by_hand_in_every_precision(queries, keys, dtype, tolerance):
    q, k, v = (
        x.to(dtype)
        for x in (randn(2, 6, queries, 8), randn(2, 2, keys, 8, seed=1), randn(2, 2, keys, 8, seed=2))
    )
    torch.testing.assert_close(attend(q, k, v), attention_by_hand(q, k, v)[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("queries, keys", SHAPES)
def test_gradients_of_fast_attention_are_those_by_hand(queries, keys):
    inputs = [randn(1, 4, queries, 8), randn(1, 2, keys, 8, seed=1), randn(1, 2, keys, 8, seed=2)]
    inputs = [x.requires_grad_() for x in inputs]
    fast = torch.autograd.grad(attend(*inputs).square().sum(), inputs)
    by_hand = torch.autograd.grad(attention_by_hand(*inputs)[0].square().sum(), inputs)
    for one, other in zip(fast, by_hand, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_takes_tensors_in_any_memory_layout():
    q, k, v = (
        randn(2, 1, 6, 8).transpose(1, 2),
        randn(2, 5, 2, 8).transpose(1, 2),
        randn(2, 5, 2, 8).transpose(1, 2),
    )
    torch.testing.assert_close(attend(q, k, v), attention_by_hand(q, k, v)[0])


def test_attention_in_numbers_a_person_can_check():
    q, k = torch.tensor([[[[2.0]]]]), torch.tensor([[[[math.log(3) / 2], [0.0]]]])
    out, weights = attention_by_hand(q, k, torch.tensor([[[[4.0], [8.0]]]]))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(out.flatten(), torch.tensor([5.0]))


# Norms, feed-forward, positions


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_norm_is_pytorchs_and_its_formula(eps):
    norm, theirs = RMSNorm(24, eps).double(), torch.nn.RMSNorm(24, eps).double()
    norm.weight.data = theirs.weight.data = randn(24)
    x = randn(3, 5, 24, seed=1) * 10
    torch.testing.assert_close(norm(x), theirs(x))
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight)


def test_the_feed_forward_layer_is_its_formula():
    layer, x = SwiGLU(tiny_config()).double(), randn(2, 3, 24)
    gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
    torch.testing.assert_close(layer(x), (gate * torch.sigmoid(gate) * up) @ layer.down.weight.T)


def turned(x, start=0, base=10_000.0):
    return rotate(x, *rotary_tables(start, x.shape[-2], x.shape[-1], base, like=x))


@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
@pytest.mark.parametrize("start", [0, 1000])
def test_rotation_is_transformers(start, base):
    q, k = randn(2, 4, 9, 16), randn(2, 2, 9, 16, seed=1)
    cos, sin = (torch.cat([table, table], -1)[None] for table in rotary_tables(start, 9, 16, base, like=q))
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    torch.testing.assert_close((turned(q, start, base), turned(k, start, base)), expected)
    angles = torch.outer(
        torch.arange(start, start + 9).double(), base ** (-torch.arange(0, 16, 2).double() / 16)
    )
    angles = torch.cat([angles, angles], -1)
    torch.testing.assert_close(
        turned(q, start, base), q * angles.cos() + rotate_half(q) * angles.sin(), atol=2e-3, rtol=0
    )


def test_position_zero_is_not_turned_and_no_turn_changes_a_length():
    x = randn(1, 2, 5, 8)
    assert turned(x)[:, :, 0].equal(x[:, :, 0])
    torch.testing.assert_close(turned(x).norm(dim=-1), x.norm(dim=-1), atol=1e-6, rtol=0)


@calm
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_scores_depend_on_the_distance_alone(first, second, shift):
    q, k = randn(1, 1, 1, 16), randn(1, 1, 1, 16, seed=1)

    def score(i, j):
        return (turned(q, i) * turned(k, j)).sum()

    torch.testing.assert_close(score(first, second), score(first + shift, second + shift), atol=1e-3, rtol=0)


def test_tables_are_exact_beyond_what_16_bits_count():
    coarse = rotary_tables(0, 4000, 8, 10_000.0, like=torch.zeros((), dtype=torch.bfloat16))
    fine = rotary_tables(0, 4000, 8, 10_000.0, like=torch.zeros(()))
    for one, other in zip(coarse, fine, strict=True):
        assert one.equal(other.bfloat16())


def test_tables_may_start_anywhere():
    whole, like = rotary_tables(0, 20, 8, 100.0, like=torch.zeros(())), torch.zeros(())
    for table, later in zip(whole, rotary_tables(7, 13, 8, 100.0, like), strict=True):
        assert table[7:].equal(later)


# The whole model

SHAPES_OF_MODELS = {
    "grouped queries": {},
    "a key-value head for each": {"n_kv_heads": 6},
    "one key-value head": {"n_kv_heads": 1},
    "untied": {"tie_embeddings": False},
    "one layer, one head": {"n_layers": 1, "n_heads": 1, "n_kv_heads": 1},
    "heads wider than the stream": {"n_heads": 8, "n_kv_heads": 4, "d_head": 16},
    "other constants": {"rope_base": 500.0, "norm_eps": 0.1, "d_head": 2},
}


@pytest.mark.parametrize("name", SHAPES_OF_MODELS)
def test_the_decoder_is_transformers_llama(name):
    """Within 1e-5 and not closer: transformers computes its norms and angles in 32 bits in every
    precision.
    """
    model = tiny_decoder(**SHAPES_OF_MODELS[name])
    tokens = random_tokens(model, batch=2, time=20)
    torch.testing.assert_close(model(tokens), transformers_twin(model)(tokens).logits, atol=1e-5, rtol=1e-5)


def test_attention_weights_are_transformers():
    model = tiny_decoder()
    tokens, trace = random_tokens(model), Trace(keep="*.attention.weights")
    model(tokens, trace=trace)
    expected = transformers_twin(model)(tokens, output_attentions=True).attentions
    torch.testing.assert_close(trace.attention(), torch.cat(expected), atol=1e-5, rtol=0)


def test_gradients_are_transformers():
    model = tiny_decoder().requires_grad_()
    tokens, twin = random_tokens(model, batch=2), transformers_twin(model)
    for each in (model(tokens), twin(tokens).logits):
        each.log_softmax(-1)[..., 0].sum().backward()
    ours, theirs = (
        model.blocks[1].attention.key.weight.grad,
        twin.model.layers[1].self_attn.k_proj.weight.grad,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        model.embedding.weight.grad, twin.model.embed_tokens.weight.grad, atol=1e-4, rtol=1e-3
    )


@calm
@given(st.integers(0, 10), st.integers(0, 60), st.sampled_from([torch.float32, torch.float64]))
def test_the_future_changes_nothing_bit_for_bit(position, token, dtype):
    model = tiny_decoder(dtype)
    tokens = random_tokens(model)
    other = tokens.clone()
    other[0, position + 1 :] = token
    assert model(tokens)[:, : position + 1].equal(model(other)[:, : position + 1])


def test_each_sequence_of_a_batch_stands_alone():
    model = tiny_decoder()
    tokens = random_tokens(model, batch=3)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone)


def test_a_token_at_another_place_is_another_token():
    model = tiny_decoder()
    logits = model(torch.tensor([[5, 5, 5, 7], [7, 5, 5, 5]]))
    assert not torch.allclose(logits[0, 2], logits[1, 2])


def test_embeddings_are_tied_or_not():
    tied, untied = Decoder(tiny_config()), Decoder(tiny_config(tie_embeddings=False))
    assert tied.head.weight is tied.embedding.weight
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 61 * 24


TOKENS = {
    "below zero": (
        torch.tensor([[3, -1]]),
        "token ids run from -1 to 3, but the vocabulary holds 0 to 60.*tokenizer",
    ),
    "beyond the vocabulary": (
        torch.tensor([[3, 61]]),
        "from 3 to 61, but the vocabulary holds 0 to 60.*tokenizer",
    ),
    "no tokens": (
        torch.empty(1, 0, dtype=torch.long),
        r"\(batch, time\) with at least one token, not \(1, 0\)",
    ),
    "no batch": (torch.tensor([1, 2]), r"\(batch, time\) with at least one token, not \(2,\)"),
    "too many": (torch.zeros(1, 49, dtype=torch.long), "49 tokens are more than the 48.*shorten the text"),
    "fractions": (torch.tensor([[1.0, 2.0]]), "token"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_are_none_are_refused(name):
    tokens, message = TOKENS[name]
    with pytest.raises(ValueError, match=message):
        tiny_decoder()(tokens)


def test_the_whole_context_is_read():
    model = tiny_decoder()
    assert model(random_tokens(model, time=48)).isfinite().all()


@pytest.mark.parametrize(
    "size", ["vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "context"]
)
def test_a_configuration_needs_every_size(size):
    with pytest.raises(ValueError, match=f"{size} must be at least 1, not 0"):
        tiny_config(**{size: 0})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_kv_heads": 4}, "6 query heads can't share 4 key-value heads"),
        ({"n_kv_heads": 12}, "6 query heads can't share 12 key-value heads"),
        ({"d_head": 7}, "d_head must be even.*7"),
        ({"rope_base": 0.0}, "rope_base"),
        ({"rope_base": math.nan}, "rope_base"),
        ({"norm_eps": -1.0}, "norm_eps"),
        ({"norm_eps": math.nan}, "norm_eps"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


# Looking inside


@pytest.fixture
def model():
    return tiny_decoder()


@pytest.fixture
def tokens(model):
    return random_tokens(model, batch=2)


def zero(value):
    return torch.zeros_like(value)


@pytest.mark.parametrize("keep", ["*", "*.weights", "blocks.1.attention.heads", ["embedding", "logits"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_keeping_changes_nothing_bit_for_bit(keep, dtype):
    model = tiny_decoder(dtype)
    tokens = random_tokens(model, batch=2)
    assert model(tokens, trace=Trace(keep)).equal(model(tokens))


def test_every_name_is_kept_in_the_order_of_the_run(model, tokens):
    trace = Trace(keep="*")
    logits = model(tokens, trace=trace)
    assert list(trace.values) == model.activation_names()
    assert trace["logits"] is logits
    shapes = {"embedding": (2, 12, 24), "norm": (2, 12, 24), "logits": (2, 12, 61)}
    shapes |= {"query": (2, 6, 12, 8), "key": (2, 2, 12, 8), "value": (2, 2, 12, 8), "heads": (2, 6, 12, 8)}
    shapes |= {"weights": (2, 6, 12, 12), "hidden": (2, 12, 40)}
    for name, value in trace.values.items():
        assert tuple(value.shape) == shapes.get(name.rsplit(".", 1)[-1], (2, 12, 24)), name


def test_what_is_kept_is_what_flowed(model, tokens):
    trace = Trace(keep="*")
    model(tokens, trace=trace)
    for i in range(3):
        at = f"blocks.{i}"
        torch.testing.assert_close(
            trace[f"{at}.input"] + trace[f"{at}.attention.output"], trace[f"{at}.middle"]
        )
        torch.testing.assert_close(
            trace[f"{at}.middle"] + trace[f"{at}.feed_forward.output"], trace[f"{at}.output"]
        )
        value = trace[f"{at}.attention.value"].repeat_interleave(3, dim=1)
        torch.testing.assert_close(trace[f"{at}.attention.weights"] @ value, trace[f"{at}.attention.heads"])
        assert trace[f"{at}.input"].equal(trace[f"blocks.{i - 1}.output"] if i else trace["embedding"])


def test_rows_of_weights_sum_to_one_and_never_look_ahead(model, tokens):
    trace = Trace(keep="*.attention.weights")
    model(tokens, trace=trace)
    weights = trace.attention()
    assert weights.shape == (3, 6, 12, 12)
    assert weights.triu(1).count_nonzero() == 0
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 6, 12).double())


def test_a_trace_without_attention_says_how_to_get_it(model, tokens):
    trace = Trace(keep="embedding")
    model(tokens, trace=trace)
    with pytest.raises(ValueError, match=r'make the trace with keep="\*\.attention\.weights"'):
        trace.attention()
    with pytest.raises(KeyError, match="'logits' was not kept; kept were .'embedding'"):
        trace["logits"]


@pytest.mark.parametrize(
    "trace",
    [
        Trace("blocks.3.output"),
        Trace("atention"),
        Trace(["embedding", "nothing*"]),
        Trace(edits={"layer.*": zero}),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error(model, tokens, trace):
    with pytest.raises(
        ValueError, match="no activation is called '(blocks.3.output|atention|nothing.|layer..)'"
    ):
        model(tokens, trace=trace)


@pytest.mark.parametrize(
    "name", ["embedding", "blocks.1.attention.weights", "blocks.0.attention.heads", "logits"]
)
@pytest.mark.parametrize(
    "edit", [lambda value: value[..., :-1], lambda value: value[:1], lambda value: None, lambda value: 0.0]
)
def test_an_edit_that_returns_another_shape_is_refused(model, tokens, name, edit):
    with pytest.raises(ValueError, match=f"edit of '{name}'"):
        model(tokens, trace=Trace(edits={name: edit}))


def test_an_edit_is_used_and_kept(model, tokens):
    trace = Trace(keep="logits", edits={"logits": lambda value: value + 1})
    assert model(tokens, trace=trace).equal(model(tokens) + 1)
    assert trace["logits"].equal(model(tokens) + 1)


def test_edits_of_one_value_are_made_in_turn(model, tokens):
    edits = {"log*": lambda value: value + 1, "logits": lambda value: value * 2}
    assert model(tokens, trace=Trace(edits=edits)).equal((model(tokens) + 1) * 2)


@pytest.mark.parametrize("name", [*tiny_decoder().activation_names()])
def test_edits_in_place_count(model, tokens, name):
    """As a learner writes them: `weights[:, 2] = 0; return weights`."""
    new = model(tokens, trace=Trace(edits={name: zero}))
    assert not new.equal(model(tokens))
    assert model(tokens, trace=Trace(edits={name: lambda value: value.zero_()})).equal(new)


def test_edited_weights_decide_what_is_read(model, tokens):
    """All attention on the first token: every position's heads are the first token's values."""

    def first(weights):
        return zero(weights).index_fill_(-1, torch.tensor(0), 1.0)

    trace = Trace(keep="*", edits={"blocks.1.attention.weights": first})
    model(tokens, trace=trace)
    value = trace["blocks.1.attention.value"].repeat_interleave(3, dim=1)[:, :, :1]
    torch.testing.assert_close(trace["blocks.1.attention.heads"], value.expand(-1, -1, 12, -1))
    assert trace["blocks.1.attention.weights"].equal(first(trace["blocks.1.attention.weights"]))


def test_unchanged_weights_give_the_same_run(model, tokens):
    same = model(tokens, trace=Trace(edits={"*.weights": lambda weights: weights.clone()}))
    torch.testing.assert_close(same, model(tokens))


def test_ablation_zeroes_its_heads_and_changes_only_what_is_downstream(model, tokens):
    before, after = Trace(keep="*"), Trace(keep="*", edits=ablate_heads((1, 4), (1, 0)))
    model(tokens, trace=before), model(tokens, trace=after)
    names = model.activation_names()
    touched = names.index("blocks.1.attention.heads")
    for name in names[:touched]:
        assert after[name].equal(before[name]), name
    heads = after[names[touched]]
    assert heads[:, [0, 4]].count_nonzero() == 0
    assert heads[:, [1, 2, 3, 5]].equal(before[names[touched]][:, [1, 2, 3, 5]])
    for name in names[touched + 1 :]:
        assert not after[name].equal(before[name]), name


def test_ablating_a_head_is_zeroing_its_columns_of_the_output_projection(model, tokens):
    logits = model(tokens, trace=Trace(edits=ablate_heads((2, 3))))
    model.blocks[2].attention.output.weight[:, 3 * 8 : 4 * 8] = 0
    torch.testing.assert_close(logits, model(tokens))


def test_patching_a_head_with_its_own_run_changes_nothing_bit_for_bit(model, tokens):
    source = Trace(keep="*.attention.heads")
    plain = model(tokens, trace=source)
    everything = [(layer, head) for layer in range(3) for head in range(6)]
    for heads in ([(1, 4)], everything):
        assert model(tokens, trace=Trace(edits=patch_heads(source, *heads))).equal(plain)


def test_patching_every_head_carries_the_other_runs_attention_over(model, tokens):
    source, kept = Trace(keep="*.attention.heads"), Trace(keep="*.attention.*")
    model(tokens.flip(1), trace=source)
    everything = [(layer, head) for layer in range(3) for head in range(6)]
    kept.edits = patch_heads(source, *everything)
    model(tokens, trace=kept)
    for layer in range(3):
        name = f"blocks.{layer}.attention.heads"
        assert kept[name].equal(source[name])
        projected = model.blocks[layer].attention.output(source[name].transpose(1, 2).flatten(2))
        torch.testing.assert_close(kept[f"blocks.{layer}.attention.output"], projected)


def test_patching_one_head_leaves_the_others(model, tokens):
    source, plain, patched = Trace(keep="*.heads"), Trace(keep="*.heads"), Trace(keep="*.heads")
    model(tokens.flip(1), trace=source), model(tokens, trace=plain)
    patched.edits = patch_heads(source, (0, 2))
    model(tokens, trace=patched)
    name = "blocks.0.attention.heads"
    assert patched[name][:, 2].equal(source[name][:, 2])
    assert patched[name][:, [0, 1, 3, 4, 5]].equal(plain[name][:, [0, 1, 3, 4, 5]])


@pytest.mark.parametrize("edit", [ablate_heads, lambda head: patch_heads(Trace(), head)])
@pytest.mark.parametrize("head", [-1, 6])
def test_heads_that_do_not_exist_are_refused(model, tokens, edit, head):
    with pytest.raises(ValueError, match=f"layer 1 has heads 0 to 5, not {head}"):
        model(tokens, trace=Trace(edits=edit((1, head))))
    with pytest.raises(ValueError, match="no activation is called 'blocks.3.attention.heads'"):
        model(tokens, trace=Trace(edits=edit((3, 0))))


@pytest.mark.parametrize("length", [1, 5])
def test_patching_from_a_run_of_another_length_is_refused(model, tokens, length):
    source = Trace(keep="*.attention.heads")
    model(tokens[:, :length], trace=source)
    with pytest.raises(ValueError, match="blocks.1.attention.heads"):
        model(tokens, trace=Trace(edits=patch_heads(source, (1, 2))))


def test_patching_from_what_was_not_kept_is_refused(model, tokens):
    with pytest.raises(KeyError, match="'blocks.1.attention.heads' was not kept"):
        model(tokens, trace=Trace(edits=patch_heads(Trace(), (1, 2))))


def test_gradients_flow_through_a_trace(tokens):
    model = tiny_decoder().requires_grad_()
    trace = Trace(keep=["*.attention.weights", "*.heads"])
    model(tokens, trace=trace)[..., 0].sum().backward()
    traced = model.blocks[0].attention.query.weight.grad.clone()
    model.zero_grad()
    model(tokens)[..., 0].sum().backward()
    torch.testing.assert_close(model.blocks[0].attention.query.weight.grad, traced)
    gradient = torch.autograd.grad(
        model(tokens, trace=trace)[..., 0].sum(), trace["blocks.1.attention.heads"]
    )[0]
    assert gradient.shape == (2, 6, 12, 8)
    assert gradient.count_nonzero() > 0


def test_gradients_flow_through_ablation_and_patching(tokens):
    model, source = tiny_decoder().requires_grad_(), Trace(keep="*.heads")
    model(tokens.flip(1), trace=source)
    for edits in (ablate_heads((1, 4)), patch_heads(source, (1, 4))):
        model.zero_grad()
        model(tokens, trace=Trace(edits=edits))[..., 0].sum().backward()
        of_value = model.blocks[1].attention.value.weight.grad
        assert of_value.count_nonzero() > 0
    assert model.blocks[0].attention.query.weight.grad.count_nonzero() > 0


def test_a_trace_may_be_used_again(model, tokens):
    trace = Trace(keep="*.attention.weights")
    model(tokens, trace=trace), model(tokens[:, :5], trace=trace)
    assert trace.attention().shape == (3, 6, 5, 5)


def test_examples_in_the_docstrings_hold():
    assert failed_examples(course_lib.model) == 0


def test_cut_edges_silence_one_edge_and_keep_the_others_in_proportion():
    weights = torch.rand(2, 3, 5, 5, dtype=torch.float64).tril()
    weights /= weights.sum(dim=-1, keepdim=True)
    before = weights.clone()
    cut = cut_edges(weights, query=3, key=1)
    assert weights.equal(before)
    assert (cut[:, :, 3, 1] == 0).all()
    torch.testing.assert_close(cut.sum(dim=-1), torch.ones(2, 3, 5, dtype=torch.float64))
    torch.testing.assert_close(cut[:, :, 3, 0] / cut[:, :, 3, 2], weights[:, :, 3, 0] / weights[:, :, 3, 2])
    others = [0, 1, 2, 4]
    torch.testing.assert_close(cut[:, :, others], weights[:, :, others])


def test_nothing_flows_along_a_cut_edge(model, tokens):
    """The last token cut from the first, in every layer: what the first says still arrives, but only through
    others.
    """
    cut = Trace(
        keep="*.attention.weights", edits={"*.attention.weights": partial(cut_edges, query=-1, key=0)}
    )
    assert not model(tokens, trace=cut).equal(model(tokens))
    assert (cut.attention()[:, :, -1, 0] == 0).all()


@pytest.mark.parametrize("query, key", [(0, 0), (slice(None), 0), (3, slice(None)), (2, slice(0, 3))])
def test_a_token_cut_from_all_it_sees_is_refused(model, tokens, query, key):
    with pytest.raises(ValueError, match="nothing"):
        model(tokens, trace=Trace(edits={"*.attention.weights": partial(cut_edges, query=query, key=key)}))


def test_a_configuration_without_a_size_says_which():
    sizes = asdict(tiny_config())
    assert ModelConfig.from_dict(sizes) == tiny_config()
    del sizes["d_ff"]
    with pytest.raises(ValueError, match="d_ff is missing, and has no default"):
        ModelConfig.from_dict(sizes)
    with pytest.raises(ValueError, match="experts.n_experts is missing"):
        ModelConfig.from_dict(asdict(tiny_config()) | {"experts": {"n_active": 2}})


def test_no_rows_are_refused_like_no_tokens():
    with pytest.raises(ValueError, match="at least one token"):
        tiny_decoder()(torch.zeros(0, 3, dtype=torch.long))


def test_kept_weights_of_two_kinds_of_attention_are_not_stacked_as_if_they_were_layers():
    sizes = {"n_heads": 4, "n_kv_heads": 4}
    model = EncoderDecoder(tiny_config(**sizes)).requires_grad_(False)
    trace = Trace(keep="*attention.weights")
    model(torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]]), trace=trace)
    with pytest.raises(ValueError, match="two stacks or two kinds"):
        trace.attention("decoder.*attention.weights")
    assert trace.attention("decoder.*.cross_attention.weights").shape == (3, 4, 3, 3)


def test_a_memory_of_chosen_rows_has_these_rows_whatever_the_sequence():
    keys = torch.arange(6.0).view(3, 1, 2, 1)
    memory = ProjectedMemory(((keys, keys),), torch.ones(3, 1, 1, 2, dtype=torch.bool))
    for rows in ([0, 2], (0, 2), range(0, 3, 2)):
        assert (
            memory.select(rows).pairs[0][0].equal(keys[[0, 2]]) and len(memory.select(rows).pairs[0][1]) == 2
        )
