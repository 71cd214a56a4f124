"""The exercises of the lesson on sampling."""

import math
from itertools import combinations, combinations_with_replacement

import torch

from course_lib.course.exercise import Case, Exercise

# Unsure; sure; and with the likeliest in the middle.
ROWS = [[1.0, 0.8, 0.6, 0.4, 0.2], [9.0, 1.0, 0.0, -1.0, -2.0], [-1.0, 0.5, 3.0, 2.0, 0.0]]
EQUAL_TOKENS = "the number of tokens that nucleus_of([[0.0, 0.0, 0.0, 0.0]], 0.5) keeps"
SCORES = [1, 0, 2, 2, 3, 0, 3, 1]


def nucleus_case(p):
    return Case(torch.tensor(ROWS), p, name=f"with logits = {ROWS}, nucleus_of(logits, {p})")


def how_many_stay(answer, logits, p):
    """Of equal logits it doesn't matter which ones stay."""
    kept = answer(logits, p)
    return int(torch.as_tensor(kept).isfinite().sum()) if hasattr(kept, "shape") else kept


def nucleus_of(logits, p):
    ordered, places = logits.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances  # what all likelier ones have together
    ordered = ordered.masked_fill(before >= p, -float("inf"))
    return torch.zeros_like(logits).scatter(-1, places, ordered)


def before(ordered, dim=-1):
    chances = ordered.softmax(dim=dim)
    return chances.cumsum(dim=-1) - chances


def nucleus_by(goes, descending=True):
    """A wrong function, in which those of the sorted logits go for which `goes`(ordered, p) is true."""

    def nucleus(logits, p):
        ordered, places = logits.sort(dim=-1, descending=descending)
        ordered = ordered.masked_fill(goes(ordered, p), -math.inf)
        return torch.zeros_like(logits).scatter(-1, places, ordered)

    return nucleus


def sums(ordered):
    return ordered.softmax(dim=-1).cumsum(dim=-1)


def but_the_first(goes):
    return goes & (torch.arange(goes.shape[-1]) > 0)


def nucleus_unsorted(logits, p):
    return logits.masked_fill(before(logits) >= p, -math.inf)


def nucleus_misplaced(logits, p):
    return nucleus_unsorted(logits.sort(dim=-1, descending=True).values, p)


UNSORTED = "the probabilities were added up in the order of the vocabulary; the likeliest comes first"
TOKEN_MISSING = "the token that crosses p is missing: those that are kept must *reach* p"
PROBABILITIES = "these are probabilities; knobs take logits and give logits, so that they compose"
LOG_PROBABILITIES = "right tokens, but these are their log-probabilities: what stays keeps its logit"


def penalize(logits, tokens, penalty):
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return logits.scatter(-1, tokens, weaker.gather(-1, tokens))


def weaker(logits, by):
    return torch.where(logits < 0, logits * by, logits / by)


def exchanged(logits, tokens, others):
    return logits.scatter(-1, tokens, others.gather(-1, tokens))


def penalize_counting(logits, tokens, penalty):
    for column in tokens.T:
        logits = penalize(logits, column[:, None], penalty)
    return logits


def best(scores, n):
    total = 0
    for place, score in enumerate(sorted(scores)):
        total += math.comb(place, n - 1) * score  # the others of the n come from the `place` below it
    return total / math.comb(len(scores), n)


def best_by(ways, order=sorted):
    """A wrong function, which counts each score as often as `ways`(place, n) says."""
    return lambda scores, n: (
        sum(ways(place, n) * score for place, score in enumerate(order(scores))) / math.comb(len(scores), n)
    )


def best_with_replacement(scores, n):
    size, ordered = len(scores), sorted(scores)
    return sum(score * (((i + 1) / size) ** n - (i / size) ** n) for i, score in enumerate(ordered))


def mean_of_largest(picks):
    largest = [max(pick) for pick in picks]
    return sum(largest) / len(largest)


def best_of_slices(scores, n, step):
    return mean_of_largest(scores[i : i + n] for i in range(0, len(scores) - n + 1, step))


WITH_REPLACEMENT = "you let one candidate be picked twice, and the n are different ones"
EQUAL_PICKS = "equal picks were taken for one: each counts, since candidates with equal scores are still two"


EXERCISES = (
    Exercise(
        id="cooler",
        solution=0.867,
        tolerance=4e-3,
        wrong={
            0.666: (
                "a step is missing: 0.665 is the share at temperature 1, and 0.667 is 2 / (2 + 1 + 0), "
                "without e. Divide each logit by the temperature, then take e to each"
            ),
            0.5065: "you multiplied the logits by 0.5; dividing by 0.5 doubles them",
            54.6: "that is the weight, e to the 4th; a share is the weight divided by the sum of all three",
            86.7: "that is in percent; write it as a number between 0 and 1",
            0.1173: "that is *lion*'s share; the question is about *tiger*, whose logit is the largest",
        },
        otherwise=(
            "that is not it. Three steps: divide each logit by the temperature, take e to each, and find "
            "*tiger*'s share of the sum"
        ),
    ),
    Exercise(
        id="nucleus",
        solution=nucleus_of,
        cases=(
            *map(nucleus_case, (0.8, 0.3, 1.0)),
            Case(torch.zeros(1, 4), 0.5, probe=how_many_stay, name=EQUAL_TOKENS),
        ),
        wrong={
            nucleus_by(lambda ordered, p: sums(ordered) > p): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: sums(ordered) >= p): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: but_the_first(sums(ordered) > p)): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: but_the_first(sums(ordered) >= p)): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: (before(ordered) >= p).cumsum(dim=-1) > 1): (
                "one token too many: stop with the token that crosses p"
            ),
            nucleus_by(lambda ordered, p: before(ordered) > p): (
                "of four equally likely tokens, two together *reach* 0.5, and yours keeps three: a token "
                "goes as soon as the likelier ones *have* p, so look at your > or <"
            ),
            nucleus_by(lambda ordered, p: before(ordered) >= p, descending=False): (
                "you began adding at the least likely token, so that the tail stays and the likeliest goes"
            ),
            nucleus_by(lambda ordered, p: (before(ordered) >= p)[0]): (
                "every row was cut where the first is: each row has a nucleus of its own"
            ),
            nucleus_by(lambda ordered, p: before(ordered, dim=0) >= p): (
                "the softmax runs down the columns; each row's probabilities must add up to 1 (dim=-1)"
            ),
            nucleus_by(lambda ordered, p: ordered.cumsum(dim=-1) - ordered >= p): (
                "you added up the logits; it is their probabilities that reach p"
            ),
            nucleus_unsorted: UNSORTED,
            lambda logits, p: logits.masked_fill(sums(logits) > p, -math.inf): UNSORTED,
            lambda logits, p: logits.masked_fill(sums(logits) >= p, -math.inf): UNSORTED,
            nucleus_misplaced: "sorted, and never put back: each logit must return to its own token's place",
            lambda logits, p: logits.masked_fill(nucleus_misplaced(logits, p).isinf(), -math.inf): (
                "the mask has the order of the sorted logits: put it back into the vocabulary's order first"
            ),
            lambda logits, p: nucleus_misplaced(logits, p).gather(-1, logits.argsort(-1, descending=True)): (
                "gather takes from the places, and scatter puts into them: putting back needs scatter"
            ),
            lambda logits, p: nucleus_of(logits, p).softmax(dim=-1): PROBABILITIES,
            lambda logits, p: logits.softmax(dim=-1) * nucleus_of(logits, p).isfinite(): PROBABILITIES,
            lambda logits, p: logits.softmax(-1).where(nucleus_of(logits, p) > -math.inf, -math.inf): (
                PROBABILITIES
            ),
            lambda logits, p: nucleus_of(logits, p).log_softmax(dim=-1): LOG_PROBABILITIES,
            lambda logits, p: nucleus_of(logits, p) - logits.logsumexp(-1, keepdim=True): LOG_PROBABILITIES,
            lambda logits, p: logits.masked_fill(nucleus_of(logits, p).isinf(), 0): (
                "a logit of 0 is an ordinary logit, e⁰ = 1 and not nothing: what can't come is −∞"
            ),
            lambda logits, p: logits.masked_fill(logits.softmax(dim=-1) < p, -math.inf): (
                "compare p with the sum of the likelier tokens, not with each token's own probability"
            ),
            nucleus_by(lambda ordered, p: ordered < ordered[..., :1] + math.log(p)): (
                "that is min-p, a share of the likeliest one's probability; top-p asks for a sum"
            ),
        },
    ),
    Exercise(
        id="repetition-penalty",
        solution=penalize,
        cases=(
            Case(torch.tensor([[2.0, -2.0, 4.0, -1.0, 0.5]]), torch.tensor([[0, 1, 4, 1, 4, 4]]), 2.0),
            Case(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[0], [1]]), 2.0),
            Case(torch.tensor([[-0.5, 3.0, -1.0], [6.0, -0.1, 0.3]]), torch.tensor([[0, 2], [1, 2]]), 1.5),
        ),
        wrong={
            lambda logits, tokens, by: exchanged(logits, tokens, logits / by): (
                "dividing −2 by 2 gives −1, which is *likelier*: below 0 a logit must be multiplied"
            ),
            lambda logits, tokens, by: exchanged(logits, tokens, logits * by): (
                "2 times 2 is 4, which is *likelier*: multiply only below 0, and divide above"
            ),
            lambda logits, tokens, by: penalize(logits, tokens, 1 / by): (
                "× and ÷ are the wrong way round: what occurred has become likelier"
            ),
            penalize_counting: "a token that occurs twice was made weaker twice: each counts only once",
            lambda logits, tokens, by: exchanged(logits, tokens, logits - by): (
                "subtracting is what a presence penalty does; this one divides or multiplies"
            ),
            lambda logits, tokens, by: logits.scatter_add(-1, tokens, 0.0 * tokens - by): (
                "subtracting for each time is what a frequency penalty does; this one divides or multiplies"
            ),
            lambda logits, tokens, by: exchanged(weaker(logits, by), tokens, logits): (
                "the tokens that did *not* occur were made weaker"
            ),
            lambda logits, tokens, by: weaker(logits, by): "every token was made weaker, even if it is new",
            lambda logits, tokens, by: penalize(logits, tokens[:, -1:], by): (
                "only the last token of each text was made weaker; all that have occurred are"
            ),
            lambda logits, tokens, by: penalize(logits, tokens.reshape(1, -1).repeat(len(logits), 1), by): (
                "what one row's text holds was made weaker in the other row too: each row has its own text"
            ),
        },
    ),
    Exercise(
        id="best-of-n",
        solution=best,
        cases=(
            Case([0, 1, 2], 2),
            *(Case(SCORES, n) for n in (2, 4, 1)),
            Case([0.5, -3.0, -1.5, -0.25], 2),
            Case([1, 5, 2], 3),
        ),
        wrong={
            best_with_replacement: WITH_REPLACEMENT,
            lambda scores, n: mean_of_largest(combinations_with_replacement(scores, n)): WITH_REPLACEMENT,
            lambda scores, n: mean_of_largest(set(combinations(scores, n))): EQUAL_PICKS,
            lambda scores, n: mean_of_largest(set(combinations(sorted(scores), n))): EQUAL_PICKS,
            lambda scores, n: mean_of_largest((0, *pick) for pick in combinations(scores, n)): (
                "don't begin with 0: where all scores of a pick are negative, its largest is negative, too"
            ),
            lambda scores, n: max(scores[:n]): "that is the first n alone: look at every way to pick n",
            lambda scores, n: best_of_slices(scores, n, step=n): (
                "you cut the list into runs of n; there are many more ways to pick n, and all of them count"
            ),
            lambda scores, n: best_of_slices(scores, n, step=1): (
                "you took only candidates that stand next to each other; there are many more ways to pick n"
            ),
            lambda scores, n: max(scores): "that is the best of all: take the best of each pick of n",
            lambda scores, n: sum(scores) / len(scores): "that is the mean: of each pick take the largest",
            best_by(lambda place, n: math.comb(place, n - 1), order=list): (
                "the scores weren't sorted: how many stand below one isn't its place in the list as it came"
            ),
            best_by(lambda place, n: math.comb(place, n - 1), order=lambda it: sorted(it, reverse=True)): (
                "that averages the *smallest* of each pick. If you sort, begin with the smallest score: then "
                "its place says how many stand below it"
            ),
            best_by(lambda place, n: math.comb(place + 1, n)): (
                "many picks from a score and those below it don't hold the score: choose its n − 1 partners"
            ),
            best_by(math.comb): "the score itself is one of the n: choose only n − 1 from those below",
            best_by(lambda place, n: math.comb(place + 1, n - 1)): (
                "its partners were chosen from one score too many: below it stand `place`, counted from 0"
            ),
            lambda scores, n: best(scores, n) * math.comb(len(scores), n): (
                "that is the sum over all ways; an average also divides by how many ways there are"
            ),
            lambda scores, n: best(list(set(scores)), n): "equal scores count separately: drop none",
            lambda scores, n: sum(sorted(scores)[-n:]) / n: (
                "that is the mean of the n best; of *each* way to pick n, take the largest"
            ),
        },
    ),
)
