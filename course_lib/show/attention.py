"""The attention weights of a model on one text, and heat maps of one head or of a score for each head.

`attention_row` draws one token's weights as ribbons over the sentence.
"""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from course_lib.arguments import finite, listed, whole
from course_lib.model import LanguageModel, Trace
from course_lib.show.checks import attention_weights, numbers, texts
from course_lib.show.style import HIDDEN, INK, ORANGE, SIGNED, WEIGHTS
from course_lib.show.tokens import token_label, token_name

MAX_TOKENS = 64  # more don't fit on a projector
MIN_DRAWN = 0.005  # smaller weights are neither drawn nor described


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """The attention weights of all heads of a model on one text.

    tokens: the n tokens, as text.
    weights: (layers, heads, query, key), an array or a tensor. Each row consists of the weights of one query,
        and sums to 1; a row of zeros, of a query that sees nothing, is drawn too.

    Raises ValueError if the weights don't have a row and a column for each token, aren't finite, or are none
    at all, and TypeError for tokens that are no list of texts, and for weights that are no numbers.
    """

    tokens: list[str]
    weights: np.ndarray

    def __post_init__(self):
        if not isinstance(self.tokens, list | tuple):
            raise TypeError(f"tokens must be a list of texts, not a {type(self.tokens).__name__}")
        texts("tokens", self.tokens)
        weights = attention_weights(self.weights, len(self.tokens))
        object.__setattr__(self, "weights", weights)  # as an array, in a frozen dataclass

    def head(self, layer: int, head: int) -> np.ndarray:
        """Return one head's weights, (query, key); layers and heads are counted from 0.

        Raises IndexError if there is no such layer or head.
        """
        layers, heads = self.weights.shape[:2]
        _check_index("layer", layer, layers)
        _check_index("head", head, heads)
        return self.weights[layer, head]

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """Return one query's weights in one head, (key,).

        Raises IndexError if there is no such layer, head or token.
        """
        _check_index("query", query, len(self.tokens))
        return self.head(layer, head)[query]

    def index(self, word: str) -> int:
        """Return the position of the first token that reads `word`, leading and trailing spaces ignored.

        Raises ValueError if no token reads so.
        """
        names = [token_name(token) for token in self.tokens]
        if word.strip() not in names:
            raise ValueError(f"no token reads {word.strip()!r}; the tokens are {' | '.join(names)}")
        return names.index(word.strip())


def _check_index(axis: str, index: int, size: int) -> None:
    if not 0 <= whole(axis, index) < size:
        raise IndexError(f"{axis} {index} doesn't exist: they are numbered from 0 to {size - 1}")


# compute


def attention(lm: LanguageModel, text: str) -> AttentionWeights:
    """Run `lm` once on `text`, and return the attention weights of all its heads.

    Raises ValueError for an empty text, and for more than 64 tokens, which don't fit into a picture.
    """
    ids = lm.tokenizer.encode(text)
    if not ids:
        raise ValueError("there is no text to look at: type a word or two")
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"{len(ids)} tokens are too many for one picture: at most {MAX_TOKENS} fit")
    trace, device = Trace(keep="*.attention.weights"), next(lm.model.parameters()).device
    with torch.inference_mode():
        lm.model(torch.tensor([ids], device=device), trace=trace)
    weights = trace.attention().float().cpu().numpy()  # (layers, heads, query, key)
    return AttentionWeights([lm.tokenizer.token_text(i) for i in ids], weights)


def describe_row(att: AttentionWeights, layer: int, head: int, query: int, count: int = 3) -> str:
    """Describe one query's `count` largest weights in a sentence, the figure's alternative text.

    Raises IndexError if there is no such layer, head or token.
    """
    weights = att.row(layer, head, query)
    largest = np.argsort(-weights, kind="stable")[:count]
    parts = [f"{token_name(att.tokens[i])} {weights[i]:.2f}" for i in largest if weights[i] >= MIN_DRAWN]
    token = f"{token_name(att.tokens[query])} (token {query})"
    return f"Layer {layer}, head {head}: {token} looks at {', '.join(parts) or 'nothing'}"


# draw


def draw_attention(
    att: AttentionWeights, layer: int, head: int, query: int | None = None, ax: Axes | None = None
) -> Figure:
    """Draw one head's weights as a heat map, a row for each query and a column for each key.

    Future tokens, which a causal model masks, are grey.

    layer, head: counted from 0.
    query: the row to frame.
    ax: where to draw; a new figure by default.

    Raises IndexError if there is no such layer, head or token.
    """
    weights = att.head(layer, head)  # (query, key)
    n = len(att.tokens)
    if query is not None:
        _check_index("query", query, n)
    if ax is None:
        ax = _square_axes(n)
    future = np.triu(np.ones((n, n), bool), k=1) & (weights == 0)
    ax.set_facecolor(HIDDEN)
    image = ax.imshow(np.ma.masked_where(future, weights), cmap=WEIGHTS, vmin=0, vmax=1)
    _name_ticks(ax, [token_label(token) for token in att.tokens])
    if n <= 8:
        _write_values(ax, weights, future)
    if query is not None:
        _frame_row(ax, query, n)
    ax.set_title(f"Layer {layer}, head {head}")
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.6, ticks=[0, 0.5, 1])
    return ax.figure


def _square_axes(n: int) -> Axes:
    """Return the axes of a new figure that fits n × n cells."""
    side = float(np.clip(0.36 * n, 3.5, 9))
    return Figure(figsize=(side + 2.4, side + 1.2), layout="constrained").subplots()


def _name_ticks(ax: Axes, labels: list[str]) -> None:
    size = float(np.interp(len(labels), [8, 20, 64], [14, 12, 7]))
    style = {"fontsize": size, "parse_math": False}
    edges = np.arange(len(labels)) - 0.5
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(which="minor", color=HIDDEN, linewidth=0.8)
    ax.set_xticks(range(len(labels)), labels, rotation=55, ha="left", rotation_mode="anchor", **style)
    ax.set_yticks(range(len(labels)), labels, **style)
    ax.tick_params(which="both", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.set_xlabel("looked at (key)")
    ax.set_ylabel("who looks (query)")
    ax.spines[:].set_visible(False)


def _frame_row(ax: Axes, query: int, n: int) -> None:
    style = {"edgecolor": ORANGE, "linewidth": 2.5, "clip_on": False, "zorder": 3}
    ax.add_patch(Rectangle((-0.5, query - 0.5), n, 1, fill=False, **style))
    ax.get_yticklabels()[query].set(color=ORANGE, fontweight="bold")


def _write_values(ax: Axes, weights: np.ndarray, future: np.ndarray) -> None:
    for query, key in np.argwhere(~future):
        weight = weights[query, key]
        color = "white" if weight > 0.5 else INK
        ax.text(key, query, f"{weight:.2f}", ha="center", va="center", color=color, fontsize=12)


def draw_head_grid(scores: np.ndarray, title: str = "", top: int = 5) -> Figure:
    """Draw one score for each head, (layers, heads), as a heat map; ring and list the `top` largest.

    Scores of both signs get two colours, with white at zero, and the ones farthest from zero are ringed.

    Raises ValueError if the scores aren't two-dimensional or aren't finite, TypeError if they are no numbers.
    """
    scores = _read_scores(scores)
    whole("top", top, 0)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores must have the shape (layers, heads), and these have {scores.shape}")
    layers, heads = scores.shape
    fig = Figure(figsize=(0.28 * layers + 3.4, 0.28 * heads + 1.7), layout="constrained")
    ax = fig.subplots()
    limit = np.abs(scores).max() or 1
    colors = {"cmap": SIGNED, "vmin": -limit} if scores.min() < 0 else {"cmap": WEIGHTS, "vmin": 0}
    image = ax.imshow(scores.T, vmax=limit, **colors)
    step = 5 if layers > 12 else 1
    ax.set(xlabel="layer", ylabel="head", xticks=range(0, layers, step), yticks=range(heads))
    ax.set_title(title, parse_math=False)
    fig.colorbar(image, ax=ax, pad=0.02, aspect=12, shrink=0.7)
    _ring_largest(ax, scores, top)
    return fig


def _read_scores(scores: np.ndarray) -> np.ndarray:
    if not hasattr(scores, "shape"):
        scores = listed("scores", scores, "numbers, (layers, heads)")
    return finite("scores", numbers("scores", scores).astype(float))


def _ring_largest(ax: Axes, scores: np.ndarray, count: int) -> None:
    """Ring the `count` scores farthest from zero, the first of equals first, and list them in a legend."""
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")[:count]
    largest = [divmod(int(i), scores.shape[1]) for i in order]  # (layer, head) of each
    rings = [ax.add_patch(_ring(layer, head)) for layer, head in largest]
    names = [f"{layer}.{head}   {scores[layer, head]:.2f}" for layer, head in largest]
    square = {"handlelength": 0.8, "handleheight": 0.8}
    ax.figure.legend(rings, names, loc="outside right center", title="layer.head", fontsize=13, **square)


def _ring(layer: int, head: int) -> Rectangle:
    halo = [withStroke(linewidth=4.5, foreground="white")]
    style = {"edgecolor": INK, "linewidth": 2, "clip_on": False, "zorder": 3, "path_effects": halo}
    return Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, **style)
