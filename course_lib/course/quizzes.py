"""Quiz questions: made from a lesson's `quiz.toml`, and shown as plain text and as buttons."""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One answer to a question, with the explanation for a learner who picks it."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A quiz question. Its choices have the letters a, b, c… in the given order."""

    id: str
    text: str
    choices: tuple[Choice, ...]

    def lettered(self) -> dict[str, Choice]:
        return dict(zip("abcdefgh"[: len(self.choices)], self.choices, strict=True))


def make_questions(quiz: dict) -> tuple[Question, ...]:
    """Return the questions of a quiz.toml: tables `[[question]]`, each with `[[question.choice]]`."""
    return tuple(
        Question(question["id"], question["text"], tuple(Choice(**choice) for choice in question["choice"]))
        for question in quiz["question"]
    )


def question_text(question: Question) -> str:
    choices = [f"  {letter}) {choice.text}" for letter, choice in question.lettered().items()]
    return "\n".join([question.text, *choices])


def answer_text(question: Question, letter: str) -> str:
    """Return whether the chosen answer is right, followed by its own explanation."""
    choice = question.lettered()[letter]
    return f"{letter}) {'Right' if choice.right else 'Not this one'}. {choice.why}"


def show_buttons(question: Question, answer: Callable[[str], str]) -> None:
    """Show a button for each choice. A click shows the text that `answer(letter)` returns.

    Outside a notebook this does nothing.
    """
    try:
        from ipywidgets import HTML, Button, HBox, VBox

        from course_lib.show.figures import in_notebook, show_widget
    except ImportError:
        return
    if not in_notebook():
        return
    feedback = HTML()
    buttons = [
        Button(description=letter, tooltip=choice.text) for letter, choice in question.lettered().items()
    ]
    for button in buttons:
        button.layout.width = "4em"
        button.on_click(lambda clicked: setattr(feedback, "value", _as_html(answer(clicked.description))))
    *first, last = question.lettered()
    text = f"Buttons {', '.join(first)} and {last} appear here when you run this cell."
    show_widget(VBox([HBox(buttons), feedback]), text)


def _as_html(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return f'<div role="status" style="max-width: 45em; line-height: 1.4">{marked}</div>'
