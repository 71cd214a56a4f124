"""The exercises and the quiz of 08, mixture of experts."""

import torch
from torch import nn

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.model import load_balancing_loss, route

TITLE = "Mixture of experts"


def check_active(answer):
    if answer == 4 * 3 * 64 * 32:
        raise Mistake(
            "these are the four experts; the router works on every token too, and for all 16 experts"
        )
    if answer in (16 * 3 * 64 * 32, 16 * 3 * 64 * 32 + 16 * 64):
        raise Mistake("that is the whole layer; a token takes only 4 of the 16 experts")
    if answer == 4 * 2 * 64 * 32 + 16 * 64:
        raise Mistake("you gave each expert two matrices; SwiGLU has three: gate, up and down")
    if answer == 4 * 3 * 64 * 32 + 4 * 64:
        raise Mistake("the router can't score 4 experts alone: to know which are best it must score all 16")
    equal(answer, 4 * 3 * 64 * 32 + 16 * 64, "the number of active weights")


def _scores():
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(8))


def check_pick(answer):
    scores = _scores()
    shares, chosen = route(scores, 2, normalize=True)
    got = call(answer, scores, 2)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things, the shares and the chosen experts: `return shares, chosen`")
    if same(got[0], chosen) and not same(got[1], chosen):
        raise Mistake("the two results are there, in the other order: first the shares, then the experts")
    _check_chosen(scores, got[1], chosen)
    _check_shares(scores, got[0], chosen)
    close(got[0], shares, "the shares")
    others = call(answer, scores, 3)
    close(others[0], route(scores, 3, normalize=True)[0], "the shares of three experts")


def _check_chosen(scores, got, chosen):
    if same(got, scores.topk(2, dim=-1, largest=False).indices):
        raise Mistake("these are the experts with the smallest scores")
    if same(got, scores.topk(2, dim=-1).indices.flip(-1)):
        raise Mistake("these are the right experts, but the best must come first")
    close(got, chosen, "the chosen experts")


def _check_shares(scores, got, chosen):
    if same(got, scores.gather(1, chosen)):
        raise Mistake("these are the raw scores; a softmax makes shares of them")
    if same(got, scores.softmax(dim=-1).gather(1, chosen)):
        raise Mistake(
            "each token's shares should add up to 1: these still count the experts that weren't chosen"
        )
    best = scores.gather(1, chosen)
    if same(got, best / best.sum(dim=-1, keepdim=True)):
        raise Mistake("scores may be negative, so dividing them by their sum gives no shares: take a softmax")
    if same(got, scores.softmax(dim=0).gather(1, chosen)) or same(got, best.softmax(dim=0)):
        raise Mistake("the softmax ran over the tokens (dim=0); each token has its own shares")


def solve_pick(scores, n_active):
    best, chosen = scores.topk(n_active, dim=-1)
    return best.softmax(dim=-1), chosen


def pick_without_normalizing(scores, n_active):
    return scores.softmax(dim=-1).topk(n_active, dim=-1)


def pick_raw(scores, n_active):
    return scores.topk(n_active, dim=-1)


def pick_swapped(scores, n_active):
    return solve_pick(scores, n_active)[::-1]


def pick_smallest(scores, n_active):
    best, chosen = scores.topk(n_active, dim=-1, largest=False)
    return best.softmax(dim=-1), chosen


def pick_over_tokens(scores, n_active):
    chosen = scores.topk(n_active, dim=-1).indices
    return scores.softmax(dim=0).gather(1, chosen), chosen


def pick_last_first(scores, n_active):
    return tuple(part.flip(-1) for part in solve_pick(scores, n_active))


def pick_divided(scores, n_active):
    best, chosen = scores.topk(n_active, dim=-1)
    return best / best.sum(dim=-1, keepdim=True), chosen


def _switch_parts():
    """A router for four experts, and the experts, of width 6."""
    generator = torch.Generator().manual_seed(9)
    router, experts = nn.Linear(6, 4, bias=False), nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
    with torch.no_grad():
        for weight in (*router.parameters(), *experts.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return torch.randn(20, 6, generator=generator), router, experts


@torch.enable_grad()
def check_switch(answer):
    x, router, experts = _switch_parts()
    got = call(answer, x, router, experts)
    scores = router(x)
    best, chosen = scores.softmax(dim=-1).max(dim=-1)
    every = torch.stack([expert(x) for expert in experts], dim=1)
    plain = every[torch.arange(20), chosen]
    if same(got, plain):
        raise Mistake(
            "every expert's output counts in full, whatever the router thought: the share is still 1"
        )
    if same(got, scores.amax(dim=-1, keepdim=True) * plain):
        raise Mistake("the outputs are multiplied with raw scores, which may be negative or huge; use shares")
    if same(got, (scores.softmax(dim=-1)[..., None] * every).sum(dim=1)):
        raise Mistake("all four experts worked on each token; only the best one should")
    if same(got, scores.amax(dim=-1, keepdim=True).sigmoid() * plain):
        raise Mistake(
            "a sigmoid would teach the router too, but a token's shares of all four must add up to 1"
        )
    close(got, best[:, None] * plain, "the output")
    grads = _gradients(got, router, experts)
    if grads[0] is None or grads[0].abs().max() < 1e-6:
        raise Mistake("the output is right, but no gradient reaches the router: somewhere it was cut off")
    if any(grad is None for grad in grads[1:]):
        raise Mistake("the output is right, but no gradient reaches the experts")


def _gradients(output, router, experts):
    if not isinstance(output, torch.Tensor) or not output.requires_grad:
        return [None]
    weights = [*router.parameters(), *experts.parameters()]
    return torch.autograd.grad(output.square().sum(), weights, allow_unused=True)


def solve_switch(x, router, experts):
    share, chosen = router(x).softmax(dim=-1).max(dim=-1)  # the softmax comes before the choice
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        mine = chosen == e
        out[mine] = share[mine, None] * expert(x[mine])
    return out


def switch_softmax_of_one(x, router, experts):
    best, chosen = router(x).topk(1, dim=-1)
    return _weighted(x, best.softmax(dim=-1)[:, 0], chosen[:, 0], experts)


def switch_raw(x, router, experts):
    return _weighted(x, *router(x).max(dim=-1), experts)


def switch_detached(x, router, experts):
    share, chosen = router(x).detach().softmax(dim=-1).max(dim=-1)
    return _weighted(x, share, chosen, experts)


def switch_sigmoid(x, router, experts):
    return _weighted(x, *router(x).sigmoid().max(dim=-1), experts)


def switch_everybody(x, router, experts):
    every = torch.stack([expert(x) for expert in experts], dim=1)
    return (router(x).softmax(dim=-1)[..., None] * every).sum(dim=1)


def _weighted(x, share, chosen, experts):
    every = torch.stack([expert(x) for expert in experts], dim=1)
    return share[:, None] * every[torch.arange(len(x)), chosen]


@torch.enable_grad()
def check_balance(answer):
    scores = _scores().requires_grad_()
    got = call(answer, scores, 2)
    n, probabilities = scores.shape[1], scores.softmax(dim=-1)
    counts = probabilities.topk(2, dim=-1).indices.flatten().bincount(minlength=n)
    f, p = counts / counts.sum(), probabilities.mean(dim=0)
    if same(got, n * (f * f).sum()):
        raise Mistake(
            "f · f is a matter of counting, and counts have no "
            "gradient: one of the two must be the mean probability P"
        )
    if same(got, n * (p * p).sum()):
        raise Mistake(
            "these are the probabilities alone; the counts f, of who was really chosen, are missing"
        )
    if same(got, (f * p).sum()):
        raise Mistake("the factor n_experts is missing: with equal loads the loss should be 1")
    if same(got, n * (counts / len(scores) * p).sum()):
        raise Mistake("the f should add up to 1: divide the counts by all choices, tokens times n_active")
    best = probabilities.argmax(dim=-1).bincount(minlength=n) / len(scores)
    if same(got, n * (best * p).sum()):
        raise Mistake("you counted only each token's best expert; it takes n_active of them")
    close(got, load_balancing_loss(scores, 2), "the loss")
    if not (isinstance(got, torch.Tensor) and got.requires_grad):
        raise Mistake(
            "the number is right, but it has no gradient: don't detach the probabilities or call .item()"
        )
    even = torch.eye(4).repeat(3, 1)
    close(call(answer, even, 1), 1.0, "the loss of equal loads")
    few = torch.eye(4)[:2]
    close(
        call(answer, few, 1), load_balancing_loss(few, 1), "the loss when nobody takes the last two experts"
    )


def solve_balance(scores, n_active):
    probabilities = scores.softmax(dim=-1)
    chosen = probabilities.topk(n_active, dim=-1).indices.flatten()
    f = chosen.bincount(minlength=scores.shape[-1]) / len(chosen)
    return scores.shape[-1] * (f * probabilities.mean(dim=0)).sum()


def balance_of_counts(scores, n_active):
    chosen = scores.topk(n_active, dim=-1).indices.flatten()
    f = chosen.bincount(minlength=scores.shape[-1]) / len(chosen)
    return scores.shape[-1] * (f * f).sum()


def balance_of_probabilities(scores, n_active):
    return scores.shape[-1] * scores.softmax(dim=-1).mean(dim=0).square().sum()


def balance_of_the_best(scores, n_active):
    return solve_balance(scores, n_active=1)


def balance_without_n(scores, n_active):
    return solve_balance(scores, n_active) / scores.shape[-1]


def balance_by_tokens(scores, n_active):
    return solve_balance(scores, n_active) * n_active


def balance_as_a_number(scores, n_active):
    return solve_balance(scores, n_active).item()


EXERCISES = (
    Exercise(
        id="08-1",
        title="What works on a token",
        minutes=5,
        level="easy",
        hints=(
            (
                "One SwiGLU expert has three matrices of d_model · "
                "d_ff weights. How many experts does a token take?"
            ),
            "The router is a matrix of d_model · n_experts weights, and all of it works on every token.",
        ),
        check=check_active,
        solution=25_600,
        wrong=(
            Wrong(24_576, "the router works on every token too"),
            Wrong(99_328, "that is the whole layer"),
            Wrong(17_408, "two matrices"),
            Wrong(24_832, "it must score all 16"),
        ),
        learned="a quarter of the layer works on a token, and the router's part is small.",
        why="4 experts · 3 matrices · 64 · 32 = 24,576, and the router's 64 · 16 = 1,024.",
    ),
    Exercise(
        id="08-2",
        title="Pick",
        minutes=6,
        level="medium",
        hints=(
            (
                "scores.topk(n_active, dim=-1) gives two things at "
                "once: the largest scores, and where they stand."
            ),
            (
                "Dividing the chosen probabilities by their sum is the same as a softmax over the chosen "
                "scores alone: what the others would have added to the sum cancels."
            ),
        ),
        check=check_pick,
        solution=solve_pick,
        wrong=(
            Wrong(pick_without_normalizing, "experts that weren't chosen"),
            Wrong(pick_raw, "these are the raw scores"),
            Wrong(pick_swapped, "in the other order"),
            Wrong(pick_smallest, "with the smallest scores"),
            Wrong(pick_over_tokens, "ran over the tokens"),
            Wrong(pick_last_first, "the best must come first"),
            Wrong(pick_divided, "gives no shares"),
        ),
        learned="these two lines decide which of a model's weights a token will meet.",
    ),
    Exercise(
        id="08-3",
        title="A router that learns",
        minutes=10,
        level="medium",
        hints=(
            "What is the softmax of a single number, whatever the number?",
            (
                "Take the softmax over all experts first, and choose then: "
                "the share of the best is below 1, and moves with the scores."
            ),
            "share, chosen = router(x).softmax(dim=-1).max(dim=-1)",
        ),
        check=check_switch,
        solution=solve_switch,
        wrong=(
            Wrong(switch_softmax_of_one, "the share is still 1"),
            Wrong(switch_raw, "raw scores, which"),
            Wrong(switch_detached, "no gradient reaches the router"),
            Wrong(switch_everybody, "all four experts worked"),
            Wrong(switch_sigmoid, "a sigmoid would teach"),
        ),
        learned=(
            "the choice itself has no gradient; the router learns "
            "only through the share that multiplies the output."
        ),
    ),
    Exercise(
        id="08-4",
        title="The load-balancing loss",
        minutes=12,
        level="hard",
        hints=(
            (
                "P = scores.softmax(dim=-1).mean(dim=0): how likely "
                "each expert is, on average. It has a gradient."
            ),
            (
                "f: who was chosen, from topk(…).indices.flatten().bincount(minlength=n_experts), "
                "divided by the number of all choices."
            ),
            "The loss is n_experts times the sum of f · P.",
        ),
        check=check_balance,
        solution=solve_balance,
        wrong=(
            Wrong(balance_of_counts, "counts have no gradient"),
            Wrong(balance_of_probabilities, "these are the probabilities alone"),
            Wrong(balance_without_n, "the factor n_experts is missing"),
            Wrong(balance_of_the_best, "only each token's best expert"),
            Wrong(balance_by_tokens, "the f should add up to 1"),
            Wrong(balance_as_a_number, "but it has no gradient"),
        ),
        learned=(
            "the busy experts' probabilities are pushed down hardest, for each is weighted with its own load."
        ),
    ),
)

QUIZ = (
    Question(
        id="08-q1",
        text=(
            "Mixtral computes with 12.9 billion weights for each token. "
            "How many must the machine hold in memory to write a page?"
        ),
        choices=(
            Choice("12.9 billion", "The next token may choose other experts, in every one of the 32 layers."),
            Choice(
                "46.7 billion",
                (
                    "Which experts will be needed isn't known before each layer's "
                    "router has spoken. A mixture saves multiplications, not memory."
                ),
                right=True,
            ),
            Choice(
                "56 billion, eight times seven", "Attention and embeddings are there once, not eight times."
            ),
        ),
    ),
    Question(
        id="08-q2",
        text=(
            "From a trained router's choice one can guess the kind of question clearly better than by "
            "chance. Have the experts specialised in it?"
        ),
        choices=(
            Choice(
                "Yes, for chance is the right comparison",
                "The untrained router, whose experts know nothing, did as well.",
            ),
            Choice(
                "No, since the experts are balanced",
                "Balanced experts may be specialists or not: the load says nothing about it.",
            ),
            Choice(
                "Not shown: a router that has learned nothing sorts by the word in front of it too",
                (
                    "Like tokens get like scores from any matrix. What "
                    "training added must be measured against that."
                ),
                right=True,
            ),
        ),
    ),
    Question(
        id="08-q3",
        text="Why isn't the weight of the balancing loss simply made very large?",
        choices=(
            Choice(
                "The router would then spread tokens evenly rather than send each where it is served best",
                (
                    "You saw it: with α = 1 the loads were only a little more "
                    "even, and fewer facts were learned in the same time."
                ),
                right=True,
            ),
            Choice(
                "The loss would no longer have a gradient",
                "Its gradient grows with the weight; that is the trouble.",
            ),
            Choice(
                "Fewer tokens would be turned away",
                "That is what balancing is for, and no reason against it; the reason is its price.",
            ),
        ),
    ),
)
