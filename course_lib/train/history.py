"""The record of a training run: its losses, gradient norms, learning rates and tokens."""

from dataclasses import dataclass, field


@dataclass
class History:
    """A run's record, with one entry per step in each list.

    losses: the loss, before the step.
    grad_norms: the gradient's length before clipping.
    learning_rates: the learning rate of the step.
    tokens: the number of target positions in all batches so far, including padding and other targets that
        don't count in the loss.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def total_tokens(self) -> int:
        """The number of target positions in all batches so far, including those that don't count."""
        return self.tokens[-1] if self.tokens else 0

    def add(self, loss: float, grad_norm: float, learning_rate: float, targets: int) -> None:
        """Append the values of one step."""
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.learning_rates.append(learning_rate)
        self.tokens.append(self.total_tokens + targets)
