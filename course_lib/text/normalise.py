"""Texts as scorers compare them: without what doesn't matter for an answer."""

import re
import unicodedata

import regex

# What isn't compared: punctuation, ASCII's symbols and the minus, which is often typed as a hyphen, and what
# makes an emoji colourful.
IGNORED = regex.compile(r"[^\p{L}\p{N}\p{M}\p{Sc}\p{Sm}\p{So}_]|[$+<=>|~−\uFE00-\uFE0F]")
SYMBOL = regex.compile(r"[\p{Sc}\p{Sm}\p{So}]")
ARTICLES = ("a", "an", "the")
# An optional minus, which doesn't follow a letter, a digit or _, as that of "10-3" does; then digits, with or
# without commas between groups of three, and an optional decimal part; or a decimal part alone, as in ".50".
NUMBER = re.compile(
    r"(?<!\d)(?:(?<!\w)[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"|(?<![\w.])(?:(?<!\w)[-−])?\.\d+"
)


def normalise(text: str) -> str:
    """Return the text in lower case, without articles, punctuation or doubled spaces.

    As in SQuAD's exact match (Rajpurkar et al. 2016), vowel signs, emoji and € stay, and $ and + don't. But
    there punctuation is deleted; here it becomes a space, so that "e-mail" is two words, and _ stays. It
    makes no difference whether é is one character or two.

    >>> normalise("The  thirsty tiger.")
    'thirsty tiger'
    """
    return " ".join(word for word in words_of(text) if word not in ARTICLES)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; a symbol such as € or an emoji is a word of its own."""
    lower = text.lower().replace("i\u0307", "i")  # İ in lower case is i and a dot
    return SYMBOL.sub(r" \g<0> ", IGNORED.sub(" ", unicodedata.normalize("NFC", lower))).split()


def last_number(text: str) -> float | None:
    """Return the last number of a text, or None if it has none.

    So a worked answer is scored by its result, as in GSM8K (Cobbe et al. 2021). A minus is part of a number
    where it stands directly before it and not directly after a letter or a digit: "10 - 5" and "10-5" end in
    5, "10 -5" and "−5" in −5.

    Not handled: fractions, exponents, and decimal commas.

    >>> last_number("40 - 30 = 10, and 1,210 - 10 makes 1,200.")
    1200.0
    """
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "").replace("−", "-")) if numbers else None
