"""The exercises of the lesson on self-attention."""

import math

import torch

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random


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
        same, other = rounded_apart(*weights[1:])
        raise Mistake(f"tiger and tree get the same, {same}, but 'it', whose key is [0, 0], gets {other}")
    if not weights.isclose(torch.tensor(1 / 3)).all():
        a_third, *shares = rounded_apart(1 / 3, *weights)
        raise Mistake(
            f"tiger, tree and 'it' get {', '.join(shares)}; an indifferent query gives each of them {a_third}"
        )


def rounded_apart(*numbers):
    """Return the numbers with three places, or with six if they would look alike."""
    short, long = ([f"{number:.{places}f}" for number in numbers] for places in (3, 6))
    return long if len(set(short)) == 1 else short


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


def masked(scores, hidden, dim=-1):
    """Attention weights, with the hidden scores (a function of a matrix of ones) at minus infinity."""
    return scores.masked_fill(hidden(torch.ones_like(scores)).bool(), -math.inf).softmax(dim=dim)


def with_weights(weigh):
    """Return a function that gives the output and the weights, which are weigh(q, k)."""

    def answer(q, k, v):
        weights = weigh(q, k)
        return weights @ v, weights

    return answer


def causal(scores):
    return masked(scores, lambda ones: ones.triu(1))


def shares(scores, keepdim=True):
    powers = scores.exp()
    return powers / powers.sum(dim=-1, keepdim=keepdim)


EXERCISES = (
    Exercise(
        id="indifferent-query",
        solution=[0.0, 0.0],
        check=check_query,
        wrong={
            (1.0, 1.0): "but 'it', whose key is [0, 0]",
            (2.0, 0.0): "gives each of them 0.333",
            0.0: "a list of two numbers",
        },
    ),
    Exercise(
        id="attention",
        solution=attention_once,
        cases=(
            Case(*random((5, 4), (7, 4), (7, 3))),
            Case(*random((3, 9), (2, 9), (2, 6)), name="with d = 9, attention_once(q, k, v)"),
        ),
        wrong={
            lambda q, k, v: (q @ k.T).softmax(dim=-1) @ v: "divide the scores by the square root of d",
            lambda q, k, v: (q @ k.T / q.shape[-1]).softmax(dim=-1) @ v: "divide by the root of d, not by d",
            lambda q, k, v: (q @ k.T / math.sqrt(2)).softmax(dim=-1) @ v: (
                "you divided by √2, which is right only for queries of two numbers; d is the width of a query"
            ),
            lambda q, k, v: (q @ k.T / math.sqrt(v.shape[-1])).softmax(dim=-1) @ v: (
                "you divided by the root of e, the width of a value; d is the width of a query"
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
            lambda q, k, v: scaled(q, k) @ v: "the softmax, which makes shares of the scores, is missing",
            lambda q, k, v: q @ k.T @ v: "divide the scores and make shares of them before multiplying by v",
            lambda q, k, v: (q @ k.T).softmax(dim=-1) @ v / math.sqrt(q.shape[-1]): (
                "you divided after the softmax; it is the scores that are divided, before it"
            ),
            lambda q, k, v: scaled(q, k).softmax(dim=-1): "these are the weights: multiply them by v",
        },
    ),
    Exercise(
        id="causal-attention",
        solution=causal_attention,
        cases=(
            Case(*random((5, 4), (5, 4), (5, 3))),
            Case(*random((3, 9), (3, 9), (3, 2)), name="with d = 9, causal_attention(q, k, v)"),
        ),
        returns=("the output", "the weights"),
        part=True,
        wrong={
            with_weights(lambda q, k: scaled(q, k).softmax(dim=-1).tril()): (
                "the rows no longer add up to 1: mask the scores before the softmax, not the weights after it"
            ),
            with_weights(lambda q, k: scaled(q, k).tril().softmax(dim=-1)): (
                "hide a score with minus infinity: 0, or near it, still gets a share, as e to the 0 is 1"
            ),
            with_weights(lambda q, k: masked(scaled(q, k), lambda ones: ones.tril())): (
                "you hid what may be seen, and the last token sees nothing, hence nan: hide the other places"
            ),
            with_weights(lambda q, k: masked(scaled(q, k), lambda ones: ones.tril(-1))): (
                "the mask is the wrong way round: each token sees itself and the later ones"
            ),
            with_weights(lambda q, k: masked(scaled(q, k), lambda ones: ones.triu())): (
                "a token may see itself: hidden from itself, the first token sees nothing, hence nan"
            ),
            with_weights(lambda q, k: masked(scaled(q, k), lambda ones: ones.triu(2))): (
                "each token sees the next one too: tril() keeps the diagonal and nothing above"
            ),
            with_weights(
                lambda q, k: (scaled(q, k) + torch.ones(len(q), len(k)).triu(1) * -math.inf).softmax(dim=-1)
            ): "0 times minus infinity is nan: put minus infinity in, don't multiply by it",
            with_weights(lambda q, k: masked(scaled(q, k), lambda ones: ones.triu(1), dim=0)): (
                "the softmax runs down the columns; it is each row that adds up to 1"
            ),
            with_weights(lambda q, k: causal(q @ k.T)): "divide the scores by the square root of d",
            with_weights(lambda q, k: causal(q @ k.T / q.shape[-1])): "divide by the root of d, not by d",
            with_weights(lambda q, k: causal(q @ k.T / math.sqrt(2))): (
                "you divided by √2, which is right only for queries of two numbers; d is the width of a query"
            ),
            with_weights(lambda q, k: causal(q @ k.T / math.sqrt(len(q)))): (
                "you divided by the root of n, the number of queries; d is the width of one, q.shape[-1]"
            ),
            with_weights(lambda q, k: scaled(q, k).softmax(dim=-1)): "every token sees the later ones too",
            lambda q, k, v: causal_attention(q, k, v)[0]: "return two things, the output and the weights",
            lambda q, k, v: causal_attention(q, k, v)[::-1]: "return first the output, then the weights",
        },
    ),
    Exercise(
        id="softmax",
        solution=softmax,
        forbids=("softmax", "Softmax", "softmin", "Softmin", "log_softmax", "LogSoftmax", "logsumexp"),
        cases=(
            Case(*random((3, 4))),
            Case(torch.tensor([[1000.0, 1001.0]])),
            Case(torch.tensor([[-1000.0, -1001.0], [0.0, -1000.0]])),
            Case(torch.tensor([[1.0, -math.inf, 2.0]])),
            Case(*random((2, 3, 4)), name="with three dimensions, softmax(scores)"),
            Case(torch.tensor([1000.0, 1001.0])),
        ),
        wrong={
            shares: "for [1000, 1001] it gives nan: e to the 1000 is too large for any float",
            lambda scores: scores.exp() / scores.exp().sum(): (
                "you divided by the sum of everything; each row has its own sum (dim=-1, keepdim=True)"
            ),
            lambda scores: softmax(scores.movedim(1, -1)).movedim(-1, 1): (
                "you went along dimension 1; it is the last one, dim=-1, whatever the shape"
            ),
            lambda scores: softmax(scores.movedim(0, -1)).movedim(-1, 0): (
                "you went along dimension 0, down the columns; it is the last one, dim=-1, whatever the shape"
            ),
            lambda scores: shares(scores - scores.amax(dim=-1), keepdim=False): (
                "the largest scores and the sums need keepdim=True: without it they don't fit the rows"
            ),
            lambda scores: shares(scores - scores.amax(dim=-1, keepdim=True), keepdim=False): (
                "the sums need keepdim=True: without it each row isn't divided by its own sum"
            ),
            lambda scores: shares(scores.clamp(max=50)): (
                "scores beyond your limit become equal, and [1000, 1001] gets halves: subtract, don't clip"
            ),
            lambda scores: shares(scores - scores.max()): (
                "for [[-1000, -1001], [0, -1000]] the first row gives nan: subtract each row's own largest"
            ),
            lambda scores: shares(scores - scores.amin(dim=-1, keepdim=True)): (
                "[0, -1000] gives nan: subtract so much that no score is left above 0"
            ),
        },
    ),
)
