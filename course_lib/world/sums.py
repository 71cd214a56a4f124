"""Sums told as stories, with their worked steps."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from course_lib.arguments import short, whole
from course_lib.world.marks import ANSWER, QUESTION, STEPS
from course_lib.world.splits import check_split, side
from course_lib.world.words import ANIMALS, FOODS

# Sentences that add and sentences that subtract. "{}" is the second number.
WORDINGS = {
    "+": ("Then it found {} more.", "Then it bought {} more.", "A friend gave it {} more."),
    "-": ("Then it ate {} of them.", "Then it lost {} of them.", "Then it gave {} of them to a friend."),
}
LARGEST = 99


@dataclass(frozen=True)
class Sum:
    """The sum `first` `sign` `second` = `answer`, told about an animal and its food.

    wording: the index in `WORDINGS` of the sentence that adds or subtracts.
    worked: whether the completion writes the steps before the answer.

    Raises ValueError for words and a sign that the world doesn't have, and for numbers below 0;
    TypeError for other numbers than whole ones.

    >>> sum_ = Sum("tiger", "plum", 27, "+", 15, 0, worked=True)
    >>> sum_.prompt
    'A tiger had 27 plums. Then it found 15 more.<|question|>How many plums did the tiger have then?<|steps|>'
    >>> sum_.completion
    '27 + 10 = 37. 37 + 5 = 42.<|answer|>42'
    """

    animal: str
    food: str
    first: int
    sign: str
    second: int
    wording: int
    worked: bool = False

    def __post_init__(self):
        words = ((self.animal, ANIMALS), (self.food, FOODS), (self.sign, WORDINGS))
        if not all(isinstance(word, str) and word in known for word, known in words):
            told = f"{short(self.animal)}, {short(self.food)}, {short(self.sign)}"
            raise ValueError(
                f"a sum is told of an animal and a food of the world, with + or -; not of {told}"
            )
        most = {"first": math.inf, "second": math.inf, "wording": len(WORDINGS[self.sign]) - 1}
        for name, limit in most.items():  # also NumPy's small numbers become an int, so that no sum overflows
            object.__setattr__(self, name, whole(name, getattr(self, name), 0, limit))

    @property
    def answer(self) -> int:
        return self.first + self.second if self.sign == "+" else self.first - self.second

    @property
    def text(self) -> str:
        article = "An" if self.animal[0] in "aeiou" else "A"
        foods = self.food if self.first == 1 else self.food + "s"
        change = WORDINGS[self.sign][self.wording].format(self.second)
        return f"{article} {self.animal} had {self.first} {foods}. {change}"

    @property
    def question(self) -> str:
        return f"How many {self.food}s did the {self.animal} have then?"

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """The steps, (number, number, result): first the tens of the second number, then its ones."""
        parts, total = [], self.first
        for part in (self.second // 10 * 10, self.second % 10):
            if part:
                result = total + part if self.sign == "+" else total - part
                parts.append((total, part, result))
                total = result
        return parts

    @property
    def steps(self) -> str:
        return " ".join(f"{total} {self.sign} {part} = {result}." for total, part, result in self.parts)

    @property
    def prompt(self) -> str:
        return f"{self.text}{QUESTION}{self.question}{STEPS if self.worked else ANSWER}"

    @property
    def completion(self) -> str:
        return f"{self.steps}{ANSWER}{self.answer}" if self.worked else str(self.answer)

    @property
    def key(self) -> str:
        """The text that decides the split: the two numbers, in either order, added or subtracted."""
        return _key(self.first, self.second)

    @property
    def has_held_out_step(self) -> bool:
        """Whether one of the steps is itself a held-out sum."""
        return any(side(_key(total, part)) == "held_out" for total, part, _ in self.parts)


def _key(first: int, second: int) -> str:
    return f"{min(first, second)} and {max(first, second)}"


def sums(seed: int = 0, split: str = "train", largest: int = LARGEST, worked: bool = False) -> Iterator[Sum]:
    """Yield sums of one split without end.

    largest: the largest number that a sum may contain or result in. No number is below 0.
    worked: whether completions write the steps. Worked sums to train on have no held-out sum among the steps.

    Raises ValueError for an unknown split, or for a largest outside 9 to 99.
    """
    check_split(split)
    largest = whole("largest", largest, 9, LARGEST)
    return _sums(random.Random(f"sums {seed}"), split, largest, worked)


def _sums(rng: random.Random, split: str, largest: int, worked: bool) -> Iterator[Sum]:
    while True:
        total, part, sign = rng.randint(2, largest), rng.randint(1, largest), rng.choice("+-")
        if part >= total:
            continue
        first = total - part if sign == "+" else total
        sum_ = Sum(rng.choice(list(ANIMALS)), rng.choice(list(FOODS)), first, sign, part, rng.randrange(3))
        leaks = worked and split == "train" and sum_.has_held_out_step
        if side(sum_.key) == split and not leaks:
            yield replace(sum_, worked=worked)
