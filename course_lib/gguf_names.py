"""The names of weights in GGUF files, and the course's names for them.

They stand outside of all rooms, so that a learner's own model can be loaded without the library's.
"""

# GGUF's names of tensors → the course's: outside the transformer blocks, and in each of them ("blk.0", …).
TENSORS = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}
BLOCK_TENSORS = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.output",
    "ffn_norm": "feed_forward_norm",
    "ffn_gate": "feed_forward.gate",
    "ffn_up": "feed_forward.up",
    "ffn_down": "feed_forward.down",
}
