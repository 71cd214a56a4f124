"""Recipes for a minute of training the small model of the world, and how its result is scored."""

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.evaluate import encode_items, held_out_loss, would_write
from course_lib.model import Decoder, ModelConfig
from course_lib.train.config import TrainConfig
from course_lib.train.data import Windows
from course_lib.train.loop import Training
from course_lib.train.minute.clock import Clock
from course_lib.train.minute.tables import TABLES
from course_lib.train.optimizer import rate_share
from course_lib.train.world_texts import documents, token_stream
from course_lib.world import questions, world_tokenizer
from course_lib.world.tokens import VOCAB_SIZE

N_DOCUMENTS, N_HELD_OUT, N_QUESTIONS = 40_000, 1000, 500
MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE, d_model=128, n_layers=4, n_heads=4, n_kv_heads=4, d_head=32, d_ff=352, context=256
)


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on, apart from its length and its seed.

    training: its number of steps is replaced by that of the run.
    batch, time: windows a step, and tokens a window.
    zero_init: whether the blocks' output projections begin as zeros, so that at first no block adds anything.
    tables: a table that the model has beside its embedding (`tables.TABLES`), or "" for none.
    """

    training: TrainConfig
    batch: int
    time: int = 128
    model: ModelConfig = MODEL
    zero_init: bool = False
    tables: str = ""

    def start(self, seed: int, steps: int) -> Training:
        """Return a run of so many steps, with first weights of this seed."""
        torch.manual_seed(seed)
        model = Decoder(self.model)
        if self.zero_init:
            silence_blocks(model)
        if self.tables:
            TABLES[self.tables](model)
        return Training(model, replace(self.training, steps=steps))

    def batches(self, seed: int) -> Windows:
        return Windows(training_text(), self.time, self.batch, seed)


def silence_blocks(model: Decoder) -> None:
    """Set the blocks' output projections to zeros, in place, so that each block adds nothing at first."""
    for block in model.blocks:
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.feed_forward.down.weight)


# The winner of the contest, which took some 400 steps.
DEFAULT = Recipe(replace(TrainConfig.pretraining(10_000), warmup=40), batch=16, zero_init=True)
TICKS = 1000  # into which a clock's time is divided, as into steps, for the schedule


def train_by_the_clock(clock: Clock, seed: int, model: ModelConfig = MODEL) -> nn.Module:
    """Return a model trained by the default recipe until the clock's time is over."""
    recipe, config = replace(DEFAULT, model=model), TrainConfig.pretraining(TICKS)
    training, batches = recipe.start(seed, TICKS), recipe.batches(seed)
    for step in count():
        if (spent := clock.share()) >= 1:
            return training.model
        tokens, targets = batches(step)
        loss = F.cross_entropy(training.model(tokens).flatten(0, 1), targets.flatten())
        training.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), config.clip)
        training.only_learner.take_step(config.learning_rate * rate_share(int(spent * TICKS), config))


@cache
def training_text() -> Tensor:
    """Return 40,000 stories, half of them with questions and answers, as one sequence of ids, (length,)."""
    return token_stream(world_tokenizer(), documents(0, "train", N_DOCUMENTS))


@cache
def held_out_texts() -> tuple[Tensor, int, list]:
    """Return held-out texts as ids, (length,), their length in bytes, and questions as pairs of ids."""
    texts = list(documents(0, "held_out", N_HELD_OUT))
    n_bytes = sum(len(text.encode()) for text in texts)
    asked = encode_items(world_tokenizer(), islice(questions(0, "held_out"), N_QUESTIONS))
    return token_stream(world_tokenizer(), texts), n_bytes, asked


def score(model: nn.Module) -> dict[str, float]:
    """Return bits a byte on held-out texts, and the share of held-out questions that are answered right.

    The names of marks such as <|question|> count as bytes, as all characters do.
    """
    ids, n_bytes, asked = held_out_texts()
    model.eval()
    bits = held_out_loss(model, ids, 128) * len(ids) / n_bytes / math.log(2)
    right = would_write(model, asked, stop=world_tokenizer().special.values())
    return {"bits a byte": bits, "answers": sum(right) / len(right)}
