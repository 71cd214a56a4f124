"""Batches that the model itself writes: the *rollouts* of reinforcement learning.

In each step the model as it is now answers some prompts, several times each, and every answer gets a reward.
What a batch holds depends on the seed, the step and the weights, and on nothing else: so a run that stopped
can go on bit for bit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_lib.generate import Request, sample, write
from course_lib.model import Decoder
from course_lib.train.data import Examples, answer_only

Reward = Callable[[Sequence[int], Sequence[int]], float]


class Rollout(NamedTuple):
    """tokens, targets: (answers, time), as `answer_only` lays them out: only what the model wrote counts.
    rewards: (answers,); the answers to one prompt are `group` neighbours.
    """

    tokens: Tensor
    rewards: Tensor
    targets: Tensor


class Rollouts:
    """step → `Rollout`: `batch` prompts, each answered `group` times at `temperature`.

    prompts: lists of ids, each once an epoch. reward: (prompt, answer) → a number; the answer ends with the
    token of `stop` that ended it, if one did. max_new_tokens: of an answer. Raises ValueError where there is
    no prompt.
    """

    def __init__(
        self,
        model: Decoder,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        stop: int,
        batch: int = 4,
        group: int = 4,
        max_new_tokens: int = 32,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        self.model, self.reward, self.stop, self.seed = model, reward, stop, seed
        self.group, self.max_new_tokens, self.temperature = group, max_new_tokens, temperature
        self.prompts = Examples(prompts, batch, list, seed)

    def __call__(self, step: int) -> Rollout:
        prompts = [prompt for prompt in self.prompts(step) for _ in range(self.group)]
        answers = self.answers(prompts, step)
        rewards = [
            float(self.reward(prompt, answer)) for prompt, answer in zip(prompts, answers, strict=True)
        ]
        tokens, targets = answer_only(list(zip(prompts, answers, strict=True)))
        return Rollout(tokens, torch.tensor(rewards), targets)

    def answers(self, prompts: Sequence[Sequence[int]], step: int) -> list[list[int]]:
        """What the model writes after each prompt, drawn with the step's own seed, up to and with `stop`."""
        training = self.model.training
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng((self.seed, step, 2)).integers(2**63))
        )
        choose = partial(sample, temperature=self.temperature, generator=generator)
        requests = [Request(prompt, self.max_new_tokens, choose, (self.stop,)) for prompt in prompts]
        try:
            texts = write(self.model.eval(), requests)
        finally:
            self.model.train(training)
        room = [request.tokens_to_write(self.model.config.context) for request in requests]
        return [
            text if len(text) == most else [*text, self.stop] for text, most in zip(texts, room, strict=True)
        ]
