"""The exercises and the quiz of 07, decoder-only."""

import torch

from course_lib.course.checking import Mistake, call, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.model import ModelConfig

TITLE = "Decoder-only"


def check_shift(answer):
    rows = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(7))
    got = call(answer, rows)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things: `return tokens, targets`")
    tokens, targets = got
    first, last = rows[:, :-1], rows[:, 1:]
    if same(tokens, targets):
        raise Mistake("each target is the token itself: it would learn to repeat what it reads")
    if same(tokens, last) and same(targets, first):
        raise Mistake("it reads a token and should guess the one before it; it is to write forwards")
    if same(targets, rows.roll(-1, dims=1)):
        raise Mistake("the last target is the row's first token: roll goes round in a circle")
    if same(tokens, rows[:-1]):
        raise Mistake("you cut off a row of the batch; time is the second dimension")
    if not (same(tokens, first) and same(targets, last)):
        raise Mistake(
            f"for rows[0] = {rows[0].tolist()} the model should read the first six and guess the last six"
        )


def solve_shift(rows):
    return rows[:, :-1], rows[:, 1:]


def shift_not_at_all(rows):
    return rows[:, :-1], rows[:, :-1]


def shift_backwards(rows):
    return rows[:, 1:], rows[:, :-1]


def shift_by_roll(rows):
    return rows, rows.roll(-1, dims=1)


def shift_the_batch(rows):
    return rows[:-1], rows[1:]


def _running_mean(x):
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]


def _nudge_first(x):
    """The first token learns a trace of the last one; the others learn nothing."""
    return torch.cat([x[:, :1] + 0.01 * x[:, -1:], x[:, 1:]], dim=1)


def _nudge_second(x):
    return torch.cat([x[:, :1], x[:, 1:2] + x[:, 2:3], x[:, 2:]], dim=1)


PARTS = (
    ("each vector doubled", lambda x: 2 * x, False),
    ("the mean of the vectors so far", _running_mean, False),
    ("each vector plus the one before it", lambda x: x + torch.cat([0 * x[:, :1], x[:, :-1]], dim=1), False),
    ("a mean over all of time, taken off", lambda x: x - x.mean(dim=1, keepdim=True), True),
    ("each vector plus the one after it", lambda x: x + torch.cat([x[:, 1:], 0 * x[:, :1]], dim=1), True),
    ("the first vector plus a hundredth of the last", _nudge_first, True),
    ("the second vector plus the third, the others as they were", _nudge_second, True),
)


def check_leaks(answer):
    said = {}
    for name, part, _ in PARTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            got = call(answer, part)
        if not isinstance(got, bool) and getattr(got, "shape", None) != ():
            raise Mistake("the answer should be True or False")
        said[name] = bool(got)
    wrong = [name for name, _, truth in PARTS if said[name] != truth]
    if all(said.values()):
        raise Mistake(
            "it calls every part a leak. An output may of course depend on its own vector and on earlier ones"
        )
    if not any(said.values()):
        raise Mistake("it finds no leak anywhere, not even in a mean over all of time")
    if wrong:
        truth = next(truth for name, _, truth in PARTS if name == wrong[0])
        raise Mistake(f"“{wrong[0]}”: yours says {not truth}, and it is {truth}")


def solve_leaks(part):
    x = torch.randn(1, 6, 4)
    for place in range(1, 6):
        changed = x.clone()
        changed[:, place] += 1
        if (part(x) != part(changed))[:, :place].any():
            return True
    return False


def leaks_compares_everything(part):
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, -1] += 1
    return not torch.equal(part(x), part(changed))


def leaks_changes_the_first(part):
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, 0] += 1
    return not torch.equal(part(x)[:, :0], part(changed)[:, :0])


def leaks_looks_at_the_first_only(part):
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, -1] += 1
    return not torch.equal(part(x)[:, 0], part(changed)[:, 0])


def leaks_changes_the_last(part):
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, -1] += 1
    return not torch.equal(part(x)[:, :-1], part(changed)[:, :-1])


def leaks_with_tolerance(part):
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[:, -1] += 1
    return not torch.allclose(part(x)[:, :-1], part(changed)[:, :-1], atol=0.05)


CONFIGS = (
    ModelConfig(
        vocab_size=49152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_head=64, d_ff=1536, context=8
    ),
    ModelConfig(
        vocab_size=100, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_head=10, d_ff=50, context=8
    ),
    ModelConfig(vocab_size=77, d_model=16, n_layers=3, n_heads=4, n_kv_heads=4, d_head=4, d_ff=40, context=8),
)


def check_count(answer):
    for c in CONFIGS:
        got, want = call(answer, c), solve_count(c)
        if isinstance(got, int | float):
            missing = {
                -c.vocab_size
                * c.d_model: "you counted the table twice: the head is the embedding table itself",
                c.n_layers
                * c.d_model
                * c.d_ff: "a matrix of the feed-forward layer is missing: SwiGLU has three",
                (2 * c.n_layers + 1)
                * c.d_model: "the norms have a weight for each channel: two in a block, and a last one",
                c.d_model: "the stream is normalized once more at the end: the last norm is missing",
                2 * c.n_layers * c.d_model: "the norms of the blocks are missing",
                c.n_layers * c.d_model: "a block has two norms: one is missing",
                2 * c.n_layers * c.d_model * (c.n_heads * c.d_head - c.d_model): (
                    "query and output are d_model × (n_heads · d_head), which need not be a square"
                ),
                2 * c.n_layers * c.d_model * c.d_head * (c.n_kv_heads - c.n_heads): (
                    "keys and values have n_kv_heads heads, which may be fewer than n_heads"
                ),
            }
            missing.pop(0, None)
            if want - got in missing:
                raise Mistake(missing[want - got])
        equal(got, want, f"count for d_model={c.d_model}, n_layers={c.n_layers}")


def solve_count(config):
    attention = 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)
    feed_forward = 3 * config.d_model * config.d_ff
    norms = 2 * config.d_model
    return (
        config.vocab_size * config.d_model
        + config.n_layers * (attention + feed_forward + norms)
        + config.d_model
    )


def count_head_twice(config):
    return solve_count(config) + config.vocab_size * config.d_model


def count_two_matrices(config):
    return solve_count(config) - config.n_layers * config.d_model * config.d_ff


def count_without_norms(config):
    return solve_count(config) - (2 * config.n_layers + 1) * config.d_model


def count_all_heads(config):
    more = config.n_heads - config.n_kv_heads
    return solve_count(config) + 2 * config.n_layers * config.d_model * config.d_head * more


def check_story_mask(answer):
    ids = torch.tensor([5, 6, 0, 7, 8, 9, 0, 0, 4])
    got = call(answer, ids, 0)
    if getattr(got, "shape", None) != (9, 9):
        raise Mistake(f"the mask should have the shape (9, 9), and has {tuple(getattr(got, 'shape', ()))}")
    if got.isinf().any():
        raise Mistake("true where a token may look and false elsewhere: minus infinity comes later")
    got, causal = got.bool(), torch.ones(9, 9, dtype=torch.bool).tril()
    if (got & ~causal).any():
        raise Mistake("some token may look at a later one")
    if got.equal(causal):
        raise Mistake(
            "that is the plain triangle: token 3 begins a story, and yet may look at the one before"
        )
    starts_late = (ids == 0).cumsum(dim=0)
    if got.equal((starts_late[:, None] == starts_late) & causal):
        raise Mistake("the end mark is counted with the story behind it; it belongs to the one that it ends")
    want = solve_story_mask(ids, 0)
    if not got.equal(want):
        row = int((got != want).any(dim=1).nonzero()[0])
        allowed = want[row].nonzero().flatten().tolist()
        raise Mistake(
            f"for ids {ids.tolist()} and end 0, token {row} may look at {allowed}, no others and no fewer"
        )


def solve_story_mask(ids, end):
    ended = (ids == end).cumsum(dim=0)
    story = ended - (ids == end).long()  # how many stories ended before this token
    return (story[:, None] == story).tril()


def story_mask_plain(ids, end):
    return torch.ones(len(ids), len(ids), dtype=torch.bool).tril()


def story_mask_end_behind(ids, end):
    story = (ids == end).cumsum(dim=0)
    return (story[:, None] == story).tril()


def story_mask_both_ways(ids, end):
    story = (ids == end).cumsum(dim=0) - (ids == end).long()
    return story[:, None] == story


def story_mask_without_itself(ids, end):
    return solve_story_mask(ids, end).tril(-1)


EXERCISES = (
    Exercise(
        id="07-1",
        title="What is to be guessed",
        minutes=4,
        level="easy",
        hints=(
            "At place t the model has read the tokens up to t. What comes next stands at t + 1.",
            "Both are slices of rows along time: one without the last column, one without the first.",
        ),
        check=check_shift,
        solution=solve_shift,
        wrong=(
            Wrong(shift_not_at_all, "each target is the token itself"),
            Wrong(shift_backwards, "write forwards"),
            Wrong(shift_by_roll, "round in a circle"),
            Wrong(shift_the_batch, "a row of the batch"),
        ),
        learned="text needs no labels: each token is the label of those before it.",
    ),
    Exercise(
        id="07-2",
        title="Is there a leak?",
        minutes=10,
        level="medium",
        hints=(
            (
                "Run the part on x, and on a copy in which one vector "
                "was changed. Compare only what stands before the change."
            ),
            "A leak may reach back by one place only, or from the last to the first: try each place.",
            "Compare with ==, bit for bit. A tolerance hides a small leak, and training may find it.",
        ),
        check=check_leaks,
        solution=solve_leaks,
        wrong=(
            Wrong(leaks_compares_everything, "it calls every part a leak"),
            Wrong(leaks_changes_the_first, "finds no leak anywhere"),
            Wrong(leaks_looks_at_the_first_only, "“each vector plus the one after it”"),
            Wrong(leaks_changes_the_last, "“the second vector plus the third"),
            Wrong(leaks_with_tolerance, "“the first vector plus a hundredth of the last”"),
        ),
        learned=(
            "whatever a block is made of, this one test says whether it may be trained on the next token."
        ),
    ),
    Exercise(
        id="07-3",
        title="Count them",
        minutes=10,
        level="medium",
        hints=(
            (
                "One table; then in each block four matrices of attention, three "
                "of the feed-forward layer, and two norms; and a last norm."
            ),
            (
                "query and output are d_model × (n_heads · d_head), "
                "key and value d_model × (n_kv_heads · d_head)."
            ),
            "The head's weights are the embedding table: count it once.",
        ),
        check=check_count,
        solution=solve_count,
        wrong=(
            Wrong(count_head_twice, "counted the table twice"),
            Wrong(count_two_matrices, "SwiGLU has three"),
            Wrong(count_without_norms, "the norms have a weight"),
            Wrong(count_all_heads, "may be fewer than n_heads"),
        ),
        learned="so from a table of sizes in a paper you can check the number in its title.",
    ),
    Exercise(
        id="07-4",
        title="One story can't see another",
        minutes=12,
        level="hard",
        hints=(
            (
                "Give each token the number of its story. Then two "
                "tokens see each other only if the numbers agree."
            ),
            "(ids == end).cumsum(dim=0) counts the end marks so far, this one included.",
            "story[:, None] == story compares each with each; .tril() keeps what isn't later.",
        ),
        check=check_story_mask,
        solution=solve_story_mask,
        wrong=(
            Wrong(story_mask_plain, "the plain triangle"),
            Wrong(story_mask_end_behind, "counted with the story behind it"),
            Wrong(story_mask_both_ways, "may look at a later one"),
            Wrong(story_mask_without_itself, "no others and no fewer"),
        ),
        learned=(
            "a mask says which tokens are one text, so several "
            "texts can share a window and not see each other."
        ),
    ),
)

QUIZ = (
    Question(
        id="07-q1",
        text=(
            "A model that you have changed suddenly reaches a training "
            "loss of 0.05, and writes nonsense. What do you suspect first?"
        ),
        choices=(
            Choice(
                "The learning rate is too high",
                "That makes a loss jump or rise; it doesn't make it too good.",
            ),
            Choice(
                "Somewhere a position sees the token that it is to guess",
                (
                    "A loss below what the text allows means that the "
                    "answer leaks. Change a later token and compare."
                ),
                right=True,
            ),
            Choice("It is too small", "A small model guesses worse on the training text, not better."),
        ),
    ),
    Question(
        id="07-q2",
        text="Training marks all positions of a text in one pass. Why can't writing be done in one pass too?",
        choices=(
            Choice("The mask is switched off for writing", "It stays on; the model knows no other way."),
            Choice("The model would need more parameters", "It is the same model, whichever it does."),
            Choice(
                "Each new token has to be chosen before the next can be guessed from it",
                "In training all of the tokens are known beforehand; in writing they come one at a time.",
                right=True,
            ),
        ),
    ),
    Question(
        id="07-q3",
        text="What did the recall test show about recurrent nets?",
        choices=(
            Choice(
                "In as many steps, the GRU learned less the farther back the symbol stood",
                "That is what was measured, at one size and on one task; and more steps took it farther.",
                right=True,
            ),
            Choice(
                "They can't remember anything beyond a few tokens",
                "With three times the steps, most symbols 8 back were right.",
            ),
            Choice("They have fewer parameters", "The two were of equal size, within 5%."),
        ),
    ),
)
