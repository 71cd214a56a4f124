"""What rounding costs the small model of the world, and what wins it back: how `assets/qat.json` was made.

    python -m course_lib.course.experiments.qat_comparison      (a few minutes on one core)

Symmetric grids, one scale a row, of 2, 3 and 4 bits; four ways to come to them: round to the nearest level; round with GPTQ; train a little
more as usual, then round (a control: is it only the training?); train as much with the rounding in view (QAT). Three seeds choose
the batches of training, and the sequences that GPTQ sees.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch

from course_lib.evaluate import accuracy, encode_items, held_out_loss, would_write
from course_lib.families import load_world
from course_lib.model import Decoder
from course_lib.quantize import Uniform, finish_qat, gptq_linears, quantize_linears, start_qat
from course_lib.text import Tokenizer
from course_lib.train.config import TrainConfig
from course_lib.train.data import Windows
from course_lib.train.loop import train
from course_lib.train.world_model import rows
from course_lib.world import questions

BITS, SEEDS = (2, 3, 4), (0, 1, 2)
TRAINING = TrainConfig(steps=80, learning_rate=1e-3, warmup=5)
TIME, BATCH, CALIBRATION = 128, 16, 8
HELD_OUT = 300

Score = Callable[[Decoder], dict[str, float]]


def training_data(tokenizer: Tokenizer, seed: int) -> Windows:
    """Windows of 3,000 texts that the model wasn't trained on, drawn as those that it was."""
    return Windows(rows(tokenizer, 7, "train", 3000), TIME, BATCH, seed)


def scorer(tokenizer: Tokenizer, n: int = HELD_OUT) -> Score:
    """loss: nats a token on n held-out texts. it: share right of n held-out questions about what *it* is."""
    held_out = rows(tokenizer, 0, "held_out", n)
    asked = encode_items(tokenizer, islice(questions(0, "held_out", kinds=("it",)), n))

    def score(model: Decoder) -> dict[str, float]:
        model.eval()
        right = accuracy(would_write(model, asked, stop=tokenizer.special.values()))
        return {"loss": held_out_loss(model, held_out, TIME), "it": right.value}

    return score


def ways(model: Decoder, data: Windows, format: Uniform) -> Iterator[tuple[str, Decoder]]:
    """Each way's name and model, rounded."""
    yield "nearest", quantize_linears(deepcopy(model), format)
    yield "gptq", gptq_linears(deepcopy(model), data(0)[0][:CALIBRATION], format)
    yield "trained, then nearest", quantize_linears(trained(deepcopy(model), data), format)
    yield "qat", finish_qat(trained(start_qat(deepcopy(model), format), data))


def trained(model: Decoder, data: Windows, config: TrainConfig = TRAINING) -> Decoder:
    """The same model, after some steps more."""
    train(model.requires_grad_(True), data, config, progress=False)
    return model.requires_grad_(False).eval()


def make(path: Path) -> None:
    world = load_world()
    score = scorer(world.tokenizer)
    runs = [{"way": "32 bits", **score(world.model)}]
    for seed in SEEDS:
        data = training_data(world.tokenizer, seed)
        for bits in BITS:
            for way, model in ways(world.model, data, Uniform(bits)):
                runs.append({"way": way, "bits": bits, "seed": seed, **score(model)})
                print(runs[-1], flush=True)
    about = "python -m course_lib.course.experiments.qat_comparison; held-out texts and questions of the made-up world"
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in run.items()} for run in runs]
    path.write_text(json.dumps({"made_by": about, "runs": rounded}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path("assets/qat.json"))
