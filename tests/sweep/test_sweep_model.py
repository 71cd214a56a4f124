"""Odd values to every function of the room `model`."""

import copy

import torch
from references import TINY_SIZES, random_weights, tiny_config, tiny_decoder
from sweep.frame import Call, sweep

from course_lib.model import (
    Attention,
    AttentionConfig,
    Block,
    Decoder,
    Encoder,
    EncoderDecoder,
    Experts,
    ExpertsConfig,
    FeedForward,
    GeGLU,
    KVCache,
    LayerNorm,
    ModelConfig,
    Positions,
    RMSNorm,
    SwiGLU,
    Trace,
    ablate_heads,
    alibi_bias,
    alibi_slopes,
    attend,
    attention_by_hand,
    count_parameters,
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

WIDER = "a mask broadcasts, whatever its dimensions"
OF_ATTENTION = {
    "v is narrower": "values may have a width of their own",
    "mask has one more dimension": WIDER,
    "mask has one dimension less": WIDER,
    "mask holds fractions": "numbers are added to the scores",
}
CAPPED = {f"{name} holds inf": "a cap bounds an infinite score" for name in "qk"}
ONLY_DTYPE = "only its dtype and device count"
LIKE = {
    f"like {odd}": ONLY_DTYPE
    for odd in (
        "has one more dimension", "has one dimension less", "is empty", "has no columns", "is shorter",
        "is narrower", "holds nan", "holds inf",
    )
}  # fmt: skip
FIRST = "the first"
DEEP = "a layer deep inside a model"


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CONFIG = tiny_config()
MODEL = tiny_decoder(torch.float32)
WHOLE = random_weights(EncoderDecoder(CONFIG)).float().requires_grad_(False)
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
SOURCE = TOKENS[:, :4]
REAL = torch.tensor([[True, True, True, True], [True, True, False, False]])
Q, K, V = randn(2, 4, 3, 8), randn(2, 2, 5, 8, seed=1), randn(2, 2, 5, 8, seed=2)
ATTENTION = {"q": Q, "k": K, "v": V, "mask": torch.ones(3, 5, dtype=torch.bool).tril(2), "causal": True}
ATTENTION |= {"scale": 0.5, "window": 4, "cap": 3.0}
CACHE = KVCache(2, 2, 8, 10, batch=2)
FILLED = KVCache(1, 2, 8, 10, batch=2)
FILLED.update(0, K, V)
FILLED.advance(5)
WRITTEN = copy.deepcopy(FILLED)
WRITTEN.update(0, K, V)
COS, SIN = rotary_tables(0, 5, 8, 100.0, K)
RUN = Trace("*.heads")
MODEL(TOKENS, trace=RUN)
SCORES = randn(6, 4)

EXEMPT = {
    "Cache": "a protocol, not called",
    "LanguageModel": "a record that holds what it is given",
    "Memory": "a record; decoders check it",
    "ProjectedMemory": "a record; decoders check it",
}
CALLS = {
    "AttentionConfig": Call(
        AttentionConfig,
        {"qk_norm": True, "window": 4, "global_every": 2, "scale": 0.5, "cap": 3.0},
        {"global_every is 0": "no layer ignores the window"},
    ),
    "ExpertsConfig": Call(
        ExpertsConfig,
        {"n_experts": 4, "n_active": 2, "n_shared": 1, "normalize_shares": True, "capacity_factor": 1.5},
        {"n_shared is 0": "no shared expert"},
    ),
    "ModelConfig": Call(
        ModelConfig,
        TINY_SIZES | {"rope_base": 100.0, "norm": "layer", "norm_eps": 0.1, "bias": True, "logit_cap": 30.0},
        {"norm_eps is 0.0": "the formula without it"},
    ),
    "ModelConfig.from_dict": Call(ModelConfig.from_dict, {"fields": TINY_SIZES}),
    "attend": Call(attend, ATTENTION, OF_ATTENTION | CAPPED),
    "attend without a cap": Call(
        attend, {name: x for name, x in ATTENTION.items() if name != "cap"}, OF_ATTENTION
    ),
    "attend for one query": Call(
        attend,
        {"q": Q[:, :, :1], "k": K, "v": V, "causal": True},
        {"v is narrower": OF_ATTENTION["v is narrower"]},
    ),
    "attention_by_hand": Call(attention_by_hand, ATTENTION, OF_ATTENTION | CAPPED),
    "Attention": Call(Attention, {"config": CONFIG, "causal": True, "window": 3}),
    "Attention.forward": Call(
        MODEL.blocks[0].attention.forward,
        {"x": randn(2, 5, 24)},
        {"x is shorter": "fewer texts"},
        torch_errors=DEEP,
    ),
    "Block": Call(
        Block, {"config": CONFIG, "causal": True, "cross": True, "layer": 1}, {"layer is 0": FIRST}
    ),
    "Decoder": Call(Decoder, {"config": CONFIG, "cross": True}),
    "Decoder.forward": Call(MODEL.forward, {"tokens": TOKENS, "new_lengths": [5, 3]}),
    "Decoder.last_hidden_state": Call(MODEL.last_hidden_state, {"tokens": TOKENS, "new_lengths": [5, 3]}),
    "Decoder.logits": Call(
        MODEL.logits,
        {"states": randn(2, 5, 24)},
        {
            f"states {odd}": "(…, d_model)"
            for odd in ("has one more dimension", "has one dimension less", "is shorter")
        },
        torch_errors=DEEP,
    ),
    "Decoder.new_cache": Call(MODEL.new_cache, {"capacity": 8, "batch": 2}),
    "Decoder with a memory": Call(
        WHOLE.decoder.forward,
        {"tokens": TOKENS, "memory": WHOLE.encode(SOURCE)},
        {"tokens is narrower": "shorter texts"},
        keep=["memory"],
    ),
    "Encoder": Call(Encoder, {"config": CONFIG}),
    "Encoder.forward": Call(WHOLE.encoder.forward, {"tokens": SOURCE, "real": REAL}),
    "EncoderDecoder": Call(EncoderDecoder, {"config": CONFIG}),
    "EncoderDecoder.forward": Call(
        WHOLE.forward,
        {"source": SOURCE, "target": TOKENS, "real": REAL},
        {"target is narrower": "shorter texts"},
    ),
    "EncoderDecoder.encode": Call(WHOLE.encode, {"source": SOURCE, "real": REAL}),
    "Experts": Call(Experts, {"config": tiny_config(n_experts=4)}),
    "FeedForward": Call(FeedForward, {"config": tiny_config(feed_forward="gelu")}),
    "GeGLU": Call(GeGLU, {"config": CONFIG}),
    "SwiGLU": Call(SwiGLU, {"config": CONFIG}),
    "KVCache": Call(
        KVCache,
        {"layers": 2, "kv_heads": 2, "d_head": 8, "capacity": 5, "batch": 2, "dtype": torch.float32},
    ),
    "KVCache.update": Call(
        KVCache.update,
        {"self": CACHE, "layer": 1, "keys": K, "values": V, "new_lengths": [5, 2]},
        {"layer is 0": FIRST},
    ),
    "KVCache.advance": Call(KVCache.advance, {"self": WRITTEN, "time": 5, "new_lengths": [5, 5]}),
    "KVCache.rewind": Call(
        KVCache.rewind, {"self": FILLED, "lengths": [2, 3]}, {"lengths is a number": "the same for all rows"}
    ),
    "KVCache.select": Call(KVCache.select, {"self": FILLED, "rows": [1, 0], "capacity": 8}),
    "LayerNorm": Call(
        LayerNorm, {"d_model": 8, "eps": 0.1, "bias": True}, {"eps is 0.0": "the formula without it"}
    ),
    "RMSNorm": Call(RMSNorm, {"d_model": 8, "eps": 0.1}, {"eps is 0.0": "the formula without it"}),
    "Positions": Call(Positions, {"config": CONFIG}),
    "Trace": Call(
        Trace,
        {"keep": ["embedding"], "edits": {"logits": torch.zeros_like}},
        {
            "keep is empty": "nothing is kept",
            "keep is a word": "a single pattern; a run refuses it where it fits no name",
            "edits is empty": "nothing is edited",
        },
    ),
    "ablate_heads": Call(lambda pair: ablate_heads(pair), {"pair": [1, 2]}),
    "patch_heads": Call(
        lambda other_run, pair: patch_heads(other_run, pair), {"other_run": RUN, "pair": [1, 2]}
    ),
    "cut_edges": Call(
        cut_edges,
        {"weights": torch.full((1, 2, 3, 3), 1 / 3), "query": 2, "key": 1},
        {
            "weights is narrower": "fewer keys",
            "query is -1": "the last",
            "query is 0": FIRST,
            "key is -1": "the last",
            "key is 0": FIRST,
        },
    ),
    "alibi_bias": Call(alibi_bias, {"n_heads": 4, "queries": 2, "keys": 3, "like": randn(2)}, LIKE),
    "alibi_slopes": Call(alibi_slopes, {"n_heads": 4}),
    "count_parameters": Call(
        count_parameters, {"model": MODEL}, {"model is another module": "one without parameters"}
    ),
    "fast_dtype": Call(fast_dtype, {"device": "cpu"}),
    "load_balancing_loss": Call(
        load_balancing_loss,
        {"scores": SCORES, "n_active": 2},
        {
            "scores has one more dimension": "(…, n_experts)",
            "scores is shorter": "fewer tokens",
            "scores is narrower": "fewer experts",
        },
    ),
    "route": Call(
        route,
        {"scores": SCORES, "n_active": 2, "normalize": True},
        {
            "scores has one more dimension": "(…, n_experts)",
            "scores has one dimension less": "a single token",
            "scores is shorter": "fewer tokens",
            "scores is narrower": "fewer experts",
        },
    ),
    "rotary_tables": Call(
        rotary_tables,
        {"start": 3, "time": 5, "d_head": 8, "base": 100.0, "like": randn(2)},
        LIKE | {"start is 0": FIRST},
    ),
    "rotary_tables of rows": Call(
        rotary_tables,
        {"start": torch.tensor([3, 0]), "time": 5, "d_head": 8, "base": 100.0, "like": randn(2)},
        LIKE
        | {"start is a number": "the same for all rows"}
        | {f"start is {odd}": "fewer rows" for odd in ("shorter", "narrower")},
    ),
    "rotate": Call(
        rotate,
        {"x": K, "cos": COS, "sin": SIN, "layout": "half-split"},
        {
            "x has one more dimension": "the tables are for all of them",
            "x has one dimension less": "a single text",
            "x is shorter": "fewer texts",
        },
    ),
    "sinusoidal_table": Call(
        sinusoidal_table,
        {"start": 3, "time": 5, "d_model": 8, "like": randn(2)},
        LIKE | {"start is 0": FIRST},
    ),
    "soft_cap": Call(
        soft_cap,
        {"x": randn(2, 3), "cap": 2.0},
        {
            f"x {odd}": "number by number"
            for odd in (
                "has one more dimension",
                "has one dimension less",
                "is shorter",
                "is narrower",
                "holds whole numbers",
                "holds inf",
            )
        }
        | {"cap is None": "None for no cap"},
    ),
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.model", CALLS, EXEMPT)
