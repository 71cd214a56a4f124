"""The exercises of the lesson on parameter-efficient fine-tuning."""

import math

import torch

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random, seeded


def lora_case(alpha, *shapes):
    name = f"with x of shape {shapes[0]}, lora(x, W, A, B, {alpha:g})"
    return Case(*random(*shapes, seed=17), alpha, name=name)


def lora(x, W, A, B, alpha):
    return x @ W.T + alpha / A.shape[0] * (x @ A.T @ B.T)


def path_scaled(scale):
    """Return LoRA with another scale than alpha / rank, a function of alpha, A and B."""
    return lambda x, W, A, B, alpha: x @ W.T + scale(alpha, A, B) * (x @ A.T @ B.T)


def lora_sideways(turn):
    """Return LoRA from the other side: `turn`(x) lies on its side, and so does the result."""
    return lambda x, W, A, B, alpha: W @ turn(x) + alpha / A.shape[0] * B @ (A @ turn(x))


def turned(x):
    """Return x.T, without PyTorch's warning for more than two dimensions."""
    return x.permute(*reversed(range(x.ndim)))


def path(x, A, B, alpha):
    return alpha / A.shape[0] * (x @ A.T @ B.T)


def lora_by_mm(x, W, A, B, alpha):
    return torch.mm(x, W.T) + alpha / A.shape[0] * torch.mm(torch.mm(x, A.T), B.T)


def lora_by_rows(x, W, A, B, alpha):
    return torch.stack([W @ row + alpha / A.shape[0] * B @ (A @ row) for row in x])


SIDEWAYS = "the result lies on its side: the last dimension should be n_out, as in x @ W.T"
TWO_DIMENSIONS = (
    "your function takes an x of (5, 6), but not one of (2, 5, 6): any number of dimensions may stand before "
    "n_in. x.T reverses all of them; mm, and a loop over rows, want exactly two; x @ W.T takes any number"
)


def first(n_out, n_in, rank):
    A = torch.randn(rank, n_in) / n_in**0.5
    return A, torch.zeros(n_out, rank)


CHANGED = (
    "B A isn't zero: the model would be another one before it has learned anything; one of the two must be "
    "zeros throughout"
)
TOO_SMALL = (
    "the random numbers are too small: the other matrix's gradient, and what its first steps change, are "
    "products with them. A spread of 1 / √n_in is usual; that of torch.randn will do"
)
TOO_LARGE = (
    "the random numbers are too large: what the other matrix's first small steps change is multiplied by "
    "them. A spread of 1 / √n_in is usual; that of torch.randn will do"
)


def started(answer, n_out, n_in, rank):
    """Return the learner's A and B. Raises Mistake unless both have the right shapes, and finite numbers."""
    pair = seeded(answer, n_out, n_in, rank, seed=17)
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(torch.is_tensor, pair))):
        raise Mistake("return two tensors, A and B: `return A, B`")
    shapes = " and ".join(str(tuple(matrix.shape)) for matrix in pair)
    if shapes != (wanted := f"{(rank, n_in)} and {(n_out, rank)}"):
        raise Mistake(f"for first({n_out}, {n_in}, {rank}) A and B should be {wanted}, and are {shapes}")
    if not all(matrix.isfinite().all() for matrix in pair):
        raise Mistake("A or B holds nan or ∞: did you fill both?")
    return [matrix.detach().cpu().double() for matrix in pair]


def changes_at_first(answer, *sizes):
    A, B = started(answer, *sizes)
    if (B @ A).any():
        raise Mistake(CHANGED)
    return False


def rank_after_a_step(answer, n_out, n_in, rank):
    """Return the rank of B A after a step down a random gradient of B A, for which the chain rule says:

    gradient of B = gradient of B A @ A.T, gradient of A = B.T @ gradient of B A
    """
    A, B = started(answer, n_out, n_in, rank)
    gradient = random((n_out, n_in), seed=17)[0].double()
    return torch.linalg.matrix_rank((B - gradient @ A.T) @ (A - B.T @ gradient)).item()


def size(answer, n_out, n_in, rank):
    """Judge how large the numbers are, of whichever matrix has the larger ones.

    torch.randn's spread, 1, is ordinary, as hint 3 says, and so is 1 over the root of a width; a fifth of the
    smaller such root is let pass, for the other customs: 1 / √(3 n_in), as in the library, or 0.02.
    """
    spread = max(matrix.square().mean().sqrt().item() for matrix in started(answer, n_out, n_in, rank))
    if spread > 1.5:
        raise Mistake(TOO_LARGE)
    if spread < 0.2 / math.sqrt(max(n_out, n_in)):
        raise Mistake(TOO_SMALL)
    return "ordinary"


def first_random(n_out, n_in, rank):
    return torch.randn(rank, n_in) / n_in**0.5, torch.randn(n_out, rank) / rank**0.5


def targets_of(prompt, reply):
    return [-100] * (len(prompt) - 1) + list(reply)


EXERCISES = (
    Exercise(
        id="lora-size",
        solution=460_800,
        wrong={
            30 * 8 * (576 * 576 + 576 * 192): (
                "you multiplied height by width; A and B together have rank · (height + width) numbers"
            ),
            8 * (576 + 576 + 576 + 192): "that is one block, and there are 30",
            30 * 8 * 2 * (576 + 576): "the value matrix is smaller than the query's: 3 heads of 64, not 9",
            30 * 8 * (576 + 576): "that is the query's path alone, or A alone; both paths have an A and a B",
            30 * 8 * (576 + 192): "that is the value's path alone, or B alone; both paths have an A and a B",
            30 * 8 * (576 + 576 + 2 * (576 + 192)): "the key gets no LoRA here: only query and value do",
            30 * (576 + 576 + 576 + 192): "that is rank 1; here A has eight rows, and B eight columns",
            30 * (576 * 576 + 576 * 192): "these are the matrices' own numbers, which stay frozen",
        },
        otherwise=(
            "that is not it. What sizes have A and B beside a query's matrix, and beside a value's? "
            "And how many blocks are there?"
        ),
    ),
    Exercise(
        id="lora",
        solution=lora,
        cases=(  # most wrong products have the right shape in the first
            lora_case(7.0, (5, 6), (6, 6), (2, 6), (6, 2)),
            lora_case(6.0, (2, 5, 6), (4, 6), (3, 6), (4, 3)),
        ),
        wrong={
            path_scaled(lambda alpha, A, B: 1): "the scale is missing: multiply the path by alpha / rank",
            path_scaled(lambda alpha, A, B: alpha): "divide alpha by the rank, the number of rows of A",
            path_scaled(lambda alpha, A, B: alpha / A.shape[1]): (
                "you divided alpha by the width of the input; it is the rank, A.shape[0]"
            ),
            path_scaled(lambda alpha, A, B: alpha / B.shape[0]): (
                "you divided alpha by the width of the output; it is the rank, A.shape[0] or B.shape[1]"
            ),
            path_scaled(lambda alpha, A, B: A.shape[0] / alpha): "upside down: the scale is alpha / rank",
            path_scaled(lambda alpha, A, B: 2): "alpha / rank is 2 in this lesson, not always: work it out",
            path_scaled(lambda alpha, A, B: alpha // A.shape[0]): (
                "you divided with //, which drops what comes after the point; the scale may be a fraction: /"
            ),
            path_scaled(lambda alpha, A, B: alpha / A.shape[0] ** 0.5): (
                "you divided alpha by the root of the rank; in this lesson it is the rank itself"
            ),
            path_scaled(lambda alpha, A, B: -alpha / A.shape[0]): "you subtract the path; it is added",
            lambda x, W, A, B, alpha: path(x, A, B, alpha): "the old layer is missing: add x @ W.T",
            lambda x, W, A, B, alpha: x @ W.T: "the path is missing: this is the old layer's result alone",
            lambda x, W, A, B, alpha: alpha / A.shape[0] * (x @ W.T + x @ A.T @ B.T): (
                "the scale belongs to the path alone; here it multiplies the old layer as well"
            ),
            lambda x, W, A, B, alpha: x @ W + path(x, A, B, alpha): "W isn't transposed: write x @ W.T",
            lambda x, W, A, B, alpha: x @ (W + alpha / A.shape[0] * B @ A): (
                "W and the change aren't transposed: their rows are the outputs, so transpose their sum"
            ),
            lambda x, W, A, B, alpha: x @ W.T + alpha / A.shape[0] * (x @ B @ A): (
                "you went through B first; A comes first and narrows, B comes second and widens"
            ),
            lora_sideways(turned): SIDEWAYS,
            lora_sideways(torch.t): SIDEWAYS,
            lambda *inputs: lora_sideways(turned)(*inputs).T: TWO_DIMENSIONS,
            lambda *inputs: lora_sideways(torch.t)(*inputs).T: TWO_DIMENSIONS,
            lora_by_mm: TWO_DIMENSIONS,
            lora_by_rows: TWO_DIMENSIONS,
            lambda x, W, A, B, alpha: x @ W.add_(alpha / A.shape[0] * B @ A).T: (
                "the result is right, but your function writes into W: the old layer would be lost"
            ),
        },
    ),
    Exercise(
        id="lora-start",
        solution=first,
        cases=(
            Case(4, 6, 2, probe=changes_at_first),
            Case(5, 7, 3, name="the rank of B A after the first step of training", probe=rank_after_a_step),
            Case(192, 576, 8, probe=size),
            Case(576, 1536, 16, probe=size),
        ),
        wrong={
            lambda *sizes: [0 * matrix for matrix in first(*sizes)]: (
                "nothing is changed at first, and nothing ever will be: the gradient of each is a product "
                "with the other, and both are zero"
            ),
            lambda *sizes: first(*sizes)[::-1]: (
                "these two have each other's shapes: A narrows, (rank, n_in), and B widens, (n_out, rank)"
            ),
            lambda *sizes: [matrix.T for matrix in first(*sizes)]: (
                "both lie on their sides: A is (rank, n_in), as x @ A.T wants it, and B (n_out, rank)"
            ),
            first_random: CHANGED,
            lambda *sizes: [1e-4 * matrix for matrix in first_random(*sizes)]: (
                "small numbers aren't zeros: the model would be another one, if ever so slightly, before it "
                "has learned anything; one of the two must be zeros throughout"
            ),
            lambda n_out, n_in, rank: (torch.ones(rank, n_in), torch.zeros(n_out, rank)): (
                "the rank would stay 1: rows of A that begin alike get equal gradients, and so stay alike; "
                "the same goes for B, and what is zero in both gets no gradient"
            ),
            lambda *sizes: [1e-6 * matrix for matrix in first(*sizes)]: TOO_SMALL,
            lambda *sizes: [1e3 * matrix for matrix in first(*sizes)]: TOO_LARGE,
        },
    ),
    Exercise(
        id="answer-targets",
        solution=targets_of,
        cases=(Case([5, 6, 7], [8, 9, 2]), Case([4], [3]), Case([5, 6, 7, 8], [8, 2])),
        wrong={
            lambda prompt, reply: [*prompt, *reply][1:]: (
                "the prompt counts as well: the model would learn to ask, too"
            ),
            lambda prompt, reply: [*prompt, *reply][:-1]: (
                "this is the text that is read; a target is what comes next, and the prompt's are hidden"
            ),
            lambda prompt, reply: [-100] * len(prompt) + reply: (
                "that is as long as the whole text; a target is what comes next, so leave out the first"
            ),
            lambda prompt, reply: [-100] * len(prompt) + reply[1:]: (
                "the reply's first token doesn't count: the model would never learn how to begin"
            ),
            lambda prompt, reply: targets_of(prompt, reply)[:-1] + [-100]: (
                "the last token doesn't count: the model would never learn to stop"
            ),
            lambda prompt, reply: prompt[1:] + [-100] * len(reply): "you hid the reply and kept the prompt",
            lambda prompt, reply: [-100] * len(prompt) + reply[:-1]: (
                "these are the tokens read; a target is the next one, so the reply moves up by one place"
            ),
            lambda prompt, reply: [-100] * (len(prompt) - 2) + reply + [-100]: (
                "one place too early: the prompt's last token, and no other, is answered by the reply's first"
            ),
            lambda prompt, reply: reply: (
                "only the reply is there; the list must be as long as what is read: put -100 in front"
            ),
            lambda prompt, reply: targets_of(prompt, reply)[:-1]: (
                "the reply's last token is missing: nothing follows it, but it is a target all the same"
            ),
            lambda prompt, reply: [-100] * (len(prompt) + len(reply) - 1): (
                "every place is -100: nothing counts, so nothing would be learned"
            ),
            lambda prompt, reply: [0] * (len(prompt) - 1) + reply: (
                "hidden places hold 0 here, and 0 is some token's id: -100 is what the loss ignores"
            ),
            lambda prompt, reply: [-100] * (len(reply) - 1) + reply: (
                "you hid as many places as the reply has tokens, less one; count the prompt's instead"
            ),
            lambda prompt, reply: [token if token in reply else -100 for token in [*prompt, *reply][1:]]: (
                "a token of the prompt counts because the reply has it, too: hide by place, not by token"
            ),
            lambda prompt, reply: [-100 if token in prompt else token for token in [*prompt, *reply][1:]]: (
                "a token of the reply is hidden because the prompt has it, too: hide by place, not by token"
            ),
        },
    ),
)
