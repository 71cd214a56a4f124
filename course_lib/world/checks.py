"""What `tell` and `translate` refuse: plots of words that the world doesn't have.

Whether the words make sense together isn't looked at: a story may tell of a tree that is thirsty.
"""

from collections.abc import Container

from course_lib.arguments import short
from course_lib.world.plots import DEED_BY_NAME, PURPOSE_BY_NAME, Beginning, Plot
from course_lib.world.words import ACTS, ADJECTIVES, ANIMALS, BOTH_WERE, DEGREES, LANDMARKS, NOUNS, THINGS

MAYBE_ADJECTIVE = {"", *ADJECTIVES}
WORDS: dict[str, Container[str]] = {
    "animal": ANIMALS,
    "deed": DEED_BY_NAME,
    "object": NOUNS,
    "about": ("animal", "object"),
    "reason": ADJECTIVES,
    "purpose": {"", *PURPOSE_BY_NAME},
    "degree": {"", *DEGREES},
    "adjective": MAYBE_ADJECTIVE,
    "article": ("a", "the"),
    "object_adjective": MAYBE_ADJECTIVE,
}
DETAILS: dict[str, tuple[Container[str], ...]] = {
    "lived": (LANDMARKS,),
    "had": (ADJECTIVES, THINGS, ADJECTIVES, THINGS),
    "reached": (LANDMARKS, ("before", "after")),
}
ENDINGS: dict[str, tuple[Container[str], ...]] = {
    "looked": (),
    "helped": (),
    "acted": (ANIMALS, ACTS),
    "both": (BOTH_WERE,),
}


def check_plot(plot: Plot) -> None:
    """Raise ValueError for a plot that can't be told, TypeError for what is no plot."""
    if not isinstance(plot, Plot):
        raise TypeError(f"a story is told of a Plot, not of {short(plot)}")
    for name, known in WORDS.items():
        _check_word(f"the plot's {name}", getattr(plot, name), known)
    if plot.beginning is not None:
        _check_beginning(plot.beginning)
    _check_endings(plot)


def _check_endings(plot: Plot) -> None:
    endings = plot.endings if isinstance(plot.endings, tuple | list) else [None]
    if not all(isinstance(ending, tuple | list) and ending for ending in endings):
        raise ValueError(
            f"a plot's endings can't be {short(plot.endings)}: give a tuple of tuples, as (('helped',),)"
        )
    for kind, *details in endings:
        _check_word("the kind of an ending", kind, ENDINGS)
        _check_details(f"an ending {kind!r}", details, ENDINGS[kind])
        if not plot.other and kind != "acted":
            raise ValueError(f"an ending {kind!r} takes a second animal: give the plot a beginning")
        if kind == "helped" and not plot.purpose:
            raise ValueError("an ending 'helped' takes a plot with a purpose, to which the animal is helped")


def _check_beginning(beginning: Beginning) -> None:
    if not isinstance(beginning, Beginning):
        raise TypeError(f"a plot's beginning must be a Beginning or None, not {short(beginning)}")
    _check_word("the beginning's kind", beginning.kind, DETAILS)
    _check_word("the beginning's other", beginning.other, ANIMALS)
    _check_word("the beginning's other_adjective", beginning.other_adjective, MAYBE_ADJECTIVE)
    _check_details(f"a beginning {beginning.kind!r}", beginning.details, DETAILS[beginning.kind])


def _check_details(what: str, details: tuple[str, ...], known: tuple[Container[str], ...]) -> None:
    if not isinstance(details, tuple | list) or len(details) != len(known):
        raise ValueError(f"{what} has {len(known)} details, not {short(details)}")
    for word, words in zip(details, known, strict=True):
        _check_word(f"a detail of {what}", word, words)


def _check_word(what: str, word: str, known: Container[str]) -> None:
    if not isinstance(word, str) or word not in known:
        raise ValueError(f"{what} can't be {short(word)}: the world has no such word there")
