"""The course's own small model: how `assets/world.safetensors` was made.

    python -m course_lib.train.world_model      trains it anew and writes the file (most of an hour on one core)

A decoder of Llama's kind that tells stories of the made-up world and answers questions about them. It has seen no sums, no
French and no pictures, so that later lessons have something to teach it. The file records its scores. It hasn't learned
everything: which of two animals had what, or came first, it answers hardly better than a coin (questions of the kinds
"owner", "owned", "order" and "which").
"""

import random
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch

from course_lib.evaluate import accuracy, encode_items, held_out_loss, would_write
from course_lib.families.weights import save_model
from course_lib.model import Decoder, ModelConfig
from course_lib.text import Tokenizer
from course_lib.train.config import TrainConfig
from course_lib.train.data import Windows
from course_lib.train.loop import train
from course_lib.world import (
    ANSWER,
    END,
    QUESTION,
    Story,
    document,
    questions,
    questions_about,
    stories,
    world_tokenizer,
)
from course_lib.world.tokens import VOCAB_SIZE

MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE, d_model=128, n_layers=4, n_heads=4, n_kv_heads=4, d_head=32, d_ff=352, context=256
)
TRAINING = TrainConfig(steps=3500, learning_rate=3e-3, warmup=100)
DATA = {"data_seed": 0, "documents": 200_000, "time": 128, "batch": 32}
WEIGHT_SEED = 0
HELD_OUT = 1000


def recipe() -> dict:
    """All that the weights depend on, as the file records it."""
    return {"model": asdict(MODEL), "training": asdict(TRAINING), "weight_seed": WEIGHT_SEED, **DATA}


def documents(seed: int, split: str, n: int) -> Iterator[str]:
    """n stories of all lengths, every other one followed by questions about it, with their answers."""
    rng = random.Random(f"documents {seed}")
    for i, story in enumerate(islice(stories(seed, split), n)):
        yield document(story) if i % 2 == 0 else quizzed(story, rng)


def quizzed(story: Story, rng: random.Random, most: int = 4) -> str:
    """A story and up to `most` of its questions: a text in which a larger part can be known, not only guessed."""
    about = questions_about(story)
    asked = rng.sample(about, min(most, len(about)))
    return story.text + "".join(f"{QUESTION}{each.question}{ANSWER}{each.answer}" for each in asked) + END


def rows(tokenizer: Tokenizer, seed: int, split: str, n: int) -> torch.Tensor:
    """The same as one row of ids, (length,)."""
    texts = documents(seed, split, n)
    return torch.tensor([token for text in texts for token in tokenizer.encode(text, allow_special=True)])


def make(path: Path) -> None:
    """Train by the recipe, score on what was held out, and write the file."""
    tokenizer = world_tokenizer()
    data = rows(tokenizer, DATA["data_seed"], "train", DATA["documents"])
    torch.manual_seed(WEIGHT_SEED)
    model = Decoder(MODEL)
    train(model, Windows(data, DATA["time"], DATA["batch"], DATA["data_seed"]), TRAINING)
    stored = model.half().float().eval()
    save_model(path, stored, torch.float16, recipe=recipe(), scores=scores(stored, tokenizer, HELD_OUT))


def scores(model: Decoder, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    """On n held-out texts of each kind: loss (nats a token) of whole texts; share of questions whose answer the model would write,
    word for word, before its next mark, of all kinds and of the kind "it", which take knowing what *it* is."""
    held_out = rows(tokenizer, 0, "held_out", n)
    asked = {"all": questions(0, "held_out"), "it": questions(0, "held_out", kinds=("it",))}
    result, marks = {"loss": held_out_loss(model, held_out, DATA["time"])}, tokenizer.special.values()
    for kind, chosen in asked.items():
        pairs = encode_items(tokenizer, islice(chosen, n))
        result[f"answers: {kind}"] = accuracy(would_write(model, pairs, stop=marks)).value
    return {name: round(score, 3) for name, score in result.items()}


if __name__ == "__main__":
    make(Path("assets/world.safetensors"))
