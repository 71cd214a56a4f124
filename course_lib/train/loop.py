"""The loop that learns: predict, measure, see which way is down, take a step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.train.config import TrainConfig, uses_bf16
from course_lib.train.data import Batch
from course_lib.train.loss import next_token_loss
from course_lib.train.optimizer import adamw, warmup_cosine

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass
class History:
    """What happened, an entry a step. grad_norms: lengths of the gradient before clipping. tokens: targets seen so far in all,
    padding included."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Targets so far in all."""
        return self.tokens[-1] if self.tokens else 0

    def add(self, loss: float, grad_norm: float, learning_rate: float, targets: int) -> None:
        """Note one more step."""
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.learning_rates.append(learning_rate)
        self.tokens.append(self.seen + targets)


class Training:
    """A model, its optimizer, and how far they have come: all that has to be kept to go on later (`checkpoint`).

    loss: (model, batch) → one number to make smaller, as a tensor.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss = next_token_loss):
        self.model, self.config, self.loss = model, config, loss
        self.optimizer = adamw(model, config)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.bf16 = uses_bf16(config.precision, model)
        self.history = History()

    @property
    def step(self) -> int:
        """Steps taken, which is also the number of the next one."""
        return len(self.history.losses)

    def run(
        self,
        batches: Callable[[int], Batch],
        watch: Callable[["Training"], None] | None = None,
        until: int | None = None,
        progress: bool = True,
    ) -> History:
        """Go on until `until` steps have been taken in all (`config.steps` unless told otherwise).

        batches: step → batch. watch: called after every step with this object. progress: show a bar with loss and speed.
        """
        until = self.config.steps if until is None else until
        self.model.train()
        with tqdm(total=until, initial=self.step, disable=not progress, mininterval=0.25, unit="step") as bar:
            before, start = self.history.seen, perf_counter()
            while self.step < until:
                self.learn(batches(self.step))
                speed = (self.history.seen - before) / (perf_counter() - start)
                bar.set_postfix_str(
                    f"loss {self.history.losses[-1]:.3f}, {speed:,.0f} tokens/s", refresh=False
                )
                bar.update()
                if watch is not None:
                    watch(self)
        return self.history

    def learn(self, batch: Batch) -> None:
        """One step. Raises ValueError for a loss that isn't one number, and FloatingPointError, the weights left as they were,
        when loss or gradient isn't finite.

        Looking at these two numbers makes the processor wait for a GPU once a step.
        """
        config, device = self.config, self.weights[0].device
        batch = tuple(part.to(device) for part in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.model, batch)
        if loss.dim() or not loss.requires_grad:
            raise ValueError("the loss must be one number, as a tensor that depends on the model's weights")
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, config.clip)
        rate = config.learning_rate * warmup_cosine(self.step, config.steps, config.warmup, config.final)
        self._require_finite(loss.item(), norm.item(), rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.history.add(loss.item(), norm.item(), rate, batch[-1].numel())

    def _require_finite(self, loss: float, norm: float, rate: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"at step {self.step} the loss is {loss} and its gradient's length {norm}; the weights are as they were before. "
                f"Try a learning rate below {rate:.2g}, a longer warm-up or a smaller clip, and look at this batch: has it a "
                "target that counts?"
            )


def train(
    model: nn.Module,
    batches: Callable[[int], Batch],
    config: TrainConfig,
    loss: Loss = next_token_loss,
    watch: Callable[[Training], None] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place, from the first step to the last. Arguments and errors as in `Training`."""
    return Training(model, config, loss).run(batches, watch, progress=progress)
