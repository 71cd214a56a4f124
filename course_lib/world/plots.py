"""Plots: everything that a story says, chosen at random from the grammar."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from course_lib.arguments import whole
from course_lib.world.grammar import LENGTHS, WORLD, Grammar, articles, check_length
from course_lib.world.splits import check_split, side
from course_lib.world.words import ANIMALS, DEEDS, PURPOSES, Deed

T = TypeVar("T")
DEED_BY_NAME = {deed.english: deed for deed in DEEDS}
PURPOSE_BY_NAME = {purpose.english: purpose for purpose in PURPOSES}


@dataclass(frozen=True)
class Beginning:
    """The first sentence of a longer story, which introduces a second animal.

    kind: "lived", "had" or "reached".
    other: the second animal. The first is the hero, which does the deed.
    other_adjective: its adjective, or "".
    details: for "lived", the landmark that they lived near. For "had", colour and thing of the hero, then
        colour and thing of the other. For "reached", the landmark, and whether the animal that is named
        first came "before" or "after" the one that is named second.
    hero_first: whether the sentence names the hero first.
    """

    kind: str
    other: str
    other_adjective: str
    details: tuple[str, ...]
    hero_first: bool


@dataclass(frozen=True)
class Plot:
    """Everything that a story says, in English words.

    The event is: `animal` `deed` `object` (to `purpose`) because it was (`degree`) `reason`.

    about: which of the two *it* is, "animal" or "object".
    degree: "very", "so", "too" or "".
    adjective, object_adjective: the adjectives of the animal and of the object, or "".
    article: the object's article.
    beginning, endings: None and () in a story of one sentence. An ending is ("looked",), ("helped",),
        ("acted", the animal, its act) or ("both", what they were).
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
        return DEED_BY_NAME[self.deed].kind

    @property
    def referent(self) -> str:
        """The noun that *it* stands for."""
        return self.animal if self.about == "animal" else self.object

    @property
    def need(self) -> str:
        """The reason if it describes an animal (thirsty, tired, lost …), else ""."""
        return self.reason if self.referent in ANIMALS else ""

    @property
    def place(self) -> str:
        """The place that the animal left, else ""."""
        return self.object if self.kind == "leave" else ""

    @property
    def other(self) -> str:
        """The second animal, else ""."""
        if self.beginning:
            return self.beginning.other
        return self.object if self.kind == "pair" else ""

    @property
    def key(self) -> str:
        """The text that decides the split: who did what, to what, and why, however it is told."""
        return f"{self.animal} {self.deed} {self.object} {self.reason}"


def choose(rng: random.Random, sentences: int = 1, grammar: Grammar = WORLD) -> Plot:
    """Return a random plot for a story of 1 to 4 sentences.

    *It* is either of its two nouns with even chances, whatever the text says before the reason.

    Raises ValueError for another number of sentences.
    """
    check_length(sentences)
    kind = rng.choice(list(grammar.deeds_by_kind))
    deed = rng.choice(grammar.deeds_by_kind[kind])
    animal = rng.choice(grammar.animals)
    plot = _choose_event(rng, deed, animal, grammar)
    if kind != "pair" or sentences == 1:
        adjective = _maybe(rng, grammar.object_adjectives(plot.object))
        plot = replace(plot, article=rng.choice(articles(deed)), object_adjective=adjective)
    return _lengthen(rng, plot, sentences, grammar) if sentences > 1 else plot


def _choose_event(rng: random.Random, deed: Deed, animal: str, grammar: Grammar) -> Plot:
    noun = rng.choice(grammar.objects(deed, animal))
    purposes = {purpose.english: purpose for purpose in grammar.purposes} if deed.kind == "leave" else {}
    purpose = _maybe(rng, list(purposes))
    about = rng.choice(("animal", "object"))
    source = purposes.get(purpose, deed)  # the table whose reasons fit
    reason = rng.choice(source.animal_reasons if about == "animal" else source.object_reasons)
    degree = "too" if deed.kind == "refuse" else _maybe(rng, grammar.degrees)
    adjective = _maybe(rng, grammar.hero_adjectives(deed))
    return Plot(animal, deed.english, noun, about, reason, purpose, degree, adjective)


def _maybe(rng: random.Random, options: Sequence[str]) -> str:
    """Return one of the options or, with even chances, "" for none."""
    return rng.choice(options) if options and rng.choice((False, True)) else ""


def _lengthen(rng: random.Random, plot: Plot, sentences: int, grammar: Grammar) -> Plot:
    """Add a beginning, and endings for the third and the fourth sentence."""
    plot = replace(plot, beginning=_choose_beginning(rng, plot, grammar))
    third = (_choose_ending(rng, plot, grammar),) if sentences > 2 else ()
    last = (("both", rng.choice(grammar.both_were)),) if sentences > 3 else ()
    return replace(plot, endings=third + last)


def _choose_beginning(rng: random.Random, plot: Plot, grammar: Grammar) -> Beginning:
    """Choose a first sentence. The second animal is the deed's object if that is an animal."""
    other = plot.object
    if plot.kind != "pair":
        other = rng.choice([animal for animal in grammar.animals if animal != plot.animal])
    kind = rng.choice(("lived", "had", "reached"))
    if kind == "had":
        details = _choose_belongings(rng, plot, grammar)
    else:
        details = (rng.choice(_unused(grammar.landmarks, plot)),)
    if kind == "reached":
        details += (rng.choice(("before", "after")),)
    adjective = _maybe(rng, grammar.hero_adjectives(DEED_BY_NAME[plot.deed]))
    return Beginning(kind, other, adjective, details, rng.choice((True, False)))


def _unused(nouns: tuple[str, ...], plot: Plot) -> list[str]:
    return [noun for noun in nouns if noun != plot.object]


def _choose_belongings(rng: random.Random, plot: Plot, grammar: Grammar) -> tuple[str, ...]:
    """Choose colour and thing of the hero, and colour and another thing of the second animal."""
    first = rng.choice(_unused(grammar.things, plot))
    second = rng.choice([thing for thing in _unused(grammar.things, plot) if thing != first])
    return rng.choice(grammar.colours), first, rng.choice(grammar.colours), second


def _choose_ending(rng: random.Random, plot: Plot, grammar: Grammar) -> tuple[str, ...]:
    kind = rng.choice(("looked", "acted", "helped") if plot.purpose else ("looked", "acted"))
    if kind == "acted":
        return "acted", rng.choice((plot.animal, plot.other)), rng.choice(grammar.acts)
    return (kind,)


def plots(seed: int | str = 0, split: str = "train", sentences: int | None = None) -> Iterator[Plot]:
    """Yield plots of one split without end. The same seed always gives the same plots.

    sentences: 1 to 4, or None for all four lengths with equal chances.

    Raises ValueError for an unknown split or length.
    """
    check_split(split)
    if sentences is not None:
        check_length(sentences)
    return _plots(random.Random(f"plots {seed}"), split, sentences)


def _plots(rng: random.Random, split: str, sentences: int | None) -> Iterator[Plot]:
    while True:
        plot = choose(rng, sentences or rng.choice(LENGTHS))
        if side(plot.key) == split:
            yield plot


def take(n: int, items: Iterator[T]) -> list[T]:
    """Return the next n items. Raises ValueError for n below 0, TypeError if n is no whole number.

    >>> take(2, iter("abc"))
    ['a', 'b']
    """
    return list(islice(items, whole("n", n, 0)))
