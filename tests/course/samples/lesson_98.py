"""A made-up lesson, for testing the framework of exercises and quizzes."""

from itertools import pairwise

from course_lib.course.checking import Mistake, call, close, equal, same
from course_lib.course.content import Choice, Exercise, Question, Wrong

TITLE = "Pairs"


def check_count_pairs(answer):
    got = call(answer, [1, 2, 1, 2])
    if same(len(got), 1):
        raise Mistake("pairs overlap: step by one, not by two")
    equal(got, {(1, 2): 2, (2, 1): 1}, "the counts")


def solve_count_pairs(ids):
    counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def wrong_step(ids):
    return {(1, 2): 2}


def wrong_type(ids):
    return list(pairwise(ids))


def check_half(answer):
    close(answer, 0.5, "the share")


EXERCISES = (
    Exercise(
        id="98-1",
        title="Count the pairs",
        minutes=5,
        level="easy",
        hints=("itertools.pairwise walks a list in pairs.", "counts.get(pair, 0) + 1 counts up."),
        check=check_count_pairs,
        solution=solve_count_pairs,
        wrong=(Wrong(wrong_step, "pairs overlap"), Wrong(wrong_type, "should be a dict")),
        learned="pairs that overlap count too.",
    ),
    Exercise(
        id="98-2",
        title="Half",
        minutes=2,
        level="medium",
        hints=("Count the heads.", "Divide by all."),
        check=check_half,
        solution=0.5,
        wrong=(Wrong(2, "should be 0.5, and is 2"), Wrong([1.0], "shape ()")),
        learned="half is 0.5.",
        why="One of two.",
    ),
)

QUIZ = (
    Question(
        id="98-q1",
        text="What does `zip` do with lists of different lengths?",
        choices=(
            Choice("It stops at the shorter", right=True, why="So the last item has no pair."),
            Choice("It fills up with None", why="That is itertools.zip_longest."),
        ),
    ),
)
