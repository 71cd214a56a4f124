"""The exercises and the quiz of 24, FlashAttention."""

import math

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong

TITLE = "FlashAttention"


def _partial(scores, values):
    """What one pass over some scores leaves behind: largest, sum of exponentials, weighted sum of values."""
    largest = max(scores)
    weights = [math.exp(s - largest) for s in scores]
    return largest, sum(weights), sum(w * v for w, v in zip(weights, values, strict=True))


def check_merge(answer):
    scores, values = [1.0, 3.0, 2.0, 5.0, 4.0], [10.0, -2.0, 4.0, 3.0, 8.0]
    a, b = _partial(scores[:3], values[:3]), _partial(scores[3:], values[3:])
    got = call(answer, a, b)
    if not isinstance(got, tuple | list) or len(got) != 3:
        raise Mistake("return three things, in this order: the largest score, the sum, the weighted sum")
    if same(got, (max(a[0], b[0]), a[1] + b[1], a[2] + b[2])):
        raise Mistake(
            "the sums are relative to different largest scores: "
            "scale each by exp(its largest − the new largest) first"
        )
    largest, total, out = _partial(scores, values)
    if same(got[2], out / total):
        raise Mistake(
            "you divided already: a result that is divided can't "
            "be merged again; hand back the weighted sum itself"
        )
    if same(got, (b[0], a[1] * math.exp(b[0] - a[0]) + b[1], a[2] * math.exp(b[0] - a[0]) + b[2])):
        raise Mistake(
            "the exponent's sign is wrong: what is relative to "
            "the smaller largest must shrink, exp(old − new)"
        )
    if same(got[:2], (largest, total)) and same(got[2], a[2] + b[2]):
        raise Mistake(
            "you scaled the sums, and not the weighted sums: both are relative to the largest score"
        )
    close(got, (largest, total, out), "the merged result")
    got = call(answer, b, a)
    if not same(got, (largest, total, out)):
        raise Mistake(
            "with the two in the other order, the larger score "
            "in the first, the result differs: scale both sides"
        )
    far = (
        _partial([s + 1000 for s in scores[:3]], values[:3]),
        _partial([s + 1000 for s in scores[3:]], values[3:]),
    )
    close(call(answer, *far), (largest + 1000, total, out), "the merged result of scores about 1,000")
    empty = (-math.inf, 0.0, 0.0)
    got = call(answer, empty, a)
    close(got, a, "merged with the result of no scores at all, (−∞, 0, 0), it")


def solve_merge(a, b):
    largest = max(a[0], b[0])
    first, second = math.exp(a[0] - largest), math.exp(b[0] - largest)
    return largest, a[1] * first + b[1] * second, a[2] * first + b[2] * second


def merge_added(a, b):
    return max(a[0], b[0]), a[1] + b[1], a[2] + b[2]


def merge_divided(a, b):
    largest, total, out = solve_merge(a, b)
    return largest, total, out / total


def merge_sign(a, b):
    largest = max(a[0], b[0])
    first, second = math.exp(largest - a[0]), math.exp(largest - b[0])
    return largest, a[1] * first + b[1] * second, a[2] * first + b[2] * second


def merge_half(a, b):
    largest, total, _ = solve_merge(a, b)
    return largest, total, a[2] + b[2]


def merge_one_sided(a, b):
    scale = math.exp(a[0] - b[0])
    return b[0], a[1] * scale + b[1], a[2] * scale + b[2]


def merge_absolute(a, b):
    largest, first, second = max(a[0], b[0]), math.exp(a[0]), math.exp(b[0])
    return (
        largest,
        (a[1] * first + b[1] * second) / math.exp(largest),
        (a[2] * first + b[2] * second) / math.exp(largest),
    )


def merge_two(a, b):
    return solve_merge(a, b)[:2]


def forgetful(scores):
    """Softmax in one pass that forgets one thing."""
    largest, total = -math.inf, 0.0
    for score in scores:
        largest = max(largest, score)
        total += math.exp(score - largest)
    return [math.exp(score - largest) / total for score in scores]


def check_counterexample(answer):
    try:
        scores = [float(score) for score in answer]
    except (TypeError, ValueError):
        raise Mistake("hand in a list of numbers, such as [1, 2]") from None
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
    right = _weights(scores)
    if max(abs(a - b) for a, b in zip(forgetful(scores), right, strict=True)) < 0.1:
        raise Mistake(
            "the largest does grow, but the sum is hardly off: let "
            "more weight stand before it, or let it grow by more"
        )


def _weights(scores):
    largest, total, _ = _partial(scores, scores)
    return [math.exp(score - largest) / total for score in scores]


TOKENS, D_HEAD, BLOCK = 2_048, 64, 64
TRAFFIC = 2 * (2 * TOKENS * D_HEAD + TOKENS // BLOCK * 2 * TOKENS * D_HEAD)


def check_traffic(answer):
    if not isinstance(answer, int | float):
        raise Mistake("a whole number, please: how many bytes?")
    tiles, row = TOKENS // BLOCK, TOKENS * D_HEAD
    named = {
        TRAFFIC // 2: "these are numbers; in 16 bits each has two bytes",
        2 * 4 * row: "you read keys and values once; each of the 32 programs reads all of them",
        2 * (2 + tiles) * row: "keys, or values, are missing: each program reads both",
        2 * tiles * 2 * row: "the queries, read once, and the outputs, written once, are missing",
        2 * (1 + 2 * tiles) * row: "queries are read and outputs are written: you counted one of the two",
        2 * tiles * 4 * row: (
            "each program reads its own 64 queries alone, not "
            "all of them: queries and outputs pass once in all"
        ),
        TRAFFIC + 4 * TOKENS: "the log-sum-exps are in it; leave them out",
        2
        * (
            2 * row + 2 * D_HEAD * BLOCK * tiles * (tiles + 1) // 2
        ): "that is with a causal mask; here each program reads all keys",
        2 * TRAFFIC: (
            "twice too much: 16 bits are two bytes, not four (or "
            "these are the three steps, scores, softmax and product?)"
        ),
        2
        * (2 + 2 * TOKENS)
        * row: "it is each program that reads all keys and values, not each query: 64 queries share them",
    }
    if answer in named:
        raise Mistake(named[answer])
    if answer != TRAFFIC:
        raise Mistake(
            "that is not it. Add up: queries and outputs, once in all; "
            "keys and values, once for each program; two bytes each"
        )


def check_first_tile(answer):
    cases = [
        (100, 16, 40),
        (0, 16, 8),
        (100, 16, 8),
        (100, 32, 1),
        (64, 16, 1_000),
        (48, 16, 33),
        (47, 16, 32),
    ]
    for first, block_k, window in cases:
        seen = max(0, first - window + 1)
        got, want = call(answer, first, block_k, window), seen // block_k * block_k
        at = f"for first_query={first}, block_k={block_k}, window={window}"
        if isinstance(got, float):
            raise Mistake("positions are whole numbers, and range() insists on it: divide with //")
        if got == want:
            continue
        if got == first // block_k * block_k:
            raise Mistake(f"{at}: that is the tile of the query itself; the window looks further back")
        if got == seen:
            raise Mistake(
                f"{at}: {seen} is the first key that is seen; a tile begins at a multiple of {block_k}"
            )
        if (
            got == max(0, first - window) // block_k * block_k
            and max(0, first - window) // block_k != seen // block_k
        ):
            raise Mistake(
                f"{at}: a query sees itself and the window − 1 keys before, so one key fewer than you count"
            )
        if got == -(-seen // block_k) * block_k:
            raise Mistake(f"{at}: you rounded up, and so skip a tile some of whose keys are seen")
        if got == (first - window + 1) // block_k * block_k:
            raise Mistake(f"{at}: there are no keys before 0")
        if got == seen // block_k:
            raise Mistake(f"{at}: that is the tile's number; its first key is asked for")
        if got == 0:
            raise Mistake(f"{at}: from key 0 on it would be right but slow; the window lets you begin later")
        equal(got, want, at)


def solve_first_tile(first_query, block_k, window):
    seen = max(0, first_query - window + 1)
    return seen // block_k * block_k


def first_own(first_query, block_k, window):
    return first_query // block_k * block_k


def first_float(first_query, block_k, window):
    return max(0, first_query - window + 1) / block_k // 1 * block_k


def first_key(first_query, block_k, window):
    return max(0, first_query - window + 1)


def first_off_by_one(first_query, block_k, window):
    return max(0, first_query - window) // block_k * block_k


def first_rounded_up(first_query, block_k, window):
    return -(-max(0, first_query - window + 1) // block_k) * block_k


def first_negative(first_query, block_k, window):
    return (first_query - window + 1) // block_k * block_k


def first_number(first_query, block_k, window):
    return max(0, first_query - window + 1) // block_k


def first_zero(first_query, block_k, window):
    return 0


EXERCISES = (
    Exercise(
        id="24-1",
        title="Merge two halves",
        minutes=6,
        level="easy",
        hints=(
            (
                "The new largest is the larger of the two. Relative to it, "
                "what was relative to an older one shrinks by exp(old − new)."
            ),
            "Scale both sides, each by its own factor; one of the two factors is 1.",
        ),
        check=check_merge,
        solution=solve_merge,
        wrong=(
            Wrong(merge_added, "are relative to different largest scores"),
            Wrong(merge_divided, "you divided already"),
            Wrong(merge_sign, "sign is wrong"),
            Wrong(merge_half, "and not the weighted sums"),
            Wrong(merge_one_sided, "in the other order"),
            Wrong(merge_two, "return three things"),
            Wrong(merge_absolute, "OverflowError"),
        ),
        learned="three numbers are all that must be kept of any stretch of keys, however long.",
    ),
    Exercise(
        id="24-2",
        title="Catch the forgetful one",
        minutes=4,
        level="easy",
        hints=(
            (
                "What should happen to the sum when a larger score "
                "turns up? It doesn't, here. When is that harmless?"
            ),
            (
                "It is harmless while the largest comes first. Put "
                "a small score first and a larger one after it."
            ),
        ),
        check=check_counterexample,
        solution=[0, 1],
        wrong=(
            Wrong([3, 1, 2], "the largest comes first"),
            Wrong([5, 5, 5], "all of these are equal"),
            Wrong([0, 0.01], "hardly off"),
            Wrong([4], "it takes two at least"),
            Wrong([0, math.inf], "finite numbers"),
            Wrong("scores", "hand in a list of numbers"),
        ),
        learned="a test whose first number is the largest would never have found it.",
        why=(
            "exp(0) counts 1, though relative to the later 1 it "
            "is exp(−1) = 0.37: the sum is 2 instead of 1.37."
        ),
    ),
    Exercise(
        id="24-3",
        title="Count the bytes",
        minutes=7,
        level="medium",
        hints=(
            "There are 2,048 / 64 = 32 programs. Each reads all keys and all values: 2 · 2,048 · 64 numbers.",
            (
                "Queries are read once in all, and outputs written "
                "once: 2 · 2,048 · 64 numbers more. Two bytes each."
            ),
        ),
        check=check_traffic,
        solution=TRAFFIC,
        wrong=(
            Wrong(TRAFFIC // 2, "these are numbers"),
            Wrong(1_048_576, "you read keys and values once"),
            Wrong(8_912_896, "keys, or values, are missing"),
            Wrong(16_777_216, "the queries, read once"),
            Wrong(17_039_360, "you counted one of the two"),
            Wrong(33_554_432, "its own 64 queries alone"),
            Wrong(17_309_696, "the log-sum-exps"),
            Wrong(9_175_040, "with a causal mask"),
            Wrong(34_603_008, "twice too much"),
            Wrong(1_074_266_112, "not each query"),
            Wrong(17_000_000, "that is not it"),
        ),
        learned=(
            "32 of 33 parts of the traffic are keys and values, read "
            "again by each program: so larger tiles of queries pay."
        ),
        why="(2 · 2,048 · 64 + 32 · 2 · 2,048 · 64) numbers · 2 bytes = 17,301,504 bytes.",
    ),
    Exercise(
        id="24-4",
        title="Where to begin",
        minutes=8,
        level="hard",
        hints=(
            (
                "The first query of the program looks back farthest: "
                "to key first_query − window + 1, or 0 if that is less."
            ),
            (
                "Tiles begin at multiples of block_k: seen // block_k * "
                "block_k is the beginning of the tile that key lies in."
            ),
        ),
        check=check_first_tile,
        solution=solve_first_tile,
        wrong=(
            Wrong(first_key, "a tile begins at a multiple"),
            Wrong(first_off_by_one, "one key fewer"),
            Wrong(first_rounded_up, "you rounded up"),
            Wrong(first_negative, "no keys before 0"),
            Wrong(first_number, "that is the tile's number"),
            Wrong(first_zero, "right but slow"),
            Wrong(first_own, "the tile of the query itself"),
            Wrong(first_float, "divide with //"),
        ),
        learned="with a window the work of a query no longer grows with the length of the text.",
    ),
)

QUIZ = (
    Question(
        id="24-q1",
        text="FlashAttention gives the same attention faster. What does it do less of?",
        choices=(
            Choice(
                "Multiplications: it skips pairs of tokens that hardly attend to each other",
                "It skips only pairs that a mask forbids. All others are multiplied.",
            ),
            Choice(
                "Reading and writing: scores and weights never reach the memory",
                (
                    "The operations are the same, and backward there are even "
                    "more. What shrinks is the traffic, and the memory held."
                ),
                right=True,
            ),
            Choice(
                "Rounding: it computes in fewer bits",
                "It computes in the bits of its inputs, and adds up in 32.",
            ),
        ),
    ),
    Question(
        id="24-q2",
        text="A larger score turns up in the fifth tile. What happens to the four tiles before?",
        choices=(
            Choice(
                "They are computed again with the new largest score",
                "That would be a second pass. It isn't needed.",
            ),
            Choice(
                "Nothing: their weights were final",
                "They were relative to a largest score that is no longer the largest.",
            ),
            Choice(
                "Their sums, one number and one vector a query, are multiplied by one factor",
                "exp(old largest − new largest). Their scores are long gone, and nobody misses them.",
                right=True,
            ),
        ),
    ),
    Question(
        id="24-q3",
        text="Why does the way back need more multiplications than with the weights kept?",
        choices=(
            Choice(
                "Because the weights were thrown away, and scores have to be computed again",
                (
                    "Operations are cheap and memory is not: seven products "
                    "instead of four, and no square of the length is kept."
                ),
                right=True,
            ),
            Choice(
                "Because gradients of tiles have to be added up",
                "Additions come with any product of matrices; they aren't more.",
            ),
            Choice(
                "Because it uses smaller tiles",
                "The size of a tile changes what is read, not what is multiplied.",
            ),
        ),
    ),
)
