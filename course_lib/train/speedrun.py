"""A minute of training, for you to make better. Change `train` below, and run

    python -m course_lib.train.speedrun --name "batch of 8"          takes about two and a half minutes

Your `train` has sixty seconds to train a small model on stories of the made-up world (`course_lib/world`). So
has the course's own recipe, which is what stands below before you change it. Both models are scored on
held-out texts: bits a byte, of which fewer are better (the course's recipe ends near 0.24), and the share of
questions about a story that are answered right. All runs are kept in `speedrun.json` in the current folder.
One pair of runs seldom decides, since another seed gives other first weights and another score: `--runs 6`
gives an interval that can be trusted. Try first whether your change runs at all, with `--seconds 8`.

Everything may change: the model, the optimizer, the batches, the schedule. But train on `training_text()`
alone, and end when the clock says so. Some ideas (import what they name):

    OPTIMIZER = TrainConfig(TICKS, learning_rate=3e-3, warmup=50)      AdamW in place of Muon
    model = Decoder(replace(MODEL, n_layers=2))                        fewer layers, more steps
    TABLES["bigrams"](model)                                           a table of pairs (`minute.tables`)

What others have tried is in docs/minute.md, and what Muon does in `muon`.
"""

from itertools import count

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.model import Decoder
from course_lib.train.config import TrainConfig
from course_lib.train.data import Windows
from course_lib.train.minute.clock import Clock
from course_lib.train.minute.recipe import MODEL, TICKS, silence_blocks, train_by_the_clock, training_text
from course_lib.train.minute.verdict import main
from course_lib.train.optimizer import make_optimizer, rate_share

OPTIMIZER = TrainConfig.pretraining(TICKS)  # its warm-up and decay are counted in ticks of the clock
BATCH, TIME = 16, 128


def train(clock: Clock, seed: int) -> nn.Module:
    """Return a model that was trained until the clock's time was over."""
    torch.manual_seed(seed)
    model = Decoder(MODEL)
    silence_blocks(model)
    optimizer = make_optimizer(model, OPTIMIZER)
    batches = Windows(training_text(), TIME, BATCH, seed)
    for step in count():
        spent = clock.share()  # 0 at the start, 1 or more when the time is over
        if spent >= 1:
            return model
        tokens, targets = batches(step)  # (BATCH, TIME) each
        logits = model(tokens)  # (BATCH, TIME, vocab_size)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip)
        for group in optimizer.param_groups:
            group["lr"] = OPTIMIZER.learning_rate * rate_share(int(spent * TICKS), OPTIMIZER)
        optimizer.step()


if __name__ == "__main__":
    main(train, train_by_the_clock)
