"""Measure what quantization costs the small model of the world, and write `assets/qat.json`.

    python -m course_lib.course.lessons.quantization.experiment

writes the file, in a few minutes on one core.

The weights are rounded to symmetric grids of 2, 3 and 4 bits with one scale per row, in four ways: to the
nearest level; with GPTQ; to the nearest level after some further steps of usual training; and after as many
steps of quantization-aware training (QAT). The third way is a control, which shows how much of QAT's gain is
due to further training alone; both are also tried at several learning rates. Three seeds choose the training
batches, and the sequences that calibrate GPTQ.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from course_lib.evaluate import accuracy, encode_items, held_out_loss, would_write
from course_lib.families import load_world
from course_lib.model import Decoder
from course_lib.quantize import Uniform, finish_qat, gptq_linears, quantize_linears, start_qat
from course_lib.text import Tokenizer
from course_lib.train.config import TrainConfig
from course_lib.train.data import Examples
from course_lib.train.loop import train
from course_lib.train.world_model import lesson_batches
from course_lib.train.world_texts import lessons, token_stream
from course_lib.world import document, questions, stories

BITS, SEEDS = (2, 3, 4), (0, 1, 2)
TRAINING = TrainConfig(steps=80, learning_rate=3e-3, warmup=5)
TIME, CALIBRATION = 128, 8
HELD_OUT = 300
SHARES = {"retold": 0.5, "asked": 0.5}
RATES = (1e-3, 3e-3, 6e-3, 1e-2)

Score = Callable[[Decoder], dict[str, float]]


def training_data(tokenizer: Tokenizer, seed: int) -> Examples:
    """Return rows of 5,000 texts that the model wasn't trained on: half of them stories, half questions."""
    return lesson_batches(tokenizer, lessons(7, "train", 5000, SHARES), seed)


def scorer(tokenizer: Tokenizer, n: int = HELD_OUT) -> Score:
    """Return a function that scores a model.

    loss: nats per token on n held-out stories.
    it: the share of right answers to n held-out questions about what *it* is.
    """
    held_out = token_stream(tokenizer, map(document, islice(stories(0, "held_out"), n)))
    items = encode_items(tokenizer, islice(questions(0, "held_out", kinds=("it",)), n))

    def score(model: Decoder) -> dict[str, float]:
        model.eval()
        right = accuracy(would_write(model, items, stop=tokenizer.special.values()))
        return {"loss": held_out_loss(model, held_out, TIME), "it": right.value}

    return score


def ways(model: Decoder, data: Examples, format: Uniform) -> Iterator[tuple[str, Decoder]]:
    """Yield the name and the quantized model of each way."""
    yield "nearest", quantize_linears(deepcopy(model), format)
    yield "gptq", gptq_linears(deepcopy(model), data(0)[0][:CALIBRATION], format)
    yield from trained_ways(model, data, format, TRAINING)


def trained_ways(
    model: Decoder, data: Examples, format: Uniform, config: TrainConfig
) -> Iterator[tuple[str, Decoder]]:
    """Yield the name and the quantized model of the two ways that train."""
    yield "trained, then nearest", quantize_linears(trained(deepcopy(model), data, config), format)
    yield "qat", finish_qat(trained(start_qat(deepcopy(model), format), data, config))


def trained(model: Decoder, data: Examples, config: TrainConfig = TRAINING) -> Decoder:
    """Train a model for some further steps, in place, and return it."""
    train(model.requires_grad_(True), data, config, progress=False)
    return model.requires_grad_(False).eval()


def main(path: Path) -> None:
    """Score all ways, and write the file."""
    world = load_world()
    score = scorer(world.tokenizer)
    runs = [{"way": "32 bits", **score(world.model)}]
    for seed in SEEDS:
        data = training_data(world.tokenizer, seed)
        for bits in BITS:
            for way, model in ways(world.model, data, Uniform(bits)):
                runs.append({"way": way, "bits": bits, "seed": seed, **score(model)})
                print(runs[-1], flush=True)
    rates = []
    for rate in RATES:
        config, data = replace(TRAINING, learning_rate=rate), training_data(world.tokenizer, SEEDS[0])
        for way, model in trained_ways(world.model, data, Uniform(2), config):
            rates.append({"way": way, "rate": rate, **score(model)})
            print(rates[-1], flush=True)
    about = "python -m course_lib.course.lessons.quantization.experiment; "
    about += "held-out stories and questions of the made-up world"
    made = {"made_by": about, "runs": list(map(rounded, runs)), "rates": list(map(rounded, rates))}
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def rounded(run: dict) -> dict:
    """Return a run with its numbers to four places."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in run.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path("assets/qat.json"))
