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


HALF, OTHER = three_numbers([1.0, 3.0, 2.0], [10.0, -2.0, 4.0]), three_numbers([5.0, 4.0], [3.0, 8.0])
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
        raise Mistake("hand in a list of numbers, such as [1, 2]")
    if len(scores) < 2:
        raise Mistake("one score, or none, has a weight of 1 whatever is forgotten: it takes two at least")
    if not all(map(math.isfinite, scores)):
        raise Mistake("finite numbers, please: ∞ breaks the right softmax as well")
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
        hints=(
            "The new largest is the larger; what was relative to the old one shrinks by exp(old − new).",
            "Scale both sides, each by its own factor; one of the two factors is 1.",
        ),
        learned="three numbers are all that must be kept of any stretch of keys, however long.",
        solution=merge,
        cases=(
            Case(HALF, OTHER, name="the merged result"),
            Case(OTHER, HALF, name="the merged result, with the larger score in the first half,"),
            Case(FAR_HALF, FAR_OTHER, name="the merged result of scores about 1,000"),
            Case(NOTHING, HALF, name="what comes of no scores at all, (−∞, 0, 0), and some"),
            Case(HALF, NOTHING, name="what comes of some scores and none at all, (−∞, 0, 0),"),
        ),
        returns=("the largest score", "the sum", "the weighted sum"),
        wrong={
            merge_by(lambda a, b, new: (1, 1)): (
                "the sums are relative to different largest scores: scale each by "
                "exp(its largest − the new largest) first"
            ),
            lambda a, b: (*merge(a, b)[:2], merge(a, b)[2] / merge(a, b)[1]): (
                "you divided already: a result that is divided can't be merged again; hand back the "
                "weighted sum itself"
            ),
            merge_by(lambda a, b, new: (math.exp(new - a), math.exp(new - b))): (
                "the exponent's sign is wrong: what is relative to the smaller largest must shrink, "
                "exp(old − new)"
            ),
            lambda a, b: (*merge(a, b)[:2], a[2] + b[2]): (
                "you scaled the sums, and not the weighted sums: both are relative to the largest score"
            ),
            lambda a, b: (b[0], *merge_by(lambda a, b, new: (math.exp(a - b), 1))(a, b)[1:]): (
                "with the two in the other order, the larger score in the first, the result differs: scale "
                "both sides, relative to the larger score"
            ),
            merge_by(lambda a, b, new: (math.exp(a - new), 1)): (
                "you scale the first side alone; if its score is the larger, the second must shrink"
            ),
            merge_by(lambda a, b, new: (1, math.exp(b - new))): (
                "you scale the second side alone; if its score is the larger, the first must shrink"
            ),
            lambda a, b: merge(a, b)[:2]: (
                "return three things, in this order: the largest score, the sum, the weighted sum"
            ),
            merge_by(lambda a, b, new: (math.exp(a) / math.exp(new), math.exp(b) / math.exp(new))): (
                "for scores about 1,000 it stops with an OverflowError: take exp of differences alone"
            ),
        },
    ),
    Exercise(
        id="catch-the-bug",
        hints=(
            "What should happen to the sum when a larger score turns up? When is it harmless to forget it?",
            "While the largest comes first. Put a small score first and a larger one after it.",
        ),
        learned="a test whose first number is the largest would never have found it.",
        solution=[0, 1],
        why=(
            "exp(0) counts 1, though relative to the later 1 it is exp(−1) = 0.37: "
            "the sum is 2 instead of 1.37."
        ),
        check=check_counterexample,
        wrong={
            (3, 1, 2): "the largest comes first",
            (5, 5, 5): "all of these are equal",
            (0, 0.01): "off by 0.002 only",
            (4,): "it takes two at least",
            (0, math.inf): "finite numbers",
            "scores": "hand in a list of numbers",
        },
    ),
    Exercise(
        id="count-the-bytes",
        hints=(
            "There are 2,048 / 64 = 32 programs. Each reads all keys and all values: 2 · 2,048 · 64 numbers.",
            "Queries are read and outputs written once: 2 · 2,048 · 64 numbers more. Two bytes each.",
        ),
        learned=(
            "32 of 33 parts of the traffic are keys and values, read again by each program: "
            "so larger tiles of queries pay."
        ),
        solution=TRAFFIC,
        why="(2 · 2,048 · 64 + 32 · 2 · 2,048 · 64) numbers · 2 bytes = 17,301,504 bytes.",
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
                "twice too much: 16 bits are two bytes, not four (or these are the three steps, scores, "
                "softmax and product?)"
            ),
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
        hints=(
            "The first query looks back farthest: to key first_query − window + 1, or 0 if that is less.",
            "seen // block_k * block_k is the beginning of the tile that the key `seen` lies in.",
        ),
        learned="with a window the work of a query no longer grows with the length of the text.",
        solution=first_tile,
        cases=(
            *(Case(*args) for args in PLACES),
            Case(100, 16, 40, name="whether it is a float", probe=lambda f, *a: isinstance(f(*a), float)),
        ),
        wrong={
            tile_by(lambda seen, block_k: seen / block_k // 1 * block_k): (
                "positions are whole numbers, and range() insists on it: divide with //"
            ),
            tile_by(lambda seen, block_k: seen / block_k * block_k): (
                "/ keeps the fraction of a tile: you are back at the first key that is seen. // drops it"
            ),
            lambda first_query, block_k, window: first_query // block_k * block_k: (
                "that is the tile of the query itself; the window looks further back"
            ),
            tile_by(lambda seen, block_k: seen): (
                "that is the first key that is seen; a tile begins at a multiple of block_k"
            ),
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
            tile_by(lambda seen, block_k: seen // block_k): (
                "that is the tile's number; its first key is asked for"
            ),
            lambda first_query, block_k, window: 0: (
                "from key 0 on it would be right but slow; the window lets you begin later"
            ),
        },
    ),
)
