"""Texts as scorers compare them: what doesn't matter is taken away."""

import re

ARTICLE = re.compile(r"\b(the|a|an)\b")
# A minus, unless it stands between two numbers; digits, in threes between commas or not; a decimal part.
NUMBER = re.compile(r"(?<!\d)-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation or doubled spaces, as SQuAD's exact match (Rajpurkar et al.
    2016).

    >>> normalise("The  thirsty tiger.")
    'thirsty tiger'
    """
    return " ".join(ARTICLE.sub(" ", re.sub(r"[^\w\s]", " ", text.lower())).split())


def last_number(text: str) -> float | None:
    """The last number of a text, None if it has none. So a worked answer is scored by where it arrives, as in
    GSM8K (Cobbe et al. 2021).

    >>> last_number("40 - 30 = 10, and 1,210 - 10 makes 1,200.")
    1200.0
    """
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
