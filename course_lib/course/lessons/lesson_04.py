"""The exercises and the quiz of 04, multi-head attention."""

from functools import cache

import numpy as np
import torch

from course_lib.course.checking import Mistake, call, close, same
from course_lib.course.content import Choice, Exercise, Question, Wrong

TITLE = "Multi-head attention"


def check_split(answer):
    x = torch.arange(24.0).reshape(4, 6)  # 4 tokens, 6 channels
    got = call(answer, x, 2)
    right = torch.stack([x[:, :3], x[:, 3:]])
    if same(got, x.reshape(2, 4, 3)):
        raise Mistake(
            "the shape is right and the numbers aren't: reshaping straight to "
            "(heads, time, d_head) gives head 0 the first tokens, whole. Split "
            "each token's channels first, then change the order of the dimensions"
        )
    if same(got, right.transpose(0, 1)):
        raise Mistake("this is (time, heads, d_head); swap the first two dimensions")
    if same(got, x.reshape(4, 3, 2).permute(2, 0, 1)):
        raise Mistake("head 0 got every second channel; its channels are the first d_head, side by side")
    close(got, right, "split_heads(x, 2)")


def solve_split_heads(x, n_heads):
    time, d_model = x.shape
    return x.reshape(time, n_heads, d_model // n_heads).transpose(0, 1)


def split_by_reshape_alone(x, n_heads):
    return x.reshape(n_heads, x.shape[0], -1)


def split_without_transpose(x, n_heads):
    return x.reshape(x.shape[0], n_heads, -1)


def split_every_second(x, n_heads):
    return x.reshape(x.shape[0], -1, n_heads).permute(2, 0, 1)


def check_previous(answer):
    weights = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.5, 0.3, 0], [0.3, 0.2, 0.1, 0.4]])
    got = call(answer, weights)
    if same(got, 0.0):
        raise Mistake(
            "you took the weights on the token after, which are all 0; the previous token is in column i - 1"
        )
    if same(got, weights.diagonal().mean()):
        raise Mistake(
            "these are the weights of tokens on themselves, the main diagonal; you want the one below it"
        )
    if same(got, weights.diagonal(-1).sum() / 4):
        raise Mistake("you divided by 4, but the first token has none before it: there are only 3")
    close(got, weights.diagonal(-1).mean(), "the score of the example, (0.9 + 0.5 + 0.1) / 3,")


def solve_previous_token_score(weights):
    return np.mean([weights[i, i - 1] for i in range(1, len(weights))])


def previous_is_next(weights):
    return np.mean([weights[i, i + 1] for i in range(len(weights) - 1)])


def previous_is_itself(weights):
    return np.mean([weights[i, i] for i in range(len(weights))])


def previous_of_all(weights):
    return sum(weights[i, i - 1] for i in range(1, len(weights))) / len(weights)


@cache
def real_model():
    from course_lib.families import load_smollm2

    return load_smollm2()


def check_fooled(answer):
    from course_lib.show import attention

    if not (
        isinstance(answer, tuple | list)
        and len(answer) == 2
        and all(isinstance(part, str) for part in answer)
    ):
        raise Mistake('give two strings in brackets: ("The … it …", "noun")')
    text, noun = answer[0].strip(), answer[1].strip()
    try:
        att = attention(real_model(), text)
    except ValueError as error:
        raise Mistake(str(error)) from None
    places = [i for i, token in enumerate(att.tokens) if token.strip() == "it"]
    if not places:
        raise Mistake("there is no 'it' in the sentence")
    if noun not in text:
        raise Mistake(f"{noun!r} is not in the sentence")
    nouns = [i for i, token in enumerate(att.tokens[: places[-1]]) if token.strip() == noun]
    if not nouns:
        raise Mistake(f"{noun!r} must stand before the 'it', as one token (then choose a more common noun)")
    if nouns == [0]:
        raise Mistake("the first token is where heads rest; begin with another word, such as The")
    row = att.row(13, 8, places[-1])
    mine = max(row[i] for i in nouns)
    others = {i: row[i] for i in range(1, places[-1]) if i not in nouns}
    rival = max(others, key=others.get, default=None)
    if rival is None or mine >= others[rival]:
        raise Mistake(f"head 13.8 is not fooled: it gives {noun!r} {mine:.2f}, more than any other word")
    if mine >= 1 / 3:
        raise Mistake(f"nearly: {att.tokens[rival].strip()!r} gets more, but {noun!r} still gets {mine:.2f}")
    if text.startswith("The dog barked at the car"):
        raise Mistake("that one stands on the page; find one of your own")


def check_cut(answer):
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(2, 3, 4, 4, generator=generator).tril()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    given = weights.clone()
    if isinstance(got := call(answer, weights, 2, 1), torch.Tensor) and got.shape == weights.shape:
        if got[:, :, 2, 1].abs().max() > 1e-6:
            raise Mistake(
                "some head still looks from the query to the key; the order is [batch, heads, query, key]"
            )
        if not torch.allclose(got.sum(dim=-1), torch.ones(2, 3, 4), atol=1e-5):
            raise Mistake("the rows no longer add up to 1: divide by the new sum of each row")
        others = [0, 1, 3]
        if not torch.allclose(got[:, :, others], weights[:, :, others], atol=1e-5):
            raise Mistake("other tokens' rows changed too; only one query is to be cut off")
    changed = given.clone()
    changed[:, :, 2, 1] = 0
    close(got, changed / changed.sum(dim=-1, keepdim=True), "the weights")
    _check_untouched(answer, given)


def _check_untouched(answer, given):
    """The one check that hands over its own tensor, to see whether it is written on."""
    handed = given.clone()
    answer(handed, 2, 1)
    if not torch.equal(handed, given):
        raise Mistake("you wrote on the tensor that you were given: work on weights.clone()")


def solve_cut(weights, query, key):
    changed = weights.clone()
    changed[:, :, query, key] = 0
    return changed / changed.sum(dim=-1, keepdim=True)


def cut_without_mending(weights, query, key):
    changed = weights.clone()
    changed[:, :, query, key] = 0
    return changed


def cut_for_everybody(weights, query, key):
    changed = weights.clone()
    changed[:, :, :, key] = 0
    changed[:, :, : key + 1] = weights[:, :, : key + 1]
    return changed / changed.sum(dim=-1, keepdim=True)


def cut_the_other_way(weights, query, key):
    changed = weights.clone()
    changed[:, :, key, query] = 0
    return changed / changed.sum(dim=-1, keepdim=True)


def cut_in_place(weights, query, key):
    weights[:, :, query, key] = 0
    return weights / weights.sum(dim=-1, keepdim=True)


EXERCISES = (
    Exercise(
        id="04-1",
        title="Split into heads",
        minutes=6,
        level="easy",
        hints=(
            (
                "Two steps: cut each token's d_model channels into "
                "(n_heads, d_head); then bring the heads to the front."
            ),
            (
                "x.reshape(time, n_heads, d_head) keeps each token's "
                "channels together. What order are the dimensions in now?"
            ),
            "…, and .transpose(0, 1) swaps the first two.",
        ),
        check=check_split,
        solution=solve_split_heads,
        wrong=(
            Wrong(split_by_reshape_alone, "the shape is right and the numbers aren't"),
            Wrong(split_without_transpose, "swap the first two dimensions"),
            Wrong(split_every_second, "every second channel"),
        ),
        learned="a multi-head layer is one wide layer and this change of view.",
    ),
    Exercise(
        id="04-2",
        title="Previous-token score",
        minutes=6,
        level="easy",
        hints=(
            "Token i's weight on the token before it is weights[i, i - 1]. For which i is there one?",
            (
                "i runs from 1 to len(weights) - 1; take the mean "
                "of those. (Or: the diagonal below the main one.)"
            ),
        ),
        check=check_previous,
        solution=solve_previous_token_score,
        wrong=(
            Wrong(previous_is_next, "on the token after"),
            Wrong(previous_is_itself, "the main diagonal"),
            Wrong(previous_of_all, "you divided by 4"),
        ),
        learned="with a number for a habit, all heads can be compared, not only the ones with nice pictures.",
    ),
    Exercise(
        id="04-3",
        title="Fool the head",
        minutes=8,
        level="medium",
        hints=(
            (
                "Look at the sentence it got wrong above. What do the "
                "dog and the car have in common with your sentence?"
            ),
            (
                "Put the noun that you mean far away, or an attractive "
                "thing between it and the pronoun; animals next to machines."
            ),
        ),
        check=check_fooled,
        solution=("The cat watched the train while it ate.", "cat"),
        wrong=(
            Wrong(
                ("The tiger jumped out of a tree to get a drink because it was thirsty.", "tiger"),
                "head 13.8 is not fooled",
            ),
            Wrong(("The dog barked at the car while it slept.", "dog"), "stands on the page"),
            Wrong(("The dog barked at the car and ran away.", "dog"), "there is no 'it'"),
            Wrong(("Because it was thirsty, the tiger drank.", "tiger"), "must stand before the 'it'"),
            Wrong(("The old robot opened the door and then it smiled.", "cat"), "is not in the sentence"),
        ),
        learned="one counterexample weighs more than a dozen pictures.",
        why="The head prefers the train, of all things that eat.",
    ),
    Exercise(
        id="04-4",
        title="Cut an edge",
        minutes=10,
        level="hard",
        hints=(
            (
                "Copy first: changed = weights.clone(). Then set one "
                "entry of each head to 0: changed[:, :, query, key] = 0."
            ),
            (
                "Now that row is too small. Dividing a row by its sum "
                "makes it add up to 1 again and keeps the proportions."
            ),
            (
                "changed.sum(dim=-1, keepdim=True) has the sums of "
                "all rows; where nothing changed, it is 1 already."
            ),
        ),
        check=check_cut,
        solution=solve_cut,
        wrong=(
            Wrong(cut_without_mending, "divide by the new sum of each row"),
            Wrong(cut_for_everybody, "other tokens' rows changed too"),
            Wrong(cut_the_other_way, "some head still looks"),
            Wrong(cut_in_place, "you wrote on the tensor"),
        ),
        learned="an intervention like this tests what a picture only suggests.",
    ),
)

QUIZ = (
    Question(
        id="04-q1",
        text=(
            "A layer is 576 wide. Going from 9 heads of 64 to "
            "18 heads of 32, how many more weights does it need?"
        ),
        choices=(
            Choice("Twice as many", "The query matrix is 576 × 576 either way; heads are slices of it."),
            Choice(
                "None: the same width is cut into more slices",
                "More heads cost nothing in weights; each one gets a narrower view.",
                right=True,
            ),
            Choice("Half as many", "Narrower slices, but more of them: it comes to the same."),
        ),
    ),
    Question(
        id="04-q2",
        text="Why do so many heads put their weight on the first token?",
        choices=(
            Choice(
                "The first word is usually the subject",
                "The first words here were The, My, When, A and In: no subject among them.",
            ),
            Choice(
                "The first token has the largest embedding",
                "It is what the layers make of it, not the embedding.",
            ),
            Choice(
                "Shares must add up to 1, and a head with nothing to do needs a harmless place for them",
                "An attention sink. Some of these heads wake up when the text gives them something to do.",
                right=True,
            ),
        ),
    ),
    Question(
        id="04-q3",
        text=(
            "A head puts 0.67 of its weight on tiger. You remove "
            "it, and the answer stays the same. What follows?"
        ),
        choices=(
            Choice(
                "For this answer the head isn't needed; where it looks was no proof that it is",
                "It may matter elsewhere, or have stand-ins; the test says what it says for this answer.",
                right=True,
            ),
            Choice(
                "The head does nothing", "It may matter for other texts, or pass on what others also pass on."
            ),
            Choice(
                "The ablation must have failed", "You saw other heads cost a nat or more, by the same code."
            ),
        ),
    ),
)
