"""The style of the course's figures: large type, few lines, colours that colour-blind readers distinguish."""

import sys

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import PlaceHolderLayoutEngine

# Okabe and Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
AMBER, SKY, YELLOW = "#E69F00", "#56B4E9", "#F0E442"
PALETTE = [BLUE, ORANGE, GREEN, PINK, AMBER, SKY, YELLOW]
INK, MUTED, FAINT, HIDDEN = "#222222", "#555555", "#9A9A9A", "#E4E4E4"

# From white through blue to near black, so that it also works in grey. SIGNED: orange for negative values.
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#FFFFFF", "#B9D9EE", "#4FA0D0", BLUE, "#002B45"])
SIGNED = LinearSegmentedColormap.from_list("signed", ["#6E3000", ORANGE, "#FFFFFF", BLUE, "#002B45"])

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is always there
    "font.size": 14,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 16,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "lines.linewidth": 2.5,
    "lines.markersize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "image.cmap": "cividis",
    "figure.figsize": (9, 4.5),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "course",
}


def use_style() -> None:
    """Set matplotlib's defaults for the course, and let notebooks display a figure that ends a cell."""
    matplotlib.rcParams.update(STYLE)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png")


def drawable(text: str) -> str:
    """Replace each character of `text` that the figures' font lacks by its code point, as in ‹1F42F›."""
    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else f"‹{ord(c):X}›" for c in text)


def blank_page(length: float, bottom: float, top: float, margin: float = 14) -> tuple[Figure, Axes]:
    """Return an empty figure, and axes without frame whose unit of length is the point."""
    width, height = length + 2 * margin, top - bottom + 2 * margin
    # Not the layout "none": matplotlib would use rcParams' layout when the figure is saved a second time.
    fixed = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = Figure(figsize=(width / 72, height / 72), layout=fixed)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(-margin, length + margin), ylim=(bottom - margin, top + margin))
    ax.set_axis_off()
    return fig, ax
