"""The exercises of the lesson on the Transformer block."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import asset
from course_lib.course.checking import Mistake, call
from course_lib.course.exercise import Case, Exercise
from course_lib.course.lessons.inputs import random
from course_lib.model import Decoder, ModelConfig

X, WEIGHT = random((2, 5, 8), (8,))
PARTS_SHOWN = "torch.sin, torch.exp, lambda x: 2 * x + 1, lambda x: x / 3"  # any functions of x will do
PARTS = torch.sin, torch.exp, lambda x: 2 * x + 1, lambda x: x / 3


def check_numbers(answer):
    try:
        x = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        x = None
    if x is None or x.shape != (4,):
        raise Mistake("hand in a list of four numbers, such as [1.0, 7.0, 7.0, 1.0]")
    given = torch.tensor([7.0, 1.0, 1.0, 7.0], dtype=torch.float64)
    if torch.equal(x, given):
        raise Mistake("these are the four numbers themselves; find four others")
    layer = F.layer_norm(x, (4,), eps=1e-12)
    if not torch.allclose(layer, F.layer_norm(given, (4,)), atol=1e-3):
        made = [round(n, 2) for n in layer.tolist()]
        raise Mistake(f"layer normalization makes {made} of them, and not 1, -1, -1, 1")
    if torch.allclose(F.rms_norm(x, (4,)), F.rms_norm(given, (4,)), atol=1e-4):
        raise Mistake("RMS normalization can't tell them from 7, 1, 1, 7 either: it makes multiples alike")


def rms_norm(x, weight, eps=1e-5):
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def repaired(x, attention, feed_forward, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + feed_forward(norm_2(x))


def wild_model(characters):
    """24 layers without a norm, their matrices three times as large as PyTorch makes them."""
    torch.manual_seed(0)
    config = ModelConfig(characters, 32, 24, 4, 4, 8, 64, context=32, norm="none", feed_forward="relu")
    model = Decoder(config)
    for weights in model.blocks.parameters():
        weights.data *= 3
    return model


def train_60_steps(model, data):
    """Mean loss of the last ten steps, nats a character."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004, fused=True)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        at = torch.randint(len(data) - 32, (8, 1), generator=generator) + torch.arange(33)
        loss = F.cross_entropy(model(data[at][:, :-1]).flatten(0, 1), data[at][:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not losses[-1] < 1e4:
            return losses[-1]
    return sum(losses[-10:]) / 10


def parts_of(model):
    weights = {name: (w.shape, w.dtype) for name, w in model.state_dict().items()}
    return [*map(type, model.modules())], weights


def check_two_matrices(before, after):
    """Raise Mistake unless at most two matrices of each block differ between two state dicts, and no more."""
    changed = [name for name, w in before.items() if not torch.equal(w, after[name])]
    for name in changed:
        if not name.startswith("blocks."):
            raise Mistake(f"{name} has changed; only two matrices in each block may")
        block = name[: name.index(".", 7)]
        if (number := sum(other.startswith(f"{block}.") for other in changed)) > 2:
            raise Mistake(f"{number} matrices of {block} have changed; only two in each block may")


def check_calm(answer):
    text = " ".join(asset("tiger_tales.txt").read_text(encoding="utf-8").split())
    letters = sorted(set(text))
    data = torch.tensor([letters.index(c) for c in text])
    model = wild_model(len(letters))
    with torch.no_grad():
        got = call(answer, model)
    if not isinstance(got, Decoder):
        raise Mistake("return the model that you were given, with its weights changed")
    trained = wild_model(len(letters))  # a new one, so that nothing but the weights can have been changed
    if parts_of(got) != parts_of(trained):
        raise Mistake("only the numbers in the weights may change: no new parts, no other shapes or types")
    if all(map(torch.equal, trained.state_dict().values(), got.state_dict().values())):
        raise Mistake("no weight has changed: write into it, as weight.data.copy_(…) does")
    check_two_matrices(trained.state_dict(), got.state_dict())
    trained.load_state_dict(got.state_dict())
    with torch.enable_grad():
        loss = train_60_steps(trained, data)
    if not loss < 100:
        raise Mistake(f"it still explodes (its loss reached {loss:.3g}). How much does each part add?")
    if loss >= 2.6:
        raise Mistake(
            f"it doesn't explode, but its loss ends at {loss:.2f}, and should end below 2.6. "
            "Does each part add next to nothing at the start, and does each get a gradient?"
        )


def calm(model):
    for block in model.blocks:  # at the start each part adds nothing, so the stream passes unchanged
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.feed_forward.down.weight)
    return model


def scaled(model, names, factor):
    """The model, its matrices of these names multiplied by a factor."""
    for name, weights in model.blocks.named_parameters():
        if any(part in name for part in names):
            weights.data *= factor
    return model


def mean_square(x, dim=-1, keepdim=True):
    return x.pow(2).mean(dim=dim, keepdim=keepdim)


def over(size):
    """A norm that divides by `size(x, eps)`."""
    return lambda x, weight, eps=1e-5: x / size(x, eps) * weight


def half(x, part, norm):
    return x + part(norm(x))


def old_half(x, part, norm):
    return norm(x) + part(norm(x))


def block_of(first, second=None):
    """A block of two halves such as the ones above; without a second, both are like the first."""
    return lambda x, attend, feed, n1, n2: (second or first)(first(x, attend, n1), feed, n2)


SPREAD = "you divide by the spread around the mean; RMSNorm squares x as it is"
WRONG_DIM = "the mean runs over the wrong dimension: take it over the numbers of each vector, dim=-1"


EXERCISES = (
    Exercise(
        id="what-a-norm-forgets",
        solution=[8.0, 2.0, 2.0, 8.0],
        check=check_numbers,
        wrong={
            (1.0, 7.0, 7.0, 1.0): "layer normalization makes [-1.0, 1.0, 1.0, -1.0] of them",
            (14.0, 2.0, 2.0, 14.0): "can't tell them from",
            (7.0, 1.0, 1.0, 7.0): "find four others",
            (7.0, 1.0): "a list of four numbers",
        },
    ),
    Exercise(
        id="rms-norm",
        solution=rms_norm,
        forbids=("rms_norm", "RMSNorm"),
        cases=(
            Case(torch.tensor([7.0, 1.0, 1.0, 7.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]), 0),
            Case(3 * X + 1, WEIGHT, 0.5),
            Case(0.001 * X, WEIGHT, name="rms_norm(0.001 * x, weight)"),
        ),
        part=True,
        wrong={
            lambda x, w, eps=1e-5: F.layer_norm(x, w.shape, w, eps=eps): (
                "that is layer normalization; RMSNorm subtracts no mean"
            ),
            over(lambda x, eps: (x.var(dim=-1, correction=0, keepdim=True) + eps).sqrt()): SPREAD,
            over(lambda x, eps: (x.var(dim=-1, keepdim=True) + eps).sqrt()): SPREAD,
            lambda x, w, eps=1e-5: x / x.pow(2).mean().sqrt(): (
                "that is for one vector; take the mean of each (dim=-1, keepdim=True), and use eps and weight"
            ),
            over(lambda x, eps: (mean_square(x, dim=0) + eps).sqrt()): WRONG_DIM,
            over(lambda x, eps: (mean_square(x, dim=1) + eps).sqrt()): WRONG_DIM,
            over(lambda x, eps: (mean_square(x, dim=-2) + eps).sqrt()): WRONG_DIM,
            lambda x, w, eps=1e-5: rms_norm(x, 1, eps): "right so far; now multiply each channel by weight",
            over(lambda x, eps: mean_square(x) + eps): "you divide by the mean square; take its root",
            over(lambda x, eps: mean_square(x).sqrt() + eps): "add eps inside the root, not after it",
            over(lambda x, eps: mean_square(x).sqrt()): "eps is missing: add it before you take the root",
            over(lambda x, eps: (x.pow(2).mean() + eps).sqrt()): "each vector has its own mean: use dim=-1",
            over(lambda x, eps: (x.pow(2).sum(-1, True) + eps).sqrt()): "average the squares, don't add them",
            over(lambda x, eps: (mean_square(x, keepdim=False) + eps).sqrt()): (
                "this works for one vector; for several, keep the dimension of the mean: keepdim=True"
            ),
        },
    ),
    Exercise(
        id="pre-norm-block",
        solution=repaired,
        cases=(
            Case(torch.tensor([[1.0, 2.0]]), *PARTS, name=f"repaired([[1.0, 2.0]], {PARTS_SHOWN})"),
            Case(X[0], *PARTS, name=f"repaired(x, {PARTS_SHOWN})"),
        ),
        wrong={
            block_of(old_half): "you carry on the normed x: carry on x, and norm only what the parts read",
            block_of(old_half, half): "the first half is still the old one: add to the x that isn't normed",
            block_of(half, old_half): "the second half is still the old one: add to the x that isn't normed",
            lambda x, attend, feed, n1, n2: x + feed(n2(half(x, attend, n1))): (
                "the last line adds to the x from before attention; add to the x that attention has added to"
            ),
            lambda x, attend, feed, n1, n2: half(x, attend, n1) + feed(n2(x)): (
                "the feed-forward layer should read x after attention's addition, not the x from before"
            ),
            block_of(lambda x, part, norm: part(norm(x))): "the parts replace x; add what they give to it",
            block_of(lambda x, part, norm: x + part(x)): "the norms are gone; the parts should read x normed",
            block_of(lambda x, part, norm: norm(x + part(x))): "that is post-norm: norm what the parts read",
            block_of(lambda x, part, norm: x + part(x), half): "attention should read norm_1(x), not x",
            block_of(half, lambda x, part, norm: x + part(x)): "feed_forward should read norm_2(x), not x",
            block_of(lambda x, part, norm: part(norm(x)), half): "attention's result must be added to x",
            block_of(half, lambda x, part, norm: part(norm(x))): "feed_forward's result must be added to x",
            block_of(half, lambda x, part, norm: x): "the second half is missing: the feed-forward layer",
            lambda x, attend, feed, n1, n2: half(half(x, feed, n2), attend, n1): (
                "the two parts have changed places: attention comes first"
            ),
            block_of(lambda x, part, norm: x + norm(part(x))): "the norm belongs before the part, not after",
            lambda x, attend, feed, n1, n2: repaired(x, attend, feed, n1, n1): (
                "both parts read through the same norm; the feed-forward layer has its own, norm_2"
            ),
            lambda x, attend, feed, n1, n2: repaired(x, attend, feed, n2, n1): (
                "the norms have changed places: norm_1 is attention's, norm_2 the feed-forward layer's"
            ),
        },
    ),
    Exercise(
        id="deep-without-norm",
        solution=calm,
        check=check_calm,
        wrong={
            lambda model: model: "no weight has changed",
            lambda model: scaled(model, ("output", "down"), 1 / 3): "it still explodes",
            lambda model: scaled(model, ("output",), 0): "it still explodes",
            lambda model: scaled(model, ("value", "up"), 0): "it doesn't explode, but",
            lambda model: scaled(model, ("",), 1 / 3): "6 matrices of blocks.0 have changed",
            lambda model: nn.init.zeros_(model.embedding.weight) is None or calm(model): "embedding.weight",
            lambda model: model.blocks.append(nn.ReLU()) and model: "only the numbers in the weights",
            lambda model: calm(model) and 0: "return the model that you were given",
        },
    ),
)
