"""The number of plots: products of independent choices, summed over deeds, animals and objects."""

from course_lib.world.grammar import WORLD, Grammar, articles, check_length
from course_lib.world.words import Deed


def count_plots(sentences: int = 1, grammar: Grammar = WORLD) -> int:
    """Return how many plots `choose` can return for stories of this length.

    Raises ValueError for a number of sentences that no story has.
    """
    check_length(sentences)
    return sum(
        (1 + len(grammar.hero_adjectives(deed))) * _count_events(deed, animal, noun, sentences, grammar)
        for deed in grammar.deeds
        for animal in grammar.animals
        for noun in grammar.objects(deed, animal)
    )


def _count_events(deed: Deed, animal: str, noun: str, sentences: int, grammar: Grammar) -> int:
    """Count the plots in which one animal does one deed to one object, apart from the animal's adjective."""
    degrees = 1 if deed.kind == "refuse" else 1 + len(grammar.degrees)
    without_purpose = len(deed.animal_reasons + deed.object_reasons) * degrees
    purposes = grammar.purposes if deed.kind == "leave" else ()
    with_purpose = sum(len(p.animal_reasons + p.object_reasons) for p in purposes) * degrees
    objects = len(articles(deed)) * (1 + len(grammar.object_adjectives(noun)))
    if sentences == 1:
        return (without_purpose + with_purpose) * objects
    others = 1 if deed.kind == "pair" else (len(grammar.animals) - 1) * objects
    endings = without_purpose * _count_endings(sentences, False, grammar)
    endings += with_purpose * _count_endings(sentences, True, grammar)
    return endings * others * _count_beginnings(deed, noun, grammar)


def _count_beginnings(deed: Deed, noun: str, grammar: Grammar) -> int:
    """Count the first sentences for two given animals, apart from the hero's adjective."""
    things = sum(thing != noun for thing in grammar.things)
    landmarks = sum(landmark != noun for landmark in grammar.landmarks)
    # "lived" has a landmark, "reached" a landmark and an order, "had" two things and their colours.
    scenes = 3 * landmarks + things * (things - 1) * len(grammar.colours) ** 2
    return 2 * (1 + len(grammar.hero_adjectives(deed))) * scenes


def _count_endings(sentences: int, has_purpose: bool, grammar: Grammar) -> int:
    """Count the endings: "looked", "helped" if there is a purpose, or an act of either animal."""
    third = 1 + has_purpose + 2 * len(grammar.acts)
    return {2: 1, 3: third, 4: third * len(grammar.both_were)}[sentences]
