"""Text cut into tokens, in colour: HTML for the notebook, and a figure for where HTML loses its colours."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from course_lib.show.figures import Html, say_errors
from course_lib.show.style import INK, MUTED, blank_page, drawable
from course_lib.text import Tokenizer

# Okabe and Ito's hues, lightened until black text on each has a contrast above 11:1.
TINTS = ["#BFE0F5", "#FBDDA6", "#B5E5D5", "#F3D3E4", "#F7F1A1"]
MARKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
MAX_CHARACTERS = 2000


def visible(piece: str) -> str:
    """`piece` with spaces and line ends made visible, and what can't be printed written as an escape."""
    marked = piece.translate(MARKS)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in marked)


def name(piece: str) -> str:
    """What to call a token: its text without the spaces around it, where any is left."""
    return visible(piece.strip() or piece)


def label(piece: str) -> str:
    """`name`, for a figure."""
    return drawable(name(piece))


def text_width(text: str, bold: bool = False) -> float:
    """Width of `text`, drawn in type of size 1."""
    font = FontProperties(size=100, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100


# draw


def draw_tokens(pieces: Sequence[str], ids: Sequence[int] | None = None) -> Html:
    """Tokens as coloured blocks, spaces as · and line ends as ⏎, with their ids below when given.

    On GitHub, which drops the colours, spaces still part the tokens; `figure_tokens` keeps its colours there.
    Raises ValueError when there aren't as many ids as pieces.
    """
    _require_as_many(pieces, ids)
    blocks = [_block(i, piece, None if ids is None else ids[i]) for i, piece in enumerate(pieces)]
    style = "font: 16px/1.3 monospace; color: #111; background: #fff; padding: 6px"
    text = " | ".join(visible(piece) for piece in pieces)
    return Html(f'<div style="{style}">{" ".join(blocks)}</div>', text)


def _require_as_many(pieces: Sequence[str], ids: Sequence[int] | None) -> None:
    if ids is not None and len(ids) != len(pieces):
        raise ValueError(f"{len(pieces)} tokens can't have {len(ids)} ids: give one id for each")


def _block(i: int, piece: str, token_id: int | None) -> str:
    title = f"token {i}: {piece!r}" + ("" if token_id is None else f", id {token_id}")
    below = "" if token_id is None else f'<br><small style="color: #444">{token_id}</small>'
    style = (
        f"background: {TINTS[i % len(TINTS)]}; border-radius: 4px; padding: 1px 4px; margin: 2px -2px; "
        "display: inline-block; text-align: center; white-space: pre"
    )
    end = "<br>" if piece.endswith("\n") else ""
    text = html.escape(visible(piece))
    return f'<span title="{html.escape(title)}" style="{style}">{text}{below}</span>{end}'


def figure_tokens(pieces: Sequence[str], ids: Sequence[int] | None = None, width: float = 10.0) -> Figure:
    """The picture of `draw_tokens` as a figure of `width` inches. Raises ValueError like it."""
    _require_as_many(pieces, ids)
    size, depth = 15, 6 if ids is None else 23  # of a block's text, and below its baseline
    line = size + depth + 5
    words = [drawable(visible(piece)) for piece in pieces]
    numbers = [""] * len(pieces) if ids is None else [str(i) for i in ids]
    pairs = zip(words, numbers, strict=True)
    widths = [max(size * text_width(word), 11 * text_width(number)) + 8 for word, number in pairs]
    places = _flow(pieces, widths, line, 72 * width)
    lowest = min((y for _, y in places), default=0)
    fig, ax = blank_page(72 * width, bottom=lowest - depth, top=size)
    for i, (x, y) in enumerate(places):
        ax.add_patch(_box(x, y - depth, widths[i], size + depth, TINTS[i % len(TINTS)]))
        center, style = x + widths[i] / 2, {"ha": "center", "parse_math": False}
        ax.text(center, y, words[i], fontsize=size, color=INK, **style)
        ax.text(center, y - 17, numbers[i], fontsize=11, color=MUTED, **style)
    return fig


def _flow(pieces: Sequence[str], widths: list[float], line: float, limit: float) -> list[tuple[float, float]]:
    """Top-left corners of blocks set like words: a new line when one is full, and after a line end."""
    x = y = 0.0
    places = []
    for piece, width in zip(pieces, widths, strict=True):
        if x and x + width > limit:
            x, y = 0.0, y - line
        places.append((x, y))
        x, y = (0.0, y - line) if piece.endswith("\n") else (x + width + 3, y)
    return places


def _box(x: float, y: float, width: float, height: float, color: str) -> FancyBboxPatch:
    style = {"boxstyle": "round,pad=0,rounding_size=4", "facecolor": color, "edgecolor": "none"}
    return FancyBboxPatch((x, y), width, height, **style)


# explore


def explore_tokens(tokenizer: Tokenizer, text: str) -> None:
    """A box to type in, with its text cut into tokens at each keystroke."""

    def draw(text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"{len(text)} characters are too many to show: at most {MAX_CHARACTERS} fit")
        ids = tokenizer.encode(text)
        if not ids:
            raise ValueError("there is no text to cut: type a word or two")
        print(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")
        display(draw_tokens([tokenizer.token_text(i) for i in ids], ids))

    box = widgets.Textarea(value=text, description="text", layout=widgets.Layout(width="95%"))
    display(widgets.VBox([box, widgets.interactive_output(say_errors(draw), {"text": box})]))
