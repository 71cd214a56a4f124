"""Displaying figures and widgets in a notebook, each with a text alternative for readers who can't see it."""

import base64
import functools
import html
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import display
from ipywidgets import DOMWidget
from matplotlib.figure import Figure
from PIL import Image

from course_lib.arguments import short

PIXEL_RATIO = 2  # pixels of the file for each pixel on the page
MAX_BYTES = 80_000  # of a figure, so that a lesson of twenty figures stays small
NAME_SLIDERS = """
window.namesSliders ??= new MutationObserver(() => {
  for (const handle of document.querySelectorAll(".widget-slider .noUi-handle:not([aria-label])")) {
    const name = handle.closest(".widget-slider").querySelector(".widget-label")?.textContent;
    if (name) handle.setAttribute("aria-label", name);
  }
});
window.namesSliders.observe(document.body, {childList: true, subtree: true});
"""


def show(fig: Figure, alt: str) -> None:
    """Display `fig` in a notebook, and close it.

    alt: a sentence that says what the figure shows. A screen reader reads it, a terminal prints it instead of
    the figure, and tests compare it. Raises ValueError if it is empty, TypeError for what is no figure.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"show takes a figure of matplotlib, such as draw_map(…) makes, not {short(fig)}")
    if not isinstance(alt, str) or not alt.strip():
        example = "The first token takes half of the attention"
        raise ValueError(f'say what the figure shows: show(fig, alt="{example}")')
    display(Html(image(png(fig), alt, width=int(fig.get_figwidth() * fig.dpi)), alt))
    plt.close(fig)


def image(png_bytes: bytes, alt: str, width: int) -> str:
    """Return a PNG file as an HTML `<img>`, `width` pixels wide.

    JupyterLab has no alternative text for a plain `image/png` output, but it keeps the `alt` of HTML, in
    trusted and untrusted notebooks.
    """
    data = base64.b64encode(png_bytes).decode()
    return f'<img alt="{html.escape(alt)}" width="{width}" src="data:image/png;base64,{data}">'


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this code, so that widgets can work."""
    return hasattr(get_ipython(), "kernel")


def show_widget(widget: DOMWidget, text: str) -> None:
    """Display a widget; where no kernel runs, as in a stored notebook, `text` appears instead."""
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)


def name_sliders() -> None:
    """Give every slider drawn on this page from now on its label as its accessible name.

    Screen readers need the name, and ipywidgets doesn't set one.
    """
    display(Html(f"<script>{NAME_SLIDERS}</script>", ""))


def png(fig: Figure) -> bytes:
    """Return `fig` as a PNG file with a palette of 256 colours, or of 64 if the file is 80 kB or more."""
    full = io.BytesIO()
    fig.savefig(full, format="png", dpi=PIXEL_RATIO * fig.dpi)
    picture = Image.open(full).convert("RGB")
    for colors in (256, 64):
        reduced = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(file := io.BytesIO(), "PNG", optimize=True)
        if len(file.getvalue()) < MAX_BYTES:
            break
    return file.getvalue()


@dataclass(frozen=True)
class Html:
    """HTML for a notebook to display.

    html: what a notebook displays.
    text: what is shown where HTML can't be displayed.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def print_errors(draw: Callable[..., None]) -> Callable[..., None]:
    """Wrap `draw` so that a ValueError or IndexError is printed in one line, without a traceback."""

    @functools.wraps(draw)
    def wrapped(**values: object) -> None:
        try:
            draw(**values)
        except (ValueError, IndexError) as error:
            print(error)

    return wrapped
