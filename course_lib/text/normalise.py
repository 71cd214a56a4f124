"""Texts as scorers compare them: without what doesn't matter for an answer."""

import re

ARTICLE = re.compile(r"\b(the|a|an)\b")
# A minus, unless it is between two numbers; digits, with or without commas between groups of three; a decimal
# part.
NUMBER = re.compile(r"(?<!\d)-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def normalise(text: str) -> str:
    """Return the text in lower case, without articles, punctuation or doubled spaces.

    As in SQuAD's exact match (Rajpurkar et al. 2016).

    >>> normalise("The  thirsty tiger.")
    'thirsty tiger'
    """
    return " ".join(ARTICLE.sub(" ", re.sub(r"[^\w\s]", " ", text.lower())).split())


def last_number(text: str) -> float | None:
    """Return the last number of a text, or None if it has none.

    So a worked answer is scored by its result, as in GSM8K (Cobbe et al. 2021).

    >>> last_number("40 - 30 = 10, and 1,210 - 10 makes 1,200.")
    1200.0
    """
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
