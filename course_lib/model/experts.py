"""A mixture of experts: many feed-forward layers, of which each token uses a few.

    router → scores per expert → softmax → the n_active best → their outputs, weighted by their shares

Shazeer et al. 2017; in Transformers: Lepikhin et al. 2020. Tokens are sorted by expert, so that each expert
runs once, on all of its tokens, and nothing is computed for experts that were not chosen.
`load_balancing_loss` is added to the training loss so that the router doesn't send every token to the same
few experts.

Not handled: noise in the router, experts on several devices, DeepSeek-V3's balancing without a loss.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_lib.model.checks import check_routing, require
from course_lib.model.config import ModelConfig
from course_lib.model.exchange import Replacement
from course_lib.model.feed_forward import make_feed_forward
from course_lib.model.trace import record


class Experts(nn.Module):
    """A mixture of experts instead of a feed-forward layer, (…, d_model) → the same shape.

    With n_active = 1 it is a Switch layer (Fedus et al. 2021); with 2 and normalized shares Mixtral's (Jiang
    et al. 2024); with shared experts, which every token uses, DeepSeekMoE's (Dai et al. 2024).

    With a `capacity_factor`, a token's output depends on the other tokens of the batch, also on later ones.
    Such a model is not strictly causal, and a text read at once gets other results than the same text read
    token by token with a cache.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config.experts
        self.router = nn.Linear(config.d_model, self.config.n_experts, bias=False)
        self.experts = nn.ModuleList(make_feed_forward(config) for _ in range(self.config.n_experts))
        # n_shared experts that every token uses compute the same as one that is n_shared times as wide.
        wide = replace(config, d_ff=self.config.n_shared * config.d_ff) if self.config.n_shared else None
        self.shared = make_feed_forward(wide) if wide else None

    def forward(self, x: Tensor, trace=None) -> Tensor:
        scores = record(trace, "router", self.router(x))  # (…, n_experts)
        tokens = x.reshape(-1, x.shape[-1])  # (tokens, d_model)
        shares, chosen = route(
            scores.reshape(len(tokens), -1), self.config.n_active, self.config.normalize_shares
        )
        out = self.dispatch(tokens, shares, chosen).view(x.shape)
        if self.shared is not None:
            out = out + self.shared(x)
        return record(trace, "output", out)

    def dispatch(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Run each chosen expert on its tokens and add up what they return, weighted by their shares.

        x: (tokens, d_model). shares, chosen: (tokens, n_active), as `route` returns them. A choice is a pair
        of a token and an expert; sorted by expert, the choices of one expert stand side by side.
        """
        order = chosen.flatten().argsort(stable=True)  # (tokens · n_active,): choices, sorted by expert
        loads = chosen.flatten().bincount(minlength=len(self.experts))  # (n_experts,): choices of each
        if self.config.capacity_factor is not None:
            order, loads = self._drop_beyond_capacity(order, loads)
        token = order // self.config.n_active  # the token of each choice
        inputs = x[token].split(loads.tolist())  # for each expert: (its tokens, d_model)
        outputs = torch.cat([expert(run) for expert, run in zip(self.experts, inputs, strict=True)])
        outputs = outputs * shares.flatten()[order, None].to(outputs.dtype)  # (choices, d_model)
        return outputs.new_zeros(x.shape).index_add(0, token, outputs)  # (tokens, d_model)

    def _drop_beyond_capacity(self, order: Tensor, loads: Tensor) -> tuple[Tensor, Tensor]:
        """Return order and loads (`dispatch`) without the choices beyond each expert's capacity.

        A choice that is dropped adds nothing to its token.
        """
        even = self.config.capacity_factor * len(order) / len(self.experts)
        limit = math.ceil(min(even, len(order)))
        starts = loads.cumsum(0) - loads  # where each expert's choices begin
        rank = torch.arange(len(order), device=order.device) - starts.repeat_interleave(loads)
        return order[rank < limit], loads.clamp(max=limit)


def route(scores: Tensor, n_active: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Return the shares of each token's best experts, and which they are, (tokens, n_active) each.

    scores: the router's, (tokens, n_experts). The shares are probabilities among all experts or, with
    normalize, among the chosen ones. Raises ValueError for scores that are no fractions, and more experts
    than there are.
    """
    check_routing(scores, n_active, normalize)
    at_least_32_bits = torch.promote_types(scores.dtype, torch.float32)
    shares, chosen = scores.softmax(dim=-1, dtype=at_least_32_bits).topk(n_active, dim=-1)
    if normalize:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    return shares.to(scores.dtype), chosen


def load_balancing_loss(scores: Tensor, n_active: int) -> Tensor:
    """Return n_experts · Σ fᵢ Pᵢ (Fedus et al. 2021, equation 4).

    scores: the router's, (…, n_experts). fᵢ is the fraction of choices that fell on expert i, which has no
    gradient; Pᵢ is its mean probability, which has one. The loss is 1 when all experts are chosen equally
    often; it nears n_experts / n_active when the router sends all tokens to the same ones, with all its
    confidence. Raises ValueError as `route` does.
    """
    require(
        scores.dim() > 1 and scores.numel() > 0,
        f"scores are (…, n_experts) of at least one token, not {tuple(scores.shape)}",
    )
    scores = scores.flatten(0, -2)  # (tokens, n_experts)
    _, chosen = route(scores, n_active, normalize=False)
    probabilities = scores.softmax(dim=-1).mean(dim=0)  # (n_experts,)
    fractions = chosen.flatten().bincount(minlength=len(probabilities)) / chosen.numel()  # (n_experts,)
    return len(probabilities) * (fractions.to(probabilities) * probabilities).sum()


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters a model has, and how many of them are used for one token.

    The second leaves out the experts that a token doesn't use. Tied weights count once. Raises ValueError for
    a model that was quantized or packed: its weights aren't parameters any more.
    """
    for part in model.modules():
        held = isinstance(part, Replacement) and (part.kind == "packed" or bool(list(part.buffers())))
        require(not held, "weights of a quantized or packed model aren't parameters: count them before that")
    total = sum(weight.numel() for weight in model.parameters())
    unused = 0
    for module in model.modules():
        if isinstance(module, Experts):
            one = sum(weight.numel() for weight in module.experts[0].parameters())
            unused += one * (module.config.n_experts - module.config.n_active)
    return total, total - unused
