"""A game: which of these wrote which text? Menus where a notebook is alive, and the texts alone on any other page."""

import html
import textwrap
from collections.abc import Mapping, Sequence

from ipywidgets import HTML, Button, Dropdown, HBox, VBox

from course_lib.show.figures import in_notebook, show_widget

LETTERS = "ABCDEFGHIJ"


def guess_game(texts: Sequence[tuple[str, str]], width: int = 96) -> None:
    """Print each text under a letter, without saying who wrote it, and ask.

    texts: pairs (who wrote it, text), in the order in which they are shown. Raises ValueError for none, or more than ten.
    """
    if not 1 <= len(texts) <= len(LETTERS):
        raise ValueError(f"a game has 1 to {len(LETTERS)} texts, not {len(texts)}")
    answers = {letter: who for letter, (who, _) in zip(LETTERS, texts, strict=False)}
    for letter, (_, text) in zip(LETTERS, texts, strict=False):
        print(
            textwrap.fill(f"{letter}  {' '.join(text.split())}", width, subsequent_indent="   "), end="\n\n"
        )
    print("Who wrote which? " + " · ".join(sorted(set(answers.values()))))
    if in_notebook():
        _show_menus(answers)


def mark(guesses: Mapping[str, str], answers: Mapping[str, str]) -> list[str]:
    """A line for each letter, then how many are right. A letter without a guess counts as wrong."""
    lines = []
    for letter, who in answers.items():
        guess = guesses.get(letter)
        verdict = "right" if guess == who else f"you said {guess}" if guess else "no guess"
        lines.append(f"{letter}: {who} ({verdict})")
    right = sum(guesses.get(letter) == who for letter, who in answers.items())
    blind = len(answers) / len(set(answers.values()))
    return [*lines, f"{right} of {len(answers)} right; guessing blindly gets {blind:.1f} on average"]


def _show_menus(answers: dict[str, str]) -> None:
    choices = [("?", None), *((who, who) for who in sorted(set(answers.values())))]
    menus = {letter: Dropdown(options=choices, description=letter) for letter in answers}
    button, verdict = Button(description="Who was it?"), HTML()

    def reveal(_: Button) -> None:
        lines = mark({letter: menu.value for letter, menu in menus.items()}, answers)
        verdict.value = "<br>".join(map(html.escape, lines))

    button.on_click(reveal)
    text = "Menus to guess with appear here when you run this cell."
    show_widget(VBox([*menus.values(), HBox([button]), verdict]), text)
