"""The exercises and the quiz of 03, self-attention."""

import math

import torch

from course_lib.course.checking import Mistake, call, close, same
from course_lib.course.content import Choice, Exercise, Question, Wrong

TITLE = "Self-attention"


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
        raise Mistake(f"the three weights are {', '.join(f'{w:.3f}' for w in weights)}, and not all 0.333")


def _inputs(n=5, m=7, d=4, e=3):
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(rows, width, generator=generator) for rows, width in ((n, d), (m, d), (m, e)))


def check_attention(answer):
    q, k, v = _inputs()
    got = call(answer, q, k, v)
    scores, root = q @ k.T, math.sqrt(q.shape[-1])
    if same(got, scores.softmax(dim=-1) @ v):
        raise Mistake("the scores aren't divided by the square root of d")
    if same(got, (scores / q.shape[-1]).softmax(dim=-1) @ v):
        raise Mistake("you divided by d; it is the square root of d")
    if same(got, (scores / root).softmax(dim=0) @ v):
        raise Mistake("the softmax runs down the columns; each query's weights, a row, must add up to 1")
    if same(got, scores / root @ v):
        raise Mistake(
            "the scores went straight to the values; the softmax that makes shares of them is missing"
        )
    if same(got, (scores / root).softmax(dim=-1)):
        raise Mistake("these are the weights; the output is their product with v")
    close(got, (scores / root).softmax(dim=-1) @ v, "the output")


def solve_attention_once(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return scores.softmax(dim=-1) @ v


def attention_unscaled(q, k, v):
    return (q @ k.T).softmax(dim=-1) @ v


def attention_over_d(q, k, v):
    return (q @ k.T / q.shape[-1]).softmax(dim=-1) @ v


def attention_down_the_columns(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=0) @ v


def attention_weights_only(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)


def check_causal(answer):
    q, k, v = _inputs(n=5, m=5)
    got = call(answer, q, k, v)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things, the output and the weights: `return weights @ v, weights`")
    output, weights = (torch.as_tensor(part) for part in got)
    if weights.shape != (5, 5):
        raise Mistake(
            f"the second thing should be the weights, (5, 5), and has the shape {tuple(weights.shape)}"
        )
    if weights.isnan().any():
        raise Mistake(
            "there are nan in the weights: either some row has nothing left to "
            "look at (a token may see itself), or 0 was multiplied with infinity"
        )
    if same(weights, (q @ k.T / math.sqrt(q.shape[-1])).tril().softmax(dim=-1)):
        raise Mistake(
            "hidden scores were set to 0, and e to the 0 is 1: still a share. Minus infinity makes it 0"
        )
    if weights.tril(-1).abs().max() < 1e-6:
        raise Mistake("the mask is the wrong way round: each token sees itself and the later ones")
    if weights.triu(1).abs().max() > 1e-6:
        raise Mistake("some token gives weight to a later one")
    if not torch.allclose(weights.sum(dim=-1), torch.ones(5), atol=1e-4):
        raise Mistake(
            "the rows no longer add up to 1: mask the scores, before the softmax, not the weights after it"
        )
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    close(weights, scores.softmax(dim=-1), "the weights")
    close(output, scores.softmax(dim=-1) @ v, "the output")


def solve_causal_attention(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    allowed = torch.ones(len(q), len(k), dtype=torch.bool).tril()
    weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return weights @ v, weights


def causal_after_the_softmax(q, k, v):
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1).tril()
    return weights @ v, weights


def causal_with_zeros(q, k, v):
    weights = (q @ k.T / math.sqrt(q.shape[-1])).tril().softmax(dim=-1)
    return weights @ v, weights


def causal_upside_down(q, k, v):
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(torch.ones(5, 5).tril(-1).bool(), -math.inf)
    return scores.softmax(dim=-1) @ v, scores.softmax(dim=-1)


def causal_without_itself(q, k, v):
    allowed = torch.ones(len(q), len(k), dtype=torch.bool).tril(-1)
    weights = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return weights @ v, weights


def causal_output_only(q, k, v):
    return solve_causal_attention(q, k, v)[0]


def check_softmax(answer):
    if "softmax" in getattr(getattr(answer, "__code__", None), "co_names", ()):
        raise Mistake("that calls PyTorch's own; write it with .exp(), .sum() and a division")
    generator = torch.Generator().manual_seed(4)
    ordinary = torch.randn(3, 4, generator=generator)
    got = torch.as_tensor(call(answer, ordinary))
    if same(got, ordinary.exp() / ordinary.exp().sum()):
        raise Mistake("you divided by the sum of everything; each row has its own sum (dim=-1, keepdim=True)")
    close(got, ordinary.softmax(dim=-1), "softmax of ordinary scores")
    large = torch.tensor([[1000.0, 1001.0]])
    got = torch.as_tensor(call(answer, large))
    if got.isnan().any():
        raise Mistake("for [1000, 1001] it gives nan: e to the 1000 is too large for any float")
    close(got, large.softmax(dim=-1), "softmax of [[1000, 1001]]")
    low = torch.tensor([[-1000.0, -1001.0], [0.0, -1000.0]])
    got = torch.as_tensor(call(answer, low))
    if got.isnan().any():
        raise Mistake(
            "for [[-1000, -1001], [0, -1000]] it gives nan: in some "
            "row all powers were rounded to 0, or one overflowed"
        )
    close(got, low.softmax(dim=-1), "softmax of [[-1000, -1001], [0, -1000]]")
    hidden = torch.tensor([[1.0, -math.inf, 2.0]])
    got = torch.as_tensor(call(answer, hidden))
    if got.isnan().any():
        raise Mistake(
            "for [1, -inf, 2] it gives nan; e to minus infinity is simply 0, so what makes the nan?"
        )
    close(got, hidden.softmax(dim=-1), "softmax of [1, -inf, 2]")


def solve_softmax(scores):
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def softmax_naive(scores):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def softmax_clipped(scores):
    powers = scores.clamp(max=50).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def softmax_of_pytorch(scores):
    return scores.softmax(dim=-1)


def softmax_of_everything(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum()


def softmax_minus_the_largest_of_all(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def softmax_minus_the_smallest(scores):
    powers = (scores - scores.amin(dim=-1, keepdim=True)).clamp(max=80).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


EXERCISES = (
    Exercise(
        id="03-1",
        title="An indifferent query",
        minutes=3,
        level="easy",
        hints=(
            (
                "The weights are equal when the scores are equal. "
                "'it' has the key [0, 0], so its score is always 0."
            ),
            "Which query has a dot product of 0 with every key there is?",
        ),
        check=check_query,
        solution=[0.0, 0.0],
        wrong=(
            Wrong([1.0, 1.0], "but 'it', whose key is [0, 0]"),
            Wrong([2.0, 0.0], "and not all 0.333"),
            Wrong(0.0, "a list of two numbers"),
        ),
        learned="a token with nothing to ask takes the plain average of all values.",
        why="Every dot product with [0, 0] is 0, so all scores are equal and the softmax gives each 1/3.",
    ),
    Exercise(
        id="03-2",
        title="Attention",
        minutes=8,
        level="medium",
        hints=(
            "Three steps: scores (n, m), weights (n, m), output (n, e).",
            "q @ k.T gives all dot products at once. d is q.shape[-1].",
            "scores.softmax(dim=-1) makes each row add up to 1; then @ v.",
        ),
        check=check_attention,
        solution=solve_attention_once,
        wrong=(
            Wrong(attention_unscaled, "aren't divided by the square root"),
            Wrong(attention_over_d, "you divided by d;"),
            Wrong(attention_down_the_columns, "runs down the columns"),
            Wrong(attention_weights_only, "these are the weights"),
        ),
        learned="that is equation 1 of Attention is all you need.",
    ),
    Exercise(
        id="03-3",
        title="Causal attention",
        minutes=8,
        level="medium",
        hints=(
            (
                "torch.ones(n, n, dtype=torch.bool).tril() is true "
                "on and below the diagonal: where looking is allowed."
            ),
            "scores.masked_fill(~allowed, -math.inf), and only then the softmax.",
        ),
        check=check_causal,
        solution=solve_causal_attention,
        wrong=(
            Wrong(causal_after_the_softmax, "no longer add up to 1"),
            Wrong(causal_with_zeros, "were set to 0"),
            Wrong(causal_upside_down, "the wrong way round"),
            Wrong(causal_without_itself, "nothing left to look at"),
            Wrong(causal_output_only, "return two things"),
        ),
        learned="with this, and nothing else about its attention, a model can be trained to write.",
    ),
    Exercise(
        id="03-4",
        title="A softmax that survives",
        minutes=10,
        level="hard",
        hints=(
            (
                "Subtracting c from every score multiplies every power by the "
                "same e^(-c), above and below the line: the shares don't change."
            ),
            "So choose c such that no power can overflow, and at least one is as large as 1.",
            "c is the largest score of each row: scores.amax(dim=-1, keepdim=True).",
        ),
        check=check_softmax,
        solution=solve_softmax,
        wrong=(
            Wrong(softmax_naive, "for [1000, 1001] it gives nan"),
            Wrong(softmax_clipped, "softmax of [[1000, 1001]][0, 0]"),
            Wrong(softmax_of_everything, "the sum of everything"),
            Wrong(softmax_minus_the_largest_of_all, "all powers were rounded to 0"),
            Wrong(softmax_of_pytorch, "that calls PyTorch's own"),
            Wrong(softmax_minus_the_smallest, "for [1, -inf, 2] it gives nan"),
        ),
        learned=(
            "every softmax in every library subtracts the largest "
            "score first, and FlashAttention is built on it."
        ),
    ),
)

QUIZ = (
    Question(
        id="03-q1",
        text="Two tokens swap their keys and keep their values. What changes for a token that asks?",
        choices=(
            Choice(
                "The two get each other's weights; their messages stay where they were",
                "Keys decide who is found, values what is then handed over.",
                right=True,
            ),
            Choice(
                "Nothing, since the values are the same",
                "The values are, but they are mixed with other weights now.",
            ),
            Choice(
                "The messages are swapped as well", "Messages are values, and those stayed with their tokens."
            ),
        ),
    ),
    Question(
        id="03-q2",
        text="Why are the scores divided by √d?",
        choices=(
            Choice("So that the weights add up to 1", "The softmax sees to that, whatever the scores."),
            Choice("To save memory", "It costs a division and saves nothing."),
            Choice(
                "So that their spread doesn't grow with d and leave the softmax without gradient",
                "You measured it: undivided, the spread is √d and the largest weight goes to 1.",
                right=True,
            ),
        ),
    ),
    Question(
        id="03-q3",
        text="A text becomes twice as long. What happens to the number of scores?",
        choices=(
            Choice("It doubles", "Each token has twice as many to ask, and there are twice as many tokens."),
            Choice(
                "It becomes four times as large",
                "Each token with each. That square is what FlashAttention and caches are about.",
                right=True,
            ),
            Choice("It stays: there is one score a token", "One score for each pair of tokens."),
        ),
    ),
)
