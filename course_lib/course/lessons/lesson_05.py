"""The exercises and the quiz of 05, the Transformer block."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import asset
from course_lib.course.checking import Mistake, call, close, same
from course_lib.course.content import Choice, Exercise, Question, Wrong
from course_lib.model import Decoder, ModelConfig

TITLE = "The Transformer block"


def check_numbers(answer):
    try:
        x = torch.as_tensor(answer, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        x = None
    if x is None or x.shape != (4,):
        raise Mistake("hand in a list of four numbers, such as [1.0, 7.0, 7.0, 1.0]")
    given = torch.tensor([7.0, 1.0, 1.0, 7.0])
    if torch.equal(x, given):
        raise Mistake("these are the four numbers themselves; find four others")
    layer, normed = F.layer_norm(x, (4,)), F.layer_norm(given, (4,))
    if not torch.allclose(layer, normed, atol=1e-3):
        raise Mistake(f"layer normalization makes {[round(n, 2) for n in layer.tolist()]} of them")
    if torch.allclose(F.rms_norm(x, (4,)), F.rms_norm(given, (4,)), atol=1e-2):
        raise Mistake(
            "RMS normalization can't tell them from 7, 1, 1, 7 either: it divides any multiple away"
        )


def check_rms_norm(answer):
    generator = torch.Generator().manual_seed(5)
    x = 3 * torch.randn(2, 5, 8, generator=generator) + 1
    weight = torch.randn(8, generator=generator)
    got = call(answer, x, weight, 0.5)
    square = x.pow(2).mean(dim=-1, keepdim=True)
    if same(got, F.layer_norm(x, (8,), weight, eps=0.5)):
        raise Mistake("that is layer normalization; RMSNorm subtracts no mean")
    if same(got, x / (square + 0.5).sqrt()):
        raise Mistake("right so far, but each channel is still to be multiplied by its weight")
    if same(got, x / (square + 0.5) * weight):
        raise Mistake("you divide by the mean square itself; divide by its root")
    if same(got, x / (square.sqrt() + 0.5) * weight):
        raise Mistake("eps goes into the root, to the mean square, and not to the root itself")
    if same(got, x / (x.pow(2).mean() + 0.5).sqrt() * weight):
        raise Mistake("you took one mean over everything; each vector has its own (dim=-1, keepdim=True)")
    close(got, x / (square + 0.5).sqrt() * weight, "rms_norm(x, weight, 0.5)")


def solve_rms_norm(x, weight, eps=1e-5):
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def rms_minus_mean(x, weight, eps=1e-5):
    x = x - x.mean(dim=-1, keepdim=True)
    return solve_rms_norm(x, weight, eps)


def rms_without_weight(x, weight, eps=1e-5):
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()


def rms_without_root(x, weight, eps=1e-5):
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps) * weight


def rms_eps_outside(x, weight, eps=1e-5):
    return x / (x.pow(2).mean(dim=-1, keepdim=True).sqrt() + eps) * weight


def rms_of_everything(x, weight, eps=1e-5):
    return x / (x.pow(2).mean() + eps).sqrt() * weight


def check_repaired(answer):
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(6))
    parts = torch.sin, torch.exp, (lambda x: 2 * x + 1), (lambda x: x / 3)  # any functions of x will do
    got = call(answer, x, *parts)
    known = {
        broken: (
            "what is carried on is the normed x; the stream itself "
            "must be carried on, and only the part reads it normed"
        ),
        repaired_by_half: (
            "the first half is still the old one: attention's "
            "addition, too, belongs on the x that isn't normed"
        ),
        repaired_but_forgetful: (
            "the last line adds to the x from before attention, so that what attention added is lost"
        ),
        repaired_with_one_norm: (
            "both parts read through the same norm; the feed-forward layer has its own, norm_2"
        ),
        repaired_as_post_norm: (
            "the norms come behind the additions: that is post-norm; here each part reads x normed"
        ),
        repaired_without_adding: "the parts replace x; each should be added to it",
        repaired_in_parallel: (
            "the feed-forward layer should read what attention has added to, not the x from before"
        ),
    }
    for wrong, message in known.items():
        if same(got, wrong(x, *parts)):
            raise Mistake(message)
    close(got, solve_repaired(x, *parts), "the block's output, with functions in place of its parts,")


def solve_repaired(x, attention, feed_forward, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + feed_forward(norm_2(x))


def broken(x, attention, feed_forward, norm_1, norm_2):
    x = norm_1(x)
    x = x + attention(x)
    x = norm_2(x)
    return x + feed_forward(x)


def repaired_by_half(x, attention, feed_forward, norm_1, norm_2):
    x = norm_1(x)
    x = x + attention(x)
    return x + feed_forward(norm_2(x))


def repaired_but_forgetful(x, attention, feed_forward, norm_1, norm_2):
    return x + feed_forward(norm_2(x + attention(norm_1(x))))


def repaired_with_one_norm(x, attention, feed_forward, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + feed_forward(norm_1(x))


def repaired_as_post_norm(x, attention, feed_forward, norm_1, norm_2):
    x = norm_1(x + attention(x))
    return norm_2(x + feed_forward(x))


def repaired_without_adding(x, attention, feed_forward, norm_1, norm_2):
    return feed_forward(norm_2(attention(norm_1(x))))


def repaired_in_parallel(x, attention, feed_forward, norm_1, norm_2):
    return x + attention(norm_1(x)) + feed_forward(norm_2(x))


def wild_model(characters):
    """24 layers without a norm, their matrices three times as large as PyTorch makes them."""
    torch.manual_seed(0)
    config = ModelConfig(characters, 32, 24, 4, 4, 8, 64, context=32, norm="none", feed_forward="relu")
    model = Decoder(config)
    for weights in model.blocks.parameters():
        weights.data *= 3
    return model


def train_60_steps(model, data, vocabulary):
    """Mean loss of the last ten steps, nats a character."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004, fused=True)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        at = torch.randint(len(data) - 32, (8, 1), generator=generator) + torch.arange(33)
        scores = model(data[at][:, :-1])
        loss = F.cross_entropy(scores.reshape(-1, vocabulary), data[at][:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not losses[-1] < 1e4:
            return losses[-1]
    return sum(losses[-10:]) / 10


def check_calm(answer):
    text = " ".join(asset("tiger_tales.txt").read_text(encoding="utf-8").split())
    letters = sorted(set(text))
    data = torch.tensor([letters.index(c) for c in text])
    model = wild_model(len(letters))
    shapes = {name: weights.shape for name, weights in model.named_parameters()}
    with torch.no_grad():
        got = call(answer, model)
    if not isinstance(got, Decoder):
        raise Mistake("return the model that you were given, with its weights changed")
    if shapes != {name: weights.shape for name, weights in got.named_parameters()}:
        raise Mistake("only the numbers in the weights may change: no new parts, no other shapes")
    with torch.enable_grad():
        loss = train_60_steps(got, data, len(letters))
    if not loss < 4:
        raise Mistake(f"it still explodes (the loss was {loss:.3g} when we stopped)")
    if loss > 2.8:
        raise Mistake(
            f"it doesn't explode, but it hardly learns: {loss:.2f}. Does each "
            "part still get a gradient, and does the token still get through?"
        )
    if loss >= 2.6:
        raise Mistake(
            f"nearly: {loss:.2f}, and below 2.6 is wanted. What should a block do at the very start?"
        )


def solve_calm(model):
    for block in model.blocks:  # at the start each part adds nothing, so the stream passes unchanged
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.feed_forward.down.weight)
    return model


def calm_not_at_all(model):
    return model


def calm_everything_to_zero(model):
    for weights in model.blocks.parameters():
        nn.init.zeros_(weights)
    return model


def calm_and_forget_to_return(model):
    solve_calm(model)
    return 0


EXERCISES = (
    Exercise(
        id="05-1",
        title="What a norm forgets",
        minutes=4,
        level="easy",
        hints=(
            "Layer normalization subtracts the mean first. What change to all four numbers does that undo?",
            "Add the same number to each of them. RMS normalization subtracts nothing, so it notices.",
        ),
        check=check_numbers,
        solution=[8.0, 2.0, 2.0, 8.0],
        wrong=(
            Wrong([1.0, 7.0, 7.0, 1.0], "layer normalization makes"),
            Wrong([14.0, 2.0, 2.0, 14.0], "can't tell them from"),
            Wrong([7.0, 1.0, 1.0, 7.0], "find four others"),
            Wrong([7.0, 1.0], "a list of four numbers"),
        ),
        learned="layer normalization forgets the mean and the length, RMS normalization the length alone.",
        why="A number added to all four is subtracted again with the mean; only RMS normalization sees it.",
    ),
    Exercise(
        id="05-2",
        title="RMSNorm",
        minutes=5,
        level="easy",
        hints=(
            "Square, mean over the last dimension, add eps, root: that is what each vector is divided by.",
            "x.pow(2).mean(dim=-1, keepdim=True) has the shape (…, 1), so that x can be divided by its root.",
        ),
        check=check_rms_norm,
        solution=solve_rms_norm,
        wrong=(
            Wrong(rms_minus_mean, "subtracts no mean"),
            Wrong(rms_without_weight, "multiplied by its weight"),
            Wrong(rms_without_root, "divide by its root"),
            Wrong(rms_eps_outside, "eps goes into the root"),
            Wrong(rms_of_everything, "each vector has its own"),
        ),
        learned="with this norm SmolLM2 was trained, and every Llama.",
    ),
    Exercise(
        id="05-3",
        title="A block that runs",
        minutes=6,
        level="medium",
        hints=(
            (
                "Follow the stream: which of its lines throws away "
                "what came in, and keeps only the normed version?"
            ),
            "There must be a way through the whole block on which x meets nothing but additions.",
            "x = x + attention(norm_1(x)), and the same for the other part.",
        ),
        check=check_repaired,
        solution=solve_repaired,
        wrong=(
            Wrong(broken, "carried on is the normed x"),
            Wrong(repaired_by_half, "the first half is still the old one"),
            Wrong(repaired_but_forgetful, "what attention added is lost"),
            Wrong(repaired_with_one_norm, "through the same norm"),
            Wrong(repaired_as_post_norm, "that is post-norm"),
            Wrong(repaired_without_adding, "the parts replace x"),
            Wrong(repaired_in_parallel, "not the x from before"),
        ),
        learned="in a pre-norm block there is a way from bottom to top with nothing on it but additions.",
    ),
    Exercise(
        id="05-4",
        title="Deep, and without a norm",
        minutes=12,
        level="hard",
        hints=(
            (
                "With residuals, a block that adds nothing lets "
                "the stream pass unchanged, however many there are."
            ),
            (
                "Which one matrix decides how much attention adds, and which one how much the feed-forward "
                "layer adds? Make these small, or 0; the others may stay."
            ),
            (
                "nn.init.zeros_(block.attention.output.weight) sets a "
                "matrix to 0. If all matrices are 0, none gets a gradient."
            ),
        ),
        check=check_calm,
        solution=solve_calm,
        wrong=(
            Wrong(calm_not_at_all, "it still explodes"),
            Wrong(calm_everything_to_zero, "it hardly learns"),
            Wrong(calm_and_forget_to_return, "return the model that you were given"),
        ),
        learned=(
            "a good start can stand in for a norm (Zhang et al. 2019, "
            "Fixup, and De & Smith 2020, SkipInit, begin like this)."
        ),
    ),
)

QUIZ = (
    Question(
        id="05-q1",
        text=(
            "You change the input of token 3 of a text, and look at "
            "what one feed-forward layer puts out. Which outputs change?"
        ),
        choices=(
            Choice("Those of token 3 and of all later tokens", "That is attention with a causal mask."),
            Choice("All of them, a little", "Nothing in a feed-forward layer connects two tokens."),
            Choice(
                "That of token 3 alone", "It works on each token as if the others weren't there.", right=True
            ),
        ),
    ),
    Question(
        id="05-q2",
        text=(
            "Eight layers with norms and without residual connections "
            "learned only letter frequencies. What was missing?"
        ),
        choices=(
            Choice(
                "Gradients: they had vanished before the first layer",
                "You measured them, and with a norm they were as large as in the net that learned.",
            ),
            Choice(
                "The tokens: they had become nearly the same, so little was left of which letter it was",
                (
                    "The third picture: without residuals the differences "
                    "between tokens shrink from layer to layer."
                ),
                right=True,
            ),
            Choice(
                "Parameters: residual connections bring some of their own",
                "A residual connection is an addition, and has none.",
            ),
        ),
    ),
    Question(
        id="05-q3",
        text="Which sentence about norms do your own runs support?",
        choices=(
            Choice(
                (
                    "A pre-norm net survived a learning rate and starting "
                    "weights that ruined the same net without norms"
                ),
                (
                    "With the rate 0.03, and with matrices three times as "
                    "large, it learned, while the net without norms was ruined."
                ),
                right=True,
            ),
            Choice(
                "Without norms a net learns more slowly",
                "At the rate 0.002 the net without norms was ahead.",
            ),
            Choice(
                "Pre-norm keeps the stream at one size",
                (
                    "There the stream grows with every layer; what each "
                    "part reads is of one size. Post-norm keeps the stream."
                ),
            ),
        ),
    ),
)
