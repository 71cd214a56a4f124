"""The dials of a training run."""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.model import fast_dtype

LARGE = 1_000_000  # parameters from which 16 bits were measured to be faster on a CPU
PRECISIONS = ("fp32", "bf16", "auto")


@dataclass(frozen=True)
class TrainConfig:
    """What a run does with whatever model and data it is given.

    steps: batches to learn from. learning_rate: the highest, reached after `warmup` steps, from which a cosine leads down to
    its part `final` at the last step. weight_decay, betas: AdamW's. clip: the longest gradient allowed (math.inf: any).
    precision: "fp32" computes as the weights are; "bf16" does matrix products in 16 bits (autocast); "auto" does so where
    it pays (`uses_bf16`).

    Raises ValueError for a dial outside its range.
    """

    steps: int
    learning_rate: float = 3e-3
    warmup: int = 0
    final: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    precision: str = "fp32"

    def __post_init__(self):
        object.__setattr__(self, "betas", tuple(self.betas))
        ranges = {
            "steps": (isinstance(self.steps, int) and self.steps >= 1, "a whole number, at least 1"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "above 0"),
            "warmup": (0 <= self.warmup <= self.steps, f"0 to the {self.steps} steps"),
            "final": (0 <= self.final <= 1, "0 to 1"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "0 or more"),
            "betas": (
                len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
                "two numbers from 0 to below 1",
            ),
            "clip": (self.clip > 0, "above 0"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)!r}")


def uses_bf16(precision: str, model: nn.Module) -> bool:
    """Whether to multiply in bfloat16. "auto": on a GPU that really has it (emulated it is slow), and on a CPU with AMX, Intel's
    matrix unit, for models of a million parameters or more; without AMX, 16 bits were measured to be slower than 32."""
    if precision != "auto":
        return precision == "bf16"
    weights = list(model.parameters())
    device = weights[0].device.type
    if device == "cpu" and not (
        torch.cpu._is_amx_tile_supported() and sum(weight.numel() for weight in weights) >= LARGE
    ):
        return False
    return device in ("cpu", "cuda") and fast_dtype(device) == torch.bfloat16
