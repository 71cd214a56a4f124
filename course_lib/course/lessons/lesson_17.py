"""The exercises and the quiz of 17, parameter-efficient fine-tuning."""

import torch

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.train import IGNORE

TITLE = "Parameter-efficient fine-tuning"


def check_count(answer):
    if answer == 30 * 8 * (576 * 576 + 576 * 192):
        raise Mistake("you multiplied height by width; A and B together have rank · (height + width) numbers")
    if answer == 8 * (576 + 576 + 576 + 192):
        raise Mistake("that is one block, and there are 30")
    if answer == 30 * 8 * 2 * (576 + 576):
        raise Mistake("query and value aren't of one size: the value matrix gives 3 heads of 64, not 9")
    if answer == 30 * 8 * (576 + 576):
        raise Mistake(
            "that is the query matrices alone, or A alone: each of the two matrices gets an A and a B"
        )
    if answer == 30 * 8 * (576 + 192):
        raise Mistake(
            "that is the value matrices alone, or B alone: each of the two matrices gets an A and a B"
        )
    if answer == 30 * (576 + 576 + 576 + 192):
        raise Mistake("that is a path of rank 1; here A has eight rows, and B eight columns")
    if answer == 30 * (576 * 576 + 576 * 192):
        raise Mistake("these are the numbers of the matrices themselves, which stay frozen")
    equal(answer, 460_800, "the number of trained parameters")


def _square():
    """x (5, 6), W (6, 6), A (2, 6), B (6, 2): most wrong products have the right shape, and can be named."""
    generator = torch.Generator().manual_seed(17)
    return [torch.randn(shape, generator=generator) for shape in ((5, 6), (6, 6), (2, 6), (6, 2))]


def _oblong(rank):
    """x (2, 5, 6), W (4, 6), A (rank, 6), B (4, rank)."""
    generator = torch.Generator().manual_seed(17)
    shapes = ((2, 5, 6), (4, 6), (rank, 6), (4, rank))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def check_lora(answer):
    x, W, A, B = _square()
    got, old, path = call(answer, x, W, A, B, 7.0), x @ W.T, x @ A.T @ B.T
    for wrong, message in (
        (old + path, "the scale is forgotten: the path's result is multiplied by alpha / rank"),
        (old + 7.0 * path, "you multiplied by alpha alone; divide it by the rank, the number of rows of A"),
        (old + 7.0 / 6 * path, "you divided alpha by the width of the input; it is the rank, A.shape[0]"),
        (old + 2 / 7.0 * path, "the scale stands on its head: it is alpha / rank, not rank / alpha"),
        (
            old + 2 * path,
            "you wrote 2 for alpha / rank: that alpha is twice the rank is only this lesson's choice",
        ),
        (
            old + 7.0 // 2 * path,
            "you divided with //, which drops what is behind the point; the scale may be a fraction: /",
        ),
        (
            old + 7.0 / 2**0.5 * path,
            "you divided alpha by the root of the rank; in this lesson it is the rank itself",
        ),
        (3.5 * path, "the old layer is missing: the path is added to x Wᵀ, it doesn't replace it"),
        (3.5 * (old + path), "the scale belongs to the path alone; here it multiplies the old layer as well"),
        (x @ W + 3.5 * path, "W is used as it lies: its rows are the outputs, so it is x @ W.T"),
        (
            old + 3.5 * x @ B @ A,
            "you went through B first; A comes first and narrows, B comes second and widens",
        ),
        (
            (old + 3.5 * path).T,
            "the result lies on its side: the last dimension should be n_out, as in x @ W.T",
        ),
    ):
        if same(got, wrong):
            raise Mistake(message)
    close(got, old + 3.5 * path, "the output")
    _check_oblong(answer)


def _check_oblong(answer):
    x, W, A, B = _oblong(rank=3)
    try:
        got = call(answer, x, W, A, B, 6.0)
    except Mistake as error:
        raise Mistake(
            f"an x of (5, 6) it can do, an x of (2, 5, 6) it can't: {error}. x.T turns more than the last "
            "two dimensions; x @ W.T works for any (…, n_in)"
        ) from None
    close(got, x @ W.T + 2.0 * x @ A.T @ B.T, "the output for x (2, 5, 6) at rank 3")
    own = W.clone()
    answer(x, own, A, B, 6.0)
    if not torch.equal(own, W):
        raise Mistake("the result is right, but your function writes into W: the old layer would be lost")


def solve_lora(x, W, A, B, alpha):
    return x @ W.T + alpha / A.shape[0] * (x @ A.T @ B.T)


def lora_without_scale(x, W, A, B, alpha):
    return x @ W.T + x @ A.T @ B.T


def lora_alpha_alone(x, W, A, B, alpha):
    return x @ W.T + alpha * (x @ A.T @ B.T)


def lora_by_width(x, W, A, B, alpha):
    return x @ W.T + alpha / A.shape[1] * (x @ A.T @ B.T)


def lora_without_base(x, W, A, B, alpha):
    return alpha / A.shape[0] * (x @ A.T @ B.T)


def lora_scales_all(x, W, A, B, alpha):
    return alpha / A.shape[0] * (x @ W.T + x @ A.T @ B.T)


def lora_upside_down(x, W, A, B, alpha):
    return x @ W.T + A.shape[0] / alpha * (x @ A.T @ B.T)


def lora_always_two(x, W, A, B, alpha):
    return x @ W.T + 2 * (x @ A.T @ B.T)


def lora_whole_scale(x, W, A, B, alpha):
    return x @ W.T + alpha // A.shape[0] * (x @ A.T @ B.T)


def lora_by_root(x, W, A, B, alpha):
    return x @ W.T + alpha / A.shape[0] ** 0.5 * (x @ A.T @ B.T)


def lora_untransposed(x, W, A, B, alpha):
    return x @ W + alpha / A.shape[0] * (x @ A.T @ B.T)


def lora_swapped(x, W, A, B, alpha):
    return x @ W.T + alpha / A.shape[0] * (x @ B @ A)


def lora_sideways(x, W, A, B, alpha):
    return W @ x.t() + alpha / A.shape[0] * B @ (A @ x.t())


def lora_flat_only(x, W, A, B, alpha):
    return lora_sideways(x, W, A, B, alpha).T


def lora_in_place(x, W, A, B, alpha):
    return x @ W.add_(alpha / A.shape[0] * B @ A).T


@torch.enable_grad()
def check_first(answer):
    torch.manual_seed(17)
    pair = call(answer, 4, 6, 2)
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(torch.is_tensor, pair))):
        raise Mistake("return two tensors, A and B: `return A, B`")
    A, B = (matrix.detach().float() for matrix in pair)
    if (tuple(A.shape), tuple(B.shape)) == ((4, 2), (2, 6)):
        raise Mistake(
            "these two have each other's shapes: A narrows, (rank, n_in), and B widens, (n_out, rank)"
        )
    if (tuple(A.shape), tuple(B.shape)) == ((6, 2), (2, 4)):
        raise Mistake("both lie on their sides: A is (rank, n_in), as x @ A.T wants it, and B (n_out, rank)")
    equal([tuple(A.shape), tuple(B.shape)], [(2, 6), (4, 2)], "the shapes of A and B")
    if not A.any() and not B.any():
        raise Mistake(
            "nothing is changed at first, and nothing ever will be: the "
            "gradient of each is a product with the other, and both are zero"
        )
    if A.any() and B.any():
        raise Mistake(
            "B A isn't zero: the model would be another one, if ever so slightly, before it has learned "
            "anything; one of the two must be zeros throughout"
        )
    _check_start(A if A.any() else B)
    _check_gradient(A.requires_grad_(), B.requires_grad_())


def _check_start(other):
    """The one of the two that isn't zeros."""
    if torch.linalg.matrix_rank(other) < 2:
        raise Mistake(
            "the two directions of the path are the same: they "
            "would get equal gradients for ever, and the rank stay 1"
        )
    if not 1e-3 < other.std() < 30:
        raise Mistake(
            f"the spread of the random numbers is {other.std():.2g}: the other matrix's gradient is as "
            "large as these make it, so take numbers of ordinary size, about 1 or somewhat smaller"
        )


def _check_gradient(A, B):
    x, W, *_ = _oblong(rank=2)
    solve_lora(x, W, A, B, 2.0).square().sum().backward()
    if not (A.grad.any() or B.grad.any()):
        raise Mistake("no gradient reaches A or B")


def solve_first(n_out, n_in, rank):
    A = torch.randn(rank, n_in) / n_in**0.5
    return A, torch.zeros(n_out, rank)


def first_zeros(n_out, n_in, rank):
    return torch.zeros(rank, n_in), torch.zeros(n_out, rank)


def first_swapped(n_out, n_in, rank):
    return torch.zeros(n_out, rank), torch.randn(rank, n_in)


def first_ones(n_out, n_in, rank):
    return torch.ones(rank, n_in), torch.zeros(n_out, rank)


def first_nearly_zero(n_out, n_in, rank):
    return 1e-4 * torch.randn(rank, n_in), 1e-4 * torch.randn(n_out, rank)


def first_tiny(n_out, n_in, rank):
    return 1e-8 * torch.randn(rank, n_in), torch.zeros(n_out, rank)


def first_sideways(n_out, n_in, rank):
    return torch.randn(n_in, rank), torch.zeros(rank, n_out)


def check_targets(answer):
    prompt, reply = [5, 6, 7], [8, 9, 2]
    got = _as_list(call(answer, prompt, reply))
    if got == [6, 7, 8, 9, 2]:
        raise Mistake("the prompt counts as well: the model would learn to ask, too")
    if got == [IGNORE] * 3 + [8, 9, 2]:
        raise Mistake(
            "these are as long as the whole text; a target is what "
            "comes next, so there is one fewer: leave out the first"
        )
    if got == [IGNORE] * 3 + [9, 2]:
        raise Mistake("the reply's first token doesn't count: the model would never learn how to begin")
    if got == [IGNORE, IGNORE, 8, 9, IGNORE]:
        raise Mistake("the last token doesn't count: the model would never learn to stop")
    if got == [6, 7, IGNORE, IGNORE, IGNORE]:
        raise Mistake("you hid the reply and kept the prompt")
    if got == [IGNORE] * 3 + [8, 9]:
        raise Mistake(
            "these are the tokens read; a target is the next one, so the reply moves up by one place"
        )
    if got == [IGNORE, 8, 9, 2, IGNORE]:
        raise Mistake(
            "one place too early: the prompt's last token, and no other, is answered by the reply's first"
        )
    if got == reply:
        raise Mistake(
            "only the reply is there: the list must be as long "
            "as what is read, with -100 where nothing counts"
        )
    if got == [IGNORE, IGNORE, 8, 9]:
        raise Mistake(
            "the reply's last token is missing: nothing follows it, but it follows something, and is a target"
        )
    if got == [IGNORE] * 5:
        raise Mistake("every place is -100: nothing counts, so nothing would be learned")
    equal(got, [IGNORE, IGNORE, 8, 9, 2], "the targets")
    equal(_as_list(call(answer, [4], [3])), [3], "the targets of a prompt of one token")
    longer = _as_list(call(answer, [5, 6, 7, 8], [8, 2]))
    equal(
        longer,
        [IGNORE] * 3 + [8, 2],
        "the targets of the prompt [5, 6, 7, 8], whose last token comes again in the reply [8, 2],",
    )


def _as_list(targets):
    return (
        targets.tolist()
        if hasattr(targets, "tolist")
        else list(targets)
        if isinstance(targets, tuple)
        else targets
    )


def targets_by_the_reply(prompt, reply):
    return [IGNORE] * (len(reply) - 1) + reply


def targets_by_value(prompt, reply):
    return [IGNORE if token in prompt else token for token in [*prompt, *reply][1:]]


def solve_targets(prompt, reply):
    return [-100] * (len(prompt) - 1) + list(reply)


def targets_of_all(prompt, reply):
    return [*prompt, *reply][1:]


def targets_unshifted(prompt, reply):
    return [-100] * len(prompt) + list(reply)


def targets_late(prompt, reply):
    return [-100] * len(prompt) + list(reply)[1:]


def targets_without_end(prompt, reply):
    return [-100] * (len(prompt) - 1) + list(reply)[:-1] + [-100]


def targets_inverted(prompt, reply):
    return list(prompt)[1:] + [-100] * len(reply)


def targets_as_read(prompt, reply):
    return [-100] * len(prompt) + list(reply)[:-1]


def targets_early(prompt, reply):
    return [-100] * (len(prompt) - 2) + list(reply) + [-100]


def targets_reply_only(prompt, reply):
    return list(reply)


def targets_cut(prompt, reply):
    return [-100] * (len(prompt) - 1) + list(reply)[:-1]


def targets_none(prompt, reply):
    return [-100] * (len(prompt) + len(reply) - 1)


EXERCISES = (
    Exercise(
        id="17-1",
        title="How many numbers",
        minutes=4,
        level="easy",
        hints=(
            "A has rank · in numbers, B has out · rank: together rank · (in + out), for each matrix.",
            "A query matrix is 576 × 576, a value matrix 192 × 576, and there are 30 blocks.",
        ),
        check=check_count,
        solution=460_800,
        wrong=(
            Wrong(106_168_320, "you multiplied height by width"),
            Wrong(15_360, "that is one block"),
            Wrong(552_960, "aren't of one size"),
            Wrong(276_480, "the query matrices alone, or A alone"),
            Wrong(184_320, "the value matrices alone, or B alone"),
            Wrong(57_600, "a path of rank 1"),
            Wrong(13_271_040, "which stay frozen"),
        ),
        learned="one number in 292 is trained, and the other 291 stay as they are.",
        why="30 · 8 · ((576 + 576) + (576 + 192)) = 460,800",
    ),
    Exercise(
        id="17-2",
        title="The path beside the matrix",
        minutes=6,
        level="easy",
        hints=(
            "Two results are added: that of the old layer, x @ W.T, and that of the path.",
            "The path goes through A first: x @ A.T is (…, rank), and then @ B.T is (…, out).",
            "The scale is alpha / rank, and the rank is A.shape[0].",
        ),
        check=check_lora,
        solution=solve_lora,
        wrong=(
            Wrong(lora_without_scale, "the scale is forgotten"),
            Wrong(lora_alpha_alone, "multiplied by alpha alone"),
            Wrong(lora_by_width, "the width of the input"),
            Wrong(lora_without_base, "the old layer is missing"),
            Wrong(lora_scales_all, "belongs to the path alone"),
            Wrong(lora_upside_down, "stands on its head"),
            Wrong(lora_always_two, "you wrote 2"),
            Wrong(lora_whole_scale, "divided with //"),
            Wrong(lora_by_root, "the root of the rank"),
            Wrong(lora_untransposed, "W is used as it lies"),
            Wrong(lora_swapped, "went through B first"),
            Wrong(lora_sideways, "lies on its side"),
            Wrong(lora_flat_only, "an x of (2, 5, 6) it can't"),
            Wrong(lora_in_place, "writes into W"),
        ),
        learned="W was never written to; take the path away, and the old layer is there.",
    ),
    Exercise(
        id="17-3",
        title="A start that changes nothing and still learns",
        minutes=7,
        level="medium",
        hints=(
            "B A must be zero at first. How many of the two must be zero for that?",
            (
                "The gradient of B is made with A, and the gradient "
                "of A with B. If both are zero, so are both gradients."
            ),
            (
                "One of them torch.zeros, the other torch.randn, in "
                "the shapes (rank, n_in) for A and (n_out, rank) for B."
            ),
        ),
        check=check_first,
        solution=solve_first,
        wrong=(
            Wrong(first_zeros, "nothing ever will be"),
            Wrong(first_swapped, "each other's shapes"),
            Wrong(first_nearly_zero, "if ever so slightly"),
            Wrong(first_ones, "the rank stay 1"),
            Wrong(first_tiny, "the spread of the random numbers"),
            Wrong(first_sideways, "lie on their sides"),
        ),
        learned=(
            "one matrix of zeros keeps the first output, and the "
            "other one's random numbers let the gradient through."
        ),
    ),
    Exercise(
        id="17-4",
        title="Only the answer counts",
        minutes=8,
        level="medium",
        hints=(
            "A target is the token that comes next. What are the targets if everything counts?",
            (
                "[*prompt, *reply][1:] has the prompt's tokens but the "
                "first, then the reply's. Hide the first kind with -100."
            ),
            "How many of the prompt's tokens are a target? One fewer than it has.",
        ),
        check=check_targets,
        solution=solve_targets,
        wrong=(
            Wrong(targets_by_the_reply, "should have 5 items, and has 3"),
            Wrong(targets_by_value, "should be 8, and is -100"),
            Wrong(targets_of_all, "learn to ask, too"),
            Wrong(targets_unshifted, "as long as the whole text"),
            Wrong(targets_late, "how to begin"),
            Wrong(targets_without_end, "learn to stop"),
            Wrong(targets_inverted, "hid the reply"),
            Wrong(targets_as_read, "the tokens read"),
            Wrong(targets_early, "one place too early"),
            Wrong(targets_reply_only, "only the reply is there"),
            Wrong(targets_cut, "last token is missing"),
            Wrong(targets_none, "every place is -100"),
        ),
        learned=(
            "the prompt's last token predicts the answer's first, "
            "and the answer's last is the one that says: done."
        ),
    ),
)

QUIZ = (
    Question(
        id="17-q1",
        text="LoRA trains a third of a percent of the numbers. What does it save most of in training?",
        choices=(
            Choice(
                "The time of a step",
                (
                    "All the frozen weights are still computed with, forwards, "
                    "and backwards for the gradient to come through. What falls "
                    "away is the gradient of the frozen weights themselves."
                ),
            ),
            Choice(
                "The memory of the weights",
                (
                    "They all stay there, for the model still computes "
                    "with them. To store those smaller is QLoRA's part."
                ),
            ),
            Choice(
                "The memory of gradients and optimizer state",
                "Both are kept for trained numbers only. AdamW alone keeps two more numbers for each.",
                right=True,
            ),
        ),
    ),
    Question(
        id="17-q2",
        text="You merge a LoRA into the weights. What have you lost?",
        choices=(
            Choice(
                "The way back, bit for bit",
                (
                    "The sum is rounded, and taking the change away again need not "
                    "give the old bits. Keep the base, or keep the small file apart."
                ),
                right=True,
            ),
            Choice(
                "Speed: there are more numbers now",
                "There are as many as before: the change has the shape of the matrix that it is added to.",
            ),
            Choice(
                "Quality: a low rank is worse once merged",
                "The merged matrix gives the same outputs, up to rounding.",
            ),
        ),
    ),
    Question(
        id="17-q3",
        text=(
            "After 300 steps of French, LoRA and the soft prompt were still worse than to go by how often "
            "each token comes, and training all the weights was far better. Why?"
        ),
        choices=(
            Choice(
                "Their rank was too low for a language",
                (
                    "Rank 8 got hardly further than rank 1, and the table alone, with no LoRA, got much "
                    "further. So the rank was not what held them back."
                ),
            ),
            Choice(
                "The words' own vectors stayed frozen",
                (
                    "The table of embeddings is also the head. The French words' rows were only ever pushed "
                    "away, all alike, and the small parts may not touch them. With the table set free, "
                    "LoRA's loss fell as far as full training's."
                ),
                right=True,
            ),
            Choice(
                "Their learning rate was that of full training",
                "Each had its own, chosen among several.",
            ),
        ),
    ),
)
