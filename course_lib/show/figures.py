"""A figure on the page, with words for those who don't see it."""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
from IPython.display import display
from ipywidgets import DOMWidget
from matplotlib.figure import Figure
from PIL import Image

SHARPNESS = 2  # pixels of the file for each pixel on the page
ENOUGH = 80_000  # bytes, so that a lesson of twenty figures stays small


def show(fig: Figure, alt: str) -> None:
    """Display `fig` in a notebook, and close it.

    `alt` says in a sentence what there is to see. It becomes the output's plain text, for terminals and for
    tests that compare outputs, and the picture's alternative text where the notebook is exported to HTML;
    JupyterLab itself has no place for it. Raises ValueError when `alt` is empty.
    """
    if not alt.strip():
        raise ValueError(
            'say what the figure shows: show(fig, alt="The first token takes half of the attention")'
        )
    picture = png(fig)
    width = Image.open(io.BytesIO(picture)).width // SHARPNESS
    bundle = {"image/png": picture, "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt, "width": width}})
    plt.close(fig)


def show_widget(widget: DOMWidget, text: str) -> None:
    """Display a widget. `text` stands for it in the stored page: fixed, so that the page doesn't depend on the version of
    ipywidgets, and reads well where no widget runs."""
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)


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
