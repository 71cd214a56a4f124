"""The sweep of `course_lib.generate`."""

import torch
from references import tiny_decoder
from sweep.frame import HUGE, Call, sweep

from course_lib.families import load_world
from course_lib.generate import (
    Batch,
    Request,
    best_of,
    complete,
    continuations,
    decode,
    draw,
    frequency_penalty,
    generate,
    greedy,
    min_p,
    pack,
    packed_parts,
    presence_penalty,
    probabilities,
    repetition_penalty,
    sample,
    temperature,
    top_k,
    top_p,
    write,
)

MODEL = tiny_decoder(torch.float32, n_layers=1)
LOGITS = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 2], [0, 0, 5]])
LM = load_world()


def likeliest(logits):
    return logits.argmax(dim=-1)


def unchanged(logits, tokens):
    return logits


def length(word):
    return len(str(word))


WRITE = {"prompt": [3, 1, 4], "max_new_tokens": 3, "choose": likeliest, "stop": [60]}
LATER = "it is looked at when a model writes"
WRITES = {
    "max_new_tokens is 0": "nothing is to be written",
    f"max_new_tokens is {HUGE}": "the context ends the text",
    "stop is empty": "nothing but the number of tokens ends the text",
    "stop holds a huge number": "an id that the model never writes never ends a text",
}
ROWS = {
    "logits has one more dimension": "the vocabulary comes last, any dimensions may stand before it",
    "logits has one dimension less": "a single row",
    "logits is shorter": "fewer rows",
    "logits is narrower": "a smaller vocabulary, in which all tokens are",
}
PENALTY = {
    "logits is narrower": ROWS["logits is narrower"],
    "tokens has no columns": "nothing was written",
    "tokens is narrower": "less was written",
}
EITHER_WAY = PENALTY | {
    "penalty is -1.0": "repetition is encouraged",
    "penalty is 0.0": "nothing is changed",
}

CALLS = {
    "Batch": Call(Batch, {"model": MODEL, "requests": [Request([3, 1], 2)], "cached": True}),
    "Request": Call(
        Request,
        {**WRITE, "adjust": unchanged},
        WRITES
        | dict.fromkeys(
            ("prompt is empty", "prompt holds a huge number", "choose gives None", "adjust gives None"), LATER
        ),
    ),
    "best_of": Call(
        best_of,
        {"candidates": ["a", "bb"], "score": length},
        {
            "candidates holds None": "candidates may be anything that the score takes",
            "candidates is a word": "its letters are the candidates",
        },
    ),
    "complete": Call(
        complete,
        {"lm": LM, "prompt": "The tiger", "max_new_tokens": 2, "choose": likeliest, "chat": False},
        {
            "prompt is an unknown word": "any text has a continuation",
            "max_new_tokens is 0": WRITES["max_new_tokens is 0"],
            f"max_new_tokens is {HUGE}": WRITES[f"max_new_tokens is {HUGE}"],
        },
    ),
    "continuations": Call(continuations, {"model": MODEL, "n": 2, **WRITE, "adjust": unchanged}, WRITES),
    "decode": Call(
        decode, {"model": MODEL, "requests": [Request([3, 1], 2), Request([4], 1)], "cached": True}
    ),
    "draw": Call(draw, {"logits": LOGITS, "generator": None}, ROWS),
    "frequency_penalty": Call(
        frequency_penalty, {"logits": LOGITS, "tokens": TOKENS, "penalty": 0.5}, EITHER_WAY
    ),
    "generate": Call(generate, {"model": MODEL, **WRITE, "cached": True, "adjust": unchanged}, WRITES),
    "greedy": Call(greedy, {"logits": LOGITS}, ROWS),
    "min_p": Call(min_p, {"logits": LOGITS, "p": 0.1}, ROWS | {"p is 0.0": "every token is kept"}),
    "pack": Call(pack, {"model": MODEL}),
    "packed_parts": Call(packed_parts, {"model": MODEL}),
    "presence_penalty": Call(
        presence_penalty, {"logits": LOGITS, "tokens": TOKENS, "penalty": 0.5}, EITHER_WAY
    ),
    "probabilities": Call(probabilities, {"logits": LOGITS, "temperature": 0.5}, ROWS),
    "repetition_penalty": Call(
        repetition_penalty, {"logits": LOGITS, "tokens": TOKENS, "penalty": 1.5}, PENALTY
    ),
    "sample": Call(
        sample,
        {"logits": LOGITS, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "min_p": 0.05, "generator": None},
        ROWS | {"temperature is 0.0": "the likeliest", "min_p is 0.0": "every token is kept"},
    ),
    "temperature": Call(temperature, {"logits": LOGITS, "t": 0.7}, ROWS),
    "top_k": Call(top_k, {"logits": LOGITS, "k": 3}, ROWS),
    "top_p": Call(top_p, {"logits": LOGITS, "p": 0.9}, ROWS),
    "write": Call(write, {"model": MODEL, "requests": [Request([3, 1], 2), Request([4], 1)]}),
}
EXEMPT = {
    "KNOBS": "a table of functions that are swept by themselves",
    "generate_plainly": "the loop in its shortest form, whose header says that it checks nothing but ids",
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.generate", CALLS, EXEMPT)
