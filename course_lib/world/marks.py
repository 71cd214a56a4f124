"""The marks: special tokens that write a task as one line of text.

An item of any kind has a `prompt`, which ends in the mark after which the model continues, and a
`completion`, which is what the model should write. `document` joins the two and adds the end mark.

    story         (nothing)                                       The tiger … thirsty.
    question      The tiger … <|question|>What …?<|answer|>       the tiger
    sum           A tiger had … <|question|>How many …?<|answer|> 7
    worked sum    A tiger had … <|question|>How many …?<|steps|>  12 - 5 = 7.<|answer|>7
    translation   The tiger … thirsty.<|french|>                  Le tigre … assoiffé.
    picture       <|picture|>                                     a red square left of a blue ring
"""

from typing import Protocol

END, PAD = "<|end|>", "<|pad|>"
QUESTION, ANSWER, STEPS = "<|question|>", "<|answer|>", "<|steps|>"
FRENCH, PICTURE = "<|french|>", "<|picture|>"
MARKS = (END, PAD, QUESTION, ANSWER, STEPS, FRENCH, PICTURE)


class Item(Protocol):
    """A story, question, sum, translation or picture."""

    @property
    def prompt(self) -> str: ...

    @property
    def completion(self) -> str: ...


def document(item: Item) -> str:
    """Return the text that a model is trained on: the prompt, its completion and the end mark."""
    return item.prompt + item.completion + END
