"""Scores of texts, of answers and of models.

Read in this order:

    likelihood        how likely a text is under a model
    perplexity        the same as one number for a text
    teacher_forcing   whether a model would write the right completion
    answers           whether an answer is right, and how close a translation is
    repetition        whether a text repeats itself
    pass_at_k         what the best of several answers scores
    intervals         how certain a score is, and whether one is better than another
    report            all of it as a table, to save and to compare
    harness           evaluating: tasks and a model → a report

Whether a text is true in the made-up world is computed in `world.truths`.
"""

from course_lib.evaluate.answers import bleu, contains, exact_match, same_number
from course_lib.evaluate.harness import Task, compare, evaluate
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
from course_lib.evaluate.report import Report, Result, Table
from course_lib.evaluate.teacher_forcing import CompletionScores, encode_items, teacher_forced, would_write

__all__ = [
    "CompletionScores",
    "Estimate",
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
