"""The sweep of `course_lib.text`: odd arguments at every door."""

import atexit
import tempfile
from pathlib import Path

from sweep.frame import HUGE, Call, sweep

from course_lib.text import GPT2, ChatTemplate, Tokenizer, learn_merges, split
from course_lib.text.normalise import last_number, normalise

TOKENIZER = Tokenizer.train("low low low lower lowest", 262, special=["<|end|>"])
SOURCE = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
CHAT = ChatTemplate(SOURCE, TOKENIZER)
MESSAGES = [{"role": "user", "content": "Hi"}]

FOLDER = tempfile.TemporaryDirectory()
atexit.register(FOLDER.cleanup)
SAVED = Path(FOLDER.name) / "tokenizer.json"
TOKENIZER.save(SAVED)

A_TEXT = {"text is an unknown word": "another text, and right as any"}
NO_NUMBER = dict.fromkeys(
    ("text is empty", "text is half a character", "text is an unknown word"), "it has no number"
)
PATTERN = dict.fromkeys(
    ("pattern is empty", "pattern is half a character", "pattern is an unknown word"),
    "a pattern that doesn't match every character is refused when a text comes",
)
NONE = "a vocabulary may have none"
LARGEST = {f"vocab_size is {HUGE}": "at most so many tokens: fewer if nothing is left to merge"}
ONE_MESSAGE = {"messages is a word": "a string is one user message"}

CALLS = {
    "split": Call(
        split,
        {"text": "low lower", "pattern": GPT2},
        fine=A_TEXT | {"text is half a character": "is cut too; encoding, which needs its bytes, refuses it"},
    ),
    "learn_merges": Call(
        learn_merges,
        {"pieces": {(0, 1): 2}, "vocabulary": [b"a", b"b"], "vocab_size": 3, "ties": "lowest ids"},
        fine=LARGEST | {"vocab_size is 0": "there are so many tokens already: nothing is learned"},
    ),
    "Tokenizer": Call(
        Tokenizer,
        {
            "tokens": [b"a", b"b", b"ab", b"<x>"],
            "merges": {(0, 1): 2},
            "pattern": GPT2,
            "special": {"<x>": 3},
            "unknown": 1,
            "added": {"ab": 2},
        },
        fine=PATTERN
        | {
            "tokens holds None": "a gap",
            "merges is empty": NONE,
            "special is empty": NONE,
            "added is empty": NONE,
            "unknown is 0": "a token's id",
        },
    ),
    "Tokenizer.train": Call(
        Tokenizer.train,
        {
            "text": ["low lower", "lowest"],
            "vocab_size": 260,
            "pattern": GPT2,
            "special": ["<x>"],
            "ties": "lowest ids",
            "byte_order": list(range(256)),
        },
        fine=LARGEST
        | {
            "text is empty": "nothing is learned from no text",
            "text is a word": "a string is one text",
            "special is empty": NONE,
        },
    ),
    "Tokenizer.from_gpt2_strings": Call(
        Tokenizer.from_gpt2_strings,
        {
            "tokens": ["a", "b", "ab", "<x>"],
            "merges": ["a b"],
            "special_ids": [3],
            "added_ids": [2],
            "pattern": GPT2,
        },
        fine=PATTERN
        | {
            "tokens holds None": "a gap",
            "merges is empty": NONE,
            "special_ids is empty": NONE,
            "added_ids is empty": NONE,
        },
    ),
    "Tokenizer.encode": Call(
        Tokenizer.encode, {"self": TOKENIZER, "text": "low<|end|>", "allow_special": True}, fine=A_TEXT
    ),
    "Tokenizer.encode, some names": Call(
        Tokenizer.encode,
        {"self": TOKENIZER, "text": "low<|end|>", "allow_special": ["<|end|>"]},
        fine=A_TEXT | {"allow_special is empty": "no special token is read"},
    ),
    "Tokenizer.encode_iterable": Call(
        Tokenizer.encode_iterable,
        {"self": TOKENIZER, "chunks": ["low<|e", "nd|>"], "allow_special": True},
        fine={"chunks is a word": "a word is the characters that it consists of"},
    ),
    "Tokenizer.decode": Call(
        Tokenizer.decode, {"self": TOKENIZER, "ids": [108, 257, 261], "skip_special": False}
    ),
    "Tokenizer.decode_stream": Call(
        Tokenizer.decode_stream, {"self": TOKENIZER, "ids": [108, 257, 261], "skip_special": False}
    ),
    "Tokenizer.token_text": Call(
        Tokenizer.token_text, {"self": TOKENIZER, "i": 257}, fine={"i is 0": "the byte 0"}
    ),
    "Tokenizer.load": Call(Tokenizer.load, {"path": str(SAVED)}),
    "ChatTemplate": Call(
        ChatTemplate,
        {"source": SOURCE, "tokenizer": TOKENIZER, "bos": 261, "eos": 261},
        fine={
            "source is empty": "a program that writes nothing",
            "source is half a character": "whether it is a program shows when it is used",
            "source is an unknown word": "a program that writes these words",
            "bos is 0": "a token's id",
            "eos is 0": "a token's id",
        },
    ),
    "ChatTemplate.render": Call(
        ChatTemplate.render,
        {"self": CHAT, "messages": MESSAGES, "add_generation_prompt": True},
        fine=ONE_MESSAGE,
    ),
    "ChatTemplate.encode": Call(
        ChatTemplate.encode,
        {"self": CHAT, "messages": MESSAGES, "add_generation_prompt": True},
        fine=ONE_MESSAGE,
    ),
    "normalise": Call(
        normalise,
        {"text": "The thirsty tiger."},
        fine=A_TEXT | {"text is half a character": "no letter, and so a space"},
    ),
    "last_number": Call(last_number, {"text": "it is 5"}, fine=NO_NUMBER),
}
EXEMPT = {"GPT2": "a pattern", "SMOLLM2": "a pattern", "TIE_RULES": "a dict of functions"}

test_every_entry_is_swept, test_sweep = sweep("course_lib.text", CALLS, EXEMPT)
