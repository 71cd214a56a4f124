"""The configuration of a training run.

What the values must satisfy stands in `checks`.
"""

from dataclasses import dataclass

from course_lib.train.checks import check_train_config


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of a run, for any model and any data.

    Raises ValueError for a value outside its range, or that is none of Python's own numbers.
    """

    steps: int  # optimizer steps, one batch each
    learning_rate: float = 3e-3  # the highest of the run, reached at the end of the warm-up
    warmup: int = 0  # steps in which the learning rate rises linearly
    final: float = 0.1  # the last step's share of `learning_rate`, after a cosine; unused if warmup == steps
    weight_decay: float = 0.1  # AdamW's, for parameters of two or more dimensions only
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW's decay rates of its two moving averages
    clip: float = 1.0  # a gradient longer than this is scaled to this length; math.inf: no clipping
    precision: str = "fp32"  # compute in the weights' dtype; or "bf16", by autocast; or "auto" (`uses_bf16`)

    def __post_init__(self):
        if isinstance(self.betas, list):  # from JSON
            object.__setattr__(self, "betas", tuple(self.betas))
        check_train_config(self)
