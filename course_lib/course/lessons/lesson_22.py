"""The exercises and the quiz of 22, quantization."""

import struct

import torch

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.quantize import Q4_1

TITLE = "Quantization"

BYTES = 576 * 576 // 2 + 576 * 576 // 32 * 4


def check_bytes(answer):
    if answer == 576 * 576 // 2:
        raise Mistake(
            "these are the codes alone: each block of 32 also has a scale and a minimum, of two bytes each"
        )
    if answer == 576 * 576 // 2 + 576 * 576 // 32 * 2:
        raise Mistake("each block has two numbers of 16 bits: you counted the scale, and not the minimum")
    if answer == 576 * 576 // 2 + 576 * 4:
        raise Mistake("you gave each row one scale and one minimum; here each block of 32 has its own")
    if answer == 20:
        raise Mistake("that is one block; the matrix has 10,368 of them")
    if answer == BYTES * 8:
        raise Mistake("these are bits; eight of them are a byte")
    if answer == 576 * 576 * 4:
        raise Mistake("that would be four bytes a weight, as in 32 bits; here a weight has four bits")
    equal(answer, BYTES, "the number of bytes")


def _weights():
    """Forty weights whose largest is negative."""
    weights = torch.randn(40, generator=torch.Generator().manual_seed(22)) * 0.3
    weights[0] = -1.2
    return weights


def check_round_to_grid(answer):
    w = _weights()
    got = call(answer, w, 4)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things, the codes and the scale: `return codes, scale`")
    codes, scale = got
    if same(codes, w.abs().max() / 7):
        raise Mistake("the two results are there, in the other order: first the codes, then the scale")
    largest, want = w.abs().max(), w.abs().max() / 7
    if same(scale, largest / 8):
        raise Mistake(
            "with the scale largest / 8 the largest weight gets code "
            "8, which four bits with a sign don't have: divide by 7"
        )
    if same(scale, largest / 15):
        raise Mistake(
            "you spread all 16 levels from 0 to the largest weight; there are 7 on either side of zero"
        )
    if same(scale, w.max() / 7) and not same(scale, want):
        raise Mistake("the largest weight may be negative: take the largest absolute value")
    close(scale, want, "the scale")
    if same(codes, w / want):
        raise Mistake("these aren't whole numbers yet: round them")
    if same(codes, (w / want).trunc()):
        raise Mistake("you cut the decimals off; the nearest level is one or the other: round")
    if same(codes, (w / want).round() * want):
        raise Mistake("these are the rounded weights already; the codes are whole numbers, −7 to 7")
    close(codes, (w / want).round(), "the codes")
    w = -torch.tensor([0.1, 0.2, 0.9])
    codes, scale = call(answer, w, 3)
    if same(scale, 0.9 / 7):
        raise Mistake("right for 4 bits; for 3 the last step is 3, not 7: 2 ** (bits - 1) - 1")
    close(scale, 0.3, "the scale of three negative weights in 3 bits")
    close(codes, [0, -1, -3], "the codes of three negative weights in 3 bits")


def solve_round_to_grid(w, bits):
    scale = w.abs().max() / (2 ** (bits - 1) - 1)
    return (w / scale).round(), scale


def grid_too_long(w, bits):
    scale = w.abs().max() / 2 ** (bits - 1)
    return (w / scale).round(), scale


def grid_one_sided(w, bits):
    scale = w.abs().max() / (2**bits - 1)
    return (w / scale).round(), scale


def grid_without_sign(w, bits):
    scale = w.max() / (2 ** (bits - 1) - 1)
    return (w / scale).round(), scale


def grid_truncated(w, bits):
    scale = w.abs().max() / (2 ** (bits - 1) - 1)
    return (w / scale).trunc(), scale


def grid_seven(w, bits):
    scale = w.abs().max() / 7
    return (w / scale).round(), scale


def grid_swapped(w, bits):
    return solve_round_to_grid(w, bits)[::-1]


def grid_unrounded(w, bits):
    scale = w.abs().max() / (2 ** (bits - 1) - 1)
    return w / scale, scale


def grid_rounded_weights(w, bits):
    codes, scale = solve_round_to_grid(w, bits)
    return codes * scale, scale


def _block(seed):
    weights = torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))
    return bytes(Q4_1.encode(weights + 0.4 * (seed % 2)).flatten().tolist())


def _scale_and_minimum(block):
    return struct.unpack("<2e", block[:4])


def check_read_block(answer):
    for seed in (1, 2):
        block = _block(seed)
        got = call(answer, block)
        if len(got) != 32:
            raise Mistake(
                "a block holds 32 weights, two in each of the 16 "
                f"bytes after the fourth; you gave back {len(got)}"
            )
        for wrong, feedback in MISREADINGS:
            if same(got, wrong(block)):
                raise Mistake(feedback)
        close(got, solve_read_block(block), "the weights")


def solve_read_block(block):
    scale, minimum = struct.unpack("<2e", block[:4])
    low = [byte % 16 for byte in block[4:]]
    high = [byte // 16 for byte in block[4:]]
    return [scale * code + minimum for code in low + high]


def block_interleaved(block):
    scale, minimum = _scale_and_minimum(block)
    return [scale * code + minimum for byte in block[4:] for code in (byte % 16, byte // 16)]


def block_high_first(block):
    right = solve_read_block(block)
    return right[16:] + right[:16]


def block_scale_last(block):
    minimum, scale = _scale_and_minimum(block)
    return [scale * code + minimum for code in _codes(block)]


def block_without_minimum(block):
    scale, _ = _scale_and_minimum(block)
    return [scale * code for code in _codes(block)]


def block_centred(block):
    scale, minimum = _scale_and_minimum(block)
    return [scale * (code - 8) + minimum for code in _codes(block)]


def block_big_endian(block):
    scale, minimum = struct.unpack(">2e", block[:4])
    return [scale * code + minimum for code in _codes(block)]


def block_minus(block):
    scale, minimum = _scale_and_minimum(block)
    return [scale * code - minimum for code in _codes(block)]


def block_codes(block):
    return _codes(block)


def block_bytes(block):
    scale, minimum = _scale_and_minimum(block)
    return [scale * byte + minimum for byte in block[4:]]


def _codes(block):
    return [byte % 16 for byte in block[4:]] + [byte // 16 for byte in block[4:]]


MISREADINGS = (
    (block_interleaved, "byte i holds weight i and weight i + 16, not two neighbours"),
    (block_high_first, "the halves changed places: the low four bits are the first sixteen weights"),
    (block_scale_last, "the scale comes first in the block, then the minimum"),
    (block_without_minimum, "the minimum is missing: code 0 stands for it"),
    (block_big_endian, 'the two numbers lie in the file with their low byte first: "<2e", not ">2e"'),
    (block_minus, "the minimum is added, not taken away"),
    (block_codes, "these are the codes; scale and minimum make weights of them"),
    (block_centred, "code 0 is the minimum itself; subtracting 8 belongs to Q4_0, which has no minimum"),
)


def _quarters(x):
    return (4 * x).round() / 4


def check_straight_through(answer):
    call(answer, _weights().requires_grad_(), _quarters)
    w, used = _weights(), _weights().requires_grad_()
    with torch.enable_grad():
        got = answer(used, _quarters)
        if not used.equal(w):
            raise Mistake("you changed w itself: training needs the full weight again at the next step")
        if same(got, w):
            raise Mistake(
                "the result is the weight itself, not rounded: the model would learn to do without rounding"
            )
        if same(got, w + _quarters(w)):
            raise Mistake(
                "the two are added: what must be added to w is only the difference, rounding(w) − w"
            )
        close(got, _quarters(w), "the result")
        slope = _slope(got, used)
    if slope is None:
        raise Mistake(
            "the numbers are right, but nothing leads back to w: it must come in outside of detach()"
        )
    if same(slope, torch.zeros(40)):
        raise Mistake(
            "the result hangs on the weight only through the "
            "rounding, whose slope is 0: nothing would be learned"
        )
    if same(slope, -torch.ones(40)):
        raise Mistake("the gradient is −1: you detached the weight that is added, instead of the difference")
    if same(slope, 2 * torch.ones(40)):
        raise Mistake(
            "the weight comes in twice with its gradient, which is then 2: detach the part that you subtract"
        )
    close(slope, torch.ones(40), "the gradient")


def _slope(result, w):
    """The gradient of the result's sum with respect to w; None where nothing leads back to it."""
    if not (isinstance(result, torch.Tensor) and result.requires_grad):
        return None
    return torch.autograd.grad(result.sum(), w, allow_unused=True)[0]


def solve_straight_through(w, rounding):
    return w + (rounding(w) - w).detach()


def through_rounding(w, rounding):
    return rounding(w)


def through_detached(w, rounding):
    return rounding(w).detach()


def through_nothing(w, rounding):
    return w


def through_overwriting(w, rounding):
    w.data = rounding(w)
    return w


def through_sum(w, rounding):
    return w + rounding(w).detach()


def through_minus(w, rounding):
    return w.detach() + (rounding(w) - w)


def through_twice(w, rounding):
    return 2 * w + (rounding(w) - 2 * w).detach()


EXERCISES = (
    Exercise(
        id="22-1",
        title="What a matrix weighs",
        minutes=4,
        level="easy",
        hints=(
            "A code takes half a byte. How many weights are there, and how many blocks of 32?",
            "Each block has a scale and a minimum, 16 bits each: 4 bytes.",
        ),
        check=check_bytes,
        solution=BYTES,
        wrong=(
            Wrong(165_888, "these are the codes alone"),
            Wrong(186_624, "and not the minimum"),
            Wrong(168_192, "you gave each row one scale"),
            Wrong(1_658_880, "these are bits"),
            Wrong(1_327_104, "four bytes a weight"),
            Wrong(20, "that is one block"),
        ),
        learned="four bits are five once scales and minima are counted; 32 bits are 6.4 times as many.",
        why=(
            "331,776 weights / 2 = 165,888 bytes of codes, and "
            "10,368 blocks · 4 = 41,472 bytes of scales and minima."
        ),
    ),
    Exercise(
        id="22-2",
        title="Round to a grid",
        minutes=7,
        level="medium",
        hints=(
            "With b bits and a sign there are 2**(b − 1) − 1 steps on either side of zero: 7 for 4 bits.",
            (
                "The largest absolute value should land on the last "
                "step: scale = w.abs().max() / (2 ** (bits - 1) - 1)."
            ),
            "codes = (w / scale).round()",
        ),
        check=check_round_to_grid,
        solution=solve_round_to_grid,
        wrong=(
            Wrong(grid_too_long, "gets code 8"),
            Wrong(grid_one_sided, "you spread all 16 levels"),
            Wrong(grid_without_sign, "take the largest absolute value"),
            Wrong(grid_truncated, "you cut the decimals off"),
            Wrong(grid_rounded_weights, "these are the rounded weights already"),
            Wrong(grid_seven, "right for 4 bits"),
            Wrong(grid_swapped, "in the other order"),
            Wrong(grid_unrounded, "whole numbers yet"),
        ),
        learned="one number, the largest, decides how finely all the others are told apart.",
    ),
    Exercise(
        id="22-3",
        title="Read a block",
        minutes=10,
        level="medium",
        hints=(
            'struct.unpack("<2e", block[:4]) reads two 16-bit numbers, the scale and the minimum.',
            "Of a byte, byte % 16 is the low half and byte // 16 the high half.",
            "First the low halves of all 16 bytes, then their high halves: weights 0 to 15, then 16 to 31.",
        ),
        check=check_read_block,
        solution=solve_read_block,
        wrong=(
            Wrong(block_interleaved, "not two neighbours"),
            Wrong(block_high_first, "the halves changed places"),
            Wrong(block_scale_last, "the scale comes first"),
            Wrong(block_without_minimum, "the minimum is missing"),
            Wrong(block_centred, "belongs to Q4_0"),
            Wrong(block_big_endian, "low byte first"),
            Wrong(block_minus, "is added, not taken away"),
            Wrong(block_codes, "these are the codes;"),
            Wrong(block_bytes, "a block holds 32 weights"),
        ),
        learned="these lines, over and over, are how the 98 MB of a file become 135 million weights.",
    ),
    Exercise(
        id="22-4",
        title="Straight through",
        minutes=8,
        level="hard",
        hints=(
            (
                "The value should be rounding(w), and the gradient "
                "that of w. detach() makes a number without a gradient."
            ),
            "What must be added to w to get rounding(w)? Add just that, detached.",
        ),
        check=check_straight_through,
        solution=solve_straight_through,
        wrong=(
            Wrong(through_rounding, "whose slope is 0"),
            Wrong(through_detached, "nothing leads back to w"),
            Wrong(through_overwriting, "you changed w itself"),
            Wrong(through_sum, "the two are added"),
            Wrong(through_minus, "the gradient is −1"),
            Wrong(through_nothing, "is the weight itself"),
            Wrong(through_twice, "the weight comes in twice"),
        ),
        learned="forward a staircase, backward a ramp: a lie that works.",
    ),
)

QUIZ = (
    Question(
        id="22-q1",
        text="Why does one very large weight hurt the others of its group?",
        choices=(
            Choice(
                "The grid must reach it, so its steps become so long that small weights fall on zero",
                "A group has one scale, and the largest weight sets it. Smaller groups mean fewer victims.",
                right=True,
            ),
            Choice(
                "It is rounded badly itself",
                "The largest weight lands exactly on the last step. The others pay.",
            ),
            Choice(
                "It needs more bits than the others",
                "All codes have equally many bits; what is shared is the scale.",
            ),
        ),
    ),
    Question(
        id="22-q2",
        text=(
            "From 16 bits to the file's 4, the linear layers shrink to less "
            "than a third. Why doesn't the model write three times as fast?"
        ),
        choices=(
            Choice(
                "Because 4-bit weights are first written out as 16-bit ones in memory",
                (
                    "The kernel unpacks them in registers. Layers without a "
                    "kernel, here those of 3 and 2 bits, do write them out."
                ),
            ),
            Choice(
                "Because other work stays: the output layer, and hundreds of small steps for each token",
                (
                    "You timed the parts: only the linear layers got faster, "
                    "and what isn't made faster soon takes most of the time."
                ),
                right=True,
            ),
            Choice("Because of rounding errors", "They cost quality, not time."),
        ),
    ),
    Question(
        id="22-q3",
        text=(
            "Our model lost nothing at all when rounded to 4 bits "
            "with a minimum for each group of 32. What does that show?"
        ),
        choices=(
            Choice(
                "4 bits are always enough",
                "NF4, also of 4 bits, raised the perplexity by a sixth, and one scale per row doubled it.",
            ),
            Choice(
                "Perplexity is a poor measure",
                "It saw even 8 bits, by a tenth of a point; here there was nothing to see.",
            ),
            Choice(
                "That its weights came from such a grid in the first place",
                "The file holds them so. What that first rounding cost can't be learned from this file.",
                right=True,
            ),
        ),
    ),
)
