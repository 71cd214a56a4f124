"""The special tokens that put a task on one line.

An item of any kind has a `prompt`, ending in the mark after which the model is to go on, and a `completion`, which is what
it should write. `document` puts the two together and ends them.

    story         (nothing)                                       The tiger … thirsty.
    question      The tiger … <|question|>What …?<|answer|>       the tiger
    sum           A tiger had … <|question|>How many …?<|answer|> 7
    worked sum    A tiger had … <|question|>How many …?<|steps|>  12 - 5 = 7.<|answer|>7
    translation   The tiger … thirsty.<|french|>                  Le tigre … assoiffé.
    picture       <|picture|>                                     a red square left of a blue ring
"""

from typing import Protocol

END, PAD = "<|end|>", "<|pad|>"
QUESTION, ANSWER, STEPS, FRENCH, PICTURE = (
    "<|question|>",
    "<|answer|>",
    "<|steps|>",
    "<|french|>",
    "<|picture|>",
)
MARKS = (END, PAD, QUESTION, ANSWER, STEPS, FRENCH, PICTURE)


class Item(Protocol):
    @property
    def prompt(self) -> str: ...

    @property
    def completion(self) -> str: ...


def document(item: Item) -> str:
    """What a model is trained on: the prompt, its completion, and the mark that ends a text."""
    return item.prompt + item.completion + END
