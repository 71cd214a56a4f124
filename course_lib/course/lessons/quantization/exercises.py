"""The exercises of the lesson on quantization."""

import struct

import torch

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random, seeded
from course_lib.course.reading import describe


def some_weights():
    """Forty weights whose largest is negative."""
    return torch.cat([torch.tensor([-1.2]), 0.3 * random((39,))[0]])


def round_to_grid(w, bits):
    scale = w.abs().max() / (2 ** (bits - 1) - 1)
    return (w / scale).round(), scale


def grid_by(steps=lambda bits: 2 ** (bits - 1) - 1, largest=lambda w: w.abs().max()):
    """A wrong function, with a number of `steps`(bits) or a `largest`(w) of its own."""

    def grid(w, bits):
        scale = largest(w) / steps(bits)
        return (w / scale).round(), scale

    return grid


def grid_from_the_smallest(w, bits):
    scale = (w.max() - w.min()) / (2**bits - 1)
    return ((w - w.min()) / scale).round(), scale


FROM_THE_SMALLEST = (
    "your levels go from the smallest weight to the largest; here they go equally far to both sides of zero"
)


def grid_with(codes):
    """A wrong function, with the right scale and `codes`(w / scale, scale)."""

    def grid(w, bits):
        scale = round_to_grid(w, bits)[1]
        return codes(w / scale, scale), scale

    return grid


def block_case(scale, minimum, seed):
    codes = seeded(torch.randint, 256, (16,), seed=seed)
    block = struct.pack("<2e", scale, minimum) + bytes(codes.tolist())
    return Case(block, name=f'read_block(bytes.fromhex("{block.hex()}"))')


def read_block(block):
    scale, minimum = struct.unpack("<2e", block[:4])
    low = [byte % 16 for byte in block[4:]]
    high = [byte // 16 for byte in block[4:]]
    return [scale * code + minimum for code in low + high]


def codes_of(block):
    return [byte % 16 for byte in block] + [byte // 16 for byte in block]


def block_by(weight, form="<2e", codes=codes_of):
    """A wrong function: `weight`(first number, second number, code) for each of `codes`(the 16 bytes)."""
    return lambda block: [weight(*struct.unpack(form, block[:4]), code) for code in codes(block[4:])]


WHOLE_NUMBERS = '"h" and "H" read whole numbers; scale and minimum are floating point numbers of 16 bits, "e"'


def weight_of(scale, minimum, code):
    return scale * code + minimum


def quarters(x):
    return (4 * x).round() / 4


def on_own_grid(x):
    """Unlike `quarters`, it has a slope of its own, at the weight that decides the scale."""
    codes, scale = round_to_grid(x, 4)
    return codes * scale


def numbers_and_gradient(answer, w, rounding):
    """The gradient is None where nothing leads back to w.

    What comes in from the loss differs from weight to weight, so that it can be seen whether it is handed on.
    """
    with torch.enable_grad():
        result = answer(w.requires_grad_(), rounding)
        if not w.requires_grad:
            raise Mistake(
                "w itself takes no gradient any more. w.detach_() changes w for good; w.detach() gives "
                "another tensor, and leaves w as it is"
            )
        if getattr(result, "shape", None) != w.shape or not getattr(result, "requires_grad", False):
            return result, None
        incoming = torch.linspace(1, 2, len(w), dtype=result.dtype)
        try:
            gradient = torch.autograd.grad(result, w, incoming, allow_unused=True)[0]
        except RuntimeError as error:
            raise Mistake(f"the way back from your result to w stopped with {describe(error)}") from None
        return result.detach(), None if gradient is None else gradient / incoming


def straight_through(w, rounding):
    return w + (rounding(w) - w).detach()


def through_ones(w, rounding):
    """Like a `backward` that gives 1 without looking at the gradient that comes in."""
    result = straight_through(w, rounding)
    result.register_hook(torch.ones_like)
    return result


def through_overwriting(w, rounding):
    w.data = rounding(w).detach()
    return w


EXERCISES = (
    Exercise(
        id="matrix-bytes",
        solution=207_360,
        wrong={
            165_888: "these are the codes alone: add a scale and a minimum for each block, two bytes each",
            41_472: "these are the scales and minima alone: add the codes, half a byte for each weight",
            186_624: "each block has two numbers of 16 bits, a scale and a minimum: you counted only one",
            168_192: "you gave each row one scale and one minimum; here each block of 32 has its own",
            331_776: "that is how many weights there are; a code has half a byte, each block 4 bytes more",
            248_832: "you gave the scale and the minimum four bytes each; 16 bits are two bytes",
            373_248: "you gave each code a whole byte; four bits are half of one",
            20: "that is one block; the matrix has 10,368 of them",
            1_658_880: "these are bits; eight of them are a byte",
            1_327_104: (
                "that is 4 for each weight, but 4 bits are half a byte; and scales and minima are missing"
            ),
        },
        otherwise="that is not it. Add up the codes of all weights, and the scales and minima of all blocks",
    ),
    Exercise(
        id="round-to-grid",
        solution=round_to_grid,
        cases=(
            Case(torch.tensor([0.25, -0.75, 1.0]), 8),
            Case(torch.tensor([0.25, -0.75, 1.0]), 2),
            Case(torch.tensor([-0.125, -0.375, -1.5]), 3),
            Case(some_weights(), 4),
        ),
        returns=("the codes", "the scale"),
        wrong={
            grid_by(lambda bits: 2 ** (bits - 1)): (
                "with 4 bits the largest weight gets 8 or −8, but codes go from −7 to 7: one step fewer"
            ),
            grid_by(lambda bits: 2**bits - 1): (
                "you spread all levels from 0 to the largest weight; with 4 bits, 7 lie on either side"
            ),
            grid_by(lambda bits: 7): "that is right for 4 bits alone: work the 7 out from `bits`",
            grid_by(largest=lambda w: w.max()): "negative weights count too: take the largest absolute value",
            grid_by(lambda bits: 2**bits - 1, lambda w: w.max() - w.min()): FROM_THE_SMALLEST,
            grid_from_the_smallest: FROM_THE_SMALLEST,
            grid_with(lambda steps, scale: steps): "the codes aren't whole numbers yet: round them",
            grid_with(lambda steps, scale: steps.trunc()): (
                "you cut the decimals off; the nearest level may be the next one: round"
            ),
            grid_with(lambda steps, scale: steps.floor()): (
                "floor goes down to the next level, even where the one above is nearer: round"
            ),
            lambda w, bits: (w // round_to_grid(w, bits)[1], round_to_grid(w, bits)[1]): (
                "// goes down to the next level, even where the one above is nearer: divide with / and round"
            ),
            grid_with(lambda steps, scale: steps.round() * scale): (
                "these are the rounded weights already; the codes are whole numbers, for 4 bits −7 to 7"
            ),
            grid_with(lambda steps, scale: (steps * scale * scale).round()): (
                "you multiplied by the scale; how many steps a weight takes is w / scale"
            ),
            lambda w, bits: (round_to_grid(w, bits)[0], 1 / round_to_grid(w, bits)[1]): (
                "right codes, but the scale is upside down: it is what one step is worth, largest / steps"
            ),
            lambda w, bits: round_to_grid(w, bits)[::-1]: (
                "the two results are there, in the other order: first the codes, then the scale"
            ),
            lambda w, bits: round_to_grid(w, bits)[0]: (
                "return two things, the codes and the scale: `return codes, scale`"
            ),
        },
    ),
    Exercise(
        id="read-block",
        solution=read_block,
        cases=(block_case(0.25, -2.0, seed=1), block_case(0.03125, -0.125, seed=2)),
        wrong={
            lambda block: torch.tensor(read_block(block)).view(2, 16).T.flatten().tolist(): (
                "byte i holds weight i and weight i + 16, not two neighbours"
            ),
            lambda block: read_block(block)[16:] + read_block(block)[:16]: (
                "the halves changed places: the low four bits are the first sixteen weights"
            ),
            block_by(lambda first, second, code: second * code + first): (
                "the scale comes first in the block, then the minimum"
            ),
            block_by(lambda scale, minimum, code: scale * code): "the minimum is missing: add it to each",
            block_by(lambda scale, minimum, code: scale * (code - 8) + minimum): (
                "code 0 is the minimum itself; subtracting 8 belongs to Q4_0, which has no minimum"
            ),
            block_by(lambda scale, minimum, code: scale * (code + minimum)): (
                "the minimum isn't multiplied by the scale: scale · code + minimum"
            ),
            block_by(lambda scale, minimum, code: scale * code - minimum): (
                "the minimum is added, not taken away"
            ),
            block_by(weight_of, form=">2e"): 'the two numbers have their low byte first: "<2e", not ">2e"',
            block_by(weight_of, form="<2h"): WHOLE_NUMBERS,
            block_by(weight_of, form="<2H"): WHOLE_NUMBERS,
            lambda block: codes_of(block[4:]): "these are the codes; scale and minimum make weights of them",
            block_by(weight_of, codes=list): (
                "a block holds 32 weights: each of the 16 bytes after the fourth has two of them"
            ),
            lambda block: read_block(block)[:16]: "the high halves are missing: they are weights 16 to 31",
            lambda block: read_block(block[:4] + block): (
                "you read codes from the first four bytes too; they are the scale and the minimum"
            ),
        },
    ),
    Exercise(
        id="straight-through",
        solution=straight_through,
        cases=(
            Case(some_weights(), quarters, probe=numbers_and_gradient),
            Case(some_weights(), on_own_grid, probe=numbers_and_gradient),
        ),
        returns=("the numbers", "the gradient"),
        wrong={
            lambda w, rounding: rounding(w): (
                "the slope of rounding is 0 nearly everywhere: next to nothing would be learned"
            ),
            lambda w, rounding: rounding(w).detach(): (
                "the numbers are right, but nothing leads back to w: it must come in outside of detach()"
            ),
            through_ones: "you return 1, whatever gradient comes in from the loss: hand that on, unchanged",
            through_overwriting: "you changed w itself: training needs the full weight at the next step",
            lambda w, rounding: w: (
                "the result is the weight itself, not rounded: the model would learn to do without rounding"
            ),
            lambda w, rounding: w + rounding(w).detach(): (
                "the two are added: what must be added to w is only the difference, rounding(w) − w"
            ),
            lambda w, rounding: w - (rounding(w) - w).detach(): (
                "the difference goes the wrong way: w − (rounding(w) − w) is as far from w on the other side"
            ),
            lambda w, rounding: w.detach() + (rounding(w) - w): (
                "the gradient is −1: you detached the weight that is added, instead of the difference"
            ),
            lambda w, rounding: 2 * w + (rounding(w) - 2 * w).detach(): (
                "the weight comes in twice, so that the gradient is 2: detach the part that you subtract"
            ),
            lambda w, rounding: w + rounding(w) - w.detach(): (
                "rounding(w) isn't detached: any slope it has, as at the largest weight, is added to your 1"
            ),
        },
    ),
)
