"""A made-up lesson whose part is a whole decoder, with the names of weights that the library's has."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.course.exercise import Case, Exercise


def rotate(x, base):
    time, d_head = x.shape[-2:]
    angles = torch.arange(time)[:, None] * base ** (-torch.arange(0, d_head, 2) / d_head)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.query = nn.Linear(c.d_model, c.n_heads * c.d_head, bias=False)
        self.key, self.value = (nn.Linear(c.d_model, c.n_kv_heads * c.d_head, bias=False) for _ in range(2))
        self.output = nn.Linear(c.n_heads * c.d_head, c.d_model, bias=False)

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (-1, self.c.d_head)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        q, k = rotate(q, self.c.rope_base), rotate(k, self.c.rope_base)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate, self.up = (nn.Linear(c.d_model, c.d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = (nn.RMSNorm(c.d_model, c.norm_eps) for _ in range(2))
        self.attention, self.feed_forward = Attention(c), FeedForward(c)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.norm = nn.RMSNorm(c.d_model, c.norm_eps)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=False)

    def forward(self, tokens, cache=None):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


SIZES = {
    "vocab_size": 11,
    "d_model": 8,
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 1,
    "d_head": 4,
    "d_ff": 12,
}


@torch.no_grad()
def logits(decoder, seed):
    """The logits of a small decoder of this class whose weights are random."""
    generator = torch.Generator().manual_seed(seed)
    model = decoder(SimpleNamespace(**SIZES, norm_eps=1e-5, rope_base=100.0))
    model.load_state_dict(
        {name: torch.randn(weight.shape, generator=generator) for name, weight in model.state_dict().items()}
    )
    return model(torch.tensor([[1, 5, 2, 10, 3]]))


EXERCISES = (
    Exercise(
        id="decoder",
        solution=Decoder,
        part=True,
        cases=(Case(1, probe=logits),),
        wrong={lambda config: nn.Identity(): "it passes the tokens on"},
    ),
)
