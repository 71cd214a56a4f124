"""All quiz questions: one right answer, every answer explained, no pattern in where the right one stands."""

from collections import Counter

import pytest
from notebook_files import NOTEBOOKS, calls, code_cells, first_argument, name

from course_lib.course.contents import all_lessons, find_lesson
from course_lib.course.lessons import questions_of
from course_lib.course.session import Session

LESSONS = all_lessons()
QUESTIONS = [question for lesson in LESSONS for question in questions_of(lesson)]

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
each_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def one_line(text):
    return " ".join(text.split())


def place_of_the_right(question):
    return next(letter for letter, choice in question.lettered().items() if choice.right)


def test_ids_are_unique_words():
    ids = Counter(question.id for question in QUESTIONS)
    assert set(ids.values()) == {1}
    assert all(id == id.lower() and id.replace("-", "").isalpha() for id in ids)


@each_question
def test_a_question_has_one_right_answer_and_explains_them_all(question):
    assert 2 <= len(question.choices) <= 5
    assert sum(choice.right for choice in question.choices) == 1
    for texts in ({choice.text for choice in question.choices}, {choice.why for choice in question.choices}):
        assert len(texts) == len(question.choices) and all(texts)


@each_question
def test_answering_tells_right_from_wrong(question, capsys, own_record):
    for letter, choice in question.lettered().items():
        Session().quiz(question.id, letter)
        verdict = "Right" if choice.right else "Not this one"
        assert one_line(capsys.readouterr().out) == one_line(f"{letter}) {verdict}. {choice.why}")
    assert question.id in (own_record / "progress.json").read_text()


@each_lesson
def test_a_lesson_asks_three_questions_whose_right_answers_differ_in_place(lesson):
    questions = questions_of(lesson)
    assert len(questions) == 3 and len(set(map(place_of_the_right, questions))) > 1


def test_right_answers_are_spread_over_all_places():
    """Neither a letter, nor a lesson's order of letters, nor being the longest tells the right answer."""
    places = Counter(map(place_of_the_right, QUESTIONS))
    assert set(places) == {"a", "b", "c"} and max(places.values()) <= 0.45 * len(QUESTIONS)
    orders = Counter("".join(map(place_of_the_right, questions_of(lesson))) for lesson in LESSONS)
    assert max(orders.values()) <= len(LESSONS) // 3
    longest = [max(question.choices, key=lambda choice: len(choice.text)).right for question in QUESTIONS]
    assert sum(longest) <= 0.55 * len(QUESTIONS)


@each_notebook
def test_notebook_and_lesson_have_the_same_questions(path):
    asked = [call for cell in code_cells(path) for call in calls(cell, "quiz")]
    assert [first_argument(call) for call in asked] == [
        question.id for question in questions_of(find_lesson(name(path)))
    ]
    assert all(len(call.args) == 1 for call in asked)
