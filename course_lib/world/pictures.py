"""Small pictures: one, two or several shapes on a grid, with captions that say what they show."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from course_lib.arguments import short, whole
from course_lib.world.marks import PICTURE
from course_lib.world.splits import check_split, side

PICTURE_SIZE, SHAPE_SIZE = 8, 3  # pixels
SHAPES = {
    "square": ("###", "###", "###"),
    "ring": ("###", "#.#", "###"),
    "cross": (".#.", "###", ".#."),
    "star": ("#.#", ".#.", "#.#"),
}
# The colours of Okabe and Ito (2008), which colour-blind eyes can tell apart, with white and grey. Red is
# their vermilion.
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
    """A shape of 3×3 pixels. row, column: the position of its upper left pixel.

    Raises ValueError for a colour or shape that the world doesn't have, and for a position that isn't 0 to 5;
    TypeError for one that is no whole number.
    """

    colour: str
    shape: str
    row: int
    column: int

    def __post_init__(self):
        words = ((self.colour, PALETTE), (self.shape, SHAPES))
        if not all(isinstance(word, str) and word in known for word, known in words):
            raise ValueError(f"the world has no {short(self.colour)} {short(self.shape)}")
        for name in ("row", "column"):
            position = whole(name, getattr(self, name), 0, PICTURE_SIZE - SHAPE_SIZE)
            object.__setattr__(self, name, position)

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Picture:
    """Some shapes on a black grid.

    relation: where the first of two shapes stands relative to the second ("left of", "above" …), or "".

    Raises ValueError for what no caption describes: no shape or more than four, several that aren't alike and
    have no relation, and a relation of anything but two shapes; TypeError for what is no tuple of shapes.

    >>> picture = Picture((Shape("red", "square", 1, 0), Shape("blue", "ring", 1, 5)), "left of")
    >>> picture.captions
    ('a red square left of a blue ring', 'a blue ring right of a red square')
    >>> picture.pixels.shape, picture.pixels[1, 0].tolist()
    ((8, 8, 3), [213, 94, 0])
    """

    shapes: tuple[Shape, ...]
    relation: str = ""

    def __post_init__(self):
        if not isinstance(self.shapes, tuple):
            raise TypeError(f"a picture takes a tuple of shapes, not {short(self.shapes)}")
        n = len(self.shapes)
        if self.relation not in ("", *OPPOSITE) or (self.relation and n != 2):
            raise ValueError(
                f"a relation is between two shapes, and one of {', '.join(OPPOSITE)}; not "
                f"{short(self.relation)} of {n}"
            )
        if not all(isinstance(shape, Shape) for shape in self.shapes):
            raise TypeError(
                f"a picture takes shapes, Shape(colour, shape, row, column), not {short(self.shapes)}"
            )
        alike = n == 1 or len({(shape.colour, shape.shape) for shape in self.shapes}) == 1
        if not 1 <= n <= max(NUMBERS) or not (alike or self.relation):
            raise ValueError("a picture has one shape, two with a relation, or two to four that are alike")

    @property
    def caption(self) -> str:
        return self.captions[0]

    @property
    def captions(self) -> tuple[str, ...]:
        """All right captions. Two shapes can be described from either side."""
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
        """The picture as bytes, (row, column, colour channel)."""
        pixels = np.zeros((PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        for shape in self.shapes:
            rows = slice(shape.row, shape.row + SHAPE_SIZE)
            columns = slice(shape.column, shape.column + SHAPE_SIZE)
            filled = np.array([[pixel == "#" for pixel in row] for row in SHAPES[shape.shape]])
            pixels[rows, columns][filled] = PALETTE[shape.colour]
        return pixels

    @property
    def key(self) -> str:
        """The text that decides the split: the caption, the same from either side."""
        return min(self.captions)

    @property
    def prompt(self) -> str:
        return PICTURE

    @property
    def completion(self) -> str:
        return self.caption


def pictures(seed: int = 0, split: str = "train") -> Iterator[Picture]:
    """Yield pictures of one split without end.

    A picture has one shape, two different shapes, or two to four shapes alike, with equal chances.
    No caption of one split is right for a picture of the other.

    Raises ValueError for an unknown split.
    """
    check_split(split)
    return _pictures(random.Random(f"pictures {seed}"), split)


def _pictures(rng: random.Random, split: str) -> Iterator[Picture]:
    while True:
        picture = rng.choice((_one_shape, _two_shapes, _shapes_alike))(rng)
        if side(picture.key) == split:
            yield picture


def _colour_and_shape(rng: random.Random) -> tuple[str, str]:
    return rng.choice(list(PALETTE)), rng.choice(list(SHAPES))


def _one_shape(rng: random.Random) -> Picture:
    last = PICTURE_SIZE - SHAPE_SIZE
    return Picture((Shape(*_colour_and_shape(rng), rng.randint(0, last), rng.randint(0, last)),))


def _two_shapes(rng: random.Random) -> Picture:
    """Draw two different shapes in one row or one column, so that exactly one relation is right."""
    last = PICTURE_SIZE - SHAPE_SIZE
    first, second = rng.sample(list(product(PALETTE, SHAPES)), 2)
    shared, near = rng.randint(0, last), rng.randint(0, last - SHAPE_SIZE)
    far, relation = rng.randint(near + SHAPE_SIZE, last), rng.choice(list(OPPOSITE))
    offsets = (near, far) if relation in ("left of", "above") else (far, near)
    if relation in ("above", "below"):
        positions = [(offset, shared) for offset in offsets]
    else:
        positions = [(shared, offset) for offset in offsets]
    return Picture((Shape(*first, *positions[0]), Shape(*second, *positions[1])), relation)


def _shapes_alike(rng: random.Random) -> Picture:
    """Draw two to four equal shapes, each in a quarter of its own."""
    half = PICTURE_SIZE // 2
    corners = rng.sample(list(product((0, half), repeat=2)), rng.choice(list(NUMBERS)))
    kind, last = _colour_and_shape(rng), half - SHAPE_SIZE
    positions = [
        (row + rng.randint(0, last), column + rng.randint(0, last)) for row, column in sorted(corners)
    ]
    return Picture(tuple(Shape(*kind, *position) for position in positions))
