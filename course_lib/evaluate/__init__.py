"""How good is it?

`perplexity`: how surprised a model is by a text.
"""

from course_lib.evaluate.answers import bleu, contains, exact_match, same_number
from course_lib.evaluate.likelihood import held_out_loss, log_likelihood
from course_lib.evaluate.pass_at_k import expected_best
from course_lib.evaluate.perplexity import evaluation_text, perplexity, token_losses
from course_lib.evaluate.repetition import distinct, entropy, find_loop, ngrams, repeated

__all__ = [
    "bleu",
    "contains",
    "distinct",
    "entropy",
    "evaluation_text",
    "exact_match",
    "expected_best",
    "find_loop",
    "held_out_loss",
    "log_likelihood",
    "ngrams",
    "perplexity",
    "repeated",
    "same_number",
    "token_losses",
]
