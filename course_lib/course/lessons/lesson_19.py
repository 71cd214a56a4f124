"""The exercises and the quiz of 19, sampling."""

import math

import torch

from course_lib.course.checking import Mistake, call, close, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.generate import expected_best, repetition_penalty, top_p

TITLE = "Sampling"


def check_cooler(answer):
    """Logits 2, 1, 0 at temperature 0.5: weights e^4, e^2, e^0."""
    weights = [math.exp(2 * logit) for logit in (2.0, 1.0, 0.0)]
    if same(answer, math.e**2 / sum(map(math.exp, (2, 1, 0))), 5e-3):
        raise Mistake("that is the share at temperature 1: divide the logits by the temperature first")
    if same(answer, math.e / sum(math.exp(logit / 2) for logit in (2, 1, 0)), 5e-3):
        raise Mistake("you multiplied the logits by 0.5; dividing by 0.5 doubles them")
    if same(answer, weights[0], 5e-3):
        raise Mistake("that is the weight, e to the fourth; a share is the weight divided by the sum of all three")
    if same(answer, 100 * weights[0] / sum(weights), 5e-3):
        raise Mistake("that is in percent; write it as a number between 0 and 1")
    close(answer, weights[0] / sum(weights), "the probability of *tiger*", 5e-3)


def _rows():
    """Three rows: unsure, sure, and with the likeliest in the middle."""
    return torch.tensor([[1.0, 0.8, 0.6, 0.4, 0.2], [9.0, 1.0, 0.0, -1.0, -2.0], [-1.0, 0.5, 3.0, 2.0, 0.0]])


def check_nucleus(answer):
    logits = _rows()
    got, want = call(answer, logits, 0.8), top_p(logits, 0.8)
    if isinstance(got, torch.Tensor) and got.shape == logits.shape:
        _name_nucleus_mistake(logits, got, want)
    close(got, want, "the logits")
    close(call(answer, logits, 0.3), top_p(logits, 0.3), "the logits at p = 0.3")
    close(call(answer, logits, 1.0), logits, "the logits at p = 1, where everything stays,")


def _name_nucleus_mistake(logits, got, want):
    if same(got, nucleus_too_small(logits, 0.8)):
        raise Mistake("the token that crosses p is missing: what is kept must *reach* p")
    if same(got, nucleus_too_large(logits, 0.8)):
        raise Mistake("one token too many: stop with the token that crosses p")
    if same(got, nucleus_unsorted(logits, 0.8)):
        raise Mistake("the probabilities were added up in the order of the vocabulary; the likeliest comes first")
    if same(got, nucleus_misplaced(logits, 0.8)):
        raise Mistake("sorted, and never put back: each logit must stand at its own token's place again")
    if same(got, want.softmax(dim=-1)):
        raise Mistake("these are probabilities; knobs take logits and give logits, so that they compose")
    if same(got, torch.where(want.isfinite(), want, torch.zeros_like(want))):
        raise Mistake("a logit of 0 is an ordinary logit, e⁰ = 1 and not nothing: what can't come is −∞")


def solve_nucleus(logits, p):
    ordered, places = logits.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances  # what all likelier ones have together
    ordered = ordered.masked_fill(before >= p, -float("inf"))
    return torch.zeros_like(logits).scatter(-1, places, ordered)


def _nucleus(logits, outside):
    """The rule `outside`(chances), of sorted probabilities, put back into place."""
    ordered, places = logits.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(outside(ordered.softmax(dim=-1)), -math.inf)
    return torch.zeros_like(logits).scatter(-1, places, ordered)


def nucleus_too_small(logits, p):
    return _nucleus(logits, lambda chances: chances.cumsum(dim=-1) > p)


def nucleus_too_large(logits, p):
    def outside(chances):
        past = chances.cumsum(dim=-1) - chances >= p
        return torch.cat([torch.zeros_like(past[..., :1]), past[..., :-1]], dim=-1)

    return _nucleus(logits, outside)


def nucleus_unsorted(logits, p):
    chances = logits.softmax(dim=-1)
    return logits.masked_fill(chances.cumsum(dim=-1) - chances >= p, -math.inf)


def nucleus_misplaced(logits, p):
    ordered = logits.sort(dim=-1, descending=True).values
    chances = ordered.softmax(dim=-1)
    return ordered.masked_fill(chances.cumsum(dim=-1) - chances >= p, -math.inf)


def nucleus_as_probabilities(logits, p):
    return solve_nucleus(logits, p).softmax(dim=-1)


def nucleus_of_zeros(logits, p):
    kept = solve_nucleus(logits, p)
    return torch.where(kept.isfinite(), kept, torch.zeros_like(kept))


def check_penalize(answer):
    logits, tokens = torch.tensor([[2.0, -2.0, 4.0, -1.0, 0.5]]), torch.tensor([[0, 1, 1, 4, 4, 4]])
    got, want = call(answer, logits, tokens, 2.0), repetition_penalty(logits, tokens, 2.0)
    if same(got, penalize_dividing(logits, tokens, 2.0)):
        raise Mistake("dividing −2 by 2 gives −1, which is *likelier*: below 0 a logit must be multiplied")
    if same(got, penalize_counting(logits, tokens, 2.0)):
        raise Mistake("a token that occurred twice was made weaker twice: each counts once, however often it occurred")
    if same(got, penalize_subtracting(logits, tokens, 2.0)):
        raise Mistake("subtracting is what a presence penalty does; this one divides or multiplies")
    if same(got, penalize_others(logits, tokens, 2.0)):
        raise Mistake("the tokens that did *not* occur were made weaker")
    if same(got, penalize_everything(logits, tokens, 2.0)):
        raise Mistake("every token was made weaker, whether it occurred or not")
    close(got, want, "the logits")
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    own = torch.tensor([[0], [1]])
    close(call(answer, rows, own, 2.0), repetition_penalty(rows, own, 2.0), "the logits of two texts")


def solve_penalize(logits, tokens, penalty):
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return logits.scatter(-1, tokens, weaker.gather(-1, tokens))


def penalize_dividing(logits, tokens, penalty):
    return logits.scatter(-1, tokens, (logits / penalty).gather(-1, tokens))


def penalize_counting(logits, tokens, penalty):
    logits = logits.clone()
    for token in tokens[0].tolist():
        logits[0, token] = logits[0, token] * penalty if logits[0, token] < 0 else logits[0, token] / penalty
    return logits


def penalize_subtracting(logits, tokens, penalty):
    return logits.scatter(-1, tokens, (logits - penalty).gather(-1, tokens))


def penalize_others(logits, tokens, penalty):
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return weaker.scatter(-1, tokens, logits.gather(-1, tokens))


def penalize_everything(logits, tokens, penalty):
    return torch.where(logits < 0, logits * penalty, logits / penalty)


SCORES = [1, 0, 2, 2, 3, 0, 3, 1]


def check_best(answer):
    got = [call(answer, SCORES, n) for n in (2, 4)]
    if same(got, [best_with_replacement(SCORES, n) for n in (2, 4)]):
        raise Mistake("you drew with replacement, so that one candidate may be picked twice; the n are different ones")
    if same(got, [best_of_first(SCORES, n) for n in (2, 4)]):
        raise Mistake("these are the first n only: one pick of many, and the answer hangs on the order of the list")
    if same(got, [best_in_runs(SCORES, n) for n in (2, 4)]):
        raise Mistake("you cut the list into runs of n; there are many more ways to pick n, and all of them count")
    if same(got, [best_ever(SCORES, n) for n in (2, 4)]):
        raise Mistake("that is the best of all of them, and not what the best of n has on average")
    if same(got, [best_mean(SCORES, n) for n in (2, 4)]):
        raise Mistake("that is the mean, which is the best of 1: of each pick take the largest")
    close(got, [expected_best(SCORES, n) for n in (2, 4)], "the expected best of 2, and of 4,")
    edges = [call(answer, SCORES, 1), call(answer, SCORES, len(SCORES))]
    close(edges, [sum(SCORES) / len(SCORES), max(SCORES)], "the best of 1 (the mean), and of all,")


def solve_best(scores, n):
    total = 0
    for place, score in enumerate(sorted(scores)):
        total += math.comb(place, n - 1) * score  # the others of the n come from the `place` below it
    return total / math.comb(len(scores), n)


def best_with_replacement(scores, n):
    size, ordered = len(scores), sorted(scores)
    return sum(score * (((i + 1) / size) ** n - (i / size) ** n) for i, score in enumerate(ordered))


def best_of_first(scores, n):
    return max(scores[:n])


def best_in_runs(scores, n):
    runs = [scores[i : i + n] for i in range(0, len(scores), n)]
    return sum(map(max, runs)) / len(runs)


def best_ever(scores, n):
    return max(scores)


def best_mean(scores, n):
    return sum(scores) / len(scores)


EXERCISES = (
    Exercise(
        id="19-1",
        title="Cooler",
        minutes=4,
        level="easy",
        hints=(
            "Divide each logit by 0.5. What are they then?",
            "They are 4, 2 and 0. Their weights are e⁴ = 54.6, e² = 7.39 and e⁰ = 1.",
        ),
        check=check_cooler,
        solution=0.867,
        wrong=(
            Wrong(0.665, "that is the share at temperature 1"),
            Wrong(0.506, "dividing by 0.5 doubles them"),
            Wrong(54.6, "that is the weight"),
            Wrong(86.7, "that is in percent"),
        ),
        learned="half the temperature doubles every distance between logits, so that ratios of probabilities are squared.",
        why="54.6 / (54.6 + 7.39 + 1) = 0.867.",
    ),
    Exercise(
        id="19-2",
        title="The nucleus",
        minutes=10,
        level="medium",
        hints=(
            "logits.sort(dim=-1, descending=True) gives two things: the sorted logits, and where each came from.",
            "chances.cumsum(dim=-1) - chances is what all likelier tokens have together. A token goes when that has reached p already.",
            "torch.zeros_like(logits).scatter(-1, places, ordered) puts each back where it came from.",
        ),
        check=check_nucleus,
        solution=solve_nucleus,
        wrong=(
            Wrong(nucleus_too_small, "the token that crosses p is missing"),
            Wrong(nucleus_too_large, "one token too many"),
            Wrong(nucleus_unsorted, "in the order of the vocabulary"),
            Wrong(nucleus_misplaced, "never put back"),
            Wrong(nucleus_as_probabilities, "these are probabilities"),
            Wrong(nucleus_of_zeros, "what can't come is −∞"),
        ),
        learned="the nucleus is as large as the model's doubt asks for, and never empty.",
    ),
    Exercise(
        id="19-3",
        title="Don't say that again",
        minutes=8,
        level="medium",
        hints=(
            "Work out a weaker version of *every* logit first: torch.where(logits < 0, …, …).",
            "Then put it in place of those that occurred: weaker.gather(-1, tokens) and logits.scatter(-1, tokens, …).",
        ),
        check=check_penalize,
        solution=solve_penalize,
        wrong=(
            Wrong(penalize_dividing, "below 0 a logit must be multiplied"),
            Wrong(penalize_counting, "each counts once"),
            Wrong(penalize_subtracting, "what a presence penalty does"),
            Wrong(penalize_others, "did *not* occur"),
            Wrong(penalize_everything, "whether it occurred or not"),
        ),
        learned="the penalty asks only whether a token occurred: the words *the* and *and* pay like any other.",
    ),
    Exercise(
        id="19-4",
        title="What is one more try worth?",
        minutes=12,
        level="hard",
        hints=(
            "Sort the scores. When is the one at `place` (from 0) the largest of n picked? When all the others stand below it.",
            "The other n − 1 come from the `place` below it: math.comb(place, n - 1) ways, of math.comb(len(scores), n) in all.",
        ),
        check=check_best,
        solution=solve_best,
        wrong=(
            Wrong(best_with_replacement, "you drew with replacement"),
            Wrong(best_of_first, "these are the first n only"),
            Wrong(best_in_runs, "you cut the list into runs"),
            Wrong(best_ever, "that is the best of all of them"),
            Wrong(best_mean, "that is the mean"),
        ),
        learned="one pool of N texts tells what the best of 1, 2, …, N is worth, with no luck in it beyond the pool's own.",
    ),
)

QUIZ = (
    Question(
        id="19-q1",
        text="The model is sure: one token has 0.97. You draw with top_k=50. What can come?",
        choices=(
            Choice("Only that token", "top-k doesn't look at probabilities, only at ranks: 50 stay."),
            Choice(
                "Any of 50, and at each token one time in thirty or so it isn't the one of 0.97",
                "A fixed number is too many where the model is sure. Top-p at 0.9 or min-p at 0.1 would keep one.",
                right=True,
            ),
            Choice("Any of the 50, each equally likely", "What stays keeps its proportions: the one of 0.97 still has most."),
        ),
    ),
    Question(
        id="19-q2",
        text="You turn the temperature to 2 and keep top_p=0.9, temperature first. A colleague applies top_p=0.9 first, then the temperature. Whose texts are wilder?",
        choices=(
            Choice("Both alike, since the two knobs commute", "They don't: top-p reads probabilities, and temperature changes them."),
            Choice(
                "The colleague's, since temperature has the last word",
                "Temperature only reshuffles what top-p has left, and it has left few.",
            ),
            Choice(
                "Yours: a warmer distribution is flatter, so 0.9 of it takes in many more tokens",
                "Ask for the order before you compare settings of two programs.",
                right=True,
            ),
        ),
    ),
    Question(
        id="19-q3",
        text="Best-of-N with the model's own log-likelihood (the sum) as the scorer. What does a larger N bring?",
        choices=(
            Choice(
                "Shorter texts above all, which do what was asked only somewhat more often",
                "Every token costs likelihood. You saw its picks shrink to a third, and gain half a point where the right scorer gained more.",
                right=True,
            ),
            Choice("Better texts, since the model knows what it likes", "It knows what is likely. Greedy's loop was very likely too."),
            Choice("The same texts as greedy decoding", "Greedy takes the likeliest next token, and that needn't lead to the likeliest text."),
        ),
    ),
)
