"""Bytes → tokens.

Read in this order: `pretokenize` (text → pieces), `bpe` (pieces → tokens), `chat` (a conversation → text).
"""

from course_lib.text.bpe import TIE_RULES, Tokenizer, learn_merges
from course_lib.text.chat import ChatTemplate
from course_lib.text.pretokenize import GPT2, SMOLLM2, split

__all__ = ["GPT2", "SMOLLM2", "TIE_RULES", "ChatTemplate", "Tokenizer", "learn_merges", "split"]
