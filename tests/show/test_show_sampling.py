"""Pictures of what may come next, and the game of guessing who wrote a text."""

import math

import pytest
import torch

from course_lib.generate import temperature, top_k
from course_lib.show import describe_next_token, draw_next_token, guess_game, next_token
from course_lib.show.guess import grade
from course_lib.show.next_token import NextToken

LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def test_before_and_after_by_hand():
    t = next_token(LOGITS, top_k(LOGITS, 2), "abcd".__getitem__, n=3)
    assert t.tokens == ["b", "d", "c", "1 others"]
    assert t.before.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert t.after.tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert t.kept == 2 and t.entropies[0] > t.entropies[1]
    assert describe_next_token(t).startswith("2 tokens can come; b 0.40 → 0.57, d 0.30 → 0.43, c 0.20 → 0.00")


def test_the_picture_has_two_bars_a_token_and_crosses_out_what_cannot_come():
    t = next_token(LOGITS, top_k(LOGITS, 2), ["$a$", " b", "\n", "🐯"].__getitem__, n=3)
    ax = draw_next_token(t, "a title").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["␣b", "‹1F42F›", "\\n", "1 others"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.4, 0.3, 0.2, 0.1, 4 / 7, 3 / 7, 0, 0])
    assert [line.get_ydata()[0] for line in ax.lines] == [2, 3]
    draw_next_token(t).savefig("/dev/null", format="png")


def test_warmer_is_flatter():
    t = next_token(LOGITS[None], temperature(LOGITS, 5.0)[None], "abcd".__getitem__, n=4)
    assert isinstance(t, NextToken) and t.entropies[0] < t.entropies[1] < math.log(4)


@pytest.mark.parametrize("after, n", [(LOGITS[:3], 2), (LOGITS, 0), (LOGITS, 5)])
def test_what_cannot_be_drawn_is_refused(after, n):
    with pytest.raises(ValueError, match="one vocabulary|one picture shows 1 to 4"):
        next_token(LOGITS, after, "abcd".__getitem__, n)


def test_the_game_shows_texts_and_not_who_wrote_them(capsys):
    guess_game([("cold", "the the the"), ("hot", "a\nzebra  sang " * 12)])
    said = capsys.readouterr().out
    assert "A  the the the" in said and "B  a zebra sang a" in said
    assert "Who wrote which? cold · hot" in said and max(map(len, said.splitlines())) <= 96
    for texts in ([], [("x", "y")] * 11):
        with pytest.raises(ValueError, match="a game has 1 to 10 texts"):
            guess_game(texts)


def test_guesses_are_graded():
    answers = {"A": "cold", "B": "hot", "C": "cold"}
    assert grade({"A": "cold", "B": "cold", "C": None}, answers) == [
        "A: cold (right)",
        "B: hot (you said cold)",
        "C: cold (no guess)",
        "1 of 3 right; guessing blindly gets 1.5 on average",
    ]


def test_in_a_notebook_the_menus_reveal(monkeypatch):
    from course_lib.show import figures, guess

    shown, made = [], []
    monkeypatch.setattr(guess, "in_notebook", lambda: True)
    monkeypatch.setattr(figures, "display", lambda data, raw: shown.append(data))
    original = guess.VBox
    monkeypatch.setattr(guess, "VBox", lambda parts: made.append(parts) or original(parts))
    guess_game([("cold", "a"), ("hot", "b")])
    first, second, row, verdict = made[0]
    assert shown[0]["text/plain"].startswith("Menus to guess")
    assert [menu.description for menu in (first, second)] == ["A", "B"]
    first.value, second.value = "cold", "cold"
    row.children[0].click()
    assert "A: cold (right)" in verdict.value and "1 of 2 right" in verdict.value
