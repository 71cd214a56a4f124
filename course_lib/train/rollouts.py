"""Batches that the model itself writes: the *rollouts* of reinforcement learning.

In each step the model, with its current weights, answers some prompts several times each, and every answer
gets a reward. A batch depends on the seed, the step and the weights only, so that a run that stopped can
resume bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_lib.arguments import short
from course_lib.generate import Request, sample, write
from course_lib.generate.request_checks import check_callable, to_ids
from course_lib.model import Decoder
from course_lib.train.checks import check_number, own_whole
from course_lib.train.data import ANSWER_STREAM, Examples, answer_only
from course_lib.train.data_checks import own_rows, own_step

LARGEST_REWARD = torch.finfo(torch.float32).max
Reward = Callable[[Sequence[int], Sequence[int]], float]


class Rollout(NamedTuple):
    """A batch of the model's own answers and their rewards. The answers to one prompt are adjacent rows.

    tokens: (answers, time), prompts and answers, as `answer_only` returns them.
    rewards: (answers,).
    targets: (answers, time). Only the model's own tokens count.
    """

    tokens: Tensor
    rewards: Tensor
    targets: Tensor


class Rollouts:
    """A source of rollouts: `batch` prompts per step, each answered `group` times at `temperature`.

    model: the model that answers, with the weights that it has at the step.
    prompts: lists of ids, each used once per epoch.
    reward: (prompt, answer) → a number. The answer includes the token `stop`, if that ended it.
    stop: the id of the token that ends an answer.
    max_new_tokens: the limit of an answer's length.
    seed: of the prompts' order and of the sampled answers.

    Raises ValueError where there is no prompt or it isn't made of ids, for a setting out of range, and, when
    it is called, for a reward that is no finite number.
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
        check_number("temperature", temperature, 0)
        check_callable("reward", reward)
        prompts = [to_ids("a prompt", prompt) for prompt in prompts]
        self.model, self.reward, self.temperature = model, reward, temperature
        self.stop, self.seed = own_whole("stop", stop, 0), own_whole("seed", seed, 0)
        self.max_new_tokens = own_whole("max_new_tokens", max_new_tokens, 1)
        self.group = own_rows("group", group)
        self.prompts = Examples(prompts, batch, list, seed)

    def __call__(self, step: int) -> Rollout:
        step = own_step(step)
        prompts = [prompt for prompt in self.prompts(step) for _ in range(self.group)]
        answers = self.answers(prompts, step)
        pairs = list(zip(prompts, answers, strict=True))
        # The reward gets copies: what it does to them changes neither the prompts nor the batch.
        rewards = [_checked_reward(self.reward([*prompt], [*answer])) for prompt, answer in pairs]
        tokens, targets = answer_only(pairs)  # (answers, time) each
        return Rollout(tokens, torch.tensor(rewards), targets)

    def answers(self, prompts: Sequence[Sequence[int]], step: int) -> list[list[int]]:
        """Sample an answer to each prompt with the step's own seed; an answer that ended includes `stop`."""
        seed = np.random.default_rng((self.seed, step, ANSWER_STREAM)).integers(2**63)
        generator = torch.Generator().manual_seed(int(seed))
        choose = partial(sample, temperature=self.temperature, generator=generator)
        requests = [Request(prompt, self.max_new_tokens, choose, (self.stop,)) for prompt in prompts]
        was_training = self.model.training
        try:
            answers = write(self.model.eval(), requests)
        finally:
            self.model.train(was_training)
        limits = [request.tokens_to_write(self.model.config.context) for request in requests]
        return [
            answer if len(answer) == limit else [*answer, self.stop]
            for answer, limit in zip(answers, limits, strict=True)
        ]


def _checked_reward(reward: float) -> float:
    """Return a reward as Python's number. Raises ValueError for one that 32 bits can't hold: NaN, ∞, text."""
    try:
        number = math.nan if isinstance(reward, str) else float(reward)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not abs(number) <= LARGEST_REWARD:
        raise ValueError(f"a reward must be a finite number, not {short(reward)}")
    return number
