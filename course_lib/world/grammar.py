"""The grammar: the words that a plot is chosen from, and which of them may stand together."""

from dataclasses import dataclass
from functools import cached_property

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

LENGTHS = (1, 2, 3, 4)  # sentences in a story


@dataclass(frozen=True)
class Grammar:
    """The words that a plot is chosen from.

    Smaller grammars serve to check `count_plots`: the tests list every plot.
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
    if sentences not in LENGTHS:
        raise ValueError(f"a story has one of {LENGTHS} sentences, not {sentences!r}")
