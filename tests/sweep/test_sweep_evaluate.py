"""Every entry of `course_lib.evaluate` under odd arguments."""

import torch
from references import tiny_decoder
from sweep.frame import Call, sweep

from course_lib.evaluate import (
    Task,
    accuracy,
    bleu,
    bootstrap,
    compare,
    contains,
    distinct,
    encode_items,
    entropy,
    evaluate,
    evaluation_text,
    exact_match,
    expected_best,
    find_loop,
    held_out_loss,
    log_likelihood,
    ngrams,
    paired_difference,
    paired_test,
    perplexity,
    repeated,
    same_number,
    teacher_forced,
    token_losses,
    would_write,
)
from course_lib.world import questions, take, world_tokenizer

MODEL = tiny_decoder(torch.float32)
ITEMS = take(2, questions())
TASK = Task("t", ITEMS, lambda given, item: given == item.answer)
REPORT = evaluate(lambda prompt: "the tiger", [TASK])
HUGE = "4611686018427387904"
TEXTS = {"is half a character": "a text like any other", "is an unknown word": "another text"}
SEED = {"seed is 0": "a seed", f"seed is {HUGE}": "another seed"}
TOKENS = {
    f"tokens {odd}": "tokens are whatever can be compared"
    for odd in ("holds None", "is a word", "holds -1", "holds a huge number", "holds a fraction")
}
N = {f"n is {HUGE}": "no text has such n-grams"}
BATCH = {f"batch is {HUGE}": "all at once"}


def texts(*names: str) -> dict[str, str]:
    return {f"{name} {odd}": reason for name in names for odd, reason in TEXTS.items()}


CALLS = {
    "accuracy": Call(accuracy, {"right": [1, 0, 1], "confidence": 0.95}),
    "bleu": Call(bleu, {"guesses": ["a tiger ran"], "references": ["the tiger ran"]}),
    "bootstrap": Call(
        bootstrap, {"values": [0.5, 1.5, 2.5], "confidence": 0.95, "resamples": 100, "seed": 0}, fine=SEED
    ),
    "compare": Call(compare, {"first": REPORT, "second": REPORT, "confidence": 0.95}),
    "contains": Call(contains, {"guess": "a tiger", "accepted": ["tiger"]}, fine=texts("guess")),
    "distinct": Call(distinct, {"texts": [[1, 2], [1, 3]], "n": 1}, fine=N),
    "encode_items": Call(encode_items, {"tokenizer": world_tokenizer(300, samples=5), "items": ITEMS}),
    "entropy": Call(
        entropy,
        {"logits": torch.randn(2, 5)},
        fine={
            "logits has one more dimension": "any shape is right",
            "logits has one dimension less": "any shape is right",
            "logits is shorter": "fewer distributions",
            "logits is narrower": "a smaller vocabulary",
            "logits holds whole numbers": "logits may be whole",
        },
    ),
    "evaluate": Call(
        evaluate,
        {"answer": str, "tasks": [TASK], "batch": None, "facts": {"seed": 0}},
        fine={
            "answer gives None": "the scorer judges it, here as wrong",
            "facts is empty": "no facts",
            "facts holds an unknown name": "facts are the caller's",
        },
    ),
    "evaluation_text": Call(evaluation_text, {}),
    "exact_match": Call(
        exact_match, {"guess": "a tiger", "answer": "the tiger"}, fine=texts("guess", "answer")
    ),
    "expected_best": Call(
        expected_best,
        {"scores": [0.5, 1.0, 0.0], "n": 2, "values": [1.0, 2.0, 4.0]},
        fine={"scores holds inf": "scores only say which is the best"},
    ),
    "find_loop": Call(
        find_loop,
        {"tokens": [1, 2, 1, 2, 1, 2], "rounds": 3},
        fine=TOKENS | {"tokens is empty": "no loop", f"rounds is {HUGE}": "nothing goes round so often"},
    ),
    "held_out_loss": Call(
        held_out_loss,
        {"model": MODEL, "tokens": torch.arange(9), "window": 4, "batch": 2},
        fine=BATCH | {"tokens is shorter": "another text", "tokens is narrower": "another text"},
    ),
    "log_likelihood": Call(log_likelihood, {"model": MODEL, "prompt": [1, 2], "continuation": [3, 4]}),
    "ngrams": Call(ngrams, {"tokens": [1, 2, 3], "n": 2}, fine=TOKENS | N),
    "paired_difference": Call(
        paired_difference,
        {"a": [1.0, 2.0], "b": [0.5, 1.0], "confidence": 0.95, "resamples": 100, "seed": 0},
        fine=SEED,
    ),
    "paired_test": Call(
        paired_test, {"a": [1.0, 2.0], "b": [0.5, 1.0], "confidence": 0.95, "seed": 0}, fine=SEED
    ),
    "perplexity": Call(perplexity, {"model": MODEL, "ids": [1, 2, 3, 4], "window": 3}),
    "repeated": Call(repeated, {"tokens": [1, 2, 1, 2], "n": 2}, fine=TOKENS | N),
    "same_number": Call(
        same_number,
        {"guess": "it is 5", "answer": "5"},
        fine=texts("guess") | {"answer is a number": "an answer may be one"},
    ),
    "teacher_forced": Call(
        teacher_forced, {"model": MODEL, "pairs": [([1, 2], [3])], "batch": 2}, fine=BATCH
    ),
    "token_losses": Call(token_losses, {"model": MODEL, "ids": [1, 2, 3, 4], "window": 3}),
    "would_write": Call(
        would_write, {"model": MODEL, "pairs": [([1, 2], [3])], "stop": [3], "batch": 2}, fine=BATCH
    ),
    "Task": Call(
        Task,
        {"name": "t", "items": ITEMS, "scorer": exact_match, "prompt": str},
        fine={
            **texts("name"),
            "items holds None": "an item is what the scorer makes of it",
            "scorer gives None": "evaluate says so, with the item",
            "prompt gives None": "what answers may take None",
        },
    ),
}
RESULT = "what a function returns"
EXEMPT = {
    "CompletionScores": RESULT,
    "Estimate": RESULT,
    "PairedTest": RESULT,
    "Report": RESULT,
    "Result": RESULT,
    "Table": RESULT,
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.evaluate", CALLS, EXEMPT)
