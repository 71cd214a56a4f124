"""The exercises of the lesson on sampling."""

import math

import torch

from course_lib.course.exercise import Case, Exercise

# Unsure; sure; and with the likeliest in the middle.
ROWS = [[1.0, 0.8, 0.6, 0.4, 0.2], [9.0, 1.0, 0.0, -1.0, -2.0], [-1.0, 0.5, 3.0, 2.0, 0.0]]
SCORES = [1, 0, 2, 2, 3, 0, 3, 1]


def nucleus_case(p):
    return Case(torch.tensor(ROWS), p, name=f"with logits = {ROWS}, nucleus_of(logits, {p})")


def how_many_stay(answer, logits, p):
    """Of equal logits it doesn't matter which ones stay."""
    kept = answer(logits, p)
    return int(kept.isfinite().sum()) if isinstance(kept, torch.Tensor) else kept


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


def nucleus_unsorted(logits, p):
    return logits.masked_fill(before(logits) >= p, -math.inf)


def nucleus_misplaced(logits, p):
    return nucleus_unsorted(logits.sort(dim=-1, descending=True).values, p)


TOKEN_MISSING = "the token that crosses p is missing: those that are kept must *reach* p"
PROBABILITIES = "these are probabilities; knobs take logits and give logits, so that they compose"
LOG_PROBABILITIES = (
    "right tokens, but their logits have changed, into log-probabilities: what stays keeps its logit"
)


def penalize(logits, tokens, penalty):
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return logits.scatter(-1, tokens, weaker.gather(-1, tokens))


def penalize_everything(logits, tokens, penalty):
    return torch.where(logits < 0, logits * penalty, logits / penalty)


def exchanged(logits, tokens, weaker):
    return logits.scatter(-1, tokens, weaker.gather(-1, tokens))


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


def best_of_slices(scores, n, step):
    slices = [scores[i : i + n] for i in range(0, len(scores) - n + 1, step)]
    return sum(map(max, slices)) / len(slices)


EXERCISES = (
    Exercise(
        id="cooler",
        hints=(
            "Divide each logit by 0.5. What are they then?",
            "They are 4, 2 and 0. Their weights are e⁴ = 54.6, e² = 7.39 and e⁰ = 1.",
        ),
        learned=(
            "half the temperature doubles every distance between logits, so that ratios of probabilities "
            "are squared."
        ),
        solution=0.867,
        why="54.6 / (54.6 + 7.39 + 1) = 0.867.",
        tolerance=4e-3,
        wrong={
            0.666: (
                "0.665 is the share at temperature 1, and 0.667 is 2 of 2 + 1 + 0: divide the logits by the "
                "temperature first; and the share isn't taken of the logits themselves, but of e to each"
            ),
            0.5065: "you multiplied the logits by 0.5; dividing by 0.5 doubles them",
            54.6: "that is the weight, e to the 4th; a share is the weight divided by the sum of all three",
            86.7: "that is in percent; write it as a number between 0 and 1",
            0.1173: "that is *lion*'s share; the question is about *tiger*, whose logit is the largest",
        },
        otherwise=(
            "not this. Three steps: each logit by the temperature, e to each, and *tiger*'s share of the sum"
        ),
    ),
    Exercise(
        id="nucleus",
        hints=(
            "logits.sort(dim=-1, descending=True) gives the sorted logits, and where each came from.",
            "chances.cumsum(dim=-1) - chances is what all likelier tokens have together.",
            "A token goes when that has reached p already.",
            "torch.zeros_like(logits).scatter(-1, places, ordered) puts each back where it came from.",
        ),
        learned="the nucleus is as large as the model's doubt asks for, and never empty.",
        solution=nucleus_of,
        cases=(
            *map(nucleus_case, (0.8, 0.3, 1.0)),
            Case(
                torch.zeros(1, 4),
                0.5,
                probe=how_many_stay,
                name="the number of tokens that nucleus_of([[0.0, 0.0, 0.0, 0.0]], 0.5) keeps",
            ),
        ),
        wrong={
            nucleus_by(lambda ordered, p: ordered.softmax(dim=-1).cumsum(dim=-1) > p): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: ordered.softmax(dim=-1).cumsum(dim=-1) >= p): TOKEN_MISSING,
            nucleus_by(lambda ordered, p: (before(ordered) >= p).cumsum(dim=-1) > 1): (
                "one token too many: stop with the token that crosses p"
            ),
            nucleus_by(lambda ordered, p: before(ordered) > p): (
                "of four equally likely tokens, two together *reach* 0.5, and yours keeps three: one goes as "
                "soon as the likelier ones have p, so >= and not >"
            ),
            nucleus_by(lambda ordered, p: before(ordered) >= p, descending=False): (
                "you began to add at the least likely, so that the tail stays and the likeliest goes"
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
            nucleus_unsorted: (
                "the probabilities were added up in the order of the vocabulary; the likeliest comes first"
            ),
            nucleus_misplaced: (
                "sorted, and never put back: each logit must stand at its own token's place again"
            ),
            lambda logits, p: logits.masked_fill(nucleus_misplaced(logits, p).isinf(), -math.inf): (
                "what goes was found among the sorted, and crossed out among the unsorted: put it back first"
            ),
            lambda logits, p: nucleus_misplaced(logits, p).gather(-1, logits.argsort(-1, descending=True)): (
                "gather takes from the places, and scatter puts into them: putting back needs scatter"
            ),
            lambda logits, p: nucleus_of(logits, p).softmax(dim=-1): PROBABILITIES,
            lambda logits, p: logits.softmax(dim=-1) * nucleus_of(logits, p).isfinite(): PROBABILITIES,
            lambda logits, p: nucleus_of(logits, p).log_softmax(dim=-1): LOG_PROBABILITIES,
            lambda logits, p: nucleus_of(logits, p) - logits.logsumexp(-1, keepdim=True): LOG_PROBABILITIES,
            lambda logits, p: logits.masked_fill(nucleus_of(logits, p).isinf(), 0): (
                "a logit of 0 is an ordinary logit, e⁰ = 1 and not nothing: what can't come is −∞"
            ),
            lambda logits, p: logits.masked_fill(logits.softmax(dim=-1) < p, -math.inf): (
                "p was compared with each token's own probability; compare it with the sum of likelier ones"
            ),
            nucleus_by(lambda ordered, p: ordered < ordered[..., :1] + math.log(p)): (
                "that is min-p, a share of the likeliest one's probability; top-p asks for a sum"
            ),
        },
    ),
    Exercise(
        id="repetition-penalty",
        hints=(
            "Work out a weaker version of *every* logit first: torch.where(logits < 0, …, …).",
            "Put it in their places: logits.scatter(-1, tokens, weaker.gather(-1, tokens)).",
        ),
        learned=(
            "the penalty asks only whether a token occurred: the words *the* and *and* pay like any other."
        ),
        solution=penalize,
        cases=(
            Case(torch.tensor([[2.0, -2.0, 4.0, -1.0, 0.5]]), torch.tensor([[0, 1, 1, 4, 4, 4]]), 2.0),
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
            penalize_counting: (
                "a token that occurs twice was made weaker twice: each counts once, however often it occurs"
            ),
            lambda logits, tokens, by: exchanged(logits, tokens, logits - by): (
                "subtracting is what a presence penalty does; this one divides or multiplies"
            ),
            lambda logits, tokens, by: logits.scatter_add(-1, tokens, 0.0 * tokens - by): (
                "subtracting for each time is what a frequency penalty does; this one divides or multiplies"
            ),
            lambda logits, tokens, by: exchanged(penalize_everything(logits, tokens, by), tokens, logits): (
                "the tokens that did *not* occur were made weaker"
            ),
            penalize_everything: "every token was made weaker, whether it occurred or not",
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
        hints=(
            "Sort the scores. The one at `place` (from 0) is the largest of n if the others stand below it.",
            "The other n − 1 come from the `place` below: math.comb(place, n - 1) ways.",
            "There are math.comb(len(scores), n) ways in all.",
        ),
        learned=(
            "one pool of N texts tells what the best of 1, 2, …, N is worth, with no luck in it beyond the "
            "pool's own."
        ),
        solution=best,
        cases=(
            Case([0, 1, 2], 2),
            *(Case(SCORES, n) for n in (2, 4, 1)),
            Case([0.5, -3.0, -1.5, 0.25], 3),
            Case([1, 5, 2], 3),
        ),
        wrong={
            best_with_replacement: (
                "you drew with replacement: one candidate may be picked twice, and the n are different ones"
            ),
            lambda scores, n: max(scores[:n]): (
                "these are the first n only: one pick of many, and one that depends on the order of the list"
            ),
            lambda scores, n: best_of_slices(scores, n, step=n): (
                "you cut the list into runs of n; there are many more ways to pick n, and all of them count"
            ),
            lambda scores, n: best_of_slices(scores, n, step=1): (
                "you took only candidates that stand next to each other; there are many more ways to pick n"
            ),
            lambda scores, n: max(scores): (
                "that is the best of all of them, and not what the best of n has on average"
            ),
            lambda scores, n: sum(scores) / len(scores): (
                "that is the mean, which is the best of 1: of each pick take the largest"
            ),
            best_by(lambda place, n: math.comb(place, n - 1), order=list): (
                "the scores weren't sorted: how many stand below one isn't its place in the list as it came"
            ),
            best_by(lambda place, n: math.comb(place, n - 1), order=lambda it: sorted(it, reverse=True)): (
                "that is the average of the *smallest* of each pick: sort with the smallest score first"
            ),
            best_by(lambda place, n: math.comb(place + 1, n)): (
                "that counts the picks from this score and all below it, and many of these don't hold it: "
                "choose its n − 1 partners"
            ),
            best_by(math.comb): (
                "you chose n from those below; the score itself is one of the n, so n − 1 are left to choose"
            ),
            best_by(lambda place, n: math.comb(place + 1, n - 1)): (
                "its partners were chosen from one score too many: below it stand `place`, counted from 0"
            ),
            lambda scores, n: best(scores, n) * math.comb(len(scores), n): (
                "that is the sum over all ways; an average also divides by how many ways there are"
            ),
            lambda scores, n: best(list(set(scores)), n): (
                "equal scores were taken for one; two candidates with the same score are still two"
            ),
            lambda scores, n: sum(sorted(scores)[-n:]) / n: (
                "that is the mean of the n best; of *each* way to pick n, take the largest"
            ),
        },
    ),
)
