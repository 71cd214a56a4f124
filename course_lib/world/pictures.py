"""Small pictures: one, two or several shapes on a grid, with what they show."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from course_lib.world.marks import PICTURE
from course_lib.world.plots import check_split, side

SIZE, CELL = 8, 3
SHAPES = {
    "square": ("###", "###", "###"),
    "ring": ("###", "#.#", "###"),
    "cross": (".#.", "###", ".#."),
    "star": ("#.#", ".#.", "#.#"),
}
# Okabe and Ito's colours (2008), which colour-blind eyes can tell apart, with white and grey. Red is their vermilion.
PALETTE = {
    "red": (213, 94, 0),
    "blue": (0, 114, 178),
    "green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Shape:
    """A shape of 3×3 cells; row and column of its upper left cell."""

    colour: str
    shape: str
    row: int
    column: int

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Picture:
    """shapes: what is where. relation: how the first of two stands to the second ("left of", "above" …), or "".

    >>> picture = Picture((Shape("red", "square", 1, 0), Shape("blue", "ring", 1, 5)), "left of")
    >>> picture.captions
    ('a red square left of a blue ring', 'a blue ring right of a red square')
    >>> picture.pixels.shape, picture.pixels[1, 0].tolist()
    ((8, 8, 3), [213, 94, 0])
    """

    shapes: tuple[Shape, ...]
    relation: str = ""

    @property
    def caption(self) -> str:
        return self.captions[0]

    @property
    def captions(self) -> tuple[str, ...]:
        """Every right caption: two shapes can be told from either side."""
        first, *others = self.shapes
        if self.relation:
            second = others[0]
            return f"{first} {self.relation} {second}", f"{second} {OPPOSITE[self.relation]} {first}"
        if not others:
            return (str(first),)
        plural = first.shape + ("es" if first.shape == "cross" else "s")
        return (f"{NUMBERS[len(self.shapes)]} {first.colour} {plural}",)

    @property
    def pixels(self) -> np.ndarray:
        """(row, column, red green blue), bytes, on black."""
        pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
        for shape in self.shapes:
            filled = np.array([[cell == "#" for cell in row] for row in SHAPES[shape.shape]])
            pixels[shape.row : shape.row + CELL, shape.column : shape.column + CELL][filled] = PALETTE[
                shape.colour
            ]
        return pixels

    @property
    def key(self) -> str:
        """What the split is decided by: the caption, the same from either side."""
        return min(self.captions)

    @property
    def prompt(self) -> str:
        return PICTURE

    @property
    def completion(self) -> str:
        return self.caption


def pictures(seed: int = 0, split: str = "train") -> Iterator[Picture]:
    """Pictures without end, of one split: a third each of one shape, two, and two to four alike. No caption of one split
    is right for a picture of the other. Raises ValueError for an unknown split."""
    check_split(split)
    return _pictures(random.Random(f"pictures {seed}"), split)


def _pictures(rng: random.Random, split: str) -> Iterator[Picture]:
    while True:
        picture = rng.choice((_one, _two, _alike))(rng)
        if side(picture.key) == split:
            yield picture


def _kind(rng: random.Random) -> tuple[str, str]:
    return rng.choice(list(PALETTE)), rng.choice(list(SHAPES))


def _one(rng: random.Random) -> Picture:
    last = SIZE - CELL
    return Picture((Shape(*_kind(rng), rng.randint(0, last), rng.randint(0, last)),))


def _two(rng: random.Random) -> Picture:
    """Two different shapes, exactly beside or exactly above each other, so that one relation is right."""
    last = SIZE - CELL
    first, second = rng.sample(list(product(PALETTE, SHAPES)), 2)
    along, near = rng.randint(0, last), rng.randint(0, last - CELL)
    far, relation = rng.randint(near + CELL, last), rng.choice(list(OPPOSITE))
    here, there = (near, far) if relation in ("left of", "above") else (far, near)
    spots = (
        [(here, along), (there, along)] if relation in ("above", "below") else [(along, here), (along, there)]
    )
    return Picture((Shape(*first, *spots[0]), Shape(*second, *spots[1])), relation)


def _alike(rng: random.Random) -> Picture:
    """Two to four of a kind, one in each of as many quarters."""
    corners = rng.sample(list(product((0, SIZE // 2), repeat=2)), rng.choice(list(NUMBERS)))
    kind, last = _kind(rng), SIZE // 2 - CELL
    spots = [(row + rng.randint(0, last), column + rng.randint(0, last)) for row, column in sorted(corners)]
    return Picture(tuple(Shape(*kind, *spot) for spot in spots))
