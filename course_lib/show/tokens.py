"""Text cut into tokens, in colour: as HTML for the notebook, as a figure for wherever HTML loses its colours."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from .style import INK, MUTED, drawable

if TYPE_CHECKING:
    from course_lib.text import Tokenizer

# Okabe and Ito's hues, lightened until black text on each has a contrast above 12:1.
TINTS = ["#BFE0F5", "#FBDDA6", "#B5E5D5", "#F3D3E4", "#F7F1A1"]
MARKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def visible(piece: str) -> str:
    """`piece` with spaces and line ends made visible, and what can't be printed written as an escape."""
    marked = piece.translate(MARKS)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in marked)


def label(piece: str) -> str:
    """What to call a token in a figure: its text without the spaces around it, where any is left."""
    return drawable(visible(piece.strip() or piece))


def text_width(text: str, bold: bool = False) -> float:
    """Width of `text`, drawn in type of size 1."""
    font = FontProperties(size=100, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100
