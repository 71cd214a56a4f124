"""What happens: the latent truth of a story, chosen at random; how many there are; and which of them are held out."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TypeVar

from course_lib.world.words import (
    ACTS,
    ANIMAL_ADJECTIVES,
    ANIMALS,
    BOTH_WERE,
    COLOURS,
    DEEDS,
    FOOD_ADJECTIVES,
    FOODS,
    LANDMARKS,
    PLACE_ADJECTIVES,
    PLACES,
    PURPOSES,
    THINGS,
    Deed,
    Purpose,
)

T = TypeVar("T")
SPLITS = ("train", "held_out")
LENGTHS = (1, 2, 3, 4)
# One plot in ten is held out. The name is part of the hash; under this one the thirsty tiger in its tree is held out.
HELD_OUT = 10
SPLIT_NAME = "animal world"


@dataclass(frozen=True)
class Beginning:
    """The first sentence of a longer story, which brings in a second animal.

    kind: "lived" (details: near what), "had" (details: colour and thing of the hero, colour and thing of the other) or
    "reached" (details: what they reached, and whether the one named first came "before" or "after" the one named second).
    hero_first: which of the two the sentence names first.
    """

    kind: str
    other: str
    other_adjective: str
    details: tuple[str, ...]
    hero_first: bool


@dataclass(frozen=True)
class Plot:
    """Everything that a story says, in English words.

    animal did deed to object (for purpose) because *it* was (degree) reason; about says which of the two *it* is: "animal" or
    "object". adjective and object_adjective describe the two, article is the object's. beginning and endings are None and
    () in a story of one sentence. An ending is ("looked",), ("helped",), ("acted", who, act) or ("both", what they were).
    """

    animal: str
    deed: str
    object: str
    about: str
    reason: str
    purpose: str = ""
    degree: str = ""
    adjective: str = ""
    article: str = "the"
    object_adjective: str = ""
    beginning: Beginning | None = None
    endings: tuple[tuple[str, ...], ...] = ()

    @property
    def kind(self) -> str:
        return DEED[self.deed].kind

    @property
    def referent(self) -> str:
        """The noun that *it* stands for."""
        return self.animal if self.about == "animal" else self.object

    @property
    def need(self) -> str:
        """The reason, where it is an animal's (thirsty, tired, lost …), else ""."""
        return self.reason if self.referent in ANIMALS else ""

    @property
    def place(self) -> str:
        """The place that the animal left, else ""."""
        return self.object if self.kind == "leave" else ""

    @property
    def other(self) -> str:
        """The second animal, else ""."""
        return self.beginning.other if self.beginning else self.object if self.kind == "pair" else ""

    @property
    def key(self) -> str:
        """What the split is decided by: who did what, to what, and why. How it is told makes no difference."""
        return f"{self.animal} {self.deed} {self.object} {self.reason}"


DEED = {deed.english: deed for deed in DEEDS}
PURPOSE = {purpose.english: purpose for purpose in PURPOSES}


@dataclass(frozen=True)
class Grammar:
    """What a plot is chosen from. Smaller ones serve to check `count_plots` by listing every plot."""

    animals: tuple[str, ...] = tuple(ANIMALS)
    animal_adjectives: tuple[str, ...] = ANIMAL_ADJECTIVES
    deeds: tuple[Deed, ...] = DEEDS
    purposes: tuple[Purpose, ...] = PURPOSES
    degrees: tuple[str, ...] = ("very", "so")
    landmarks: tuple[str, ...] = LANDMARKS
    things: tuple[str, ...] = tuple(THINGS)
    colours: tuple[str, ...] = COLOURS
    place_adjectives: tuple[str, ...] = PLACE_ADJECTIVES
    food_adjectives: tuple[str, ...] = FOOD_ADJECTIVES
    acts: tuple[str, ...] = tuple(ACTS)
    both_were: tuple[str, ...] = tuple(BOTH_WERE)

    @cached_property
    def by_kind(self) -> dict[str, list[Deed]]:
        return {
            kind: [deed for deed in self.deeds if deed.kind == kind]
            for kind in dict.fromkeys(d.kind for d in self.deeds)
        }

    def adjectives_beside(self, deed: Deed) -> list[str]:
        """For the animals of a story: none that would take away from "too big" or "too fat"."""
        sizes = ("little", "big") if "big" in deed.of_animal else ()
        return [word for word in self.animal_adjectives if word not in sizes]

    def adjectives_of(self, noun: str) -> tuple[str, ...]:
        for nouns, adjectives in (
            (FOODS, self.food_adjectives),
            (PLACES, self.place_adjectives),
            (THINGS, self.colours),
        ):
            if noun in nouns:
                return adjectives
        return self.animal_adjectives

    def objects(self, deed: Deed, animal: str) -> list[str]:
        """Whom or what `animal` may do `deed` to."""
        return [
            noun for noun in deed.objects if noun != animal and (deed.kind != "pair" or noun in self.animals)
        ]


WORLD = Grammar()


def choose(rng: random.Random, sentences: int = 1, grammar: Grammar = WORLD) -> Plot:
    """A plot for a story of 1 to 4 sentences. Which noun *it* is, is a fair coin's choice, whatever came before.

    Raises ValueError for another number of sentences.
    """
    if sentences not in LENGTHS:
        raise ValueError(f"a story has one of {LENGTHS} sentences, not {sentences!r}")
    kind = rng.choice(list(grammar.by_kind))
    deed = rng.choice(grammar.by_kind[kind])
    animal = rng.choice(grammar.animals)
    noun = rng.choice(grammar.objects(deed, animal))
    purpose = _maybe(rng, grammar.purposes) if kind == "leave" else ""
    about = rng.choice(("animal", "object"))
    reasons = purpose or deed
    plot = Plot(
        animal,
        deed.english,
        noun,
        about,
        reason=rng.choice(reasons.of_animal if about == "animal" else reasons.of_object),
        purpose=purpose and purpose.english,
        degree="too" if kind == "refuse" else _maybe(rng, grammar.degrees),
        adjective=_maybe(rng, grammar.adjectives_beside(deed)),
    )
    if kind != "pair" or sentences == 1:
        adjective = _maybe(rng, grammar.adjectives_of(noun))
        plot = replace(plot, article=rng.choice(articles(deed)), object_adjective=adjective)
    return _lengthen(rng, plot, sentences, grammar) if sentences > 1 else plot


def articles(deed: Deed) -> tuple[str, ...]:
    """The articles that an object may have: what was refused is something definite, in both languages."""
    return ("the",) if deed.kind == "refuse" else ("a", "the")


def _maybe(rng: random.Random, options: tuple[T, ...] | list[T]) -> T | str:
    """One of the options, or as often "" for none."""
    return rng.choice(options) if options and rng.choice((False, True)) else ""


def _lengthen(rng: random.Random, plot: Plot, sentences: int, grammar: Grammar) -> Plot:
    """Add a beginning that brings in a second animal (the object, if that is one), then endings."""
    other = plot.object
    if plot.kind != "pair":
        other = rng.choice([animal for animal in grammar.animals if animal != plot.animal])
    kind = rng.choice(("lived", "had", "reached"))
    details = (
        _belongings(rng, plot, grammar) if kind == "had" else (rng.choice(_unused(grammar.landmarks, plot)),)
    )
    if kind == "reached":
        details += (rng.choice(("before", "after")),)
    adjective = _maybe(rng, grammar.adjectives_beside(DEED[plot.deed]))
    beginning = Beginning(kind, other, adjective, details, rng.choice((True, False)))
    plot = replace(plot, beginning=beginning)
    third = (_ending(rng, plot, grammar),) if sentences > 2 else ()
    last = (("both", rng.choice(grammar.both_were)),) if sentences > 3 else ()
    return replace(plot, endings=third + last)


def _unused(nouns: tuple[str, ...], plot: Plot) -> list[str]:
    return [noun for noun in nouns if noun != plot.object]


def _belongings(rng: random.Random, plot: Plot, grammar: Grammar) -> tuple[str, ...]:
    first = rng.choice(_unused(grammar.things, plot))
    second = rng.choice([thing for thing in _unused(grammar.things, plot) if thing != first])
    return rng.choice(grammar.colours), first, rng.choice(grammar.colours), second


def _ending(rng: random.Random, plot: Plot, grammar: Grammar) -> tuple[str, ...]:
    kind = rng.choice(("looked", "acted", "helped") if plot.purpose else ("looked", "acted"))
    return (
        ("acted", rng.choice((plot.animal, plot.other)), rng.choice(grammar.acts))
        if kind == "acted"
        else (kind,)
    )


def count_plots(sentences: int = 1, grammar: Grammar = WORLD) -> int:
    """How many plots `choose` can give for stories of that length: products of independent choices, summed.

    Raises ValueError for a number of sentences that no story has.
    """
    if sentences not in LENGTHS:
        raise ValueError(f"a story has one of {LENGTHS} sentences, not {sentences!r}")
    return sum(
        len(grammar.adjectives_beside(deed) + [""]) * _count_told(deed, animal, noun, sentences, grammar)
        for deed in grammar.deeds
        for animal in grammar.animals
        for noun in grammar.objects(deed, animal)
    )


def _count_told(deed: Deed, animal: str, noun: str, sentences: int, grammar: Grammar) -> int:
    """The plots of one deed done by one animal to one object, but for the animal's adjective."""
    degrees = 1 if deed.kind == "refuse" else 1 + len(grammar.degrees)
    plain = len(deed.of_animal + deed.of_object) * degrees
    purposes = grammar.purposes if deed.kind == "leave" else ()
    purposeful = sum(len(purpose.of_animal + purpose.of_object) for purpose in purposes) * degrees
    objects = len(articles(deed)) * (1 + len(grammar.adjectives_of(noun)))
    if sentences == 1:
        return (plain + purposeful) * objects
    others = 1 if deed.kind == "pair" else (len(grammar.animals) - 1) * objects
    ends = [_count_endings(sentences, helped, grammar) for helped in (False, True)]
    return (plain * ends[0] + purposeful * ends[1]) * others * _count_beginnings(deed, noun, grammar)


def _count_beginnings(deed: Deed, noun: str, grammar: Grammar) -> int:
    """The first sentences for two given animals, but for the hero's adjective."""
    things, landmarks = (
        len([x for x in nouns if x != noun]) for nouns in (grammar.things, grammar.landmarks)
    )
    scenes = 3 * landmarks + things * (things - 1) * len(grammar.colours) ** 2
    return 2 * (1 + len(grammar.adjectives_beside(deed))) * scenes


def _count_endings(sentences: int, helped: bool, grammar: Grammar) -> int:
    third = 1 + helped + 2 * len(grammar.acts)
    return {2: 1, 3: third, 4: third * len(grammar.both_were)}[sentences]


def side(key: str) -> str:
    """Which split something belongs to, by a hash of what it says: the same in every run, for every seed.

    >>> side("tiger jumped out of tree thirsty")
    'held_out'
    """
    digest = hashlib.sha256(f"{SPLIT_NAME} {key}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:8]) % HELD_OUT == 0 else "train"


def check_split(split: str) -> None:
    """Raises ValueError for a split that the world doesn't have."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")


def plots(seed: int | str = 0, split: str = "train", sentences: int | None = None) -> Iterator[Plot]:
    """Plots without end, of one split; of 1 to 4 sentences in equal parts, unless `sentences` fixes their number."""
    check_split(split)
    if sentences is not None and sentences not in LENGTHS:
        raise ValueError(f"a story has one of {LENGTHS} sentences, not {sentences!r}")
    return _plots(random.Random(f"plots {seed}"), split, sentences)


def _plots(rng: random.Random, split: str, sentences: int | None) -> Iterator[Plot]:
    while True:
        plot = choose(rng, sentences or rng.choice(LENGTHS))
        if side(plot.key) == split:
            yield plot


def take(n: int, items: Iterator[T]) -> list[T]:
    """The next n items. Raises ValueError for n below 0.

    >>> take(2, iter("abc"))
    ['a', 'b']
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}")
    return list(islice(items, n))
