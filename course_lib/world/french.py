"""English and French at once: phrases with their word alignment, elision and contraction, and translations.

A `Phrase` holds English words and their French. Each French word has links to the English words that it
translates. A sentence built from phrases therefore has its whole word alignment, however far an adjective
moves in French.
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

LinkedWord = tuple[str, tuple[int, ...]]  # a French word, and the indices of the English words it translates


@dataclass(frozen=True)
class Phrase:
    """English words, and their French words with links: indices of the English words that they translate."""

    english: tuple[str, ...]
    french: tuple[LinkedWord, ...]


def concatenate(phrases: Iterable[Phrase]) -> Phrase:
    """Concatenate phrases, and shift their links to the indices of the longer English text.

    >>> whole = concatenate([phrase("get-a-drink:boire"), phrase("because:parce-que")])
    >>> whole.english
    ('get', 'a', 'drink', 'because')
    >>> whole.french
    (('boire', (0, 1, 2)), ('parce', (3,)), ('que', (3,)))
    """
    english, french = [], []
    for part in phrases:
        n = len(english)
        french += ((word, tuple(n + i for i in links)) for word, links in part.french)
        english += part.english
    return Phrase(tuple(english), tuple(french))


@cache
def phrase(pairs: str) -> Phrase:
    """Parse the notation of `words`: "to:pour get-a-drink:boire"."""
    return concatenate(_parse_pair(*pair.split(":")) for pair in pairs.split())


def _parse_pair(english: str, french: str) -> Phrase:
    words = tuple(english.split("-"))
    return Phrase(words, tuple((word, tuple(range(len(words)))) for word in french.split("-")))


@cache
def noun_phrase(article: str, adjective: str, noun: str) -> Phrase:
    """Return an article ("a" or "the"), an adjective (or "") and a noun, in both languages.

    In French the words agree in gender, and the adjective stands before or after its noun as French wants it.

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
        agreeing = agree(adjective, noun, attributive=True)
        words.insert(1 if precedes_noun(adjective) else 2, (agreeing, (1,)))
    return Phrase(english, tuple(words))


def precedes_noun(adjective: str) -> bool:
    """Return whether the French of an English adjective stands before its noun."""
    return ADJECTIVES[adjective].m in BEFORE_NOUN


def agree(adjective: str, noun: str, attributive: bool = False) -> str:
    """Return the French of an English adjective, in the gender of the French of an English noun.

    attributive: whether it stands beside the noun, where vieux becomes vieil before a vowel.

    >>> agree("thirsty", "giraffe"), agree("old", "tree"), agree("old", "tree", attributive=True)
    ('assoiffée', 'vieux', 'vieil')
    """
    form = getattr(ADJECTIVES[adjective], NOUNS[noun].gender)
    return "vieil" if attributive and form == "vieux" and begins_with_vowel(NOUNS[noun].french) else form


def begins_with_vowel(french: str) -> bool:
    """Return whether le, la, de … lose their vowel before this word.

    >>> begins_with_vowel("éléphant"), begins_with_vowel("hibou")
    (True, False)
    """
    return french[0] in VOWELS and french not in ASPIRATED


@cache
def negate(verb: str) -> Phrase:
    """Return the negated verb: "cross:traversa" → "did not cross", "ne traversa pas"."""
    first, *rest = verb.split()
    english, french = first.split(":")
    did_not = Phrase(("did", "not", english), (("ne", (1,)), (french, (0, 2)), ("pas", (1,))))
    return concatenate([did_not, phrase(" ".join(rest))])


def elide(words: Sequence[LinkedWord]) -> list[LinkedWord]:
    """Elide and contract French words: le arbre → l' arbre, de le lac → du lac.

    A word keeps its links. A contracted word has the links of both its words.
    """
    words, result = list(words), []
    for i, (word, links) in enumerate(words):
        following = words[i + 1][0] if i + 1 < len(words) else "."
        if word in ELIDED and begins_with_vowel(following):
            word = ELIDED[word]
        if result and (result[-1][0], word) in CONTRACTED:
            previous, previous_links = result.pop()
            word, links = CONTRACTED[previous, word], tuple(sorted({*previous_links, *links}))
        result.append((word, links))
    return result


def join(words: Sequence[str]) -> str:
    """Join words to a text, with a capital letter at its start and after each full stop.

    >>> join(["l'", "arbre", "tomba", "."])
    "L'arbre tomba."
    """
    text = re.sub(r" (?=[.,?])|(?<=') ", "", " ".join(words))
    return re.sub(r"(^|[.?] )(\w)", lambda match: match[1] + match[2].upper(), text)


def split_words(text: str) -> list[str]:
    """Split a text into the words that alignments count.

    Punctuation marks and elided words (l', d', qu') are words of their own.
    """
    return WORD.findall(text)


def word_spans(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each word of `split_words(text)` with its characters, (start, end)."""
    return ((match.group(), match.span()) for match in WORD.finditer(text))


@dataclass(frozen=True)
class Translation:
    """An English text and its French.

    alignment: pairs (English index, French index) of words that translate each other. The indices count the
        words of `split_words` of each text. Every French word is in some pair.
    key: the text that decides the split, the key of the story's plot.
    """

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


def make_translation(phrases: Iterable[Phrase], key: str) -> Translation:
    """Return the English and the French text of a sequence of phrases, with their word alignment."""
    whole = concatenate(phrases)
    french = elide(whole.french)
    alignment = tuple(sorted((i, j) for j, (_, links) in enumerate(french) for i in links))
    return Translation(join(whole.english), join([word for word, _ in french]), alignment, key)
