"""A whole Llama on one page: token ids → logits, with nothing but PyTorch.

RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), attention (Vaswani et al. 2017) with
grouped queries (Ainslie et al. 2023), SwiGLU (Shazeer 2020), and Llama itself (Touvron et al. 2023). With
SmolLM2's weights this page gives SmolLM2's logits:

    lm = course_lib.families.load_smollm2()
    ids = torch.tensor(lm.tokenizer.encode("The tiger jumped out of a"))
    logits = llama(ids, lm.model.state_dict(), lm.model.config)
    lm.tokenizer.decode([int(logits[-1].argmax())])

`config` is any object with n_layers, n_heads, n_kv_heads, d_head, rope_base and norm_eps. `weights` are
these:

    embedding.weight, head.weight                            (vocab_size, d_model)
    norm.weight, blocks.N.attention_norm.weight and
    blocks.N.feed_forward_norm.weight                        (d_model,)
    blocks.N.attention.query.weight                          (n_heads · d_head, d_model)
    blocks.N.attention.key.weight and value.weight           (n_kv_heads · d_head, d_model)
    blocks.N.attention.output.weight                         (d_model, n_heads · d_head)
    blocks.N.feed_forward.gate.weight and up.weight          (d_ff, d_model)
    blocks.N.feed_forward.down.weight                        (d_model, d_ff)

Not handled: several texts at once, a cache (each call reads the whole text), training, 16 bits, and any other
model than Llama's kind. `Decoder` handles them; tests check that both give the same logits.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def llama(ids: Tensor, weights: Mapping[str, Tensor], config) -> Tensor:
    """Return the logits of the next token at each position, (time,) → (time, vocab_size)."""
    x = weights["embedding.weight"][ids]  # (time, d_model): the residual stream, to which each block adds
    for layer in range(config.n_layers):
        x = block(x, weights, f"blocks.{layer}", config)
    x = rms_norm(x, weights["norm.weight"], config.norm_eps)
    return F.linear(x, weights["head.weight"])


def block(x: Tensor, weights: Mapping[str, Tensor], prefix: str, config) -> Tensor:
    """Add to the stream what attention and the feed-forward layer compute. (time, d_model) → the same."""
    normalized = rms_norm(x, weights[f"{prefix}.attention_norm.weight"], config.norm_eps)
    x = x + attention(normalized, weights, f"{prefix}.attention", config)
    normalized = rms_norm(x, weights[f"{prefix}.feed_forward_norm.weight"], config.norm_eps)
    return x + feed_forward(normalized, weights, f"{prefix}.feed_forward")


def attention(x: Tensor, weights: Mapping[str, Tensor], prefix: str, config) -> Tensor:
    """Let each token gather values from itself and the tokens before it. (time, d_model) → the same."""
    time, d_head = len(x), config.d_head
    q, k, v = (
        F.linear(x, weights[f"{prefix}.{name}.weight"]).view(time, -1, d_head).transpose(0, 1)
        for name in ("query", "key", "value")
    )  # q: (n_heads, time, d_head); k and v: (n_kv_heads, time, d_head)
    q, k = rotate(q, config.rope_base), rotate(k, config.rope_base)
    group_size = config.n_heads // config.n_kv_heads  # query heads that share a key-value head
    k, v = (x.repeat_interleave(group_size, dim=0) for x in (k, v))  # (n_heads, time, d_head)
    scores = q @ k.transpose(1, 2) / d_head**0.5  # (n_heads, query, key), about as large for any d_head
    later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)  # true where key > query
    probabilities = scores.masked_fill(later, -torch.inf).softmax(dim=-1)  # each row sums to 1
    heads = probabilities @ v  # (n_heads, time, d_head)
    joined = heads.transpose(0, 1).flatten(1)  # (time, n_heads · d_head)
    return F.linear(joined, weights[f"{prefix}.output.weight"])


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotate pair i of channels by position · base^(−2i / d_head). (heads, time, d_head) → the same."""
    _, time, d_head = x.shape
    frequencies = base ** (-torch.arange(0, d_head, 2, device=x.device) / d_head)  # (d_head / 2,)
    angles = torch.arange(time, device=x.device)[:, None] * frequencies  # (time, d_head / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)  # pair i: channels i, i + d_head / 2 (the paper: 2i, 2i + 1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def feed_forward(x: Tensor, weights: Mapping[str, Tensor], prefix: str) -> Tensor:
    """SwiGLU: what each token computes by itself. (time, d_model) → the same."""
    gate = F.linear(x, weights[f"{prefix}.gate.weight"])  # (time, d_ff)
    up = F.linear(x, weights[f"{prefix}.up.weight"])  # (time, d_ff)
    return F.linear(F.silu(gate) * up, weights[f"{prefix}.down.weight"])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each vector by its root mean square, then scale its channels. (time, d_model) → the same."""
    mean_square = x.pow(2).mean(dim=-1, keepdim=True)  # (time, 1)
    return x * torch.rsqrt(mean_square + eps) * weight
