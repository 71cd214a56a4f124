"""The configuration of a training run.

What the values must satisfy stands in `checks`.
"""

from dataclasses import dataclass, replace

from course_lib.train.checks import check_train_config


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of a run, for any model and any data.

    Raises ValueError for a value outside its range, or that is none of Python's own numbers.
    """

    steps: int  # optimizer steps, one batch each
    learning_rate: float = 3e-3  # what the schedule multiplies by a share, 1 at most
    warmup: int = 0  # steps in which the learning rate rises linearly
    final: float = 0.1  # the last step's share of `learning_rate`; unused in a cosine if warmup == steps
    schedule: str = "cosine"  # or "linear": at the highest rate until the last part of the run, then a line
    decay: float = 1.0  # with "linear", the share of the steps in which the rate falls
    optimizer: str = "adamw"  # or "muon", for the blocks' matrices, and AdamW for the rest
    weight_decay: float = 0.1  # for parameters of two or more dimensions only
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW's decay rates of its two moving averages
    clip: float = 1.0  # a gradient longer than this is scaled to this length; math.inf: no clipping
    precision: str = "fp32"  # compute in the weights' dtype; or "bf16", by autocast; or "auto" (`uses_bf16`)

    @classmethod
    def pretraining(cls, steps: int) -> "TrainConfig":
        """Return the course's recipe for a decoder from random weights: the winner of `minute.contest`.

        It is meant for batches of 2,048 tokens (16 windows of 128). The fields' own defaults are a usual
        recipe with AdamW, for fine-tuning too: of weights that AdamW has found, Muon was no better a tuner
        (Liu et al. 2025, "Muon is scalable for LLM training").
        """
        config = cls(steps, learning_rate=8e-3, final=0.0, schedule="linear", optimizer="muon")
        return replace(config, warmup=steps // 10)

    def __post_init__(self):
        if isinstance(self.betas, list):  # from JSON
            object.__setattr__(self, "betas", tuple(self.betas))
        check_train_config(self)
