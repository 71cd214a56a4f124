"""bertviz's own views of attention, drawn without a network.

bertviz's page fetches require.js, d3 and jQuery from the internet, and shows nothing in JupyterLab without
them. Here d3 (from mpld3) and jQuery (from XStatic-jQuery) are put into the page itself, visible to the view
alone. Jesse Vig, "A Multiscale Visualization of Attention in the Transformer Model" (2019).

The HTML is the same whenever the weights are. Another processor rounds differently, and three decimals of
thousands of weights show it: tag a cell that ends in a view `nbval-ignore-output`.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import torch

from course_lib.show.figures import Html
from course_lib.show.tokens import token_name

# Paul Tol's "muted" scheme in place of bertviz's ten colours, not all told apart by a colour-blind reader.
COLORS = ["#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE"]
COLORS += ["#882255", "#44AA99", "#999933", "#AA4499", "#666666"]

UNSEEN = "To see this view, run the cell or trust the notebook."
PAGE = """\
<div style="background: #fff; color: #111; padding: 6px; overflow-x: auto">
%(body)s
<script>
(function () {
const root = document.currentScript.parentElement.querySelector(".bertviz");
root.id = "bertviz-" + Math.random().toString(36).slice(2);
function load(define) {
  const module = {exports: {}};
  define.call(window, module, module.exports);
  return module.exports;
}
const d3 = load(function (module, exports) { %(d3)s
});
const jquery = load(function (module, exports) { %(jquery)s
});
const requirejs = (names, draw) => draw(jquery, d3);
%(view)s
})();
</script>
</div>
"""


def head_view(
    weights: torch.Tensor | np.ndarray,
    tokens: Sequence[str],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Html:
    """bertviz's head view: tokens twice, lines between them, a colour for each head.

    weights  (layers, heads, query, key)
    layers   those to choose from, the first one shown first (default: all)
    heads    those switched on at first (default: all)

    Raises ValueError when shapes and tokens don't agree, or a layer or head doesn't exist.
    """
    from bertviz import head_view as view

    attention, layers, heads = _prepare(weights, tokens, layers, heads)
    page = view(
        attention,
        [token_name(token) for token in tokens],
        layer=layers[0],
        heads=heads,
        include_layers=layers,
        html_action="return",
    )
    return _offline(page.data, f"bertviz head view: {len(tokens)} tokens, layers {layers}")


def model_view(
    weights: torch.Tensor | np.ndarray,
    tokens: Sequence[str],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Html:
    """bertviz's model view: every head of every layer as a thumbnail, to click on.

    weights  (layers, heads, query, key)
    layers, heads  those to show (default: all)

    Raises ValueError when shapes and tokens don't agree, or a layer or head doesn't exist.
    """
    from bertviz import model_view as view

    attention, layers, heads = _prepare(weights, tokens, layers, heads)
    page = view(
        attention,
        [token_name(token) for token in tokens],
        display_mode="light",
        include_layers=layers,
        include_heads=heads,
        html_action="return",
    )
    return _offline(page.data, f"bertviz model view: {len(tokens)} tokens, layers {layers}")


def _prepare(weights, tokens, layers, heads) -> tuple[list[torch.Tensor], list[int], list[int]]:
    """What bertviz takes: a (1, heads, query, key) for each layer, rounded to keep the page small."""
    weights = torch.as_tensor(weights)
    n = len(tokens)
    if weights.ndim != 4 or weights.shape[2:] != (n, n):
        shape = tuple(weights.shape)
        raise ValueError(f"{n} tokens need weights (layers, heads, {n}, {n}), and these are {shape}")
    rounded = weights.detach().cpu().double().round(decimals=3)
    numbers = _choose("layers", layers, weights.shape[0]), _choose("heads", heads, weights.shape[1])
    return [layer[None] for layer in rounded], *numbers


def _choose(what: str, chosen: Sequence[int] | None, count: int) -> list[int]:
    """`chosen` as a list, all when None. Raises ValueError when it is empty or names what doesn't exist."""
    numbers = list(range(count)) if chosen is None else [int(number) for number in chosen]
    if not numbers or not set(numbers) <= set(range(count)):
        raise ValueError(f"choose {what} from 0 to {count - 1}; {numbers} can't be shown")
    return numbers


def _offline(page: str, text: str) -> Html:
    """bertviz's page with its libraries inside, and its random id left for the browser to draw."""
    parts = r"<script src=.*?</script>(.*?)<script[^>]*>(.*)</script>\s*"
    body, view = re.fullmatch(parts, page, re.DOTALL).groups()
    root = re.search(r"bertviz-[0-9a-f]{32}", body)[0]
    body = body.replace(f'id="{root}"', 'class="bertviz"')
    body = body.replace("<div id='vis'>", f"<div id='vis'>{UNSEEN}")
    body = re.sub(r"(Layer: <select .*?</select>)", r"<label>\1</label>", body)
    view = re.sub(r"require\.config\(\{.*?\}\);", "", view, count=1, flags=re.DOTALL)
    view = view.replace(f'"{root}"', "root.id").replace("d3.schemeCategory10", json.dumps(COLORS))
    d3, jquery = _libraries()
    return Html(PAGE % {"body": body.strip(), "d3": d3, "jquery": jquery, "view": _inline(view)}, text)


@cache
def _libraries() -> tuple[str, str]:
    d3 = files("mpld3").joinpath("js", "d3.v5.min.js").read_text(encoding="utf-8")
    jquery = files("xstatic.pkg.jquery").joinpath("data", "jquery.min.js").read_text(encoding="utf-8")
    return _inline(d3), _inline(jquery)


def _inline(script: str) -> str:
    """JavaScript that no HTML parser takes for the end of its element."""
    return re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.IGNORECASE)
