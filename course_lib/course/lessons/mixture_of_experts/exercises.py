"""The exercises of the lesson on mixtures of experts."""

import torch
from torch import nn

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random, seeded

SCORES = random((9, 5))[0]
EVEN = torch.eye(4).repeat(3, 1)  # equal loads


def pick(scores, n_active):
    best, chosen = scores.topk(n_active, dim=-1)
    return best.softmax(dim=-1), chosen


def switch(x, router, experts):
    share, chosen = router(x).softmax(dim=-1).max(dim=-1)  # the softmax comes before the choice
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        mine = chosen == e
        out[mine] = share[mine, None] * expert(x[mine])
    return out


def balance(scores, n_active):
    probabilities = scores.softmax(dim=-1)
    chosen = probabilities.topk(n_active, dim=-1).indices.flatten()
    f = chosen.bincount(minlength=scores.shape[-1]) / len(chosen)
    return scores.shape[-1] * (f * probabilities.mean(dim=0)).sum()


def pick_by(shares_of=lambda best: best.softmax(dim=-1), **how):
    """A pick that makes shares of the best scores in another way, or takes other scores for the best."""

    def wrong(scores, n_active):
        best, chosen = scores.topk(n_active, dim=-1, **how)
        return shares_of(best), chosen

    return wrong


def pick_over_tokens(scores, n_active):
    chosen = scores.topk(n_active, dim=-1).indices
    return scores.softmax(dim=0).gather(1, chosen), chosen


def pick_over_all(scores, n_active):
    best, chosen = scores.softmax(dim=-1).topk(n_active, dim=-1)
    return best / best.sum(), chosen


def layer(n_tokens):
    """Tokens, a router for four experts, and the experts."""
    experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
    return 3 * torch.randn(n_tokens, 6), nn.Linear(6, 4, bias=False), experts


@torch.enable_grad()
def output_and_gradients(answer, x, router, experts):
    output = answer(x, router, experts)
    of_router, *of_experts = gradients(output, [router.weight, *experts.parameters()])
    return output, of_router, torch.cat([gradient.flatten() for gradient in of_experts])


@torch.enable_grad()
def loss_and_gradient(answer, scores, n_active):
    loss = answer(scores.requires_grad_(), n_active)
    return loss, *gradients(loss, [scores])


def gradients(output, weights):
    """The gradients of an output's sum, with zeros where none arrives."""
    if not (isinstance(output, torch.Tensor) and output.requires_grad):
        return [torch.zeros_like(weight) for weight in weights]
    try:
        return torch.autograd.grad(output.sum(), weights, allow_unused=True, materialize_grads=True)
    except RuntimeError:
        raise Mistake("the gradient needs numbers that you overwrote: write on a copy") from None


def switched(x, share, chosen, experts):
    """The chosen experts' outputs, times the shares (tokens,)."""
    every = torch.stack([expert(x) for expert in experts], dim=1)
    return share[:, None] * every[torch.arange(len(x)), chosen]


def best_over_tokens(scores):
    best, chosen = scores.max(dim=-1)
    return best.softmax(dim=0), chosen


def two_best(x, picked, experts):
    """The sum of two experts' outputs, for shares and choices (tokens, 2)."""
    shares, chosen = picked
    return sum(switched(x, shares[:, i], chosen[:, i], experts) for i in range(2))


def loads(scores, n_active, short=False):
    """f: which part of all choices falls on each expert; short: less the last, if nobody chose them."""
    chosen = scores.topk(n_active, dim=-1).indices.flatten()
    return chosen.bincount(minlength=0 if short else scores.shape[-1]) / len(chosen)


def balance_with(loads_of, probabilities=lambda scores: scores.softmax(dim=-1)):
    """A balance with other loads, or other probabilities."""
    return lambda scores, n: (
        scores.shape[-1] * (loads_of(scores, n) * probabilities(scores).mean(dim=0)).sum()
    )


EXERCISES = (
    Exercise(
        id="active-weights",
        solution=25_600,
        wrong={
            24_576: "these are the four experts; the router works on every token too, and for all 16 experts",
            98_304: "these are all 16 experts; a token takes only 4 of them, and the router",
            99_328: "that is the whole layer; a token takes only 4 of the 16 experts",
            17_408: "you gave each expert two matrices; SwiGLU has three: gate, up and down",
            24_832: "the router can't score 4 experts alone: to know which are best it must score all 16",
            7_168: "that is one expert and the router; a token takes 4 experts",
            6_144: "that is one expert; a token takes 4 experts, and the router",
            16_384: "you gave each expert two matrices; SwiGLU has three, and the router counts, too",
            28_672: "the router is one matrix of d_model · n_experts weights, for the whole layer",
            24_592: "the router isn't 16 numbers: it has a row of d_model weights for each of the 16 experts",
        },
        otherwise="add up the weights of the experts that a token takes, and those of the router",
    ),
    Exercise(
        id="pick-experts",
        solution=pick,
        cases=(Case(torch.tensor([[3.0, 1, 0], [0, 2, 1]]), 2), Case(SCORES, 2), Case(SCORES, 3)),
        returns=("shares", "chosen"),
        forbids=("route",),
        wrong={
            lambda scores, n: scores.softmax(dim=-1).topk(n, dim=-1): (
                "each token's shares should add up to 1: these still count the experts that weren't chosen"
            ),
            lambda scores, n: scores.topk(n): "these are the raw scores; a softmax makes shares of them",
            lambda scores, n: pick(scores, n)[::-1]: (
                "the two results are there, in the other order: first the shares, then the experts"
            ),
            pick_by(largest=False): "these are the experts with the smallest scores",
            pick_over_tokens: "the softmax ran over the tokens (dim=0); each token has its own shares",
            pick_by(lambda best: best.softmax(dim=0)): (
                "the softmax of the best scores ran over the tokens (dim=0); each token has its own shares"
            ),
            lambda scores, n: tuple(part.flip(-1) for part in pick(scores, n)): (
                "these are the right experts, but the best must come first"
            ),
            pick_by(lambda best: best / best.sum(dim=-1, keepdim=True)): (
                "scores may be negative, so dividing them by their sum gives no shares: take a softmax"
            ),
            lambda scores, n: scores.softmax(dim=0).topk(n): (
                "the softmax ran over the tokens (dim=0), so even the choice changes; take it over dim=-1"
            ),
            lambda scores, n: pick(scores.softmax(dim=-1), n): (
                "that is the softmax of a softmax: take one, of the chosen scores"
            ),
            pick_over_all: "each token's shares should add up to 1: sum over dim=-1, with keepdim=True",
            lambda scores, n: pick(scores, n)[0]: "return two things: `return shares, chosen`",
            lambda scores, n: pick(scores, n)[1]: "return the shares, too: `return shares, chosen`",
        },
    ),
    Exercise(
        id="switch-layer",
        solution=switch,
        cases=(
            Case(*seeded(layer, 20), probe=output_and_gradients),
            Case(*seeded(layer, 2), name="switch(two tokens, router, experts)", probe=output_and_gradients),
        ),
        returns=("the output", "the router's gradient", "the experts' gradient"),
        wrong={
            lambda x, router, experts: switched(x, torch.ones(len(x)), router(x).argmax(dim=-1), experts): (
                "every expert's output counts in full: its share is 1, or isn't used. What is it among all?"
            ),
            lambda x, router, experts: switched(x, *router(x).max(dim=-1), experts): (
                "the outputs are multiplied by raw scores, which may be negative or huge; use shares"
            ),
            lambda x, router, experts: switched(x, *router(x).sigmoid().max(dim=-1), experts): (
                "a sigmoid would teach the router too, but a token's shares of all four must add up to 1"
            ),
            lambda x, router, experts: switched(x, *router(x).softmax(dim=0).max(dim=-1), experts): (
                "the softmax ran over the tokens (dim=0); each token has its own shares"
            ),
            lambda x, router, experts: switched(x, *best_over_tokens(router(x)), experts): (
                "the softmax ran over the tokens (dim=0): take it over each token's scores, and then choose"
            ),
            lambda x, router, experts: two_best(x, router(x).softmax(dim=-1).topk(2), experts): (
                "two experts worked on each token; only the best one should"
            ),
            lambda x, router, experts: two_best(x, pick(router(x), 2), experts): (
                "two experts worked on each token; only the best one should, with its share of all four"
            ),
            lambda x, router, experts: sum(
                router(x).softmax(dim=-1)[:, [e]] * expert(x) for e, expert in enumerate(experts)
            ): "all four experts worked on each token; only the best one should",
            lambda x, router, experts: switch(x, lambda x: router(x).detach(), experts): (
                "the output is right, but .detach(), .item() or the like keeps the gradient from the router"
            ),
            lambda x, router, experts: switch(x, router, [lambda x, e=e: e(x).detach() for e in experts]): (
                "the output is right, but something such as .detach() keeps the gradient from the experts"
            ),
            lambda x, router, experts: switch(x, router, experts).detach(): (
                "the output is right, but something such as .detach() or no_grad() cuts off every gradient"
            ),
        },
    ),
    Exercise(
        id="load-balancing",
        solution=balance,
        cases=(
            Case(EVEN, 1, name="balance(torch.eye(4).repeat(3, 1), 1)", probe=loss_and_gradient),
            Case(torch.eye(4)[:2], 1, name="balance(torch.eye(4)[:2], 1)", probe=loss_and_gradient),
            Case(SCORES, 2, probe=loss_and_gradient),
        ),
        returns=("the loss", "the gradient"),
        forbids=("load_balancing_loss",),
        wrong={
            lambda scores, n: scores.shape[-1] * loads(scores, n).square().sum(): (
                "counts have no gradient, so f · f has none: one of the two must be the mean probability P"
            ),
            lambda scores, n: scores.shape[-1] * scores.softmax(dim=-1).mean(dim=0).square().sum(): (
                "these are the probabilities alone; the counts f, of who was really chosen, are missing"
            ),
            lambda scores, n: balance(scores, 1): "count all n_active experts of a token, not the best alone",
            lambda scores, n: balance(scores, n) / scores.shape[-1]: (
                "your loss is n_experts times too small: is the factor there, and f · P a sum, not a mean?"
            ),
            lambda scores, n: balance(scores, n) / scores.shape[-1] * n: (
                "your factor is n_active: n is the number of all experts, not of those that a token takes"
            ),
            lambda scores, n: balance(scores, n) / scores.shape[-1] * len(scores): (
                "your factor is the number of tokens: n is that of experts, and P is a mean over the tokens"
            ),
            lambda scores, n: balance(scores, n) * len(scores): (
                "your loss is too large by a factor, the number of tokens: P is a mean over them, not a sum"
            ),
            balance_with(loads, lambda scores: scores): "P is a mean of probabilities: take the softmax",
            lambda scores, n: balance(scores, n) * n: (
                "the f should add up to 1: divide the counts by all choices, tokens times n_active"
            ),
            lambda scores, n: balance(scores, n) * n * len(scores): (
                "f is a part of all choices, not a number of them: divide the counts by their sum"
            ),
            balance_with(loads, lambda scores: scores.softmax(dim=0)): "take the softmax over dim=-1, not 0",
            balance_with(lambda scores, n: loads(scores, n, short=True)): (
                "experts that nobody chose are missing from your counts: use bincount(minlength=n_experts)"
            ),
            lambda scores, n: balance(scores, n).item(): (
                "the number is right, but something such as .detach() or .item() cuts off its gradient"
            ),
        },
    ),
)
