"""Pictures and widgets for the lessons.

*compute* functions return values, *draw* functions figures, *explore* functions widgets. Each module is about
one subject, and has its functions in this order. A lesson displays a figure with
`show(fig, alt="what the figure shows")`.

Read `style` and `figures` first (how a figure looks, and how a notebook displays it), then `course_map`,
`tokens`, three views of attention weights (`attention`, `attention_row`, `bertviz_offline`), `alignment`,
`training`, `experts`, `next_token`, `guess` and `tiling` (FlashAttention's tiles). The last one needs the
package `kernels`, and is imported from its own module: `from course_lib.show.tiling import tile_steps`.
"""

from course_lib.show.alignment import draw_alignment
from course_lib.show.attention import AttentionWeights, attention, draw_attention, draw_head_grid
from course_lib.show.attention_row import draw_row, explore_attention
from course_lib.show.bertviz_offline import head_view, model_view
from course_lib.show.course_map import describe_map, draw_map
from course_lib.show.experts import Routing, describe_routing, draw_routing, routing
from course_lib.show.figures import Html, show
from course_lib.show.guess import guess_game
from course_lib.show.next_token import NextToken, describe_next_token, draw_next_token, next_token
from course_lib.show.style import use_style
from course_lib.show.tokens import draw_tokens, explore_tokens, figure_tokens
from course_lib.show.training import draw_loss, live_loss

__all__ = [
    "AttentionWeights",
    "Html",
    "NextToken",
    "Routing",
    "attention",
    "describe_map",
    "describe_next_token",
    "describe_routing",
    "draw_alignment",
    "draw_attention",
    "draw_head_grid",
    "draw_loss",
    "draw_map",
    "draw_next_token",
    "draw_routing",
    "draw_row",
    "draw_tokens",
    "explore_attention",
    "explore_tokens",
    "figure_tokens",
    "guess_game",
    "head_view",
    "live_loss",
    "model_view",
    "next_token",
    "routing",
    "show",
    "use_style",
]
