"""The course's own small models of the made-up world: how their files were made.

    python -m course_lib.train.world_model      trains both anew and writes them, in some forty minutes

`assets/world_base.safetensors` has read stories alone, every other one twice in a row. From its weights
`assets/world.safetensors` learned to answer. It read first sentences that are told again in another order,
and practised questions about them, first on who had something, then on order too (`world_texts.drills`).
Then it was asked questions of all kinds about whole stories, and worked sums. (The base was trained on one
thread and the rest on two, in separate runs. Made anew, the files will differ in their last bits, and so may
the scores.)

The shares of the answers that it would write, word for word, of 500 held-out items of each kind (95%
intervals are 0.03 wide at most, either way), and losses in nats a token, on 500 held-out stories:

    ending                                      1.000
    home                                        1.000
    it                                          1.000
    it, where the reason leaves it open         0.998
    looks                                       1.000
    order                                       1.000
    owned                                       0.910
    owner                                       1.000
    what                                        0.998
    which                                       0.996
    who                                         1.000
    who, where the reason leaves it open        1.000
    why                                         1.000
    wish                                        1.000
    loss                                        1.079
    worked sums                                 0.994
    loss of the base                            1.047
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from course_lib.evaluate import accuracy, encode_items, held_out_loss, would_write
from course_lib.families.weights import save_model
from course_lib.model import Decoder
from course_lib.model.config import AttentionConfig
from course_lib.text import Tokenizer
from course_lib.train.config import TrainConfig
from course_lib.train.data import Examples, Windows
from course_lib.train.loop import train
from course_lib.train.minute import recipe as minute
from course_lib.train.world_texts import (
    LAST_SHARES,
    Piece,
    drills,
    first_sentences,
    lessons,
    marked,
    retold,
    row_each,
    to_rows,
    token_stream,
)
from course_lib.world import (
    QUESTION_KINDS,
    document,
    needs_the_deed,
    questions,
    stories,
    sums,
    world_tokenizer,
)


@dataclass(frozen=True)
class Stage:
    """What a stage of training depends on.

    documents: how many are made to read. batch, time: rows a step, and tokens a row; 0 where each document is
        a row, padded.
    """

    training: TrainConfig
    documents: int
    batch: int
    time: int


MODEL = replace(minute.MODEL, attention=AttentionConfig(qk_norm=True))
BASE = Stage(TrainConfig.pretraining(3000), documents=100_000, batch=16, time=128)
# A steady rate, since what these stages teach is learned all at once, at a step that can't be foreseen.
STEADY = replace(TrainConfig.pretraining(1000), decay=0.1, warmup=50)
RETELLING = Stage(STEADY, documents=32_000, batch=32, time=0)
OWNERS = Stage(replace(STEADY, steps=1400, learning_rate=2e-3), documents=67_200, batch=48, time=0)
DRILLS = Stage(replace(STEADY, steps=1500, learning_rate=2e-3), documents=72_000, batch=48, time=0)
ANSWERING = Stage(replace(TrainConfig.pretraining(4500), learning_rate=4e-3), 300_000, batch=16, time=128)
LAST = Stage(replace(TrainConfig.pretraining(1500), learning_rate=2e-3), 120_000, batch=16, time=128)
STAGES = {
    "base": BASE,
    "retelling": RETELLING,
    "owners": OWNERS,
    "drills": DRILLS,
    "answering": ANSWERING,
    "last": LAST,
}
SEED, THREADS = 0, 2
N_SCORED = 500  # held-out stories, and questions of each kind

OPEN = ", where the reason leaves it open"
GOALS = {f"answers: {kind}{OPEN}": 0.97 for kind in ("it", "who")}
GOALS |= {f"answers: {kind}": 0.9 for kind in ("owner", "owned", "order")} | {"worked sums": 0.95}


def recipe() -> dict:
    """Return all that the weights of both files depend on, as each file records it."""
    return {"model": asdict(MODEL), "seed": SEED} | {name: asdict(stage) for name, stage in STAGES.items()}


def make(folder: Path) -> None:
    """Train by the recipe, score on held-out texts, and write both files."""
    tokenizer = world_tokenizer()
    torch.manual_seed(SEED)
    model = Decoder(MODEL)
    minute.silence_blocks(model)
    base = as_stored(read_stories(model, tokenizer))
    save_model(folder / "world_base.safetensors", base, torch.float16, recipe=recipe(), scores=told(base))
    model = as_stored(learn_to_answer(base, tokenizer))
    facts = {"recipe": recipe(), "scores": told(model) | answered(model)}
    save_model(folder / "world.safetensors", model, torch.float16, **facts)
    print(report(facts["scores"]))


def read_stories(model: Decoder, tokenizer: Tokenizer) -> Decoder:
    """Train a model, in place, on stories alone."""
    ids = token_stream(tokenizer, retold(SEED, "train", BASE.documents))
    train(model, Windows(ids, BASE.time, BASE.batch, SEED), BASE.training)
    return model


def learn_to_answer(model: Decoder, tokenizer: Tokenizer) -> Decoder:
    """Train a model, in place, in all stages after the first."""
    owners = partial(drills, kinds=("owner",))
    for texts, stage in ((first_sentences, RETELLING), (owners, OWNERS), (drills, DRILLS)):
        taught = texts(SEED, "train", stage.documents)
        train(model, row_by_row(tokenizer, taught, stage, SEED), stage.training)
    taught = lessons(SEED, "train", ANSWERING.documents)
    train(model, lesson_batches(tokenizer, taught, SEED), ANSWERING.training)
    taught = lessons(SEED + 1, "train", LAST.documents, LAST_SHARES)
    train(as_stored(model), lesson_batches(tokenizer, taught, SEED), LAST.training)
    return model


def row_by_row(tokenizer: Tokenizer, taught: Iterable[list[Piece]], stage: Stage, seed: int) -> Examples:
    """Return batches in which each document is a row (`row_each`); `seed` is that of their order."""
    return Examples([marked(tokenizer, pieces) for pieces in taught], stage.batch, row_each, seed)


def lesson_batches(tokenizer: Tokenizer, taught: Iterable[list[Piece]], seed: int) -> Examples:
    """Return batches of rows that hold several documents (`to_rows`); `seed` is that of the rows' order."""
    tokens, targets = to_rows(tokenizer, taught, ANSWERING.time)
    return Examples(range(len(tokens)), ANSWERING.batch, lambda i: (tokens[i], targets[i]), seed)


def as_stored(model: Decoder) -> Decoder:
    """Round a model's weights to the 16 bits of the files, in place."""
    return model.half().float().eval()


def told(model: Decoder) -> dict[str, float]:
    """Return the loss on N_SCORED held-out stories, in nats per token."""
    ids = token_stream(world_tokenizer(), map(document, islice(stories(1, "held_out"), N_SCORED)))
    return {"loss": round(held_out_loss(model, ids, BASE.time), 3)}


def answered(model: Decoder) -> dict[str, float]:
    """Return the shares of held-out items whose completion the model would write, word for word.

    Of each kind of question, of sums with their steps, and of the questions "it" and "who" about stories
    whose reason alone doesn't say what *it* is (`needs_the_deed`).
    """
    score = partial(share_written, model)
    shares = {f"answers: {kind}": score(questions(1, "held_out", kinds=(kind,))) for kind in QUESTION_KINDS}
    for kind in ("it", "who"):
        asked = (each for each in questions(2, "held_out", kinds=(kind,)) if needs_the_deed(each.story))
        shares[f"answers: {kind}{OPEN}"] = score(asked)
    return shares | {"worked sums": score(sums(1, "held_out", worked=True))}


def report(scores: dict[str, float]) -> str:
    """Return the scores as lines, each with its goal, where there is one, and whether it falls short."""
    lines = []
    for name, score in scores.items():
        goal = f"  goal {GOALS[name]}" if name in GOALS else ""
        lines.append(f"{name:48}{score:6.3f}{goal}{', falls short' if score < GOALS.get(name, 0) else ''}")
    return "\n".join(lines)


def share_written(model: Decoder, items: Iterable) -> float:
    """Return the share of the first N_SCORED items whose completion the model would write."""
    tokenizer = world_tokenizer()
    pairs = encode_items(tokenizer, islice(items, N_SCORED))
    return round(accuracy(would_write(model, pairs, stop=tokenizer.special.values())).value, 3)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    make(Path("assets"))
