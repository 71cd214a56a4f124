"""The course's own small model: how `assets/world.safetensors` was made.

    python -m course_lib.train.world_model      trains it anew and writes the file

This takes most of an hour on one core. The model is a decoder of Llama's kind that tells stories of the
made-up world and answers questions about them. It was trained on no sums, no French and no pictures, so that
later lessons have something to teach it. The file records its scores. It hasn't learned everything. Asked
which of two animals had something, came first or was (for example) brown, it is right about half of the time,
as a toss of a coin would be (questions of the kinds "owner", "order" and "which"). Asked what an animal had
("owned"), it is right in three of ten.
"""

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
from course_lib.train.world_texts import token_stream
from course_lib.world import questions, world_tokenizer
from course_lib.world.tokens import VOCAB_SIZE

MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE, d_model=128, n_layers=4, n_heads=4, n_kv_heads=4, d_head=32, d_ff=352, context=256
)
TRAINING = TrainConfig(steps=3500, learning_rate=3e-3, warmup=100)
DATA = {"data_seed": 0, "documents": 200_000, "time": 128, "batch": 32}
WEIGHT_SEED = 0
N_SCORED = 1000  # held-out documents, and questions of each kind


def recipe() -> dict:
    """Return all that the weights depend on, as the file records it."""
    return {"model": asdict(MODEL), "training": asdict(TRAINING), "weight_seed": WEIGHT_SEED, **DATA}


def make(path: Path) -> None:
    """Train by the recipe, score on held-out texts, and write the file."""
    tokenizer = world_tokenizer()
    data = token_stream(tokenizer, DATA["data_seed"], "train", DATA["documents"])
    torch.manual_seed(WEIGHT_SEED)
    model = Decoder(MODEL)
    train(model, Windows(data, DATA["time"], DATA["batch"], DATA["data_seed"]), TRAINING)
    stored = model.half().float().eval()
    save_model(path, stored, torch.float16, recipe=recipe(), scores=scores(stored, tokenizer, N_SCORED))


def scores(model: Decoder, tokenizer: Tokenizer, n: int) -> dict[str, float]:
    """Return the loss on n held-out documents, and the accuracy on n held-out questions of each kind.

    "loss" is in nats per token of whole texts. "answers" are the share of questions whose answer the model
    would write, word for word, before its next special token: of all kinds, and of the kind "it", which need
    the model to know what *it* refers to.
    """
    held_out = token_stream(tokenizer, 0, "held_out", n)
    by_kind = {"all": questions(0, "held_out"), "it": questions(0, "held_out", kinds=("it",))}
    result, special = {"loss": held_out_loss(model, held_out, DATA["time"])}, tokenizer.special.values()
    for kind, items in by_kind.items():
        pairs = encode_items(tokenizer, islice(items, n))
        result[f"answers: {kind}"] = accuracy(would_write(model, pairs, stop=special)).value
    return {name: round(score, 3) for name, score in result.items()}


if __name__ == "__main__":
    make(Path("assets/world.safetensors"))
