"""Questions that follow from a story, each with its one short right answer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.world.marks import ANSWER, QUESTION
from course_lib.world.plots import DEED, Plot, plots
from course_lib.world.stories import Story, onlooker, tell


@dataclass(frozen=True)
class Question:
    """kind: what it takes to answer. "it" and "why" need *it* resolved; "who", "what" and "wish" look up the deed; "owner" and
    "owned" need two bindings kept apart, "order" needs before and after; "home", "looks", "ending" and "which" look up the rest.

    >>> plot = Plot("tiger", "jumped out of", "tree", "animal", "thirsty", "get a drink", article="a")
    >>> for asked in questions_about(tell(plot)):
    ...     print(f"{asked.kind}: {asked.question} {asked.answer}")
    it: What was thirsty? the tiger
    why: Why did the tiger jump out of the tree? because the tiger was thirsty
    who: Who jumped out of the tree? the tiger
    what: What did the tiger jump out of? the tree
    wish: What did the tiger want? to get a drink
    """

    story: Story = field(repr=False)
    kind: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"{self.story.text}{QUESTION}{self.question}{ANSWER}"

    @property
    def completion(self) -> str:
        return self.answer

    @property
    def key(self) -> str:
        return self.story.plot.key


def questions_about(story: Story) -> list[Question]:
    """Every question that this story answers."""
    plot = story.plot
    asked = [*_about_event(plot), *_about_beginning(plot), *_about_endings(plot)]
    return [Question(story, *parts) for parts in asked]


def questions(
    seed: int = 0, split: str = "train", sentences: int | None = None, kinds: tuple[str, ...] | None = None
) -> Iterator[Question]:
    """Questions without end, one about each story, other stories than `stories` has for the same seed; of some kinds only,
    if named.

    Raises ValueError for an unknown split, length or kind.
    """
    if unknown := set(kinds or ()) - set(QUESTION_KINDS):
        raise ValueError(f"questions have kinds {QUESTION_KINDS}, not {sorted(unknown)}")
    return _questions(
        random.Random(f"questions {seed}"),
        plots(f"questions {seed}", split, sentences),
        kinds or QUESTION_KINDS,
    )


QUESTION_KINDS = (
    "it",
    "why",
    "who",
    "what",
    "wish",
    "owner",
    "owned",
    "order",
    "home",
    "looks",
    "ending",
    "which",
)


def _questions(rng: random.Random, chosen: Iterator[Plot], kinds: tuple[str, ...]) -> Iterator[Question]:
    for plot in chosen:
        if fitting := [asked for asked in questions_about(tell(plot)) if asked.kind in kinds]:
            yield rng.choice(fitting)


Asked = Iterator[tuple[str, str, str]]


def _about_event(plot: Plot) -> Asked:
    deed, hero, target = DEED[plot.deed], f"the {plot.animal}", f"the {plot.object}"
    no = " not" if deed.kind == "refuse" else ""
    yield "it", f"What was {plot.reason}?", f"the {plot.referent}"
    yield "why", f"Why did {hero}{no} {deed.base} {target}?", f"because the {plot.referent} was {plot.reason}"
    yield "who", f"Who {plot.deed} {target}?", hero
    yield "what", f"{'Who' if deed.kind == 'pair' else 'What'} did {hero}{no} {deed.base}?", target
    if plot.purpose:
        yield "wish", f"What did {hero} want?", f"to {plot.purpose}"


def _about_beginning(plot: Plot) -> Asked:
    if not plot.beginning:
        return
    animals, details = (plot.animal, plot.other), plot.beginning.details
    if plot.beginning.kind == "lived":
        yield from (("home", f"Where did the {animal} live?", f"near {_a(details[0])}") for animal in animals)
    elif plot.beginning.kind == "had":
        for animal, (colour, thing) in zip(animals, (details[:2], details[2:]), strict=True):
            yield "owner", f"Who had the {colour} {thing}?", f"the {animal}"
            yield "owned", f"What did the {animal} have?", f"a {colour} {thing}"
    else:
        for place, animal in zip(("first", "last"), arrivals(plot), strict=True):
            yield "order", f"Who reached the {details[0]} {place}?", f"the {animal}"
    adjectives = (plot.adjective, plot.beginning.other_adjective)
    for animal, adjective in zip(animals, adjectives, strict=True):
        if adjective and adjectives.count(adjective) == 1:
            yield "which", f"Which animal was {adjective}?", f"the {animal}"


def arrivals(plot: Plot) -> tuple[str, str]:
    """The two animals in the order in which they came, where a story begins with their reaching something."""
    named = (plot.animal, plot.other) if plot.beginning.hero_first else (plot.other, plot.animal)
    return named if plot.beginning.details[1] == "before" else named[::-1]


def _about_endings(plot: Plot) -> Asked:
    for kind, *details in plot.endings:
        if kind == "looked":
            yield "looks", f"What did the {onlooker(plot)} look at?", f"the {plot.referent}"
        elif kind == "helped":
            yield "ending", f"Who helped the {plot.animal}?", f"the {plot.other}"
        elif kind == "acted":
            yield "ending", f"Who {details[1]}?", f"the {details[0]}"
        else:
            yield "ending", f"What were the {plot.animal} and the {plot.other} in the end?", details[0]


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
