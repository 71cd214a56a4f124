"""Every entry of `course_lib.world` under odd arguments."""

import random

from sweep.frame import Call, sweep

from course_lib.world import (
    Grammar,
    Picture,
    Plot,
    Shape,
    Sum,
    answers,
    choose,
    count_plots,
    describes,
    document,
    needs_the_deed,
    pictures,
    plots,
    questions,
    questions_about,
    resolves,
    side,
    solves,
    span_tokens,
    split_words,
    stories,
    sums,
    take,
    tell,
    translate,
    translations,
    world_tokenizer,
)

PLOT = Plot("tiger", "jumped out of", "tree", "animal", "thirsty", "get a drink", article="a")
STORY, SUM = tell(PLOT), Sum("tiger", "plum", 27, "+", 15, 0)
SHAPE = Shape("red", "ring", 1, 2)
PICTURE, QUESTION = Picture((SHAPE,)), questions_about(STORY)[0]
HUGE = "4611686018427387904"
WRONG = ("is empty", "is half a character", "is an unknown word")
WHOLE = ("is -1", "is 0", f"is {HUGE}", "is 1.5", "is nan", "is '3'", "is True", "is None", "is an object")


def fine(name: str, odds: tuple[str, ...], reason: str) -> dict[str, str]:
    return {f"{name} {odd}": reason for odd in odds}


def endless(function, *names: str) -> Call:
    """A call of a function that yields items of a split without end."""
    values = {"seed": 0, "split": "train", "sentences": 2}
    return Call(
        lambda **arguments: take(3, function(**arguments)),
        {name: values[name] for name in ("seed", "split", *names)},
        fine("seed", WHOLE, "whatever has a text is a seed")
        | fine("sentences", ("is None",) * bool(names), "any"),
    )


GUESS = fine("guess", WRONG[1:], "a wrong guess")
CALLS = {
    "answers": Call(answers, {"guess": QUESTION.answer, "question": QUESTION}, GUESS),
    "choose": Call(choose, {"rng": random.Random(0), "sentences": 2, "grammar": Grammar()}),
    "count_plots": Call(count_plots, {"sentences": 2, "grammar": Grammar()}),
    "describes": Call(describes, {"guess": PICTURE.caption, "picture": PICTURE}, GUESS),
    "document": Call(document, {"item": STORY}),
    "needs_the_deed": Call(needs_the_deed, {"story": STORY}),
    "pictures": endless(pictures),
    "plots": endless(plots, "sentences"),
    "questions": endless(questions, "sentences"),
    "questions, kinds": Call(
        lambda kinds, sentences: take(3, questions(kinds=kinds, sentences=sentences)),
        {"kinds": ["it", "why"], "sentences": 1},
        {"kinds is None": "all kinds", "sentences is None": "all lengths"},
    ),
    "questions_about": Call(questions_about, {"story": STORY}),
    "resolves": Call(resolves, {"guess": "the tiger", "story": STORY}, GUESS),
    "side": Call(side, {"key": PLOT.key}, fine("key", WRONG, "any text is a key")),
    "solves": Call(solves, {"guess": "42", "sum_": SUM}, GUESS),
    "span_tokens": Call(
        span_tokens, {"tokenizer": world_tokenizer(300, samples=5), "text": STORY.text, "span": STORY.it}
    ),
    "split_words": Call(split_words, {"text": STORY.text}, fine("text", WRONG[1:], "another text")),
    "stories": endless(stories, "sentences"),
    "sums": Call(
        lambda **arguments: take(3, sums(**arguments)),
        {"seed": 0, "split": "train", "largest": 50, "worked": False},
        fine("seed", WHOLE, "whatever has a text is a seed")
        | {
            f"worked is {odd}": "as true or false as anywhere in Python"
            for odd in ("a word", "an object", "None")
        },
    ),
    "take": Call(
        lambda n, items: take(n, iter(items) if isinstance(items, list) else items),
        {"n": 2, "items": [1, 2, 3]},
        {
            "n is 0": "none",
            f"n is {HUGE}": "as many as there are",
            "items holds None": "another item",
            "items is a word": "its letters",
            "items holds -1": "another item",
            "items holds a huge number": "another item",
            "items holds a fraction": "another item",
            "items is an array": "its numbers",
            "items is a tensor": "its numbers",
        },
    ),
    "tell": Call(tell, {"plot": PLOT}),
    "translate": Call(translate, {"plot": PLOT}),
    "translations": endless(translations, "sentences"),
    "world_tokenizer": Call(
        lambda **arguments: world_tokenizer(**arguments).tokens,
        {"vocab_size": 300, "seed": 0, "samples": 5},
        fine("seed", WHOLE, "whatever has a text is a seed"),
    ),
    "Shape": Call(
        Shape,
        {"colour": "red", "shape": "ring", "row": 1, "column": 2},
        {"row is 0": "the top", "column is 0": "the left"},
    ),
    "Picture": Call(
        Picture, {"shapes": (SHAPE, SHAPE), "relation": "above"}, {"relation is empty": "two alike"}
    ),
    "Sum": Call(
        Sum,
        {
            "animal": "tiger",
            "food": "plum",
            "first": 27,
            "sign": "+",
            "second": 15,
            "wording": 1,
            "worked": True,
        },
        {"first is 0": "nothing at first", "second is 0": "nothing more", "wording is 0": "another wording"}
        | {f"{name} is {HUGE}": "a large sum" for name in ("first", "second")},
        keep=("worked",),
    ),
    "Grammar": Call(
        Grammar,
        {
            "animals": ("tiger", "hen"),
            "things": ("key", "hat", "drum"),
            "landmarks": ("lake", "pond"),
            "deeds": Grammar().deeds,
        },
    ),
}
DATA = "data that the world makes; `tell` and `translate` check it"
EXEMPT = {
    name: "a mark, a string" for name in ("ANSWER", "END", "FRENCH", "PAD", "PICTURE", "QUESTION", "STEPS")
}
EXEMPT |= {name: "a table" for name in ("MARKS", "QUESTION_KINDS", "SHALLOW_RULES")}
EXEMPT |= {name: DATA for name in ("Beginning", "Plot", "Question", "Story", "Translation")}

test_every_entry_is_swept, test_sweep = sweep("course_lib.world", CALLS, EXEMPT)
