"""Bytes → tokens.

Read in this order:

    bpe                byte-pair encoding, the whole algorithm on one page
    fast_bpe           the same merges and the same tokens, quickly
    pretokenize        text → pieces, which no merge may cross
    special_tokens     names such as <|im_end|>, cut out of the text first
    tokenizer          all of these together: train, encode, decode
    streaming          encoding a text that arrives in chunks
    vocabulary_files   GPT-2's files, and saving and loading
    ids                token ids of every kind of number
    checks             what arguments `tokenizer` and `chat` accept
    chat               a conversation → text
    template_language  what chat templates can use
    template_limits    the sandbox in which they come to an end
    template_sizes     how large what a template makes can become
    normalise          texts as scorers compare them
"""

from course_lib.text.chat import ChatTemplate
from course_lib.text.fast_bpe import TIE_RULES, learn_merges
from course_lib.text.pretokenize import GPT2, SMOLLM2, split
from course_lib.text.tokenizer import Tokenizer

__all__ = ["GPT2", "SMOLLM2", "TIE_RULES", "ChatTemplate", "Tokenizer", "learn_merges", "split"]
