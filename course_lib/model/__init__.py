"""Tokens → logits.

Read in this order: `config` (the dials), `norms`, `positions`, `attention`, `feed_forward`, `block`, `decoder`; then `trace`,
which looks inside a run and changes it.
"""

from course_lib.model.attention import Attention, attend, attention_by_hand
from course_lib.model.block import Block
from course_lib.model.config import ModelConfig
from course_lib.model.decoder import Decoder
from course_lib.model.feed_forward import SwiGLU
from course_lib.model.norms import RMSNorm
from course_lib.model.positions import rotary_tables, rotate
from course_lib.model.trace import Trace, ablate_heads, cut_edges, patch_heads

__all__ = [
    "Attention",
    "Block",
    "Decoder",
    "ModelConfig",
    "RMSNorm",
    "SwiGLU",
    "Trace",
    "ablate_heads",
    "attend",
    "attention_by_hand",
    "cut_edges",
    "patch_heads",
    "rotary_tables",
    "rotate",
]
