"""Fine-tuning SmolLM2: a step of LoRA on a base in the faster of 16 and 32 bits.

The rivals are a step of LoRA on a base in 32 bits, and a step of all weights.
"""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.measure import profile, race, seconds
from benchmarks.report import Row, comparison
from course_lib.families import load_smollm2
from course_lib.model import fast_dtype
from course_lib.train import TrainConfig, Training
from course_lib.train.peft import LoRA, attach

BATCH, TIME = 4, 64
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
DIALS = TrainConfig(steps=10_000, learning_rate=1e-3, weight_decay=0.0)


def training(dtype: torch.dtype, lora: bool) -> Training:
    model = load_smollm2(dtype).model
    if lora:
        attach(model, LoRA(rank=8))
    else:
        model.requires_grad_(True)
    return Training(model, DIALS)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1000, 20_000, (BATCH, TIME + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:]


def measure(rounds: int) -> Iterator[Row]:
    fast = fast_dtype()
    runs = {
        "LoRA": training(fast, lora=True),
        "LoRA, fp32 base": training(torch.float32, lora=True),
        "all weights, fp32": training(torch.float32, lora=False),
    }
    times = race({name: partial(seconds, run.learn, batch()) for name, run in runs.items()}, rounds)
    ours, why = times["LoRA"], partial(profile, runs["LoRA"].learn, batch())
    what, tokens = f"step of LoRA, rank 8, {BATCH}×{TIME}, {NAMES[fast]} base", BATCH * TIME
    yield comparison(what, ours, "on a base in fp32", times["LoRA, fp32 base"], 2.0, why, tokens, "tokens/s")
    yield comparison(
        what, ours, "all weights, fp32", times["all weights, fp32"], 2.0, why, tokens, "tokens/s"
    )
