"""Special tokens: tokens that stand for no text, such as `<|im_end|>`, the end of a turn.

Their names are cut out of a text before anything else: no merge is learned inside a name or across it.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable


class SpecialSplitter:
    """Cuts a text at the names of special tokens; the longest, if several begin at the same character.

    >>> SpecialSplitter(["<a>", "<b>"]).split("low<a>lower<b>")
    ['low', '<a>', 'lower', '<b>', '']
    """

    def __init__(self, names: Iterable[str]):
        names = sorted(names, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        self._alphabetical, self._first_characters = sorted(names), {name[:1] for name in names}
        self._longest_prefix = len(names[0]) - 1 if names else 0

    def split(self, text: str) -> list[str]:
        """Return the segments [text, name, text, …, name, text]. Joined, they are the text again."""
        return self._pattern.split(text) if self._pattern else [text]

    def settled_length(self, text: str) -> int:
        """Return how many characters of an unfinished text are cut in the same way whatever follows.

        The rest may be the beginning of a name. It is shorter than twice the longest name.

        >>> SpecialSplitter(["<a>", "<b>"]).settled_length("low<a>lower<")
        11
        """
        end = range(max(0, len(text) - self._longest_prefix), len(text))
        starts = (i for i in end if text[i] in self._first_characters)
        unfinished = next((i for i in starts if self._begins_a_name(text[i:])), len(text))
        if unfinished < len(text):
            for name in self._pattern.finditer(text):
                if name.start() < unfinished < name.end():
                    return name.start()
        return unfinished

    def _begins_a_name(self, text: str) -> bool:
        """Return whether a longer name begins with this text: in alphabetical order, the next one does."""
        place = bisect_right(self._alphabetical, text)
        return place < len(self._alphabetical) and self._alphabetical[place].startswith(text)
