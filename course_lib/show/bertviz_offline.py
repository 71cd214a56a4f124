"""bertviz's head view and model view of attention weights, without internet access.

Jesse Vig, "A Multiscale Visualization of Attention in the Transformer Model" (2019). bertviz's own page loads
require.js, d3 and jQuery from the internet, and shows nothing in JupyterLab without them. Here d3 (from
mpld3) and jQuery (from XStatic-jQuery) are part of the page, in a scope that only the view can access.

The same weights give the same HTML. Other processors round differently, which shows in the three decimals of
thousands of weights; so tag a cell that ends in a view with `nbval-ignore-output`.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import torch

from course_lib.arguments import listed, whole
from course_lib.show.checks import attention_weights, texts
from course_lib.show.figures import Html
from course_lib.show.tokens import token_name

# Paul Tol's "muted" scheme. A colour-blind reader can't tell all of bertviz's own ten colours apart.
COLORS = ["#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE"]
COLORS += ["#882255", "#44AA99", "#999933", "#AA4499", "#666666"]

PLACEHOLDER = "To see this view, run the cell or trust the notebook."
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
    """Return bertviz's head view: the tokens in two columns, with lines in a colour for each head.

    weights: (layers, heads, query, key).
    tokens: the text of each token.
    layers: the layers to choose from, of which the first is shown at first; all by default.
    heads: the heads that are switched on at first; all by default.

    Raises ValueError if weights and tokens don't fit, if weights aren't finite or there are none, or if a
    layer or head doesn't exist; TypeError for weights that are no numbers, and tokens that are no texts.
    """
    from bertviz import head_view as view

    attention, names, layers, heads = _prepare(weights, tokens, layers, heads)
    page = view(
        attention,
        names,
        layer=layers[0],
        heads=heads,
        include_layers=layers,
        html_action="return",
    )
    return _offline(page.data, f"bertviz head view: {len(names)} tokens, layers {layers}")


def model_view(
    weights: torch.Tensor | np.ndarray,
    tokens: Sequence[str],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Html:
    """Return bertviz's model view: a thumbnail of each head of each layer, to click on.

    weights: (layers, heads, query, key).
    tokens: the text of each token.
    layers: the layers to show; all by default.
    heads: the heads to show; all by default.

    Raises ValueError if weights and tokens don't fit, if weights aren't finite or there are none, or if a
    layer or head doesn't exist; TypeError for weights that are no numbers, and tokens that are no texts.
    """
    from bertviz import model_view as view

    attention, names, layers, heads = _prepare(weights, tokens, layers, heads)
    page = view(
        attention,
        names,
        display_mode="light",
        include_layers=layers,
        include_heads=heads,
        html_action="return",
    )
    return _offline(page.data, f"bertviz model view: {len(names)} tokens, layers {layers}")


def _prepare(
    weights: torch.Tensor | np.ndarray,
    tokens: Sequence[str],
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
) -> tuple[list[torch.Tensor], list[str], list[int], list[int]]:
    """Return bertviz's arguments: a tensor (1, heads, query, key) for each layer, names, layers and heads.

    The weights are rounded to three decimals, which keeps the page small.
    """
    tokens = texts("tokens", tokens)
    weights = attention_weights(weights, len(tokens)).astype(float)
    rounded = torch.from_numpy(weights).round(decimals=3)
    layers = _list_indices("layers", layers, weights.shape[0])
    heads = _list_indices("heads", heads, weights.shape[1])
    return [layer[None] for layer in rounded], list(map(token_name, tokens)), layers, heads


def _list_indices(axis: str, chosen: Sequence[int] | None, size: int) -> list[int]:
    """Return `chosen` as a list, or all indices if it is None.

    Raises ValueError if it is empty, or if an index is out of range.
    """
    chosen = range(size) if chosen is None else listed(axis, chosen, "a list of numbers")
    indices = [whole(axis, index) for index in chosen]
    if not indices or not set(indices) <= set(range(size)):
        raise ValueError(f"choose {axis} from 0 to {size - 1}; {indices} can't be shown")
    return indices


def _offline(page: str, text: str) -> Html:
    """Put the libraries into bertviz's page, and let the browser choose its random id.

    text: shown where HTML can't be displayed.
    """
    parts = r"<script src=.*?</script>(.*?)<script[^>]*>(.*)</script>\s*"
    body, view = re.fullmatch(parts, page, re.DOTALL).groups()
    root = re.search(r"bertviz-[0-9a-f]{32}", body)[0]
    body = body.replace(f'id="{root}"', 'class="bertviz"')
    body = body.replace("<div id='vis'>", f"<div id='vis'>{PLACEHOLDER}")
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
    """Escape what an HTML parser would take for the end of the script, or for a comment."""
    return re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.IGNORECASE)
