"""Both languages at once: phrases that carry their word alignment, French elision and contraction, and translations.

A `Phrase` is written once and read twice. Its French words remember which English words they translate, so a sentence put
together from phrases knows its own alignment, however far an adjective has moved.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from course_lib.world.marks import FRENCH
from course_lib.world.words import ADJECTIVES, ASPIRATED, BEFORE_NOUN, NOUNS

WORD = re.compile(r"\w+'|\w+|[^\w\s]")
ELIDED = {"le": "l'", "la": "l'", "de": "d'", "que": "qu'", "ne": "n'", "se": "s'"}
CONTRACTED = {("de", "le"): "du", ("à", "le"): "au"}
VOWELS = "aeiouâàéèêëîïôœûhy"

Linked = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Phrase:
    """English words, and French words each with the places of the English words that it translates."""

    english: tuple[str, ...]
    french: tuple[Linked, ...]


def together(phrases: Iterable[Phrase]) -> Phrase:
    """Phrases in a row, as one.

    >>> together([phrase("get-a-drink:boire"), phrase("because:parce-que")])
    Phrase(english=('get', 'a', 'drink', 'because'), french=(('boire', (0, 1, 2)), ('parce', (3,)), ('que', (3,))))
    """
    english, french = [], []
    for part in phrases:
        n = len(english)
        french += ((word, tuple(n + i for i in links)) for word, links in part.french)
        english += part.english
    return Phrase(tuple(english), tuple(french))


@cache
def phrase(pairs: str) -> Phrase:
    """Read the notation of `words`: "to:pour get-a-drink:boire"."""
    return together(_pair(*pair.split(":")) for pair in pairs.split())


def _pair(english: str, french: str) -> Phrase:
    words = tuple(english.split("-"))
    return Phrase(words, tuple((word, tuple(range(len(words)))) for word in french.split("-")))


@cache
def noun_phrase(article: str, adjective: str, noun: str) -> Phrase:
    """An article ("a" or "the"), an adjective (or "") and a noun, agreeing in French and in French order.

    >>> noun_phrase("the", "thirsty", "giraffe").french
    (('la', (0,)), ('girafe', (2,)), ('assoiffée', (1,)))
    """
    gender, french = NOUNS[noun].gender, NOUNS[noun].french
    determiner = ({"m": "le", "f": "la"} if article == "the" else {"m": "un", "f": "une"})[gender]
    english = tuple(word for word in (article, adjective, noun) if word)
    if article == "a" and english[1][0] in "aeiou":
        english = ("an", *english[1:])
    words = [(determiner, (0,)), (french, (len(english) - 1,))]
    if adjective:
        words.insert(1 if goes_before(adjective) else 2, (agree(adjective, noun, attributive=True), (1,)))
    return Phrase(english, tuple(words))


def goes_before(adjective: str) -> bool:
    """Whether the French of an English adjective stands before its noun."""
    return ADJECTIVES[adjective].m in BEFORE_NOUN


def agree(adjective: str, noun: str, attributive: bool = False) -> str:
    """The French of an English adjective, in the gender of an English noun's French.

    attributive: it stands beside the noun, where vieux is vieil before a vowel.

    >>> agree("thirsty", "giraffe"), agree("old", "tree"), agree("old", "tree", attributive=True)
    ('assoiffée', 'vieux', 'vieil')
    """
    form = getattr(ADJECTIVES[adjective], NOUNS[noun].gender)
    return "vieil" if attributive and form == "vieux" and begins_with_vowel(NOUNS[noun].french) else form


def begins_with_vowel(french: str) -> bool:
    """Whether le, la, de … lose their vowel before this word.

    >>> begins_with_vowel("éléphant"), begins_with_vowel("hibou")
    (True, False)
    """
    return french[0] in VOWELS and french not in ASPIRATED


@cache
def negated(verb: str) -> Phrase:
    """ "did not cross", ne traversa pas, from "cross:traversa"."""
    first, *rest = verb.split()
    english, french = first.split(":")
    did_not = Phrase(("did", "not", english), (("ne", (1,)), (french, (0, 2)), ("pas", (1,))))
    return together([did_not, phrase(" ".join(rest))])


def elide(words: Sequence[Linked]) -> list[Linked]:
    """le arbre → l' arbre, de le lac → du lac: each kept word keeps its links; a contracted one has both words' links."""
    words, result = list(words), []
    for i, (word, links) in enumerate(words):
        following = words[i + 1][0] if i + 1 < len(words) else "."
        if word in ELIDED and begins_with_vowel(following):
            word = ELIDED[word]
        if result and (result[-1][0], word) in CONTRACTED:
            previous, before = result.pop()
            word, links = CONTRACTED[previous, word], tuple(sorted({*before, *links}))
        result.append((word, links))
    return result


def join(words: Sequence[str]) -> str:
    """Words → text, with a capital after each full stop.

    >>> join(["l'", "arbre", "tomba", "."])
    "L'arbre tomba."
    """
    text = re.sub(r" (?=[.,?])|(?<=') ", "", " ".join(words))
    return re.sub(r"(^|[.?] )(\w)", lambda found: found[1] + found[2].upper(), text)


def split_words(text: str) -> list[str]:
    """Text → the words that alignments count: punctuation and an elided word (l', d', qu') are words of their own."""
    return WORD.findall(text)


def word_spans(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each of `split_words(text)` with the characters it covers."""
    return ((found.group(), found.span()) for found in WORD.finditer(text))


@dataclass(frozen=True)
class Translation:
    """An English text and its French. alignment: pairs (English word, French word) that translate each other, as places in
    `split_words` of each text; every French word is in some pair. key: what the split is decided by, the story's own."""

    english: str
    french: str
    alignment: tuple[tuple[int, int], ...] = field(repr=False)
    key: str = field(repr=False)

    @property
    def english_words(self) -> list[str]:
        return split_words(self.english)

    @property
    def french_words(self) -> list[str]:
        return split_words(self.french)

    @property
    def prompt(self) -> str:
        return self.english + FRENCH

    @property
    def completion(self) -> str:
        return self.french


def translation(phrases: Iterable[Phrase], key: str) -> Translation:
    """The two readings of phrases in a row, as sentences."""
    told = together(phrases)
    french = elide(told.french)
    alignment = tuple(sorted((i, j) for j, (_, links) in enumerate(french) for i in links))
    return Translation(join(told.english), join([word for word, _ in french]), alignment, key)
