"""The exercises of the lesson on self-attention."""

import math

import torch

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise


def check_query(answer):
    keys = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    try:
        query = torch.as_tensor(answer, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        query = None
    if query is None or query.shape != (2,):
        raise Mistake("a query here is a list of two numbers, such as [2.0, 0.0]")
    weights = (keys @ query / math.sqrt(2)).softmax(dim=0)
    if weights[0].isclose(weights[1]) and not weights[0].isclose(weights[2]):
        raise Mistake(
            f"tiger and tree get the same, {weights[0]:.3f}, but "
            f"'it', whose key is [0, 0], gets {weights[2]:.3f}"
        )
    if not weights.isclose(torch.tensor(1 / 3)).all():
        shares = ", ".join(f"{weight:.3f}" for weight in weights)
        raise Mistake(f"tiger, tree and 'it' get {shares}; an indifferent query gives each of them 0.333")


def random(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def attention_once(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return scores.softmax(dim=-1) @ v


def causal_attention(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    allowed = torch.ones(len(q), len(k), dtype=torch.bool).tril()
    weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return weights @ v, weights


def softmax(scores):
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def scaled(q, k):
    return q @ k.T / math.sqrt(q.shape[-1])


def masked(scores, hidden):
    """Attention weights, with the hidden scores (a function of a matrix of ones) at minus infinity."""
    return scores.masked_fill(hidden(torch.ones_like(scores)).bool(), -math.inf).softmax(dim=-1)


def causal_after_the_softmax(q, k, v):
    weights = scaled(q, k).softmax(dim=-1).tril()
    return weights @ v, weights


def causal_with_zeros(q, k, v):
    weights = scaled(q, k).tril().softmax(dim=-1)
    return weights @ v, weights


def causal_upside_down(q, k, v):
    weights = masked(scaled(q, k), lambda ones: ones.tril(-1))
    return weights @ v, weights


def causal_without_itself(q, k, v):
    weights = masked(scaled(q, k), lambda ones: ones.triu())
    return weights @ v, weights


def causal_one_ahead(q, k, v):
    weights = masked(scaled(q, k), lambda ones: ones.triu(2))
    return weights @ v, weights


def causal_down_the_columns(q, k, v):
    weights = scaled(q, k).masked_fill(torch.ones(len(q), len(k)).triu(1).bool(), -math.inf).softmax(dim=0)
    return weights @ v, weights


def causal_unscaled(q, k, v):
    weights = masked(q @ k.T, lambda ones: ones.triu(1))
    return weights @ v, weights


def not_causal(q, k, v):
    weights = scaled(q, k).softmax(dim=-1)
    return weights @ v, weights


def softmax_clipped(scores):
    powers = scores.clamp(max=50).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def softmax_minus_the_largest_of_all(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def softmax_minus_the_smallest(scores):
    powers = (scores - scores.amin(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


EXERCISES = (
    Exercise(
        id="indifferent-query",
        hints=(
            "Weights are equal when scores are equal. 'it' has the key [0, 0], so its score is always 0.",
            "Which query has a dot product of 0 with every key there is?",
        ),
        learned="a token with nothing to ask takes the plain average of all values.",
        solution=[0.0, 0.0],
        why="Every dot product with [0, 0] is 0, so all scores are equal and the softmax gives each 1/3.",
        check=check_query,
        wrong={
            (1.0, 1.0): "but 'it', whose key is [0, 0]",
            (2.0, 0.0): "gives each of them 0.333",
            0.0: "a list of two numbers",
        },
    ),
    Exercise(
        id="attention",
        hints=(
            "Three steps: scores (n, m), weights (n, m), output (n, e).",
            "q @ k.T gives all dot products at once. d is q.shape[-1].",
            "scores.softmax(dim=-1) makes each row add up to 1; then @ v.",
        ),
        learned="that is equation 1 of Attention is all you need.",
        solution=attention_once,
        cases=(Case(*random((5, 4), (7, 4), (7, 3))),),
        wrong={
            lambda q, k, v: (
                (q @ k.T).softmax(dim=-1) @ v
            ): "the scores aren't divided by the square root of d",
            lambda q, k, v: (q @ k.T / q.shape[-1]).softmax(dim=-1) @ v: (
                "you divided by d; it is the square root of d"
            ),
            lambda q, k, v: (q @ k.T / math.sqrt(len(q))).softmax(dim=-1) @ v: (
                "you divided by the root of n, the number of queries; d is the width of one, q.shape[-1]"
            ),
            lambda q, k, v: (q @ k.T / math.sqrt(len(k))).softmax(dim=-1) @ v: (
                "you divided by the root of m, the number of keys; d is the width of one, k.shape[-1]"
            ),
            lambda q, k, v: scaled(q, k).softmax(dim=0) @ v: (
                "the softmax runs down the columns; each query's weights, a row, must add up to 1"
            ),
            lambda q, k, v: scaled(q, k) @ v: (
                "the scores went straight to the values; the softmax that makes shares of them is missing"
            ),
            lambda q, k, v: (q @ k.T).softmax(dim=-1) / math.sqrt(q.shape[-1]) @ v: (
                "you divided the weights; it is the scores that are divided, before the softmax"
            ),
            lambda q, k, v: scaled(q, k).softmax(dim=-1): (
                "these are the weights; the output is their product with v"
            ),
        },
    ),
    Exercise(
        id="causal-attention",
        hints=(
            "torch.ones(n, n, dtype=torch.bool).tril() is true where a token may look: at itself and before.",
            "scores.masked_fill(~allowed, -math.inf), and only then the softmax.",
        ),
        learned="with this, and nothing else about its attention, a model can be trained to write.",
        solution=causal_attention,
        cases=(Case(*random((5, 4), (5, 4), (5, 3))),),
        returns=("the output", "the weights"),
        part=True,
        wrong={
            causal_after_the_softmax: (
                "the rows no longer add up to 1: mask the scores before the softmax, not the weights after it"
            ),
            causal_with_zeros: (
                "hidden scores were set to 0, and e to the 0 is 1: still a share. Minus infinity makes it 0"
            ),
            causal_upside_down: "the mask is the wrong way round: each token sees itself and the later ones",
            causal_without_itself: (
                "a token may see itself: hidden from itself, the first has nothing left to look at, and nan"
            ),
            causal_one_ahead: "each token sees the next one too: tril() keeps the diagonal and nothing above",
            causal_down_the_columns: "the softmax runs down the columns; it is each row that adds up to 1",
            causal_unscaled: "the scores aren't divided by the square root of d",
            not_causal: "nothing is hidden: every token sees the later ones too",
            lambda q, k, v: causal_attention(q, k, v)[0]: (
                "return two things, the output and the weights: `return weights @ v, weights`"
            ),
            lambda q, k, v: causal_attention(q, k, v)[::-1]: (
                "the two are there in the other order: the output first, then the weights"
            ),
        },
    ),
    Exercise(
        id="softmax",
        hints=(
            "Subtracting c from every score multiplies every power by e^(-c): the shares don't change.",
            "So choose c such that no power can overflow, and at least one is as large as 1.",
            "c is the largest score of each row: scores.amax(dim=-1, keepdim=True).",
        ),
        learned=(
            "every library's softmax subtracts the largest score first, and FlashAttention is built on it."
        ),
        solution=softmax,
        forbids=("softmax", "log_softmax", "logsumexp"),
        cases=(
            Case(*random((3, 4))),
            Case(torch.tensor([[1000.0, 1001.0]])),
            Case(torch.tensor([[-1000.0, -1001.0], [0.0, -1000.0]])),
            Case(torch.tensor([[1.0, -math.inf, 2.0]])),
        ),
        wrong={
            lambda scores: scores.exp() / scores.exp().sum(dim=-1, keepdim=True): (
                "for [1000, 1001] it gives nan: e to the 1000 is too large for any float"
            ),
            lambda scores: scores.exp() / scores.exp().sum(): (
                "you divided by the sum of everything; each row has its own sum (dim=-1, keepdim=True)"
            ),
            softmax_clipped: (
                "scores beyond your limit become equal, and [1000, 1001] gets halves: subtract, don't clip"
            ),
            softmax_minus_the_largest_of_all: (
                "for [[-1000, -1001], [0, -1000]] the first row gives nan: the largest score of *all* was "
                "subtracted, and all its powers became 0. Each row has its own largest"
            ),
            softmax_minus_the_smallest: (
                "you subtract the smallest of the row, which leaves the largest as large as ever, and is "
                "minus infinity where something is hidden"
            ),
        },
    ),
)
