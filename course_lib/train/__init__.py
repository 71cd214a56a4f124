"""Text → weights.

Read in this order: `plain_loop` (the training loop in its shortest form), `loss`, `optimizer` (AdamW and the
schedules), `muon`, `config`, `data` (ids → batches), `history` and `learner`, `loop` (the same loop in full),
`checkpoint` (stop a run and resume it later), `sft` (examples for a chat model), `rollouts` (batches that the
model itself writes), `peft` (training a small part of a frozen model), `world_model` (how the course's own
small models were made) and `world_texts` (what they read). `copying` finds out what teaches such a model to
copy, `minute` what a minute of training is worth, and in `speedrun` you make yours worth more. `interrupts`
keeps a step whole; `checks`, `run_checks` and `data_checks` hold error messages.

    model = Decoder(model_config)
    history = train(model, Windows(join(documents, end), time=128, batch=16), TrainConfig.pretraining(500))
"""

from course_lib.train.checkpoint import load_checkpoint, save_checkpoint
from course_lib.train.config import TrainConfig
from course_lib.train.data import Batch, Examples, Source, Windows, answer_only, join, pad, source_and_target
from course_lib.train.history import History
from course_lib.train.learner import Learner, uses_bf16
from course_lib.train.loop import Training, frozen, train
from course_lib.train.loss import IGNORE, fused_next_token_loss, next_token_loss, token_log_probs
from course_lib.train.optimizer import adamw, make_optimizer, parameter_groups, rate_share, warmup_cosine
from course_lib.train.plain_loop import train_plainly
from course_lib.train.rollouts import Rollout, Rollouts
from course_lib.train.sft import chat_examples, counted

__all__ = [
    "IGNORE",
    "Batch",
    "Examples",
    "History",
    "Learner",
    "Rollout",
    "Rollouts",
    "Source",
    "TrainConfig",
    "Training",
    "Windows",
    "adamw",
    "answer_only",
    "chat_examples",
    "counted",
    "frozen",
    "fused_next_token_loss",
    "join",
    "load_checkpoint",
    "make_optimizer",
    "next_token_loss",
    "pad",
    "parameter_groups",
    "rate_share",
    "save_checkpoint",
    "source_and_target",
    "token_log_probs",
    "train",
    "train_plainly",
    "uses_bf16",
    "warmup_cosine",
]
