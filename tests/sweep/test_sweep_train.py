"""The sweep of `course_lib.train` and `course_lib.train.peft`."""

import atexit
import tempfile
from pathlib import Path

import torch
from references import smollm2, tiny_decoder
from sweep.frame import HUGE, Call, sweep

from course_lib.train import (
    Examples,
    History,
    Learner,
    Rollouts,
    TrainConfig,
    Training,
    Windows,
    adamw,
    answer_only,
    chat_examples,
    counted,
    frozen,
    fused_next_token_loss,
    join,
    load_checkpoint,
    make_optimizer,
    next_token_loss,
    pad,
    parameter_groups,
    rate_share,
    save_checkpoint,
    source_and_target,
    token_log_probs,
    train,
    uses_bf16,
    warmup_cosine,
)
from course_lib.train.peft import (
    Bottleneck,
    LoRA,
    Prefix,
    SoftPrompt,
    attach,
    in_front,
    load_peft,
    save_peft,
)

MODEL = tiny_decoder(torch.float32, n_layers=1).requires_grad_(True)
CONFIG = TrainConfig(steps=2)
IDS = torch.arange(40)
SOURCE = Windows(IDS, time=4, batch=2)
BATCH = SOURCE(0)
PAIRS = [([5, 6], [7, 8]), ([9], [7])]
FOLDER = tempfile.TemporaryDirectory()
atexit.register(FOLDER.cleanup)
RUN, FOLDER_OF_LORA = Path(FOLDER.name) / "run", Path(FOLDER.name) / "lora"
save_checkpoint(RUN, Training(MODEL, CONFIG))
ATTACHED = attach(tiny_decoder(torch.float32, n_layers=1), LoRA(2))
save_peft(FOLDER_OF_LORA, ATTACHED)
LM = smollm2()


def reward(prompt, answer):
    return float(len(answer))


def rollouts(**options):
    return list(Rollouts(**options)(0))


def windows(ids, time, batch, seed, wrap):
    return Windows(ids, time, batch, seed, wrap)(0)


def examples(examples, batch, collate, seed):
    return Examples(examples, batch, collate, seed)(0)


def run(model, config, loss, batches, until):
    return Training(model, config, loss).run(batches, until=until, progress=False)


SEEDS = {f"seed is {HUGE}": "another seed"}
PADDING = {
    "padding is 0": "any id of the vocabulary",
    f"padding is {HUGE}": "an id that the model refuses, if it reads it",
}

CALLS = {
    "Examples": Call(
        examples,
        {"examples": [1, 2, 3], "batch": 2, "collate": tuple, "seed": 1},
        {
            "examples holds None": "examples are whatever collate reads",
            "examples is a word": "its letters are the examples",
            "examples holds -1": "examples are whatever collate reads",
            "examples holds a huge number": "examples are whatever collate reads",
            "examples holds a fraction": "examples are whatever collate reads",
            "examples is an array": "its numbers are the examples",
            "examples is a tensor": "its numbers are the examples",
            "collate gives None": "what it gives is the batch",
            "seed is 0": "another seed",
        }
        | SEEDS,
    ),
    "History": Call(History, {}),
    "Learner": Call(Learner, {"model": MODEL, "config": CONFIG}),
    "Rollouts": Call(
        rollouts,
        {
            "model": MODEL,
            "prompts": [[3], [4, 5]],
            "reward": reward,
            "stop": 7,
            "batch": 2,
            "group": 2,
            "max_new_tokens": 3,
            "temperature": 0.8,
            "seed": 1,
        },
        {
            "stop is 0": "another end",
            f"stop is {HUGE}": "an end that never comes",
            f"max_new_tokens is {HUGE}": "the context ends an answer",
            "temperature is 0.0": "the likeliest answer",
        }
        | SEEDS
        | {"seed is 0": "another seed"},
    ),
    "TrainConfig": Call(
        TrainConfig,
        {
            "steps": 9,
            "learning_rate": 1e-3,
            "warmup": 2,
            "final": 0.1,
            "weight_decay": 0.1,
            "betas": (0.9, 0.95),
            "clip": 1.0,
            "precision": "fp32",
        },
        {
            f"steps is {HUGE}": "a run that is meant to be stopped",
            "warmup is 0": "no warm-up",
            "final is 0.0": "the rate falls to 0",
            "weight_decay is 0.0": "no decay",
        },
    ),
    "Training and run": Call(
        run,
        {"model": MODEL, "config": CONFIG, "loss": next_token_loss, "batches": SOURCE, "until": 2},
        keep=["until"],
    ),
    "Windows": Call(
        windows,
        {"ids": IDS, "time": 4, "batch": 2, "seed": 1, "wrap": True},
        {
            "ids is shorter": "a shorter text",
            "ids is narrower": "a shorter text",
            "ids holds -1": "an id that the model refuses when it reads it",
            "ids holds a huge number": "an id that the model refuses when it reads it",
        }
        | SEEDS
        | {"seed is 0": "another seed"},
    ),
    "adamw": Call(adamw, {"model": MODEL, "config": CONFIG}),
    "answer_only": Call(answer_only, {"pairs": PAIRS, "padding": 3}, PADDING),
    "chat_examples": Call(chat_examples, {"lm": LM, "pairs": [("Hi.", "Hello.")]}),
    "counted": Call(counted, {"tokenizer": LM.tokenizer, "tokens": BATCH[0][0], "targets": BATCH[1][0]}),
    "frozen": Call(frozen, {"model": MODEL}, {"model is another module": "any module can be copied"}),
    "fused_next_token_loss": Call(
        fused_next_token_loss, {"model": MODEL, "batch": BATCH, "backend": "torch"}
    ),
    "join": Call(
        join,
        {"documents": [[5, 6], [7]], "end": 3},
        {"end is 0": "any id", f"end is {HUGE}": "an id that the model refuses when it reads it"},
    ),
    "load_checkpoint": Call(load_checkpoint, {"path": RUN, "training": Training(MODEL, CONFIG)}),
    "next_token_loss": Call(next_token_loss, {"model": MODEL, "batch": BATCH}),
    "next_token_loss of tokens": Call(
        lambda tokens, targets: next_token_loss(MODEL, (tokens, targets)),
        {"tokens": BATCH[0], "targets": BATCH[1]},
    ),
    "pad": Call(
        pad,
        {"rows": [[1, 2], [3]], "value": 5},
        {
            "value is -1": "targets are padded with a negative number",
            "value is 0": "any number",
            f"value is {HUGE}": "any number",
        },
    ),
    "make_optimizer": Call(make_optimizer, {"model": MODEL, "config": CONFIG}),
    "parameter_groups": Call(
        parameter_groups,
        {"model": MODEL, "weight_decay": 0.1},
        {"model is another module": "it has no parameters", "weight_decay is 0.0": "no decay"},
    ),
    "rate_share": Call(
        rate_share,
        {"step": 1, "config": CONFIG},
        {
            "step is 0": "the first step",
            f"step is {HUGE}": "after its last step a run keeps its final rate",
        },
    ),
    "save_checkpoint": Call(save_checkpoint, {"path": RUN, "training": Training(MODEL, CONFIG)}),
    "source_and_target": Call(
        source_and_target,
        {"pairs": PAIRS, "start": 1, "padding": 3},
        PADDING
        | {"start is 0": "any id", f"start is {HUGE}": "an id that the model refuses when it reads it"},
    ),
    "token_log_probs": Call(token_log_probs, {"model": MODEL, "tokens": BATCH[0], "targets": BATCH[1]}),
    "train": Call(
        train,
        {"model": MODEL, "batches": SOURCE, "config": CONFIG, "loss": next_token_loss, "progress": False},
    ),
    "uses_bf16": Call(
        uses_bf16, {"precision": "auto", "model": MODEL}, {"model is another module": "it has no weights"}
    ),
    "warmup_cosine": Call(
        warmup_cosine,
        {"step": 3, "steps": 9, "warmup": 2, "final": 0.1},
        {
            "step is 0": "the first step",
            f"step is {HUGE}": "after its last step a run keeps its final rate",
            f"steps is {HUGE}": "a run that is meant to be stopped",
            "warmup is 0": "no warm-up",
            f"warmup is {HUGE}": "a warm-up that has hardly begun",
            "final is 0.0": "the rate falls to 0",
        },
    ),
}
EXEMPT = {
    "IGNORE": "a number",
    "Batch": "a type",
    "Source": "a type",
    "Rollout": "a record that Rollouts makes",
    "Training": "swept with its run",
    "train_plainly": "the loop in its shortest form, whose header says that it checks nothing",
}

PEFT = {
    "Bottleneck": Call(Bottleneck, {"width": 3}),
    "LoRA": Call(
        LoRA,
        {"rank": 2, "alpha": 4.0, "targets": ("attention.query",)},
        {
            f"rank is {HUGE}": "a rank beyond that of the matrices is refused when they are there",
            "targets is a word": "one target",
        },
    ),
    "Prefix": Call(
        Prefix, {"tokens": 3, "start": "random"}, ROOM := {f"tokens is {HUGE}": "refused by a model"}
    ),
    "SoftPrompt": Call(SoftPrompt, {"tokens": 3, "start": "random"}, ROOM),
    "attach": Call(
        attach, {"model": MODEL, "method": LoRA(2), "seed": 1}, {"seed is 0": "another seed"} | SEEDS
    ),
    "in_front": Call(
        lambda ids: in_front(ids, SOURCE)(0),
        {"ids": [1, 2]},
        {"ids is empty": "nothing in front", "ids holds a huge number": "an id that the model refuses"},
    ),
    "load_peft": Call(load_peft, {"model": MODEL, "folder": FOLDER_OF_LORA}),
    "save_peft": Call(save_peft, {"folder": FOLDER_OF_LORA, "attached": ATTACHED}),
}
PEFT_EXEMPT = {
    "Attached": "made by attach",
    "BottleneckAdapter": "made by Bottleneck",
    "LoRALinear": "made by LoRA",
    "Method": "a type",
    "PrefixAttention": "made by Prefix",
    "PromptedEmbedding": "made by SoftPrompt",
    "Wrapper": "the base class of the parts that are attached",
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.train", CALLS, EXEMPT)
test_every_entry_of_peft_is_swept, test_sweep_of_peft = sweep("course_lib.train.peft", PEFT, PEFT_EXEMPT)
