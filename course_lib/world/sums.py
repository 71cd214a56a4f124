"""Sums told as stories, with their worked steps."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from course_lib.world.marks import ANSWER, QUESTION, STEPS
from course_lib.world.plots import check_split, side
from course_lib.world.words import ANIMALS, FOODS

# What adds and what takes away. "{}" is the second number.
TOLD = {
    "+": ("Then it found {} more.", "Then it bought {} more.", "A friend gave it {} more."),
    "-": ("Then it ate {} of them.", "Then it lost {} of them.", "Then it gave {} of them to a friend."),
}
LARGEST = 99


@dataclass(frozen=True)
class Sum:
    """first sign second = answer, about an animal and its food. told: which sentence of `TOLD` tells it. worked: whether the
    completion writes the steps before the answer.

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
    told: int
    worked: bool = False

    @property
    def answer(self) -> int:
        return self.first + self.second if self.sign == "+" else self.first - self.second

    @property
    def text(self) -> str:
        article = "An" if self.animal[0] in "aeiou" else "A"
        foods = self.food if self.first == 1 else self.food + "s"
        return f"{article} {self.animal} had {self.first} {foods}. {TOLD[self.sign][self.told].format(self.second)}"

    @property
    def question(self) -> str:
        return f"How many {self.food}s did the {self.animal} have then?"

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """The tens first, then the ones: each a sum on its own, (number, number, result)."""
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
        """What the split is decided by: the two numbers, whichever comes first, added or taken away."""
        return _key(self.first, self.second)

    @property
    def gives_away(self) -> bool:
        """Whether a step of the work is a sum that is held out."""
        return any(side(_key(total, part)) == "held_out" for total, part, _ in self.parts)


def _key(first: int, second: int) -> str:
    return f"{min(first, second)} and {max(first, second)}"


def sums(seed: int = 0, split: str = "train", largest: int = LARGEST, worked: bool = False) -> Iterator[Sum]:
    """Sums without end, of one split; no number in them, the answer included, is above `largest` or below 0. Worked sums to
    train on have no held-out sum among their steps.

    Raises ValueError for an unknown split, or a largest outside 9 to 99.
    """
    check_split(split)
    if not 9 <= largest <= LARGEST:
        raise ValueError(f"largest must be from 9 to {LARGEST}, not {largest}")
    return _sums(random.Random(f"sums {seed}"), split, largest, worked)


def _sums(rng: random.Random, split: str, largest: int, worked: bool) -> Iterator[Sum]:
    while True:
        total, part, sign = rng.randint(2, largest), rng.randint(1, largest), rng.choice("+-")
        if part >= total:
            continue
        first = total - part if sign == "+" else total
        chosen = Sum(rng.choice(list(ANIMALS)), rng.choice(list(FOODS)), first, sign, part, rng.randrange(3))
        if side(chosen.key) == split and not (worked and split == "train" and chosen.gives_away):
            yield replace(chosen, worked=worked)
