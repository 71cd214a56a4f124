"""Tokens → logits.

Start with `one_page`: a whole Llama on one page, with no import from this library. The other modules build
the same model, and all its relatives, from parts. Read them in this order: `config`, `trace` (a trace keeps
or edits the activations of a run; every layer shows it what it computes), `norms`, `positions`, `attention`,
`feed_forward`, `experts`, `block`, `cache` (keys and values of tokens that were read), `stack`; then the
three Transformers, `decoder`, `encoder` and `encoder_decoder`; then `language_model` (a decoder with its
tokenizer), `exchange` (replacing parts of a model) and `precision` (16 bits or 32?). `checks` and
`config_checks` hold the error messages.

Where the parts of "Attention Is All You Need" (Vaswani et al. 2017) are:

    figure 1, left half                     encoder.py          3.1  residual, then norm       block.py
    figure 1, right half                    decoder.py          3.2  attention, heads, masks   attention.py
    figure 1, the whole                     encoder_decoder.py  3.3  feed-forward              feed_forward.py
    figure 1, "N ×"; embeddings, √d_model   stack.py            3.5  positional encoding       positions.py
    5.3  optimizer, schedule                ../train
"""

from course_lib.model.attention import Attention, attend, attention_by_hand, soft_cap
from course_lib.model.block import Block, Memory, ProjectedMemory
from course_lib.model.cache import Cache, KVCache
from course_lib.model.config import AttentionConfig, ExpertsConfig, ModelConfig
from course_lib.model.decoder import Decoder
from course_lib.model.encoder import Encoder
from course_lib.model.encoder_decoder import EncoderDecoder
from course_lib.model.experts import Experts, count_parameters, load_balancing_loss, route
from course_lib.model.feed_forward import FeedForward, GeGLU, SwiGLU
from course_lib.model.language_model import LanguageModel
from course_lib.model.norms import LayerNorm, RMSNorm
from course_lib.model.positions import (
    Positions,
    alibi_bias,
    alibi_slopes,
    rotary_tables,
    rotate,
    sinusoidal_table,
)
from course_lib.model.precision import fast_dtype
from course_lib.model.trace import Trace, ablate_heads, cut_edges, patch_heads

__all__ = [
    "Attention",
    "AttentionConfig",
    "Block",
    "Cache",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "Experts",
    "ExpertsConfig",
    "FeedForward",
    "GeGLU",
    "KVCache",
    "LanguageModel",
    "LayerNorm",
    "Memory",
    "ModelConfig",
    "Positions",
    "ProjectedMemory",
    "RMSNorm",
    "SwiGLU",
    "Trace",
    "ablate_heads",
    "alibi_bias",
    "alibi_slopes",
    "attend",
    "attention_by_hand",
    "count_parameters",
    "cut_edges",
    "fast_dtype",
    "load_balancing_loss",
    "patch_heads",
    "rotary_tables",
    "rotate",
    "route",
    "sinusoidal_table",
    "soft_cap",
]
