"""The exercises of the lesson on FlashAttention."""

import math

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise


def three_numbers(scores, values):
    """Return what one pass over some scores leaves: largest, sum of exponentials, weighted sum of values."""
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    return largest, sum(weights), sum(w * v for w, v in zip(weights, values, strict=True))


def merge(a, b):
    largest = max(a[0], b[0])
    first, second = math.exp(a[0] - largest), math.exp(b[0] - largest)
    return largest, a[1] * first + b[1] * second, a[2] * first + b[2] * second


def merge_by(factors):
    """Return `merge` with other factors of its two sides, by their largest scores and the new one."""

    def merged(a, b):
        largest = max(a[0], b[0])
        first, second = factors(a[0], b[0], largest)
        return largest, a[1] * first + b[1] * second, a[2] * first + b[2] * second

    return merged


def merge_case(a, b, before=""):
    """Name the case by a call that can be repeated in the notebook."""
    return Case(a, b, name=f"{before}merge({a}, {b})".replace("inf", "np.inf"))


def overflowing(x):
    """Return e to the x as numpy does, which gives ∞ where math.exp raises."""
    return math.exp(x) if x < 709 else math.inf


HALF = 3.0, 1.5, 0.82  # what `three_numbers` gives, rounded: of scores 1, 3, 2 and values 10, −2, 4
OTHER = 5.0, 1.37, 5.94  # of scores 5, 4 and values 3, 8
FAR_HALF, FAR_OTHER = ((largest + 1000, *sums) for largest, *sums in (HALF, OTHER))
NOTHING = -math.inf, 0.0, 0.0


def forgetful(scores):
    """Softmax in one pass that forgets to scale its sum."""
    largest, total = -math.inf, 0.0
    for score in scores:
        largest = max(largest, score)
        total += math.exp(score - largest)
    return [math.exp(score - largest) / total for score in scores]


def check_counterexample(answer):
    try:
        scores = [float(score) for score in answer]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        scores = None
    if scores is None or isinstance(answer, str | bytes | dict | set):
        raise Mistake("hand in a list of numbers, such as [3, 1, 2]")
    if len(scores) < 2:
        raise Mistake("one score, or none, has a weight of 1 whatever is forgotten: it takes two at least")
    if not all(map(math.isfinite, scores)):
        raise Mistake("finite numbers, please: with ∞ or nan among them there is nothing to compare")
    if max(scores) == min(scores):
        raise Mistake("all of these are equal: the largest never grows, and the bug doesn't show")
    if max(scores) == scores[0]:
        raise Mistake(
            "here the largest comes first, so nothing ever needs to be scaled down, and the bug doesn't show"
        )
    largest, total, _ = three_numbers(scores, scores)
    right = [math.exp(score - largest) / total for score in scores]
    off = max(abs(got - want) for got, want in zip(forgetful(scores), right, strict=True))
    if off <= 0.1:
        raise Mistake(
            f"the largest does grow, but the weight furthest off is off by {off:.3f} only: let more weight "
            "stand before it, or let it grow by more"
        )


TOKENS, D_HEAD, BLOCK = 2_048, 64, 64
TILES, ROWS = TOKENS // BLOCK, TOKENS * D_HEAD  # tiles of queries, numbers of q (or k, v, the output)
TRAFFIC = 2 * (2 * ROWS + TILES * 2 * ROWS)


def first_tile(first_query, block_k, window):
    seen = max(0, first_query - window + 1)
    return seen // block_k * block_k


FLOAT = "positions are whole numbers, and range() insists on it: divide with //"


def whole(answer, *args):
    result = answer(*args)
    if "float" in str(getattr(result, "dtype", type(result))):
        raise Mistake(FLOAT)
    return result


def tile_by(find):
    """Return `first_tile` with another way from the first key that is seen, and block_k, to the tile."""
    return lambda first_query, block_k, window: find(max(0, first_query - window + 1), block_k)


PLACES = (
    *((100, 16, 40), (0, 16, 8), (100, 16, 8), (100, 32, 1), (64, 16, 1_000), (9, 1, 4), (9, 1, 12)),
    *((48, 16, 33), (47, 16, 32), (46, 16, 32)),  # the first key that is seen is a tile's first, and its last
)

EXERCISES = (
    Exercise(
        id="merge-softmax",
        solution=merge,
        cases=(
            merge_case(HALF, OTHER),
            merge_case(OTHER, HALF),
            merge_case(FAR_HALF, FAR_OTHER),
            merge_case(NOTHING, HALF, "where the first has no scores yet, "),
            merge_case(HALF, NOTHING, "where the second has no scores yet, "),
        ),
        returns=("the largest score", "the sum", "the weighted sum"),
        wrong={
            merge_by(lambda a, b, new: (1, 1)): "first scale each side by exp(its largest − the new largest)",
            lambda a, b: (*merge(a, b)[:2], merge(a, b)[2] / merge(a, b)[1]): (
                "a result that is divided already can't be merged again: hand back the weighted sum itself"
            ),
            merge_by(lambda a, b, new: (math.exp(new - a), math.exp(new - b))): (
                "the sign is wrong: the side with the smaller score must shrink, so it is exp(old − new)"
            ),
            lambda a, b: (*merge(a, b)[:2], a[2] + b[2]): "the weighted sums must be scaled as well",
            lambda a, b: (merge(a, b)[0], a[1] + b[1], merge(a, b)[2]): "the sums must be scaled as well",
            lambda a, b: (b[0], *merge_by(lambda a, b, new: (math.exp(a - b), 1))(a, b)[1:]): (
                "you take the second score for the larger one: scale both sides, relative to the larger score"
            ),
            merge_by(lambda a, b, new: (math.exp(a - new), 1)): (
                "you scale the first side alone; if its score is the larger, the second must shrink"
            ),
            merge_by(lambda a, b, new: (1, math.exp(b - new))): (
                "you scale the second side alone; if its score is the larger, the first must shrink"
            ),
            lambda a, b: merge(a, b)[:2]: "return the largest score, the sum and the weighted sum",
            merge_by(lambda a, b, new: (math.exp(a) / math.exp(new), math.exp(b) / math.exp(new))): (
                "for scores about 1,000 it stops with an OverflowError: take exp of differences alone"
            ),
            merge_by(lambda a, b, new: [overflowing(old) / overflowing(new) for old in (a, b)]): (
                "for scores about 1,000 it gives nan, since their exp is ∞: take exp of differences alone"
            ),
        },
    ),
    Exercise(
        id="catch-the-bug",
        solution=[0, 1],
        check=check_counterexample,
        wrong={
            (3, 1, 2): "the largest comes first",
            (5, 5, 5): "all of these are equal",
            (0, 0.01): "off by 0.002 only",
            (4,): "it takes two at least",
            (0, math.inf): "finite numbers",
            (0, math.nan): "finite numbers",
            "scores": "hand in a list of numbers",
        },
    ),
    Exercise(
        id="count-the-bytes",
        solution=TRAFFIC,
        wrong={
            TRAFFIC // 2: "these are numbers; in 16 bits each has two bytes",
            2 * 4 * ROWS: "you read keys and values once; each of the 32 programs reads all of them",
            2 * (2 + TILES) * ROWS: "keys, or values, are missing: each program reads both",
            2 * TILES * 2 * ROWS: "the queries, read once, and the outputs, written once, are missing",
            2 * (1 + 2 * TILES) * ROWS: "queries are read, outputs written: you counted one of the two",
            2 * TILES * 4 * ROWS: (
                "each program has only its own 64 queries and outputs, not all: these pass once in all"
            ),
            2 * (2 * BLOCK * D_HEAD + 2 * ROWS): "that is one program, and there are 32",
            TRAFFIC + 4 * TOKENS: "the log-sum-exps are in it; leave them out",
            2 * (2 * ROWS + 2 * D_HEAD * BLOCK * TILES * (TILES + 1) // 2): (
                "that is with a causal mask; here each program reads all keys"
            ),
            2 * TRAFFIC: (
                "twice too much: 16 bits are two bytes, not four. (It is also what the three steps move: "
                "scores, softmax, product.)"
            ),
            8 * TRAFFIC: "these are bits; eight are a byte",
            2 * (2 + 2 * TOKENS) * ROWS: (
                "it is each program that reads all keys and values, not each query: 64 queries share them"
            ),
        },
        otherwise=(
            "that is not it. Add up: queries and outputs, once in all; keys and values, once for each "
            "program; two bytes each"
        ),
    ),
    Exercise(
        id="first-tile",
        solution=first_tile,
        cases=(
            *(Case(*args) for args in PLACES),
            *(Case(*args, probe=whole) for args in ((100, 16, 40), (0, 16, 8))),
        ),
        wrong={
            tile_by(lambda seen, block_k: seen / block_k // 1 * block_k): FLOAT,
            tile_by(lambda seen, block_k: seen / block_k * block_k): (
                "/ keeps the fraction of a tile: you are back at the first key that is seen. // drops it"
            ),
            lambda first_query, block_k, window: first_query // block_k * block_k: (
                "that is the tile of the query itself; the window looks further back"
            ),
            tile_by(lambda seen, block_k: seen): "that is the first key that is seen: begin with its tile",
            lambda first_query, block_k, window: max(0, first_query - window) // block_k * block_k: (
                "a query sees itself and the window − 1 keys before, so one key fewer than you count"
            ),
            lambda first_query, block_k, window: max(0, first_query - window + 2) // block_k * block_k: (
                "a query sees itself and the window − 1 keys before, so one key more than you count"
            ),
            tile_by(lambda seen, block_k: -(-seen // block_k) * block_k): (
                "you rounded up, and so skip a tile some of whose keys are seen"
            ),
            tile_by(lambda seen, block_k: round(seen / block_k) * block_k): (
                "you rounded to the nearest tile, and so skip some keys that are seen: round down"
            ),
            lambda first_query, block_k, window: (first_query - window + 1) // block_k * block_k: (
                "there are no keys before 0: the least that can be right is 0"
            ),
            tile_by(lambda seen, block_k: seen // block_k): "that is the tile's number: return its first key",
            lambda first_query, block_k, window: 0: "no tile is skipped: the window lets you begin later",
        },
    ),
)
