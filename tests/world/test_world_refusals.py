"""Arguments that the world can't take are refused in words; none makes it search without end."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.world import (
    Beginning,
    Grammar,
    Picture,
    Plot,
    Shape,
    Sum,
    choose,
    pictures,
    plots,
    questions,
    side,
    solves,
    span_tokens,
    stories,
    sums,
    take,
    tell,
    translate,
    world_tokenizer,
)
from course_lib.world.plots import LENGTHS
from course_lib.world.words import DEEDS

TIGER = Plot("tiger", "jumped out of", "tree", "animal", "thirsty", "get a drink", article="a")
LONG = replace(TIGER, beginning=Beginning("lived", "lion", "", ("pond",), True), endings=(("helped",),))
LEFT, HELPED = (deed for deed in DEEDS if deed.english in ("left", "helped"))
SUM = Sum("tiger", "plum", 27, "+", 15, 0)


def test_an_iterator_of_kinds_is_a_list_of_kinds():
    """It was used up by the check, and then no question was ever of its kinds."""
    assert {question.kind for question in take(50, questions(kinds=iter(["it", "why"])))} == {"it", "why"}


@pytest.mark.parametrize(
    "sentences, kinds",
    [(1, ["home"]), (1, ["owner", "looks", "which"]), (2, ["looks"]), (2, ["ending", "looks"])],
)
def test_kinds_that_stories_of_this_length_never_answer_are_refused(sentences, kinds):
    with pytest.raises(ValueError, match=f"stories of {sentences} sentences answer no question of the kinds"):
        questions(sentences=sentences, kinds=kinds)
    assert take(3, questions(sentences=sentences, kinds=[*kinds, "it"]))[2].kind == "it"
    assert take(3, questions(sentences=3, kinds=kinds))[2].kind in kinds


@pytest.mark.parametrize("largest", [9, 10, 99])
@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("worked", [False, True])
def test_there_are_sums_of_every_kind(largest, split, worked):
    assert len(take(20, sums(0, split, largest, worked))) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"animal": "dragon"},
        {"deed": "flew over"},
        {"object": "moon"},
        {"about": "both"},
        {"reason": "tremendous"},
        {"purpose": "get rich"},
        {"degree": "rather"},
        {"adjective": 3},
        {"article": "an"},
        {"object_adjective": None},
        {"beginning": Beginning("slept", "lion", "", (), True)},
        {"beginning": Beginning("lived", "dragon", "", ("pond",), True)},
        {"beginning": Beginning("lived", "lion", "", (), True)},
        {"beginning": Beginning("reached", "lion", "", ("pond", "during"), True)},
        {"endings": (("slept",),)},
        {"endings": (("acted", "lion", "flew"),)},
        {"endings": (("both",),)},
        {"endings": ((),)},
        {"endings": (3,)},
        {"endings": None},
        {"endings": "looked"},
        {"beginning": Beginning("lived", "lion", "", None, True)},
        {"beginning": None},
        {"purpose": ""},
    ],
)
def test_what_cannot_be_told_is_refused(change):
    assert "lion" in tell(LONG).text and "lion" in translate(LONG).french
    for told in (tell, translate):
        with pytest.raises(ValueError, match="can't be|has . details|takes a"):
            told(replace(LONG, **change))
        with pytest.raises(TypeError, match="a story is told of a Plot, not of 3"):
            told(3)


def test_every_plot_of_the_grammar_can_be_told():
    for sentences in LENGTHS:
        for plot in take(300, plots(3, sentences=sentences)):
            tell(plot)


@pytest.mark.parametrize(
    "make, error, said",
    [
        (lambda: take(-1, stories()), ValueError, "n must be at least 0, not -1"),
        (lambda: take(2.5, stories()), TypeError, "n must be a whole number, not 2.5"),
        (lambda: take(True, stories()), TypeError, "n must be a whole number, not True"),
        (lambda: take(stories(), 2), TypeError, "n must be a whole number, not <map object"),
        (lambda: stories(sentences=True), ValueError, "a story has one of"),
        (lambda: stories(sentences=1.0), ValueError, "a story has one of"),
        (lambda: choose(random.Random(0), sentences="1"), ValueError, "a story has one of"),
        (lambda: stories(split=["train"]), ValueError, "split must be one of"),
        (lambda: questions(kinds="it"), TypeError, "kinds must be a list of kinds, not 'it'"),
        (lambda: questions(kinds=()), ValueError, "not none"),
        (lambda: sums(largest=50.5), TypeError, "largest must be a whole number, not 50.5"),
        (lambda: questions(sentences=[1]), ValueError, "a story has one of"),
        (lambda: side(3), TypeError, "key must be a text"),
        (lambda: Grammar(animals=()), ValueError, "animals must have 2 words or more"),
        (lambda: Grammar(animals=("tiger", "tiger")), ValueError, "each named once"),
        (lambda: Grammar(animals=("tiger", "dragon")), ValueError, "animals: the world has no 'dragon'"),
        (lambda: Grammar(things="key"), TypeError, "things must be a tuple, not 'key'"),
        (lambda: Grammar(animals=(["tiger"], "hen")), ValueError, r"the world has no \['tiger'\]"),
        (lambda: Grammar(things=("hat", "box")), ValueError, "things must have two words besides 'box'"),
        (lambda: Grammar(deeds=(replace(LEFT, objects=()),)), ValueError, "must have an object for 'tiger'"),
        (lambda: Grammar(deeds=(replace(LEFT, animal_reasons=()),)), ValueError, "must have animal_reasons"),
        (lambda: Grammar(deeds=(replace(LEFT, object_reasons=()),)), ValueError, "must have animal_reasons"),
        (
            lambda: Grammar(
                animals=("tiger", "hen", "owl"), deeds=(replace(HELPED, objects=("owl", "bee")),)
            ),
            ValueError,
            "must have an object for 'owl' to do it to, and in a pair an animal of these",
        ),
        (lambda: Grammar(deeds=()), ValueError, "deeds must be a tuple of one or more"),
        (lambda: Shape("pink", "ring", 0, 0), ValueError, "the world has no 'pink' 'ring'"),
        (lambda: Shape(["red"], "ring", 0, 0), ValueError, r"the world has no \['red'\] 'ring'"),
        (lambda: Shape("red", "ring", 6, 0), ValueError, "row must be from 0 to 5, not 6"),
        (lambda: Picture(()), ValueError, "a picture has one shape"),
        (
            lambda: Picture((Shape("red", "ring", 0, 0),), "above"),
            ValueError,
            "a relation is between two shapes",
        ),
        (lambda: replace(SUM, animal="dragon"), ValueError, "told of an animal and a food"),
        (lambda: replace(SUM, animal=["tiger"]), ValueError, "told of an animal and a food"),
        (lambda: replace(SUM, sign="*"), ValueError, "with . or -; not of 'tiger', 'plum', '.*'"),
        (lambda: replace(SUM, first=1.5), TypeError, "first must be a whole number, not 1.5"),
        (lambda: replace(SUM, wording=3), ValueError, "wording must be from 0 to 2, not 3"),
        (lambda: world_tokenizer(samples=2**62), ValueError, "samples must be from 1 to 1000000"),
        (lambda: world_tokenizer(300.5), TypeError, "vocab_size must be a whole number"),
    ],
)
def test_odd_arguments_are_refused_in_words(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_whole_numbers_of_numpy_are_whole_numbers():
    zero, one = np.arange(2)
    assert Shape("red", "ring", zero, one) == Shape("red", "ring", 0, 1)
    assert replace(SUM, wording=one) == replace(SUM, wording=1)
    assert next(stories(sentences=one)) == next(stories(sentences=1))


@pytest.mark.parametrize("small", [np.uint8, np.int8, lambda number: torch.tensor(number, dtype=torch.uint8)])
def test_small_whole_numbers_do_not_overflow(small):
    less = Sum("tiger", "plum", small(5), "-", small(7), small(0), worked=True)
    more = Sum("tiger", "plum", small(100), "+", small(120), small(1))
    assert less == Sum("tiger", "plum", 5, "-", 7, 0, worked=True) and hash(less) == hash(replace(less))
    assert less.completion == "5 - 7 = -2.<|answer|>-2" and more.completion == "220" and solves("220", more)
    shape = Shape("red", "ring", small(1), small(5))
    assert repr(shape) == repr(Shape("red", "ring", 1, 5)) and len({shape, Shape("red", "ring", 1, 5)}) == 1
    assert take(small(2), sums(largest=small(99))) == take(2, sums())
    assert world_tokenizer(400, samples=small(100)).tokens == world_tokenizer(400, samples=100).tokens


def test_every_grammar_that_is_taken_tells_stories_of_every_length():
    grammar = Grammar(
        things=("hat", "box", "key"), animals=("tiger", "hen"), deeds=(LEFT, HELPED, DEEDS[-10])
    )
    for sentences in LENGTHS:
        for seed in range(300):
            tell(choose(random.Random(seed), sentences, grammar))


def test_a_key_may_be_any_text():
    assert side("\ud800") in ("train", "held_out") and side("") in ("train", "held_out")


def test_spans_are_of_the_text_that_the_tokens_spell():
    tokenizer, text = world_tokenizer(300, samples=20), next(stories()).text
    for odd in ((0, 1.5), (True, 3), "ab", None, (1, 2, 3)):
        with pytest.raises(TypeError, match="span"):
            span_tokens(tokenizer, text, odd)
    with pytest.raises(ValueError, match="not inside a text of 3 characters"):
        span_tokens(tokenizer, "abc", (1, 4))

    class Shouting:
        tokens = tokenizer.tokens

        def encode(self, text: str) -> list[int]:
            return tokenizer.encode(text.replace("a", "ä"))

    with pytest.raises(ValueError, match="this tokenizer changes the text"):
        span_tokens(Shouting(), "a tiger", (2, 7))


def test_pictures_of_the_generator_are_pictures():
    assert len({len(picture.shapes) for picture in take(200, pictures())}) == 4
