"""How good is it?

`perplexity`: how surprised a model is by a text.
"""

from course_lib.evaluate.perplexity import evaluation_text, perplexity, token_losses

__all__ = ["evaluation_text", "perplexity", "token_losses"]
