"""A game: guess who wrote which text. A running notebook shows menus for it, a stored one only the texts."""

import html
import textwrap
from collections.abc import Mapping, Sequence

from ipywidgets import HTML, Button, Dropdown, HBox, VBox

from course_lib.arguments import listed, whole
from course_lib.show.figures import in_notebook, show_widget

LETTERS = "ABCDEFGHIJ"


def guess_game(texts: Sequence[tuple[str, str]], width: int = 96) -> None:
    """Print each text after a letter, then all writers' names; in a notebook, display a menu for each text.

    texts: pairs (writer, text), in the order in which they are shown.
    width: the length of a printed line, in characters.

    Raises ValueError for no text, or more than ten, and for lines of fewer than 20 characters; TypeError for
    what is no list of pairs of texts.
    """
    texts = [tuple(listed("each text", pair, "a pair (writer, text)")) for pair in listed("texts", texts)]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in texts):
        raise TypeError("each text must be a pair (writer, text)")
    whole("width", width, 20, 1_000)
    if not 1 <= len(texts) <= len(LETTERS):
        raise ValueError(f"a game has 1 to {len(LETTERS)} texts, not {len(texts)}")
    for letter, (_, text) in zip(LETTERS, texts, strict=False):
        words = " ".join(text.split())
        print(textwrap.fill(f"{letter}  {words}", width, subsequent_indent="   "), end="\n\n")
    answers = {letter: writer for letter, (writer, _) in zip(LETTERS, texts, strict=False)}
    print("Who wrote which? " + " · ".join(sorted(set(answers.values()))))
    if in_notebook():
        _show_menus(answers)


def grade(guesses: Mapping[str, str], answers: Mapping[str, str]) -> list[str]:
    """Return a line for each letter, and a last line with the number of right guesses.

    guesses, answers: letter → writer. A letter without a guess counts as wrong.
    """
    lines = []
    for letter, writer in answers.items():
        guess = guesses.get(letter)
        verdict = "right" if guess == writer else f"you said {guess}" if guess else "no guess"
        lines.append(f"{letter}: {writer} ({verdict})")
    right = sum(guesses.get(letter) == writer for letter, writer in answers.items())
    by_chance = len(answers) / len(set(answers.values()))
    return [*lines, f"{right} of {len(answers)} right; guessing blindly gets {by_chance:.1f} on average"]


def _show_menus(answers: dict[str, str]) -> None:
    choices = [("?", None), *((writer, writer) for writer in sorted(set(answers.values())))]
    menus = {letter: Dropdown(options=choices, description=letter) for letter in answers}
    button, verdict = Button(description="Who was it?"), HTML()

    def reveal(_: Button) -> None:
        lines = grade({letter: menu.value for letter, menu in menus.items()}, answers)
        verdict.value = "<br>".join(map(html.escape, lines))

    button.on_click(reveal)
    text = "Menus to guess with appear here when you run this cell."
    show_widget(VBox([*menus.values(), HBox([button]), verdict]), text)
