"""The exercises and the quiz of 19, sampling."""

import copy
import math

import torch

from course_lib.course.checking import Mistake, call, close, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.evaluate import expected_best
from course_lib.generate import min_p, repetition_penalty, top_p

TITLE = "Sampling"


def check_cooler(answer):
    """Logits 2, 1, 0 at temperature 0.5: weights e^4, e^2, e^0."""
    weights = [math.exp(2 * logit) for logit in (2.0, 1.0, 0.0)]
    right = weights[0] / sum(weights)
    if same(answer, math.e**2 / sum(map(math.exp, (2, 1, 0))), 5e-4):
        raise Mistake("that is the share at temperature 1: divide the logits by the temperature first")
    if same(answer, 2 / 3, 1e-3):
        raise Mistake(
            "that is 2 of 2 + 1 + 0: a share isn't taken of the logits themselves, but of e to each"
        )
    if same(answer, math.e / sum(math.exp(logit / 2) for logit in (2, 1, 0)), 1e-3):
        raise Mistake("you multiplied the logits by 0.5; dividing by 0.5 doubles them")
    if same(answer, weights[0], 5e-3):
        raise Mistake(
            "that is the weight, e to the fourth; a share is the weight divided by the sum of all three"
        )
    if same(answer, 100 * right, 5e-3):
        raise Mistake("that is in percent; write it as a number between 0 and 1")
    if not same(answer, right, 5e-3):
        raise Mistake(
            "not this. Three steps: each logit by the temperature, e to each, and *tiger*'s share of the sum"
        )


def _leaves_alone(answer, *given):
    """A right answer must not change what it was given: whoever called still needs it."""
    own = copy.deepcopy(given)
    answer(*own)
    if not all(map(same, own, given)):
        raise Mistake("the result is right, but your function changed what it was given; work on a copy")


# Unsure; sure; and with the likeliest in the middle.
ROWS = [[1.0, 0.8, 0.6, 0.4, 0.2], [9.0, 1.0, 0.0, -1.0, -2.0], [-1.0, 0.5, 3.0, 2.0, 0.0]]


def check_nucleus(answer):
    logits, some = torch.tensor(ROWS), (0.8, 0.3)
    got = [call(answer, logits, p) for p in some]
    if all(isinstance(g, torch.Tensor) and g.shape == logits.shape for g in got):
        _name_nucleus_mistake(logits, got, some)
    name = f"with logits = {ROWS}, nucleus_of(logits, {{}})"
    for p, g in zip(some, got, strict=True):
        close(g, top_p(logits, p), name.format(p))
    close(call(answer, logits, 1.0), logits, name.format(1.0))
    _leaves_alone(answer, logits, 0.8)


def _name_nucleus_mistake(logits, got, some):
    for wrong, why in NUCLEUS_MISTAKES.items():
        if all(same(g, wrong(logits, p)) for g, p in zip(got, some, strict=True)):
            raise Mistake(why)
    kept = [top_p(logits, p) for p in some]
    if all(
        same(g, torch.where(k.isfinite(), logits.log_softmax(dim=-1), k))
        for g, k in zip(got, kept, strict=True)
    ):
        raise Mistake(NUCLEUS_MISTAKES[nucleus_of_log_probabilities])


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


def nucleus_from_below(logits, p):
    ordered, places = logits.sort(dim=-1)
    chances = ordered.softmax(dim=-1)
    ordered = ordered.masked_fill(chances.cumsum(dim=-1) - chances >= p, -math.inf)
    return torch.zeros_like(logits).scatter(-1, places, ordered)


def nucleus_gathered(logits, p):
    ordered, places = logits.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    return ordered.masked_fill(chances.cumsum(dim=-1) - chances >= p, -math.inf).gather(-1, places)


def nucleus_of_first_row(logits, p):
    return _nucleus(logits, lambda chances: (chances.cumsum(dim=-1) - chances >= p)[0])


def nucleus_above_threshold(logits, p):
    return logits.masked_fill(logits.softmax(dim=-1) < p, -math.inf)


def nucleus_by_min_p(logits, p):
    return min_p(logits, p)


def nucleus_of_log_probabilities(logits, p):
    return solve_nucleus(logits, p).log_softmax(dim=-1)


def nucleus_in_place(logits, p):
    return logits.copy_(solve_nucleus(logits, p))


NUCLEUS_MISTAKES = {
    nucleus_too_small: "the token that crosses p is missing: what is kept must *reach* p",
    nucleus_too_large: "one token too many: stop with the token that crosses p",
    nucleus_unsorted: (
        "the probabilities were added up in the order of the vocabulary; the likeliest comes first"
    ),
    nucleus_misplaced: "sorted, and never put back: each logit must stand at its own token's place again",
    nucleus_as_probabilities: (
        "these are probabilities; knobs take logits and give logits, so that they compose"
    ),
    nucleus_of_zeros: "a logit of 0 is an ordinary logit, e⁰ = 1 and not nothing: what can't come is −∞",
    nucleus_from_below: "you began to add at the least likely, so that the tail stays and the likeliest goes",
    nucleus_gathered: "gather takes from the places, and scatter puts into them: putting back needs scatter",
    nucleus_of_first_row: "every row was cut where the first is: each row has a nucleus of its own",
    nucleus_above_threshold: (
        "p was compared with each token's own probability; compare it with the sum of all likelier ones"
    ),
    nucleus_by_min_p: "that is min-p, a share of the likeliest one's probability; top-p asks for a sum",
    nucleus_of_log_probabilities: (
        "right tokens, but their logits have changed, into log-probabilities: what stays keeps its logit"
    ),
}


def check_penalize(answer):
    logits, tokens = torch.tensor([[2.0, -2.0, 4.0, -1.0, 0.5]]), torch.tensor([[0, 1, 1, 4, 4, 4]])
    _check_penalized(answer, logits, tokens, PENALIZE_MISTAKES)
    rows, own = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[0], [1]])
    each_its_own = {
        penalize_all_rows: (
            "what one row's text holds was made weaker in the other row too: each row has its own text"
        )
    }
    _check_penalized(answer, rows, own, each_its_own)
    _leaves_alone(answer, logits, tokens, 2.0)


def _check_penalized(answer, logits, tokens, mistakes):
    got, want = call(answer, logits, tokens, 2.0), repetition_penalty(logits, tokens, 2.0)
    for wrong, why in mistakes.items():
        if same(got, wrong(logits, tokens, 2.0)):
            raise Mistake(why)
    close(got, want, f"penalize({logits.tolist()}, {tokens.tolist()}, 2.0)")


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


def penalize_swapped(logits, tokens, penalty):
    return solve_penalize(logits, tokens, 1 / penalty)


def penalize_multiplying(logits, tokens, penalty):
    return logits.scatter(-1, tokens, (logits * penalty).gather(-1, tokens))


def penalize_all_rows(logits, tokens, penalty):
    found = tokens.unique()
    logits = logits.clone()
    logits[:, found] = penalize_everything(logits[:, found], tokens, penalty)
    return logits


def penalize_in_place(logits, tokens, penalty):
    return logits.copy_(solve_penalize(logits, tokens, penalty))


PENALIZE_MISTAKES = {
    penalize_dividing: "dividing −2 by 2 gives −1, which is *likelier*: below 0 a logit must be multiplied",
    penalize_counting: (
        "a token that occurred twice was made weaker twice: each counts once, however often it occurred"
    ),
    penalize_subtracting: "subtracting is what a presence penalty does; this one divides or multiplies",
    penalize_others: "the tokens that did *not* occur were made weaker",
    penalize_everything: "every token was made weaker, whether it occurred or not",
    penalize_swapped: "× and ÷ are the wrong way round: what occurred has become likelier",
    penalize_multiplying: "4 times 2 is 8, which is *likelier*: multiply only below 0, and divide above",
}
SCORES = [1, 0, 2, 2, 3, 0, 3, 1]


def check_best(answer):
    got = [call(answer, SCORES, n) for n in (2, 4)]
    for wrong, why in BEST_MISTAKES.items():
        if same(got, [wrong(SCORES, n) for n in (2, 4)]):
            raise Mistake(why)
    for value, n in zip(got, (2, 4), strict=True):
        close(value, expected_best(SCORES, n), f"best({SCORES}, {n})")
    close(call(answer, SCORES, 1), sum(SCORES) / len(SCORES), f"best({SCORES}, 1), which is the mean,")
    close(
        call(answer, SCORES, len(SCORES)), max(SCORES), f"best({SCORES}, {len(SCORES)}), the largest of all,"
    )
    _leaves_alone(answer, SCORES, 2)


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


def best_unsorted(scores, n):
    return sum(math.comb(i, n - 1) * score for i, score in enumerate(scores)) / math.comb(len(scores), n)


def best_or_below(scores, n):
    return sum(math.comb(i + 1, n) * score for i, score in enumerate(sorted(scores))) / math.comb(
        len(scores), n
    )


def best_undivided(scores, n):
    return solve_best(scores, n) * math.comb(len(scores), n)


def best_without_doubles(scores, n):
    return solve_best(set(scores), n)


def best_mean_of_top(scores, n):
    return sum(sorted(scores)[-n:]) / n


def best_in_place(scores, n):
    scores.sort()
    return solve_best(scores, n)


BEST_MISTAKES = {
    best_with_replacement: (
        "you drew with replacement, so that one candidate may be picked twice; the n are different ones"
    ),
    best_of_first: (
        "these are the first n only: one pick of many, and the answer hangs on the order of the list"
    ),
    best_in_runs: (
        "you cut the list into runs of n; there are many more ways to pick n, and all of them count"
    ),
    best_ever: "that is the best of all of them, and not what the best of n has on average",
    best_mean: "that is the mean, which is the best of 1: of each pick take the largest",
    best_unsorted: (
        "the scores weren't sorted: how many stand below one isn't its place in the list as it came"
    ),
    best_or_below: (
        "that counts the picks from this score and all below it, and "
        "many of these don't hold it: its n − 1 partners are chosen"
    ),
    best_undivided: "that is the sum over all ways; an average also divides by how many ways there are",
    best_without_doubles: "equal scores were taken for one; two candidates with the same score are still two",
    best_mean_of_top: "that is the mean of the n best; of *each* way to pick n, take the largest",
}


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
            Wrong(0.667, "but of e to each"),
            Wrong(0.506, "dividing by 0.5 doubles them"),
            Wrong(54.6, "that is the weight"),
            Wrong(86.7, "that is in percent"),
            Wrong(0.5, "not this. Three steps"),
        ),
        learned=(
            "half the temperature doubles every distance between "
            "logits, so that ratios of probabilities are squared."
        ),
        why="54.6 / (54.6 + 7.39 + 1) = 0.867.",
    ),
    Exercise(
        id="19-2",
        title="The nucleus",
        minutes=10,
        level="medium",
        hints=(
            (
                "logits.sort(dim=-1, descending=True) gives two "
                "things: the sorted logits, and where each came from."
            ),
            (
                "chances.cumsum(dim=-1) - chances is what all likelier tokens "
                "have together. A token goes when that has reached p already."
            ),
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
            Wrong(nucleus_from_below, "at the least likely"),
            Wrong(nucleus_gathered, "putting back needs scatter"),
            Wrong(nucleus_of_first_row, "each row has a nucleus of its own"),
            Wrong(nucleus_above_threshold, "with each token's own probability"),
            Wrong(nucleus_by_min_p, "that is min-p"),
            Wrong(nucleus_of_log_probabilities, "what stays keeps its logit"),
            Wrong(nucleus_in_place, "changed what it was given"),
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
            (
                "Then put it in place of those that occurred: "
                "weaker.gather(-1, tokens) and logits.scatter(-1, tokens, …)."
            ),
        ),
        check=check_penalize,
        solution=solve_penalize,
        wrong=(
            Wrong(penalize_dividing, "below 0 a logit must be multiplied"),
            Wrong(penalize_counting, "each counts once"),
            Wrong(penalize_subtracting, "what a presence penalty does"),
            Wrong(penalize_others, "did *not* occur"),
            Wrong(penalize_everything, "whether it occurred or not"),
            Wrong(penalize_swapped, "the wrong way round"),
            Wrong(penalize_multiplying, "multiply only below 0"),
            Wrong(penalize_all_rows, "each row has its own text"),
            Wrong(penalize_in_place, "changed what it was given"),
        ),
        learned=(
            "the penalty asks only whether a token occurred: the words *the* and *and* pay like any other."
        ),
    ),
    Exercise(
        id="19-4",
        title="What is one more try worth?",
        minutes=12,
        level="hard",
        hints=(
            (
                "Sort the scores. When is the one at `place` (from 0) the "
                "largest of n picked? When all the others stand below it."
            ),
            (
                "The other n − 1 come from the `place` below it: math.comb(place, "
                "n - 1) ways, of math.comb(len(scores), n) in all."
            ),
        ),
        check=check_best,
        solution=solve_best,
        wrong=(
            Wrong(best_with_replacement, "you drew with replacement"),
            Wrong(best_of_first, "these are the first n only"),
            Wrong(best_in_runs, "you cut the list into runs"),
            Wrong(best_ever, "that is the best of all of them"),
            Wrong(best_mean, "the best of 1"),
            Wrong(best_unsorted, "weren't sorted"),
            Wrong(best_or_below, "partners are chosen"),
            Wrong(best_undivided, "the sum over all ways"),
            Wrong(best_without_doubles, "are still two"),
            Wrong(best_mean_of_top, "the mean of the n best"),
            Wrong(best_in_place, "changed what it was given"),
        ),
        learned=(
            "one pool of N texts tells what the best of 1, 2, …, "
            "N is worth, with no luck in it beyond the pool's own."
        ),
    ),
)

QUIZ = (
    Question(
        id="19-q1",
        text="The model is sure: one token has 0.97. You draw with top_k=50. What can come?",
        choices=(
            Choice("Only that token", "top-k doesn't look at probabilities, only at ranks: 50 stay."),
            Choice(
                "Any of 50; at most one time in 33 it isn't the one of 0.97",
                (
                    "A fixed number is too many where the model is "
                    "sure. Top-p at 0.9 or min-p at 0.1 would keep one."
                ),
                right=True,
            ),
            Choice(
                "Any of the 50, each equally likely",
                "What stays keeps its proportions: the one of 0.97 still has most.",
            ),
        ),
    ),
    Question(
        id="19-q2",
        text=(
            "You turn the temperature to 2 and keep top_p=0.9, temperature first. A colleague applies "
            "top_p=0.9 first, then the temperature. Whose texts are wilder?"
        ),
        choices=(
            Choice(
                "Both alike, since the two knobs commute",
                "They don't: top-p reads probabilities, and temperature changes them.",
            ),
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
        text=(
            "Best-of-N with the model's own log-likelihood (the "
            "sum) as the scorer. What does a larger N bring?"
        ),
        choices=(
            Choice(
                "Shorter texts above all, which do what was asked only somewhat more often",
                (
                    "Every token costs likelihood. You saw its picks shrink to a third. They gained 0.7 of "
                    "a point, most of it for being short, where the scorer that knows the task gained 1.7."
                ),
                right=True,
            ),
            Choice(
                "Better texts, since the model knows what it likes",
                "It knows what is likely. Greedy's loop was very likely too.",
            ),
            Choice(
                "The same texts as greedy decoding",
                "Greedy takes the likeliest next token, and that needn't lead to the likeliest text.",
            ),
        ),
    ),
)
