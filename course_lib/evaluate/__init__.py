"""How good is it?

Read in this order: `likelihood` (how likely a model finds a text), `perplexity` (the same as one number for a
text), `forced` (would it write the right answer?), `answers` (is what it wrote right?), `repetition` (does it
go in circles?), `pass_at_k` (what the best of several would score), `intervals` (how sure is a score, and is
one better than another?) and `harness` (all of it as a report). What is true in the made-up world, the world
itself says: `world.truths`.
"""

from course_lib.evaluate.answers import bleu, contains, exact_match, same_number
from course_lib.evaluate.forced import Forced, encode_items, teacher_forced, would_write
from course_lib.evaluate.harness import Report, Result, Table, Task, compare, evaluate
from course_lib.evaluate.intervals import (
    Estimate,
    PairedTest,
    accuracy,
    bootstrap,
    paired_difference,
    paired_test,
)
from course_lib.evaluate.likelihood import held_out_loss, log_likelihood
from course_lib.evaluate.pass_at_k import expected_best
from course_lib.evaluate.perplexity import evaluation_text, perplexity, token_losses
from course_lib.evaluate.repetition import distinct, entropy, find_loop, ngrams, repeated

__all__ = [
    "Estimate",
    "Forced",
    "PairedTest",
    "Report",
    "Result",
    "Table",
    "Task",
    "accuracy",
    "bleu",
    "bootstrap",
    "compare",
    "contains",
    "distinct",
    "encode_items",
    "entropy",
    "evaluate",
    "evaluation_text",
    "exact_match",
    "expected_best",
    "find_loop",
    "held_out_loss",
    "log_likelihood",
    "ngrams",
    "paired_difference",
    "paired_test",
    "perplexity",
    "repeated",
    "same_number",
    "teacher_forced",
    "token_losses",
    "would_write",
]
