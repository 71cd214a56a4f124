"""Every entry of `course_lib.show` under odd arguments: what is drawn is looked at as pixels and text."""

import io

import numpy as np
import torch
from sweep.frame import Call, printed, sweep

from course_lib.course.contents import lesson_numbers
from course_lib.families import load_world
from course_lib.show import (
    AttentionWeights,
    Html,
    attention,
    describe_map,
    describe_next_token,
    describe_routing,
    draw_alignment,
    draw_attention,
    draw_head_grid,
    draw_loss,
    draw_map,
    draw_next_token,
    draw_routing,
    draw_row,
    draw_tokens,
    explore_attention,
    explore_tokens,
    figure_tokens,
    guess_game,
    head_view,
    live_loss,
    model_view,
    next_token,
    routing,
    show,
    use_style,
)
from course_lib.train import History

LM = load_world()
WORDS = ["the", "tiger", "ran"]
WEIGHTS = torch.eye(3)[None, None].double()  # one layer, one head
ATT = AttentionWeights(WORDS, WEIGHTS.numpy())
LOGITS = torch.arange(8.0)
NEXT = next_token(LOGITS, LOGITS / 2, str, n=3)
ROUTING = routing(WORDS, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), 2)


def picture(figure) -> object:
    """What a figure looks like: all of its texts, then its pixels at low resolution."""
    if isinstance(figure, Html):
        return [figure.html, figure.text]
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    figure.savefig(file := io.BytesIO(), format="rgba", dpi=20)
    return [*texts, file.getvalue()]


def drawn(function):
    """The function, with what its figure looks like as its result."""
    call = lambda **arguments: picture(function(**arguments))
    call.__wrapped__ = function
    return call


HISTORY = History()
HISTORY.losses.extend([3.0, 2.0, 1.0])
ONE = {"layer": 0, "head": 0}
FIRST = {f"{place} is 0": "the first" for place in ("layer", "head", "query")}
HUGE = "4611686018427387904"
MAP = {"numbers is empty": "no lesson is out yet", "numbers holds an unknown name": "that of another lesson"}
IDS = {f"ids holds {odd}": "shown as it is" for odd in ("-1", "a huge number")}
LEVELS = {"levels is empty": "no level", "levels holds an unknown name": "a level's name is the caller's"}
WHOLE = "whole numbers are numbers"
ROW = "a batch of one"
OTHER = "another text"
CALLS = {
    "AttentionWeights": Call(AttentionWeights, {"tokens": WORDS, "weights": WEIGHTS.numpy()}),
    "AttentionWeights.row": Call(AttentionWeights.row, {"self": ATT, **ONE, "query": 1}, fine=FIRST),
    "AttentionWeights.index": Call(AttentionWeights.index, {"self": ATT, "word": "tiger"}),
    "Html": Call(Html, {"html": "<b>a</b>", "text": "a"}, keep=("html", "text")),
    "attention": Call(
        attention, {"lm": LM, "text": "The tiger ran."}, fine={"text is an unknown word": OTHER}
    ),
    "describe_map": Call(describe_map, {"numbers": lesson_numbers()}, fine=MAP),
    "describe_next_token": Call(describe_next_token, {"t": NEXT}),
    "describe_routing": Call(describe_routing, {"r": ROUTING}),
    "draw_alignment": Call(
        drawn(draw_alignment),
        {"source": WORDS, "target": WORDS, "weights": np.eye(3), "links": [(0, 0)], "title": "t"},
        fine={"links is empty": "no word is linked"},
        keep=("title",),
    ),
    "draw_attention": Call(drawn(draw_attention), {"att": ATT, **ONE, "query": 1}, fine=FIRST),
    "draw_head_grid": Call(
        drawn(draw_head_grid),
        {"scores": [[0.5, 0.25], [1.0, 0.0]], "title": "t", "top": 2},
        fine={"top is 0": "no ring", f"top is {HUGE}": "all"},
        keep=("title",),
    ),
    "draw_loss": Call(
        drawn(draw_loss), {"histories": {"a": HISTORY}, "levels": {"guessing": 2.0}}, fine=LEVELS
    ),
    "draw_map": Call(drawn(draw_map), {"numbers": lesson_numbers()}, fine=MAP),
    "draw_next_token": Call(drawn(draw_next_token), {"t": NEXT, "title": "t"}, keep=("title",)),
    "draw_routing": Call(drawn(draw_routing), {"r": ROUTING, "title": "t"}, keep=("title",)),
    "draw_row": Call(drawn(draw_row), {"att": ATT, **ONE, "query": 1, "width": 11.0}, fine=FIRST),
    "draw_tokens": Call(drawn(draw_tokens), {"tokens": WORDS, "ids": [1, 2, 3]}, fine=IDS),
    "explore_attention": Call(
        printed(explore_attention),
        {"lm": LM, "text": "The tiger ran.", **ONE, "query": -1},
        fine={
            "text is an unknown word": OTHER,
            "layer is 0": "the first",
            "head is 0": "the first",
            "query is 0": "the first",
            "query is -1": "the last",
        },
    ),
    "explore_tokens": Call(
        printed(explore_tokens),
        {"tokenizer": LM.tokenizer, "text": "The tiger"},
        fine={
            f"text {odd}": why
            for odd, why in (
                ("is empty", "says that there is none"),
                ("is half a character", "says so"),
                ("is an unknown word", OTHER),
            )
        },
    ),
    "figure_tokens": Call(drawn(figure_tokens), {"tokens": WORDS, "ids": [1, 2, 3], "width": 10.0}, fine=IDS),
    "guess_game": Call(printed(guess_game), {"texts": [("Ann", "a text"), ("Bob", "another")], "width": 60}),
    "head_view": Call(
        head_view,
        {"weights": WEIGHTS, "tokens": WORDS, "layers": [0], "heads": [0]},
        fine={"weights holds whole numbers": WHOLE},
    ),
    "live_loss": Call(
        lambda levels: live_loss(levels).levels,
        {"levels": {"guessing": 2.0}},
        fine={"levels is None": "no level", "levels holds an unknown name": "a level of the caller"},
    ),
    "model_view": Call(
        model_view,
        {"weights": WEIGHTS, "tokens": WORDS, "layers": [0], "heads": [0]},
        fine={"weights holds whole numbers": WHOLE},
    ),
    "next_token": Call(
        next_token,
        {"before": LOGITS, "after": LOGITS / 2, "token_text": str, "n": 3},
        fine={
            f"{name} {odd}": why
            for name in ("before", "after")
            for odd, why in (("has one more dimension", ROW), ("holds whole numbers", WHOLE))
        },
    ),
    "routing": Call(
        routing,
        {"tokens": WORDS, "scores": torch.randn(3, 4), "n_active": 2, "normalize": True, "capacity": 1.0},
        fine={"scores is narrower": "fewer experts"},
    ),
    "show": Call(
        printed(show),
        {"fig": draw_map(lesson_numbers()), "alt": "a map"},
        fine={"alt is half a character": "another text", "alt is an unknown word": "another text"},
    ),
    "use_style": Call(use_style, {}),
}
RESULT = "what a function returns"
EXEMPT = {"NextToken": RESULT, "Routing": RESULT}

test_every_entry_is_swept, test_sweep = sweep("course_lib.show", CALLS, EXEMPT)
