"""Tokens as coloured blocks: HTML for the notebook, and a figure for pages that drop HTML's colours."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from course_lib.arguments import number, short, token_ids
from course_lib.show.checks import texts
from course_lib.show.figures import Html, print_errors
from course_lib.show.style import INK, MUTED, blank_page, drawable
from course_lib.text import Tokenizer

# Okabe and Ito's hues, lightened until black text on each has a contrast above 11:1.
TINTS = ["#BFE0F5", "#FBDDA6", "#B5E5D5", "#F3D3E4", "#F7F1A1"]
GLYPHS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
MAX_CHARACTERS = 2000


def visible(text: str) -> str:
    """Return `text` with whitespace replaced by visible glyphs, and unprintable characters by escapes."""
    text = text.translate(GLYPHS)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def token_name(token: str) -> str:
    """Return a token's text without the spaces around it; a token of spaces alone keeps them, as ·."""
    return visible(token.strip() or token)


def token_label(token: str) -> str:
    """Return `token_name`, with characters that the figures' font lacks written as code points."""
    return drawable(token_name(token))


def text_width(text: str, bold: bool = False) -> float:
    """Return the width of `text` in units of the font size."""
    font = FontProperties(size=100, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100


# draw


def draw_tokens(tokens: Sequence[str], ids: Sequence[int] | None = None) -> Html:
    """Return tokens as coloured blocks, spaces as · and line ends as ⏎, with their ids below if given.

    GitHub drops the colours, and only spaces separate the tokens there; `figure_tokens` keeps its colours.
    Raises ValueError if there aren't as many ids as tokens, TypeError for tokens that are no list of texts.
    """
    tokens, ids = _check_ids(tokens, ids)
    blocks = [_block(i, token, None if ids is None else ids[i]) for i, token in enumerate(tokens)]
    style = "font: 16px/1.3 monospace; color: #111; background: #fff; padding: 6px"
    text = " | ".join(visible(token) for token in tokens)
    return Html(f'<div style="{style}">{" ".join(blocks)}</div>', text)


def _check_ids(tokens: Sequence[str], ids: Sequence[int] | None) -> tuple[list[str], list[int] | None]:
    """Return tokens and ids as lists."""
    tokens = texts("tokens", tokens, "a list of the tokens' texts")
    ids = None if ids is None else token_ids("ids", ids)
    if ids is not None and len(ids) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens can't have {len(ids)} ids: give one id for each")
    return tokens, ids


def _block(i: int, token: str, token_id: int | None) -> str:
    title = f"token {i}: {token!r}" + ("" if token_id is None else f", id {token_id}")
    below = "" if token_id is None else f'<br><small style="color: #444">{token_id}</small>'
    style = (
        f"background: {TINTS[i % len(TINTS)]}; border-radius: 4px; padding: 1px 4px; margin: 2px -2px; "
        "display: inline-block; text-align: center; white-space: pre"
    )
    end = "<br>" if token.endswith("\n") else ""
    text = html.escape(visible(token))
    return f'<span title="{html.escape(title)}" style="{style}">{text}{below}</span>{end}'


def figure_tokens(tokens: Sequence[str], ids: Sequence[int] | None = None, width: float = 10.0) -> Figure:
    """Draw the blocks of `draw_tokens` as a figure of `width` inches.

    Raises ValueError for a width that isn't above 0, and as `draw_tokens` does.
    """
    tokens, ids = _check_ids(tokens, ids)
    number("width", width, above=0, most=100)
    size, depth = 15, 6 if ids is None else 23  # a block's font size, and its extent below the baseline
    line_height = size + depth + 5
    words = [drawable(visible(token)) for token in tokens]
    numbers = [""] * len(tokens) if ids is None else [str(i) for i in ids]
    pairs = zip(words, numbers, strict=True)
    widths = [max(size * text_width(word), 11 * text_width(number)) + 8 for word, number in pairs]
    positions = _wrap(tokens, widths, line_height, 72 * width)
    lowest = min((y for _, y in positions), default=0)
    fig, ax = blank_page(72 * width, bottom=lowest - depth, top=size)
    for i, (x, y) in enumerate(positions):
        ax.add_patch(_box(x, y - depth, widths[i], size + depth, TINTS[i % len(TINTS)]))
        center, style = x + widths[i] / 2, {"ha": "center", "parse_math": False}
        ax.text(center, y, words[i], fontsize=size, color=INK, **style)
        ax.text(center, y - 17, numbers[i], fontsize=11, color=MUTED, **style)
    return fig


def _wrap(
    tokens: Sequence[str], widths: list[float], line_height: float, limit: float
) -> list[tuple[float, float]]:
    """Return each block's left end and baseline, (x, y), with line breaks at `limit` and after line ends."""
    x = y = 0.0
    positions = []
    for token, width in zip(tokens, widths, strict=True):
        if x and x + width > limit:
            x, y = 0.0, y - line_height
        positions.append((x, y))
        x, y = (0.0, y - line_height) if token.endswith("\n") else (x + width + 3, y)
    return positions


def _box(x: float, y: float, width: float, height: float, color: str) -> FancyBboxPatch:
    style = {"boxstyle": "round,pad=0,rounding_size=4", "facecolor": color, "edgecolor": "none"}
    return FancyBboxPatch((x, y), width, height, **style)


# explore


def explore_tokens(tokenizer: Tokenizer, text: str) -> None:
    """Display a box to type in, and below it the tokens of its text, updated at each keystroke.

    Raises TypeError if the text that the box contains at first is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a text, not {short(text)}")

    def draw(text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"{len(text)} characters are too many to show: at most {MAX_CHARACTERS} fit")
        ids = tokenizer.encode(text)
        if not ids:
            raise ValueError("there is no text to cut: type a word or two")
        print(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")
        display(draw_tokens([tokenizer.token_text(i) for i in ids], ids))

    box = widgets.Textarea(value=text, description="text", layout=widgets.Layout(width="95%"))
    display(widgets.VBox([box, widgets.interactive_output(print_errors(draw), {"text": box})]))
