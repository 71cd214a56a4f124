"""Plots → stories: the sentences, in both languages at once, and where in the text *it* and its referent stand."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.world.french import (
    Phrase,
    Translation,
    agree,
    join,
    negated,
    noun_phrase,
    phrase,
    translation,
    word_spans,
)
from course_lib.world.plots import DEED, PURPOSE, Plot, plots
from course_lib.world.words import ACTS, BOTH_WERE, DEGREES, NOUNS, OTHER_NOUNS

Span = tuple[int, int]
STOP = Phrase((".",), ((".", (0,)),))


@dataclass(frozen=True)
class Story:
    """A text with its truth.

    plot: all that it says. it, referent: the characters (start, end) of *it*, and of the noun that it stands for where that
    was last named before. nouns: each noun before *it*, with its characters: what *it* could have stood for.

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
    """The story of a plot, in English."""
    text = join([word for part in _phrases(plot) for word in part.english])
    words = list(word_spans(text))
    it = dict(words)["it"]
    before = [(word, span) for word, span in words if span < it]
    nouns = tuple((word, span) for word, span in before if word in NOUNS or word in OTHER_NOUNS)
    return Story(text, plot, it, dict(nouns)[plot.referent], nouns)


def translate(plot: Plot) -> Translation:
    """The story of a plot, in English and French.

    >>> translate(Plot("tiger", "jumped out of", "tree", "object", "noisy", "get some sleep", "very", "old", "a")).french
    "Le vieux tigre sauta d'un arbre pour dormir parce qu'il était très bruyant."
    """
    return translation(_phrases(plot), plot.key)


def stories(seed: int = 0, split: str = "train", sentences: int | None = None) -> Iterator[Story]:
    """Stories without end, all of one split, always the same for a seed. They may repeat, if seldom: see `count_plots`.

    sentences: 1 to 4, or None for all lengths in equal parts. Raises ValueError for an unknown split or length.
    """
    return map(tell, plots(seed, split, sentences))


def translations(seed: int = 0, split: str = "train", sentences: int | None = 1) -> Iterator[Translation]:
    """Stories in English and French, of one sentence unless told otherwise; for the same arguments those of `stories`."""
    return map(translate, plots(seed, split, sentences))


def _phrases(plot: Plot) -> list[Phrase]:
    """The whole story, phrase by phrase."""
    sentences = [BEGINNINGS[plot.beginning.kind](plot)] if plot.beginning else []
    sentences.append(_event(plot))
    sentences += (ENDINGS[kind](plot, *details) for kind, *details in plot.endings)
    return [part for sentence in sentences for part in (*sentence, STOP)]


def _event(plot: Plot) -> list[Phrase]:
    """The sentence with *it*."""
    deed = DEED[plot.deed]
    hero = noun_phrase("the", "" if plot.beginning else plot.adjective, plot.animal)
    verb = negated(deed.phrase) if deed.kind == "refuse" else phrase(deed.phrase)
    done = [hero, verb, noun_phrase(plot.article, plot.object_adjective, plot.object)]
    if plot.purpose:
        done.append(phrase("to:pour " + PURPOSE[plot.purpose].phrase))
    return [*done, *_because(plot)]


def _because(plot: Plot) -> list[Phrase]:
    pronoun = {"m": "il", "f": "elle"}[NOUNS[plot.referent].gender]
    degree = [phrase(f"{plot.degree}:{DEGREES[plot.degree]}")] if plot.degree else []
    reason = phrase(f"{plot.reason}:{agree(plot.reason, plot.referent)}")
    return [phrase(f"because:parce-que it:{pronoun} was:était"), *degree, reason]


def _pair_of(plot: Plot, article: str) -> list[Phrase]:
    """Both animals as they are first named, in the order in which the beginning names them."""
    hero = noun_phrase(article, plot.adjective, plot.animal)
    other = noun_phrase(article, plot.beginning.other_adjective, plot.other)
    return [hero, other] if plot.beginning.hero_first else [other, hero]


def _lived(plot: Plot) -> list[Phrase]:
    first, second = _pair_of(plot, "a")
    (landmark,) = plot.beginning.details
    return [
        first,
        phrase("and:et"),
        second,
        phrase("lived:vivaient near:près-de"),
        noun_phrase("a", "", landmark),
    ]


def _had(plot: Plot) -> list[Phrase]:
    colour, thing, other_colour, other_thing = plot.beginning.details
    owned = [noun_phrase("a", colour, thing), noun_phrase("a", other_colour, other_thing)]
    first, second = _pair_of(plot, "the")
    one, two = owned if plot.beginning.hero_first else owned[::-1]
    return [first, phrase("had:avait"), one, phrase("and:et"), second, phrase("had:avait"), two]


def _reached(plot: Plot) -> list[Phrase]:
    first, second = _pair_of(plot, "the")
    landmark, order = plot.beginning.details
    after = phrase({"before": "before:avant", "after": "after:après"}[order])
    return [first, phrase("reached:atteignit"), noun_phrase("the", "", landmark), after, second]


def onlooker(plot: Plot) -> str:
    """The animal that looks, in an ending, at what *it* was: the one of the two that *it* was not."""
    return plot.animal if plot.referent == plot.other else plot.other


def _looked(plot: Plot) -> list[Phrase]:
    seen = noun_phrase("the", plot.reason, plot.referent)
    return [_the(onlooker(plot)), phrase("looked-at:regarda"), seen]


def _helped(plot: Plot) -> list[Phrase]:
    purpose = phrase("to:à " + PURPOSE[plot.purpose].phrase)
    return [_the(plot.other), phrase("helped:aida"), _the(plot.animal), purpose]


def _acted(plot: Plot, who: str, act: str) -> list[Phrase]:
    return [phrase("then:puis"), _the(who), phrase(f"{act}:{ACTS[act]}")]


def _both(plot: Plot, what: str) -> list[Phrase]:
    feminine = all(NOUNS[animal].gender == "f" for animal in (plot.animal, plot.other))
    were = phrase(f"were:étaient {what}:{BOTH_WERE[what][feminine]}")
    return [phrase("in:à the:la end:fin ,:,"), _the(plot.animal), phrase("and:et"), _the(plot.other), were]


def _the(noun: str) -> Phrase:
    return noun_phrase("the", "", noun)


BEGINNINGS = {"lived": _lived, "had": _had, "reached": _reached}
ENDINGS = {"looked": _looked, "helped": _helped, "acted": _acted, "both": _both}
