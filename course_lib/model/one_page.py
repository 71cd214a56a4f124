"""A whole Llama on one page: token ids → logits, with nothing but PyTorch.

    llama(ids, weights, config)            ids (time,) → logits (time, vocab_size)

Read it from the bottom up. Each function is a few lines of the papers: RMSNorm (Zhang & Sennrich 2019),
rotary positions (Su et al. 2021), attention (Vaswani et al. 2017) with grouped queries (Ainslie et al. 2023),
SwiGLU (Shazeer 2020), and Llama itself (Touvron et al. 2023). `weights` maps the names that
`Decoder.state_dict` has to tensors, so that with SmolLM2's weights this page gives SmolLM2's logits:

    lm = load_smollm2()
    ids = torch.tensor(lm.tokenizer.encode("The tiger jumped out of a"))
    logits = llama(ids, lm.model.state_dict(), lm.model.config)
    lm.tokenizer.decode([int(logits[-1].argmax())])

Not handled: several texts at once, a cache (each call reads the whole text), training, and any other
configuration than Llama's. `Decoder` handles them; a test holds the two equal.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each vector by its root mean square, then scale its channels. (time, d_model) → the same."""
    mean_square = x.pow(2).mean(dim=-1, keepdim=True)  # (time, 1)
    return x * torch.rsqrt(mean_square + eps) * weight


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotate pair i of channels by position · base^(−2i / d_head). (heads, time, d_head) → the same."""
    _, time, d_head = x.shape
    frequencies = base ** (-torch.arange(0, d_head, 2) / d_head)  # (d_head / 2,)
    angles = torch.arange(time)[:, None] * frequencies  # (time, d_head / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)  # channels i and i + d_head / 2 are a pair
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(x: Tensor, weights: Mapping[str, Tensor], name: str, config) -> Tensor:
    """Let each token gather values from itself and the tokens before it. (time, d_model) → the same."""
    time, d_head = len(x), config.d_head
    q, k, v = (
        F.linear(x, weights[f"{name}.{part}.weight"]).view(time, -1, d_head).transpose(0, 1)
        for part in ("query", "key", "value")
    )  # q: (n_heads, time, d_head); k and v: (n_kv_heads, time, d_head)
    q, k = rotate(q, config.rope_base), rotate(k, config.rope_base)
    shared = config.n_heads // config.n_kv_heads  # query heads that share a key-value head
    k, v = k.repeat_interleave(shared, dim=0), v.repeat_interleave(shared, dim=0)  # (n_heads, time, d_head)
    scores = q @ k.transpose(1, 2) / d_head**0.5  # (n_heads, query, key)
    later = torch.ones(time, time, dtype=torch.bool).triu(1)  # true where the key comes after the query
    probabilities = scores.masked_fill(later, -torch.inf).softmax(dim=-1)  # each row sums to 1
    heads = probabilities @ v  # (n_heads, time, d_head)
    joined = heads.transpose(0, 1).flatten(1)  # (time, n_heads · d_head)
    return F.linear(joined, weights[f"{name}.output.weight"])


def feed_forward(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """SwiGLU: what each token computes by itself. (time, d_model) → the same."""
    gate = F.linear(x, weights[f"{name}.gate.weight"])  # (time, d_ff)
    up = F.linear(x, weights[f"{name}.up.weight"])  # (time, d_ff)
    return F.linear(F.silu(gate) * up, weights[f"{name}.down.weight"])


def block(x: Tensor, weights: Mapping[str, Tensor], name: str, config) -> Tensor:
    """Add to the residual stream what attention computes, then what the feed-forward layer computes."""
    normalized = rms_norm(x, weights[f"{name}.attention_norm.weight"], config.norm_eps)
    x = x + attention(normalized, weights, f"{name}.attention", config)
    normalized = rms_norm(x, weights[f"{name}.feed_forward_norm.weight"], config.norm_eps)
    return x + feed_forward(normalized, weights, f"{name}.feed_forward")


@torch.no_grad()
def llama(ids: Tensor, weights: Mapping[str, Tensor], config) -> Tensor:
    """Return the logits of the next token at each position. ids: (time,) → (time, vocab_size)."""
    x = weights["embedding.weight"][ids]  # (time, d_model): the residual stream
    for layer in range(config.n_layers):
        x = block(x, weights, f"blocks.{layer}", config)  # (time, d_model)
    x = rms_norm(x, weights["norm.weight"], config.norm_eps)
    return F.linear(x, weights["head.weight"])
