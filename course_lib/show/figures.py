"""A figure on the page, with words for those who don't see it."""

import io

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

SHARPNESS = 2  # pixels of the file for each pixel on the page


def show(fig: Figure, alt: str) -> None:
    """Display `fig` in a notebook, and close it.

    `alt` says in a sentence what there is to see. It is the output's plain text (which screen readers, text browsers
    and the tests of the notebooks get) and the `alt` of the picture in exported HTML.
    Raises ValueError when `alt` is empty.
    """
    if not alt.strip():
        raise ValueError('say what the figure shows: show(fig, alt="Bars: the first token takes half of the attention")')
    picture = png(fig)
    width = Image.open(io.BytesIO(picture)).width // SHARPNESS
    bundle = {"image/png": picture, "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt, "width": width}})
    plt.close(fig)


def png(fig: Figure) -> bytes:
    """`fig` as a PNG file of at most 64 colours, which is a third of the size of matplotlib's own."""
    full, small = io.BytesIO(), io.BytesIO()
    fig.savefig(full, format="png", dpi=SHARPNESS * fig.dpi)
    picture = Image.open(full).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()
