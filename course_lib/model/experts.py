"""Many feed-forward layers, of which each token uses a few (Shazeer et al. 2017; in Transformers: Lepikhin et al. 2020).

    router → scores per expert → softmax → the n_active best → their outputs, weighted by their shares

Tokens are sorted by expert, so that each expert works once, on all of its tokens at a time, and nothing is computed for
experts that were not chosen. `load_balancing_loss` is what keeps the router from sending everybody to a few.

Not handled: noise in the router, experts on several devices, DeepSeek-V3's balancing without a loss.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_lib.model.config import ModelConfig
from course_lib.model.feed_forward import feed_forward
from course_lib.model.trace import note


class Experts(nn.Module):
    """A mixture of experts in a feed-forward layer's place, (…, d_model) → the same shape.

    With n_active = 1 it is a Switch layer (Fedus et al. 2021), with 2 and normalized shares Mixtral's (Jiang et al. 2024);
    with shared experts, which every token takes, DeepSeekMoE's (Dai et al. 2024).

    With a `capacity`, what a token gets depends on which and how many others are read with it, later ones included: such a
    model is not causal in the strict sense, and reads a text at once otherwise than token by token with a cache.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.router = nn.Linear(config.d_model, config.n_experts, bias=False)
        self.experts = nn.ModuleList(feed_forward(config) for _ in range(config.n_experts))
        wide = replace(config, d_ff=config.n_shared * config.d_ff) if config.n_shared else None
        # Shared experts side by side are one that is as many times as wide.
        self.shared = feed_forward(wide) if wide else None

    def forward(self, x: Tensor, trace=None) -> Tensor:
        scores = note(trace, "router", self.router(x))
        tokens = x.flatten(0, -2)
        shares, chosen = route(scores.flatten(0, -2), self.config.n_active, self.config.normalize_gates)
        out = self._dispatch(tokens, shares, chosen).view(x.shape)
        if self.shared is not None:
            out = out + self.shared(x)
        return note(trace, "output", out)

    def _dispatch(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Each choice is a pair (token, expert). Sorted by expert, they are runs of tokens, one run an expert."""
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts))
        if self.config.capacity is not None:
            room = math.ceil(self.config.capacity * len(order) / len(self.experts))
            starts = counts.cumsum(0) - counts
            rank = torch.arange(len(order), device=x.device) - starts.repeat_interleave(counts)
            order, counts = order[rank < room], counts.clamp(max=room)
        token = order // self.config.n_active
        runs = x[token].split(counts.tolist())
        done = torch.cat([expert(run) for expert, run in zip(self.experts, runs, strict=True)])
        done = done * shares.flatten()[order, None].to(done.dtype)
        return done.new_zeros(x.shape).index_add(0, token, done)


def route(scores: Tensor, n_active: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """The best experts of each token and their shares, (tokens, n_active) each, from the router's (tokens, n_experts).

    The shares are probabilities among all experts, or (normalize) among the chosen ones.
    """
    at_least_32_bits = torch.promote_types(scores.dtype, torch.float32)
    shares, chosen = scores.softmax(dim=-1, dtype=at_least_32_bits).topk(n_active, dim=-1)
    if normalize:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    return shares.to(scores.dtype), chosen


def load_balancing_loss(scores: Tensor, n_active: int) -> Tensor:
    """1 when all experts get equally many tokens, up to n_experts / n_active when everybody goes to the same ones.

    scores: the router's, (…, n_experts). n_experts · Σ fᵢ Pᵢ, where fᵢ is expert i's part of the choices, which has no
    gradient, and Pᵢ its mean probability, which has (Fedus et al. 2021, equation 4).
    """
    scores = scores.flatten(0, -2)
    _, chosen = route(scores, n_active, normalize=False)
    probabilities = scores.softmax(dim=-1).mean(dim=0)
    part = chosen.flatten().bincount(minlength=len(probabilities)) / chosen.numel()
    return len(probabilities) * (part.to(probabilities) * probabilities).sum()


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters of a model and those that work on one token: of each mixture only the experts that a token takes.

    Tied weights count once.
    """
    total = sum(weight.numel() for weight in model.parameters())
    idle = 0
    for module in model.modules():
        if isinstance(module, Experts):
            one = sum(weight.numel() for weight in module.experts[0].parameters())
            idle += one * (module.config.n_experts - module.config.n_active)
    return total, total - idle
