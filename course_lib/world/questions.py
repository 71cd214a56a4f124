"""Questions about a story, each with its one short right answer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.arguments import listed
from course_lib.world.grammar import check_length
from course_lib.world.marks import ANSWER, QUESTION
from course_lib.world.plots import DEED_BY_NAME, Plot, plots
from course_lib.world.stories import Story, onlooker, tell

EVENT_KINDS = ("it", "why", "who", "what", "wish")
ENDING_KINDS = ("looks", "ending")
QUESTION_KINDS = (*EVENT_KINDS, "owner", "owned", "order", "home", *ENDING_KINDS, "which")
Entry = tuple[str, str, str]  # kind, question, answer


@dataclass(frozen=True)
class Question:
    """A question about a story, with its answer.

    kind: what answering takes. "it" and "why" need *it* resolved. "who", "what" and "wish" look up the deed.
        "owner" and "owned" need two bindings kept apart, that is, which animal had which thing. "order" needs
        before and after. "home", "looks", "ending" and "which" look up the other sentences.

    >>> plot = Plot("tiger", "jumped out of", "tree", "animal", "thirsty", "get a drink", article="a")
    >>> for question in questions_about(tell(plot)):
    ...     print(f"{question.kind}: {question.question} {question.answer}")
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
    """Return all questions that this story answers."""
    plot = story.plot
    entries = [*_about_event(plot), *_about_beginning(plot), *_about_endings(plot)]
    return [Question(story, *entry) for entry in entries]


def questions(
    seed: int = 0, split: str = "train", sentences: int | None = None, kinds: tuple[str, ...] | None = None
) -> Iterator[Question]:
    """Yield questions without end, one about each story.

    The stories differ from those of `stories` for the same seed.

    sentences: as in `stories`.
    kinds: the kinds of questions to yield; all of them by default.

    Raises ValueError for an unknown split, length or kind, and for kinds of which stories of this length
    answer none; TypeError for kinds that are no list.
    """
    kinds = QUESTION_KINDS if kinds is None else listed("kinds", kinds, "a list of kinds")
    if sentences is not None:
        check_length(sentences)
    if not kinds or (unknown := [kind for kind in kinds if kind not in QUESTION_KINDS]):
        raise ValueError(f"questions have kinds {QUESTION_KINDS}, not {unknown if kinds else 'none'}")
    beyond = {1: set(QUESTION_KINDS) - set(EVENT_KINDS), 2: set(ENDING_KINDS)}.get(sentences, set())
    if set(kinds) <= beyond:
        raise ValueError(
            f"stories of {sentences} sentences answer no question of the kinds {', '.join(kinds)}"
        )
    seed = f"questions {seed}"
    return _questions(random.Random(seed), plots(seed, split, sentences), tuple(kinds))


def _questions(rng: random.Random, source: Iterator[Plot], kinds: tuple[str, ...]) -> Iterator[Question]:
    for plot in source:
        if fitting := [question for question in questions_about(tell(plot)) if question.kind in kinds]:
            yield rng.choice(fitting)


def _about_event(plot: Plot) -> Iterator[Entry]:
    deed, hero, target = DEED_BY_NAME[plot.deed], f"the {plot.animal}", f"the {plot.object}"
    no = " not" if deed.kind == "refuse" else ""
    yield "it", f"What was {plot.reason}?", f"the {plot.referent}"
    yield "why", f"Why did {hero}{no} {deed.base} {target}?", f"because the {plot.referent} was {plot.reason}"
    yield "who", f"Who {plot.deed} {target}?", hero
    yield "what", f"{'Who' if deed.kind == 'pair' else 'What'} did {hero}{no} {deed.base}?", target
    if plot.purpose:
        yield "wish", f"What did {hero} want?", f"to {plot.purpose}"


def _about_beginning(plot: Plot) -> Iterator[Entry]:
    if not plot.beginning:
        return
    animals, details = (plot.animal, plot.other), plot.beginning.details
    if plot.beginning.kind == "lived":
        home = f"near {_with_article(details[0])}"
        yield from (("home", f"Where did the {animal} live?", home) for animal in animals)
    elif plot.beginning.kind == "had":
        for animal, (colour, thing) in zip(animals, (details[:2], details[2:]), strict=True):
            yield "owner", f"Who had the {colour} {thing}?", f"the {animal}"
            yield "owned", f"What did the {animal} have?", f"a {colour} {thing}"
    else:
        for rank, animal in zip(("first", "last"), arrivals(plot), strict=True):
            yield "order", f"Who reached the {details[0]} {rank}?", f"the {animal}"
    yield from _about_adjectives(plot)


def _about_adjectives(plot: Plot) -> Iterator[Entry]:
    """Ask for an animal by its adjective, unless both animals have the same."""
    adjectives = (plot.adjective, plot.beginning.other_adjective)
    for animal, adjective in zip((plot.animal, plot.other), adjectives, strict=True):
        if adjective and adjectives.count(adjective) == 1:
            yield "which", f"Which animal was {adjective}?", f"the {animal}"


def arrivals(plot: Plot) -> tuple[str, str]:
    """Return the two animals in the order in which they arrived, for a plot whose beginning is "reached"."""
    named = (plot.animal, plot.other) if plot.beginning.hero_first else (plot.other, plot.animal)
    return named if plot.beginning.details[1] == "before" else named[::-1]


def _about_endings(plot: Plot) -> Iterator[Entry]:
    for kind, *details in plot.endings:
        if kind == "looked":
            yield "looks", f"What did the {onlooker(plot)} look at?", f"the {plot.referent}"
        elif kind == "helped":
            yield "ending", f"Who helped the {plot.animal}?", f"the {plot.other}"
        elif kind == "acted":
            yield "ending", f"Who {details[1]}?", f"the {details[0]}"
        else:
            yield "ending", f"What were the {plot.animal} and the {plot.other} in the end?", details[0]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
