"""The grammar: the words that a plot is chosen from, and which of them may stand together."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

from course_lib.arguments import short
from course_lib.world.words import (
    ACTS,
    ADJECTIVES,
    ANIMAL_ADJECTIVES,
    ANIMALS,
    BOTH_WERE,
    COLOURS,
    DEEDS,
    DEGREES,
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

LENGTHS = (1, 2, 3, 4)  # sentences in a story
# The words that a grammar may have, and how many it needs. (A longer story has a second animal and thing.)
KNOWN = {
    "animals": (ANIMALS, 2),
    "animal_adjectives": (ADJECTIVES, 0),
    "purposes": (PURPOSES, 0),
    "degrees": (DEGREES, 0),
    "landmarks": (LANDMARKS, 2),
    "things": (THINGS, 2),
    "colours": (ADJECTIVES, 1),
    "place_adjectives": (ADJECTIVES, 0),
    "food_adjectives": (ADJECTIVES, 0),
    "acts": (ACTS, 1),
    "both_were": (BOTH_WERE, 1),
}


@dataclass(frozen=True)
class Grammar:
    """The words that a plot is chosen from.

    Smaller grammars serve to check `count_plots`: the tests list every plot. They take words from `words`,
    and may leave out all purposes, degrees and adjectives, but not all words of another kind.

    Raises ValueError for a word that the world doesn't have, for too few of them, and for deeds without
    objects or reasons for all stories; TypeError for words that are no tuple.
    """

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

    def __post_init__(self):
        for name, (known, least) in KNOWN.items():
            words = getattr(self, name)
            if not isinstance(words, tuple):
                raise TypeError(f"{name} must be a tuple, not {short(words)}")
            if unknown := [word for word in words if not (isinstance(word, str | Purpose) and word in known)]:
                raise ValueError(f"{name}: the world has no {short(unknown[0])}")
            if len(set(words)) < max(least, len(words)):
                raise ValueError(
                    f"{name} must have {least} words or more, each named once; not {short(words)}"
                )
        deeds = self.deeds if isinstance(self.deeds, tuple) else ()
        if not deeds or not all(isinstance(deed, Deed) for deed in deeds):
            raise ValueError("deeds must be a tuple of one or more of `words.DEEDS`, or parts of them")
        for deed in deeds:
            self._check_deed(deed)

    def _check_deed(self, deed: Deed) -> None:
        """Raise ValueError unless stories of every length can tell of each animal doing the deed."""
        name = f"the deed {deed.english!r}"
        if not (deed.animal_reasons and deed.object_reasons):
            raise ValueError(f"{name} must have animal_reasons and object_reasons, one or more of each")
        for animal in self.animals:
            if not self.objects(deed, animal):
                raise ValueError(
                    f"{name} must have an object for {animal!r} to do it to, and in a pair an animal of these"
                )
        for noun in deed.objects:
            if len(set(self.things) - {noun}) < 2:
                raise ValueError(f"things must have two words besides {noun!r}, an object of {name}")

    @cached_property
    def deeds_by_kind(self) -> dict[str, list[Deed]]:
        kinds = dict.fromkeys(deed.kind for deed in self.deeds)
        return {kind: [deed for deed in self.deeds if deed.kind == kind] for kind in kinds}

    def hero_adjectives(self, deed: Deed) -> list[str]:
        """Return the adjectives of the animals in a story of this deed.

        Where the reason may be "too big", no animal is called big or little.
        """
        sizes = ("little", "big") if "big" in deed.animal_reasons else ()
        return [adjective for adjective in self.animal_adjectives if adjective not in sizes]

    def object_adjectives(self, noun: str) -> tuple[str, ...]:
        """Return the adjectives that a noun may have as the object of a deed."""
        if noun in FOODS:
            return self.food_adjectives
        if noun in PLACES:
            return self.place_adjectives
        return self.colours if noun in THINGS else self.animal_adjectives

    def objects(self, deed: Deed, animal: str) -> list[str]:
        """Return the nouns that `animal` may do `deed` to."""
        others = [noun for noun in deed.objects if noun != animal]
        return [noun for noun in others if deed.kind != "pair" or noun in self.animals]


WORLD = Grammar()


def articles(deed: Deed) -> tuple[str, ...]:
    """Return the articles of a deed's object. What an animal refuses is definite, in both languages."""
    return ("the",) if deed.kind == "refuse" else ("a", "the")


def check_length(sentences: int) -> None:
    """Raise ValueError unless a story may have this many sentences."""
    whole = isinstance(sentences, Integral) and not isinstance(sentences, bool)
    if not whole or sentences not in LENGTHS:
        raise ValueError(f"a story has one of {LENGTHS} sentences, not {sentences!r}")
