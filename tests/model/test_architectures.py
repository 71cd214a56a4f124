"""Every dial of the configuration, against PyTorch's own modules and transformers, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from references import random_tokens, random_weights, tiny_config
from torch import nn
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from course_lib.generate import generate, pack
from course_lib.model import (
    Decoder,
    Encoder,
    EncoderDecoder,
    Experts,
    FeedForward,
    GeGLU,
    LayerNorm,
    Trace,
    alibi_bias,
    alibi_slopes,
    attend,
    attention_by_hand,
    count_parameters,
    load_balancing_loss,
    rotary_tables,
    rotate,
    route,
    sinusoidal_table,
)
from course_lib.model.checks import CHOICES

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
LIKE = torch.zeros((), dtype=torch.float64)
KINDS = [(name, kind) for name, kinds in CHOICES.items() for kind in kinds]


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def copy(theirs, ours):
    """Give one module (or tensor) of another library our weights."""
    for name, weight in ours.named_parameters():
        theirs.get_parameter(name).data = weight.data.clone()


def agree(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, **tolerance)


# Positions


def test_sinusoidal_positions_are_the_papers_formula():
    table = sinusoidal_table(5, 7, 10, LIKE)
    for row, position in zip(table, range(5, 12), strict=True):
        for channel, value in enumerate(row.tolist()):
            angle = position / 10_000 ** (channel // 2 * 2 / 10)
            assert math.isclose(value, math.cos(angle) if channel % 2 else math.sin(angle), abs_tol=1e-6)
    agree(sinusoidal_table(0, 12, 9, LIKE), sinusoidal_table(0, 12, 10, LIKE)[:, :9], atol=3, rtol=0)
    assert sinusoidal_table(0, 3, 7, LIKE).shape == (3, 7)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 9, 12, 16, 20])
def test_alibi_slopes_are_blooms(heads):
    bias = build_alibi_tensor(torch.ones(1, 5, dtype=torch.long), heads, torch.float32)  # slope · position
    agree(alibi_slopes(heads), bias.view(heads, 5)[:, 1])


def test_alibi_takes_slope_times_distance_off_every_score():
    bias = alibi_bias(4, queries=2, keys=3, like=LIKE)
    assert bias[0].tolist() == [[-0.25, 0, -0.25], [-0.5, -0.25, 0]]
    q, k = randn(1, 4, 2, 8), randn(1, 4, 3, 8, seed=1)
    plain = (q @ k.transpose(-1, -2) / math.sqrt(8) + bias).masked_fill(
        torch.ones(2, 3).triu(2).bool(), -math.inf
    )
    agree(attention_by_hand(q, k, k, bias)[1], plain.softmax(-1))


def test_both_layouts_of_rotary_positions_are_one_model_with_its_channels_in_another_order():
    x, tables = randn(2, 3, 9, 8), rotary_tables(4, 9, 8, 10_000, LIKE)
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    agree(rotate(x[..., order], *tables, "interleaved"), rotate(x, *tables)[..., order])


def test_interleaved_layout_is_gptjs():
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    x, (cos, sin) = randn(1, 3, 9, 8), rotary_tables(0, 9, 8, 10_000, LIKE)
    theirs = apply_rotary_pos_emb(x.transpose(1, 2), sin[None], cos[None])
    agree(rotate(x, cos, sin, "interleaved"), theirs.transpose(1, 2))


def test_positions_are_where_the_configuration_says():
    tokens = torch.tensor([[7, 7, 7, 7]])
    for positions in CHOICES["positions"]:
        model = random_weights(Encoder(tiny_config(positions=positions, n_heads=3, n_kv_heads=3)))
        same = torch.allclose(model(tokens).states, model(tokens).states[:, :1].expand(1, 4, -1))
        # Equal tokens are told apart only by what is added to them: what attention sees is equal from
        # everywhere.
        assert same == (positions not in ("sinusoidal", "learned"))


def test_order_counts_with_every_kind_of_positions_and_without_any_it_does_not():
    tokens = torch.tensor([[3, 1, 4, 15, 9]])
    for positions in CHOICES["positions"]:
        model = random_weights(Encoder(tiny_config(positions=positions, n_heads=3, n_kv_heads=3)))
        states, turned = model(tokens).states, model(tokens.flip(1)).states.flip(1)
        # ALiBi counts distances without a direction, and there the whole text turned round looks the same.
        assert torch.allclose(states, turned) == (positions in ("none", "alibi"))
        swapped = model(tokens[:, [1, 0, 2, 3, 4]]).states[:, [1, 0, 2, 3, 4]]
        assert torch.allclose(states, swapped) == (positions == "none")


# Masks


def test_masks_of_both_kinds_are_pytorchs():
    q, k, v = randn(2, 6, 5, 8), randn(2, 2, 7, 8, seed=1), randn(2, 2, 7, 8, seed=2)
    visible = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.7
    visible[..., 0] = True
    numbers = randn(2, 6, 5, 7, seed=4)
    before = torch.ones(5, 7).tril(2).bool()
    for causal, hidden in [(True, ~before), (False, torch.zeros_like(before))]:
        for mask, added in [
            (visible, torch.zeros(2, 1, 5, 7).masked_fill(~visible, -math.inf)),
            (numbers, numbers),
        ]:
            added = added.double().masked_fill(hidden, -math.inf)
            expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=True)
            agree(attention_by_hand(q, k, v, mask, causal)[0], expected)
            agree(attend(q, k, v, mask, causal), expected)


def test_one_query_with_a_mask_heeds_it():
    q, k = randn(1, 4, 1, 8), randn(1, 2, 3, 8)
    visible = torch.tensor([True, False, True])
    agree(attend(q, k, k, visible), attend(q, k[:, :, [0, 2]], k[:, :, [0, 2]]))


# Norms and feed-forward layers


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_is_pytorchs(bias):
    ours, theirs = (
        random_weights(kind, seed=1)
        for kind in (LayerNorm(24, 1e-3, bias), nn.LayerNorm(24, 1e-3, bias=bias))
    )
    x = randn(2, 3, 24)
    agree(ours(x), theirs(x))
    centred = x - x.mean(-1, keepdim=True)
    by_hand = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * ours.weight
    agree(ours(x), by_hand + (ours.bias if bias else 0))


@pytest.mark.parametrize(
    "kind, function", [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("gelu-tanh", nn.GELU("tanh"))]
)
def test_feed_forward_is_two_linear_layers_and_a_function_between(kind, function):
    layer, x = random_weights(FeedForward(tiny_config(feed_forward=kind, bias=True))), randn(2, 3, 24)
    agree(layer(x), layer.down(function(layer.up(x))))


def test_geglu_is_llamas_with_gelu():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    theirs = LlamaMLP(
        LlamaConfig(hidden_size=24, num_attention_heads=3, intermediate_size=40, hidden_act="gelu")
    ).double()
    ours, x = random_weights(GeGLU(tiny_config())), randn(2, 3, 24)
    for part in ("gate", "up", "down"):
        getattr(theirs, f"{part}_proj").weight.data = getattr(ours, part).weight.data
    agree(ours(x), theirs(x))


# Blocks and stacks against PyTorch's


def torch_weights(block, into):
    """Our block's weights in the names and layout of nn.TransformerEncoderLayer and
    nn.TransformerDecoderLayer.
    """
    parts = [("self_attn", block.attention), ("multihead_attn", block.cross_attention)]
    for name, attention in parts:
        if attention is not None:
            theirs, projections = getattr(into, name), (attention.query, attention.key, attention.value)
            theirs.in_proj_weight.data = torch.cat([p.weight for p in projections])
            theirs.in_proj_bias.data = torch.cat([p.bias for p in projections])
            copy(theirs.out_proj, attention.output)
    copy(into.linear1, block.feed_forward.up)
    copy(into.linear2, block.feed_forward.down)
    ours = [
        norm for norm in (block.attention_norm, block.cross_norm, block.feed_forward_norm) if norm is not None
    ]
    for i, norm in enumerate(ours, start=1):
        copy(getattr(into, f"norm{i}"), norm)


def of_2017(**changes):
    changes = {"norm": "layer", "norm_place": "post", "feed_forward": "relu", "bias": True} | changes
    return tiny_config(positions="none", n_heads=3, n_kv_heads=3, **changes)


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_encoder_is_pytorchs(place, function):
    model = random_weights(Encoder(of_2017(norm_place=place, feed_forward=function)))
    layer = nn.TransformerEncoderLayer(24, 3, 40, 0.0, function, batch_first=True, norm_first=place == "pre")
    theirs = (
        nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(24) if place == "pre" else None).double().eval()
    )
    for block, into in zip(model.blocks, theirs.layers, strict=True):
        torch_weights(block, into)
    if place == "pre":
        copy(theirs.norm, model.norm)
    tokens = random_tokens(model, batch=3)
    real = torch.arange(12) < torch.tensor([[12], [5], [1]])
    states, mask = model(tokens, real)
    agree(states[real], theirs(model.embedding(tokens), src_key_padding_mask=~real)[real])
    assert mask.shape == (3, 1, 1, 12)


def test_encoder_decoder_is_pytorchs():
    model = random_weights(EncoderDecoder(of_2017(scale_embeddings=True)))
    theirs = nn.Transformer(24, 3, 3, 3, 40, 0.0, batch_first=True).double().eval()
    theirs.encoder.norm = theirs.decoder.norm = (
        None  # PyTorch puts a norm behind each stack; the paper doesn't
    )
    for ours, stack in [(model.encoder, theirs.encoder), (model.decoder, theirs.decoder)]:
        for block, into in zip(ours.blocks, stack.layers, strict=True):
            torch_weights(block, into)
    source, target = random_tokens(model, 2, 9), random_tokens(model, 2, 6, seed=1)
    real = torch.arange(9) < torch.tensor([[9], [4]])
    embed = model.encoder.embedding
    hidden = theirs(
        *(embed(tokens) * math.sqrt(24) for tokens in (source, target)),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64),
        src_key_padding_mask=~real,
        memory_key_padding_mask=~real,
    )
    agree(model(source, target, real), hidden @ embed.weight.T)


# Families against transformers'


def llama_like_names(name, parts):
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def test_learned_positions_layer_norm_gelu_and_biases_are_gpt2s():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = tiny_config(
        positions="learned", norm="layer", feed_forward="gelu-tanh", bias=True, n_heads=3, n_kv_heads=3
    )
    model = random_weights(Decoder(config))
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=61,
            n_positions=48,
            n_embd=24,
            n_layer=3,
            n_head=3,
            n_inner=40,
            attn_implementation="eager",
        )
    )
    theirs = theirs.double().eval()
    theirs.transformer.wte.weight.data, theirs.transformer.wpe.weight.data = (
        model.embedding.weight,
        model.positions.table,
    )
    copy(theirs.transformer.ln_f, model.norm)
    for block, into in zip(model.blocks, theirs.transformer.h, strict=True):
        attention = block.attention
        projections = (attention.query, attention.key, attention.value)
        into.attn.c_attn.weight.data = torch.cat([p.weight for p in projections]).T
        into.attn.c_attn.bias.data = torch.cat([p.bias for p in projections])
        for ours, conv in [
            (attention.output, into.attn.c_proj),
            (block.feed_forward.up, into.mlp.c_fc),
            (block.feed_forward.down, into.mlp.c_proj),
        ]:
            conv.weight.data, conv.bias.data = ours.weight.T, ours.bias
        copy(into.ln_1, block.attention_norm)
        copy(into.ln_2, block.feed_forward_norm)
    tokens = random_tokens(model, batch=2, time=48)
    agree(model(tokens), theirs(tokens).logits)


def test_parallel_parts_and_interleaved_positions_are_gptjs():
    from transformers import GPTJConfig, GPTJForCausalLM

    config = tiny_config(
        positions="rope-interleaved",
        norm="layer",
        norm_place="parallel",
        feed_forward="gelu-tanh",
        bias=True,
        tie_embeddings=False,
        n_heads=3,
        n_kv_heads=3,
    )
    model = random_weights(Decoder(config))
    theirs = GPTJForCausalLM(
        GPTJConfig(vocab_size=61, n_positions=48, n_embd=24, n_layer=3, n_head=3, rotary_dim=8, n_inner=40)
    )
    theirs = theirs.double().eval()
    theirs.transformer.wte.weight.data, theirs.lm_head.weight.data = model.embedding.weight, model.head.weight
    theirs.lm_head.bias.data.zero_()
    copy(theirs.transformer.ln_f, model.norm)
    for block, into in zip(model.blocks, theirs.transformer.h, strict=True):
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        for ours, name in names.items():
            getattr(block.attention, ours).bias.data.zero_()  # GPT-J's attention has none
            getattr(into.attn, name).weight.data = getattr(block.attention, ours).weight.data
        copy(into.mlp.fc_in, block.feed_forward.up)
        copy(into.mlp.fc_out, block.feed_forward.down)
        copy(into.ln_1, block.attention_norm)
    tokens = random_tokens(model, batch=2)
    agree(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)  # its tables are in 32 bits


def test_alibi_is_mpts():
    from transformers import MptConfig, MptForCausalLM

    config = tiny_config(
        positions="alibi", norm="layer", feed_forward="gelu", n_heads=4, n_kv_heads=4, d_head=6, d_ff=96
    )
    model = random_weights(Decoder(config))
    theirs = MptForCausalLM(
        MptConfig(d_model=24, n_heads=4, n_layers=3, max_seq_len=48, vocab_size=61, expansion_ratio=4)
    )
    theirs = theirs.double().eval()
    theirs.transformer.wte.weight.data = model.embedding.weight.data
    copy(theirs.transformer.norm_f, model.norm)
    for block, into in zip(model.blocks, theirs.transformer.blocks, strict=True):
        attention = block.attention
        into.attn.Wqkv.weight.data = torch.cat(
            [attention.query.weight, attention.key.weight, attention.value.weight]
        )
        copy(into.attn.out_proj, attention.output)
        copy(into.ffn.up_proj, block.feed_forward.up)
        copy(into.ffn.down_proj, block.feed_forward.down)
        copy(into.norm_1, block.attention_norm)
        copy(into.norm_2, block.feed_forward_norm)
    tokens = random_tokens(model, batch=2)
    agree(model(tokens), theirs(tokens).logits, atol=1e-6, rtol=1e-6)


def test_padding_is_hidden_from_causal_layers_too():
    for positions in ("rope", "alibi"):
        model = random_weights(Decoder(tiny_config(positions=positions)))
        tokens = torch.tensor([[3, 1, 4, 1, 5]])
        real = torch.tensor([[True, True, False, True, True]])
        states = model.run_layers(tokens, real=real)
        other, later = tokens.clone(), tokens.clone()
        other[0, 2], later[0, 4] = 9, 9
        agree(model.run_layers(other, real=real)[:, [0, 1, 3, 4]], states[:, [0, 1, 3, 4]])
        agree(model.run_layers(later, real=real)[:, :4], states[:, :4])
        assert not torch.allclose(model.run_layers(tokens)[:, 3], states[:, 3])


# Experts


def mixture(**changes):
    changes = {"n_experts": 5, "n_active": 2} | changes
    return random_weights(Experts(tiny_config(**changes)))


def one_by_one(layer, x):
    """Every token by itself, without sorting or batching; no capacity."""
    out = []
    for token in x.flatten(0, -2):
        shares, chosen = route(
            layer.router(token)[None], layer.config.n_active, layer.config.normalize_shares
        )
        found = sum(
            share * layer.experts[i](token) for share, i in zip(shares[0], chosen[0].tolist(), strict=True)
        )
        out.append(found + (layer.shared(token) if layer.shared is not None else 0))
    return torch.stack(out).view(x.shape)


@pytest.mark.parametrize(
    "changes", [{}, {"n_active": 5}, {"n_active": 1, "normalize_shares": False}, {"n_shared": 2}]
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 40)])
def test_sorted_experts_are_experts_token_by_token(changes, shape):
    layer, x = mixture(**changes), randn(*shape, 24)
    agree(layer(x), one_by_one(layer, x))


def test_gradients_of_sorted_experts_are_those_token_by_token():
    layer, x = mixture(), randn(2, 6, 24)
    weights = list(layer.parameters())
    grads = [
        torch.autograd.grad(f(x).square().sum(), weights) for f in (layer, lambda x: one_by_one(layer, x))
    ]
    for ours, theirs in zip(*grads, strict=True):
        agree(ours, theirs)


def test_mixture_is_mixtrals():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    layer, x = mixture().float(), randn(2, 9, 24).float()
    theirs = MixtralSparseMoeBlock(
        MixtralConfig(hidden_size=24, intermediate_size=40, num_local_experts=5, num_experts_per_tok=2)
    )
    theirs.gate.weight.data = layer.router.weight.data
    theirs.experts.gate_up_proj.data = torch.stack(
        [torch.cat([e.gate.weight, e.up.weight]) for e in layer.experts]
    )
    theirs.experts.down_proj.data = torch.stack([e.down.weight for e in layer.experts])
    agree(layer(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_load_balancing_loss_is_mixtrals():
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    scores = randn(40, 6).float()
    for k in (1, 2, 3):  # theirs adds the choices' parts up to k, ours to 1
        agree(load_balancing_loss(scores, k), load_balancing_loss_func((scores,), 6, k) / k)


def test_load_balancing_loss_at_its_ends():
    evenly, alone = torch.eye(4) * 20, torch.eye(4)[:1].expand(8, 4) * 20
    assert math.isclose(load_balancing_loss(evenly, 1), 1, abs_tol=1e-6)
    assert math.isclose(load_balancing_loss(alone, 1), 4, abs_tol=1e-5)
    scores = torch.zeros(6, 4).requires_grad_()
    load_balancing_loss(scores + alone[:1] / 20, 1).backward()
    assert (scores.grad[:, 0] > 0).all() and (scores.grad[:, 1:] < 0).all()  # away from the crowded one


def test_capacity_turns_the_later_tokens_away():
    layer, x = mixture(n_active=1, normalize_shares=False, capacity_factor=1.0), randn(1, 20, 24)
    scores = layer.router(x)[0]
    chosen = scores.argmax(-1)
    room = math.ceil(20 / 5)
    full = one_by_one(layer, x)[0]
    out = layer(x)[0]
    for expert in range(5):
        mine = (chosen == expert).nonzero().flatten()
        agree(out[mine[:room]], full[mine[:room]])
        assert (out[mine[room:]] == 0).all()
    assert (chosen.bincount(minlength=5) > room).any()
    agree(Experts.forward(mixture(capacity_factor=5.0), x), mixture()(x))  # room for everybody


def test_experts_are_in_the_blocks_and_the_trace_sees_the_router_with_its_gradient():
    model = random_weights(Decoder(tiny_config(n_experts=4)))
    trace, tokens = Trace(keep="*.router"), random_tokens(model, 2)
    logits = model(tokens, trace=trace)
    assert [tuple(scores.shape) for scores in trace.values.values()] == [(2, 12, 4)] * 3
    sum(load_balancing_loss(scores, 2) for scores in trace.values.values()).backward()
    assert model.blocks[0].feed_forward.router.weight.grad.abs().sum() > 0
    everything = Trace(keep="*")
    agree(model(tokens, trace=everything), logits)
    assert list(everything.values) == model.activation_names()


def test_parameters_total_and_active():
    dense, sparse = (Decoder(tiny_config(n_experts=n, n_shared=n // 4)) for n in (0, 4))
    total, active = count_parameters(dense)
    assert total == active == sum(w.numel() for w in dense.parameters())
    one, router = 3 * 24 * 40, 24 * 4
    assert count_parameters(sparse) == (total + 3 * (4 * one + router), total + 3 * (2 * one + router))


# All dials


def slope_by_embedding(model, tokens, places):
    """How the logits at some places move with each embedding, (batch, time, d_model): exactly 0 where nothing
    is looked at.
    """
    model(tokens, trace=(kept := Trace(keep="embedding")))
    leaf = kept["embedding"].clone().requires_grad_()
    weights = torch.randn(61, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (model(tokens, trace=Trace(edits={"embedding": lambda _: leaf}))[:, places] @ weights).sum().backward()
    assert leaf.grad[:, places].any()
    return leaf.grad


@pytest.mark.parametrize("name, kind", KINDS + [("bias", True), ("n_experts", 4), ("scale_embeddings", True)])
def test_every_kind_of_decoder_is_causal_cached_and_packed_alike(name, kind):
    model = random_weights(Decoder(tiny_config(**{name: kind})), spread=0.2).requires_grad_(False)
    tokens = random_tokens(model, batch=2)
    logits = model(tokens)
    changed = tokens.clone()
    changed[:, 7:] += 1
    earlier = model(changed % 61)[:, :7]
    agree(earlier, logits[:, :7])
    # How many tokens meet in an expert, the later ones too, may change how a processor rounds its product.
    assert name == "n_experts" or torch.equal(earlier, logits[:, :7])
    assert not slope_by_embedding(model, tokens, slice(7))[:, 7:].any()
    cache = model.new_cache(12, batch=2)
    pieces = [model(part, cache) for part in tokens.split([5, 1, 6], dim=1)]
    agree(torch.cat(pieces, dim=1), logits)
    single = model.float()
    expected = single(tokens)
    agree(pack(single)(tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name, kind", KINDS)
def test_every_kind_of_encoder_hides_its_padding(name, kind):
    model = random_weights(Encoder(tiny_config(**{name: kind})))
    tokens = random_tokens(model, batch=2)
    real = (torch.arange(12) < 7).expand(2, 12)
    states, mask = model(tokens, real)
    agree(states[:, :7], model(tokens[:, :7]).states)
    assert torch.equal(mask[:, 0, 0], real)


@pytest.mark.parametrize("name, kind", KINDS)
def test_every_kind_of_encoder_decoder_writes_what_it_scores_highest(name, kind):
    model = random_weights(EncoderDecoder(tiny_config(**{name: kind})), spread=0.2).requires_grad_(False)
    source = random_tokens(model, time=9)
    written = [1]
    for _ in range(6):
        written.append(int(model(source, torch.tensor([written]))[0, -1].argmax()))
    for cached in (True, False):
        ids = generate(model.decoder, [1], 6, cached=cached, memory=model.encode(source))
        assert [1, *ids] == written


def test_encoder_decoder_shares_one_table_when_tied():
    tied, apart = (EncoderDecoder(tiny_config(tie_embeddings=tie)) for tie in (True, False))
    assert tied.encoder.embedding.weight is tied.decoder.embedding.weight is tied.decoder.head.weight
    table = 61 * 24
    assert count_parameters(apart)[0] - count_parameters(tied)[0] == 2 * table


def test_trace_of_an_encoder_decoder_sees_and_cuts_cross_attention():
    model = random_weights(EncoderDecoder(tiny_config()))
    source, target = random_tokens(model, time=9), random_tokens(model, time=4, seed=1)
    trace = Trace(keep="*")
    logits = model(source, target, trace=trace)
    assert list(trace.values) == model.activation_names()
    weights = trace.attention("decoder.*.cross_attention.weights")
    assert weights.shape == (3, 6, 4, 9)
    agree(weights.sum(-1), torch.ones(3, 6, 4).double())
    blind = Trace(edits={"decoder.*.cross_attention.output": torch.zeros_like})
    other = random_tokens(model, time=9, seed=5)
    agree(model(source, target, trace=blind), model(other, target, trace=blind))
    assert not torch.allclose(model(other, target), logits)


def test_without_residual_parts_replace_the_stream():
    block = random_weights(Decoder(tiny_config(residual=False))).blocks[0]
    x = randn(1, 5, 24)
    heard = block.attention(block.attention_norm(x))
    agree(block(x), block.feed_forward(block.feed_forward_norm(heard)))


@pytest.mark.parametrize("cross", [False, True])
def test_parallel_parts_read_the_same(cross):
    whole = random_weights(EncoderDecoder(tiny_config(norm_place="parallel", tie_embeddings=False)))
    block = (whole.decoder if cross else whole.encoder).blocks[0]
    x, memory = randn(1, 5, 24), whole.encode(torch.tensor([[3, 4]]))
    read = block.attention_norm(x)
    expected = x + block.attention(read) + block.feed_forward(read)
    if cross:
        heard = x + block.attention(read)
        expected = expected + block.cross_attention(block.cross_norm(heard), memory=memory.states)
    agree(block(x, memory=memory), expected)


def test_balance_counts_the_choices_that_are_made_also_in_16_bits():
    scores = (randn(4000, 8) * 0.05).bfloat16()
    parts = route(scores, 2, normalize=False)[1].flatten().bincount(minlength=8) / 8000
    expected = 8 * (parts * scores.double().softmax(-1).mean(0)).sum()
    agree(load_balancing_loss(scores, 2).double(), expected, atol=0.02, rtol=0)


def test_alibi_in_16_bits_is_rounded_once():
    far, exact = (
        alibi_bias(12, 1, 3000, torch.zeros((), dtype=dtype)) for dtype in (torch.bfloat16, torch.float64)
    )
    assert ((far.double() - exact).abs() <= exact.abs() / 250).all()


# What can't be


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"positions": "rotary"}, "positions must be one of rope"),
        ({"norm": "batch"}, "norm must be one of rms"),
        ({"norm_place": "sandwich"}, "norm_place must be one of pre"),
        ({"feed_forward": "mlp"}, "feed_forward must be one of swiglu"),
        ({"norm_place": "parallel", "residual": False}, "would lose"),
        ({"n_experts": 4, "n_active": 5}, "1 to 4, not 5"),
        ({"n_experts": 4, "n_active": 0}, "1 to 4, not 0"),
        ({"n_experts": 4, "n_shared": -1}, "n_shared=-1"),
        ({"n_experts": 4, "n_active": 1}, "normalize_shares=False"),
        ({"n_experts": 4, "capacity_factor": 0}, "capacity_factor must be above 0"),
        ({"n_experts": 4, "capacity_factor": math.inf}, "must be a finite number or None, not inf"),
        ({"n_experts": -1}, "at least 1 expert, not -1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"n_expert": 4}, "n_expert is no field of ModelConfig, which has vocab_size"),
    ],
)
def test_dials_that_cannot_be_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        tiny_config(**changes)


def test_heads_of_odd_width_are_fine_where_nothing_is_rotated():
    config = tiny_config(positions="alibi", d_head=7)
    assert Decoder(config)(torch.tensor([[1, 2]])).shape == (1, 2, 61)


@pytest.mark.parametrize(
    "real", [torch.zeros(2, 12).bool(), torch.ones(2, 12), torch.ones(2, 11).bool(), torch.ones(12).bool()]
)
def test_padding_that_cannot_be_is_refused(real):
    model = Encoder(tiny_config())
    with pytest.raises(ValueError, match="true or false for each of the"):
        model(random_tokens(model, 2), real)


def test_memory_is_for_cross_attention_and_cross_attention_needs_it():
    whole = EncoderDecoder(tiny_config())
    tokens = torch.tensor([[1, 2]])
    for model, memory in [(whole.decoder, None), (Decoder(whole.config), whole.encode(tokens))]:
        with pytest.raises(ValueError, match="needs an encoder's `memory`"):
            model(tokens, memory=memory)


def test_memory_is_of_as_many_sequences():
    whole = EncoderDecoder(tiny_config())
    with pytest.raises(
        ValueError, match="states are .batch = 1, time, d_model = 24. of .* here, not .2, 1, 24."
    ):
        whole.decoder(torch.tensor([[1, 2]]), memory=whole.encode(torch.tensor([[1], [2]])))


def test_attention_of_two_stacks_is_not_mixed():
    model, trace = EncoderDecoder(tiny_config()), Trace(keep="*attention.weights")
    model(torch.tensor([[1, 2]]), torch.tensor([[3, 4]]), trace=trace)
    with pytest.raises(ValueError, match="two stacks or two kinds"):
        trace.attention()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_tokens_of_another_type_are_refused(dtype):
    with pytest.raises(ValueError, match="whole numbers"):
        Decoder(tiny_config())(torch.ones(1, 3, dtype=dtype))


def test_context_of_learned_positions_ends():
    model = Decoder(replace(tiny_config(), positions="learned"))
    with pytest.raises(ValueError, match="more than the 48"):
        model(torch.zeros(1, 49, dtype=torch.long))


# The dials of newer families


def llama_weights(model, theirs):
    """Give a model of Llama's kind in transformers our weights."""
    theirs.model.embed_tokens.weight.data = model.embedding.weight.data
    copy(theirs.model.norm, model.norm)
    for block, into in zip(model.blocks, theirs.model.layers, strict=True):
        for name in ("query", "key", "value", "output"):
            copy(getattr(into.self_attn, f"{name[0]}_proj"), getattr(block.attention, name))
        for name in ("gate", "up", "down"):
            copy(getattr(into.mlp, f"{name}_proj"), getattr(block.feed_forward, name))
        copy(into.input_layernorm, block.attention_norm)
        copy(into.post_attention_layernorm, block.feed_forward_norm)


LLAMA_LIKE = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 48,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip


def test_sliding_windows_are_mistrals():
    from transformers import MistralConfig, MistralForCausalLM

    model = random_weights(Decoder(tiny_config(window=5)))
    theirs = (
        MistralForCausalLM(MistralConfig(**LLAMA_LIKE, sliding_window=5, attn_implementation="eager"))
        .double()
        .eval()
    )
    llama_weights(model, theirs)
    tokens = random_tokens(model, batch=2, time=40)
    agree(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)  # its tables are in 32 bits
    assert (model(tokens) - random_weights(Decoder(tiny_config()))(tokens)).abs().max() > 0.01


def test_normalized_queries_and_keys_and_another_scale_are_gemma_3s():
    """Its attention alone: around it, Gemma has norms that this block has no place for."""
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention

    config = tiny_config(qk_norm=True, scale=11**-0.5, positions="none")
    ours = random_weights(Decoder(config)).blocks[0].attention
    about = LLAMA_LIKE | {"query_pre_attn_scalar": 11, "attn_implementation": "eager", "sliding_window": 48}
    theirs = Gemma3Attention(Gemma3TextConfig(**about), layer_idx=0).double().eval()
    for name in ("query", "key", "value", "output"):
        copy(getattr(theirs, f"{name[0]}_proj"), getattr(ours, name))
    theirs.q_norm.weight.data = ours.query_norm.weight.data - 1  # Gemma counts its norms' weights from 1
    theirs.k_norm.weight.data = ours.key_norm.weight.data - 1
    theirs.q_norm.eps = theirs.k_norm.eps = config.norm_eps
    x, still = randn(2, 9, 24), (torch.ones(1, 9, 8).double(), torch.zeros(1, 9, 8).double())
    mask = torch.zeros(9, 9).double().masked_fill(~torch.ones(9, 9).bool().tril(), -torch.inf)
    agree(ours(x), theirs(x, still, mask[None, None])[0], atol=1e-5, rtol=1e-5)


def test_soft_caps_are_gemma_2s():
    from transformers import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention

    config = tiny_config(cap=1.5, scale=6**-0.5, positions="none", logit_cap=2.0)
    model = random_weights(Decoder(config))
    ours = model.blocks[0].attention
    about = LLAMA_LIKE | {
        "query_pre_attn_scalar": 6,
        "attn_logit_softcapping": 1.5,
        "attn_implementation": "eager",
    }
    theirs = Gemma2Attention(Gemma2Config(**about), layer_idx=1).double().eval()
    for name in ("query", "key", "value", "output"):
        copy(getattr(theirs, f"{name[0]}_proj"), getattr(ours, name))
    x, still = randn(2, 9, 24), (torch.ones(1, 9, 8).double(), torch.zeros(1, 9, 8).double())
    mask = torch.zeros(9, 9).double().masked_fill(~torch.ones(9, 9).bool().tril(), -torch.inf)
    agree(ours(x), theirs(x, still, mask[None, None])[0], atol=1e-6, rtol=1e-6)
    hidden = randn(2, 3, 24)
    agree(model.logits(hidden), 2 * torch.tanh(model.head(hidden) / 2))


def test_a_head_with_bias_is_phis():
    model = random_weights(Decoder(tiny_config(head_bias=True, tie_embeddings=False)))
    tokens = random_tokens(model)
    agree(model(tokens), model.last_hidden_state(tokens) @ model.head.weight.T + model.head.bias)
    tied = random_weights(Decoder(tiny_config(head_bias=True)))
    assert tied.head.weight is tied.embedding.weight and tied.head.bias.shape == (61,)
