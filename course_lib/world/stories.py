"""Stories: a plot's sentences in both languages, and where *it* and its referent stand in the text."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.world.checks import check_plot
from course_lib.world.french import (
    Phrase,
    Translation,
    agree,
    join,
    make_translation,
    negate,
    noun_phrase,
    phrase,
    word_spans,
)
from course_lib.world.plots import DEED_BY_NAME, PURPOSE_BY_NAME, Plot, plots
from course_lib.world.words import ACTS, BOTH_WERE, DEGREES, NOUNS, OTHER_NOUNS

Span = tuple[int, int]  # characters, (start, end)
STOP = Phrase((".",), ((".", (0,)),))


@dataclass(frozen=True)
class Story:
    """A text, and the plot that it tells.

    plot: everything that the text says.
    it: the characters of *it* in the text, (start, end).
    referent: the characters of the noun that *it* stands for, where it is named last before *it*.
    nouns: each noun before *it*, with its characters: everything that *it* could stand for.

    >>> story = tell(Plot("tiger", "jumped out of", "tree", "animal", "thirsty", "get a drink", article="a"))
    >>> story.text
    'The tiger jumped out of a tree to get a drink because it was thirsty.'
    >>> story.text[slice(*story.referent)], story.plot.need, story.plot.place
    ('tiger', 'thirsty', 'tree')
    """

    text: str
    plot: Plot
    it: Span = field(repr=False)
    referent: Span = field(repr=False)
    nouns: tuple[tuple[str, Span], ...] = field(repr=False)

    @property
    def prompt(self) -> str:
        return ""

    @property
    def completion(self) -> str:
        return self.text

    @property
    def key(self) -> str:
        return self.plot.key


def tell(plot: Plot) -> Story:
    """Return the story of a plot, in English.

    Raises ValueError for a plot of words that the world doesn't have.
    """
    check_plot(plot)
    text = join([word for part in _phrases(plot) for word in part.english])
    words = list(word_spans(text))
    it = dict(words)["it"]
    before_it = [(word, span) for word, span in words if span < it]
    nouns = tuple((word, span) for word, span in before_it if word in NOUNS or word in OTHER_NOUNS)
    return Story(text, plot, it, dict(nouns)[plot.referent], nouns)


def translate(plot: Plot) -> Translation:
    """Return the story of a plot, in English and French. Raises ValueError as `tell` does.

    >>> plot = Plot("tiger", "jumped out of", "tree", "object", "noisy", "get some sleep", "very", "old", "a")
    >>> translate(plot).french
    "Le vieux tigre sauta d'un arbre pour dormir parce qu'il était très bruyant."
    """
    check_plot(plot)
    return make_translation(_phrases(plot), plot.key)


def stories(seed: int = 0, split: str = "train", sentences: int | None = None) -> Iterator[Story]:
    """Yield stories of one split without end. The same seed always gives the same stories.

    A story may repeat, but seldom does: `count_plots` says how many there are.

    sentences: 1 to 4, or None for all four lengths with equal chances.

    Raises ValueError for an unknown split or length.
    """
    return map(tell, plots(seed, split, sentences))


def translations(seed: int = 0, split: str = "train", sentences: int | None = 1) -> Iterator[Translation]:
    """Yield the stories of `stories` in English and French. By default they have one sentence."""
    return map(translate, plots(seed, split, sentences))


def _phrases(plot: Plot) -> list[Phrase]:
    """Return the phrases of the whole story."""
    sentences = [BEGINNINGS[plot.beginning.kind](plot)] if plot.beginning else []
    sentences.append(_event(plot))
    sentences += (ENDINGS[kind](plot, *details) for kind, *details in plot.endings)
    return [part for sentence in sentences for part in (*sentence, STOP)]


def _event(plot: Plot) -> list[Phrase]:
    """Return the sentence with *it*."""
    deed = DEED_BY_NAME[plot.deed]
    hero = noun_phrase("the", "" if plot.beginning else plot.adjective, plot.animal)
    verb = negate(deed.phrase) if deed.kind == "refuse" else phrase(deed.phrase)
    clause = [hero, verb, noun_phrase(plot.article, plot.object_adjective, plot.object)]
    if plot.purpose:
        clause.append(phrase("to:pour " + PURPOSE_BY_NAME[plot.purpose].phrase))
    return [*clause, *_because(plot)]


def _because(plot: Plot) -> list[Phrase]:
    pronoun = {"m": "il", "f": "elle"}[NOUNS[plot.referent].gender]
    degree = [phrase(f"{plot.degree}:{DEGREES[plot.degree]}")] if plot.degree else []
    reason = phrase(f"{plot.reason}:{agree(plot.reason, plot.referent)}")
    return [phrase(f"because:parce-que it:{pronoun} was:était"), *degree, reason]


def _introduce_animals(plot: Plot, article: str) -> list[Phrase]:
    """Return both animals with their adjectives, in the order in which the beginning names them."""
    hero = noun_phrase(article, plot.adjective, plot.animal)
    other = noun_phrase(article, plot.beginning.other_adjective, plot.other)
    return [hero, other] if plot.beginning.hero_first else [other, hero]


def _lived(plot: Plot) -> list[Phrase]:
    first, second = _introduce_animals(plot, "a")
    landmark = noun_phrase("a", "", plot.beginning.details[0])
    return [first, phrase("and:et"), second, phrase("lived:vivaient near:près-de"), landmark]


def _had(plot: Plot) -> list[Phrase]:
    colour, thing, other_colour, other_thing = plot.beginning.details
    things = [noun_phrase("a", colour, thing), noun_phrase("a", other_colour, other_thing)]
    first, second = _introduce_animals(plot, "the")
    first_thing, second_thing = things if plot.beginning.hero_first else things[::-1]
    had = phrase("had:avait")
    return [first, had, first_thing, phrase("and:et"), second, had, second_thing]


def _reached(plot: Plot) -> list[Phrase]:
    first, second = _introduce_animals(plot, "the")
    landmark, order = plot.beginning.details
    order = phrase({"before": "before:avant", "after": "after:après"}[order])
    return [first, phrase("reached:atteignit"), noun_phrase("the", "", landmark), order, second]


def onlooker(plot: Plot) -> str:
    """Return the animal that looks at the referent of *it* in an ending "looked".

    It is the second animal, or the first if *it* is the second.
    """
    return plot.animal if plot.referent == plot.other else plot.other


def _looked(plot: Plot) -> list[Phrase]:
    referent = noun_phrase("the", plot.reason, plot.referent)
    return [_the(onlooker(plot)), phrase("looked-at:regarda"), referent]


def _helped(plot: Plot) -> list[Phrase]:
    purpose = phrase("to:à " + PURPOSE_BY_NAME[plot.purpose].phrase)
    return [_the(plot.other), phrase("helped:aida"), _the(plot.animal), purpose]


def _acted(plot: Plot, animal: str, act: str) -> list[Phrase]:
    return [phrase("then:puis"), _the(animal), phrase(f"{act}:{ACTS[act]}")]


def _both(plot: Plot, state: str) -> list[Phrase]:
    feminine = all(NOUNS[animal].gender == "f" for animal in (plot.animal, plot.other))
    were = phrase(f"were:étaient {state}:{BOTH_WERE[state][feminine]}")
    return [phrase("in:à the:la end:fin ,:,"), _the(plot.animal), phrase("and:et"), _the(plot.other), were]


def _the(noun: str) -> Phrase:
    return noun_phrase("the", "", noun)


BEGINNINGS = {"lived": _lived, "had": _had, "reached": _reached}
ENDINGS = {"looked": _looked, "helped": _helped, "acted": _acted, "both": _both}
