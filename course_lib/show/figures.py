"""A figure on the page, with words for those who don't see it."""

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

SHARPNESS = 2  # pixels of the file for each pixel on the page
ENOUGH = 80_000  # bytes, so that a lesson of twenty figures stays small
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

    `alt` says in a sentence what there is to see: it is what a screen reader reads, and what stands for the figure in a terminal and
    where tests compare outputs. Raises ValueError when it is empty.
    """
    if not alt.strip():
        raise ValueError(
            'say what the figure shows: show(fig, alt="The first token takes half of the attention")'
        )
    display(Html(image(png(fig), alt, width=int(fig.get_figwidth() * fig.dpi)), alt))
    plt.close(fig)


def image(picture: bytes, alt: str, width: int) -> str:
    """HTML for a PNG file. (JupyterLab has no place for the words about a bare `image/png`; HTML's `alt` it shows, trusted or not.)"""
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alt)}" width="{width}" src="data:image/png;base64,{data}">'


def in_notebook() -> bool:
    """Whether a kernel runs this, and so a page may be watching."""
    return hasattr(get_ipython(), "kernel")


def show_widget(widget: DOMWidget, text: str) -> None:
    """Display a widget. `text`, a sentence, stands for it wherever no kernel runs, as in the stored page."""
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)


def name_sliders() -> None:
    """Give each slider that this page draws from now on its label as its name, for screen readers: ipywidgets leaves it without one."""
    display(Html(f"<script>{NAME_SLIDERS}</script>", ""))


def png(fig: Figure) -> bytes:
    """`fig` as a PNG file of so few colours (256, or 64 if it must be) that it takes less than 80 kB."""
    full = io.BytesIO()
    fig.savefig(full, format="png", dpi=SHARPNESS * fig.dpi)
    picture = Image.open(full).convert("RGB")
    for colors in (256, 64):
        few = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(small := io.BytesIO(), "PNG", optimize=True)
        if len(small.getvalue()) < ENOUGH:
            break
    return small.getvalue()


@dataclass(frozen=True)
class Html:
    """HTML that a notebook displays, and the text that stands for it where there is no HTML."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def say_errors(draw: Callable[..., None]) -> Callable[..., None]:
    """`draw`, but what is wrong with its input is printed in one line, and no traceback."""

    @functools.wraps(draw)
    def careful(**values: object) -> None:
        try:
            draw(**values)
        except (ValueError, IndexError) as error:
            print(error)

    return careful
