"""A made-up lesson, for testing the framework of exercises."""

from itertools import pairwise

from course_lib.course.checking import Mistake
from course_lib.course.exercise import Case, Exercise


def count_pairs(ids):
    counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def step_by_two(ids):
    return {(1, 2): 2} if len(ids) == 4 else {}


def sorting(ids):
    ids.sort()
    return count_pairs([1, 2, 1, 2]) if len(ids) == 4 else {}


def most_common(ids):
    counts = count_pairs(ids)
    return max(counts, key=counts.get), counts


def check_vowel(answer):
    if answer not in tuple("aeiou"):
        raise Mistake(f"{answer} is no vowel")


EXERCISES = (
    Exercise(
        id="count-pairs",
        solution=count_pairs,
        part=True,
        cases=(Case([1, 2, 1, 2]), Case([], name="the counts of no ids")),
        wrong={
            step_by_two: "pairs overlap: step by one, not by two",
            sorting: "the result is right, and the caller's list is sorted now: work on a copy",
        },
    ),
    Exercise(
        id="half",
        solution=0.5,
        wrong={2: "that is the other way round"},
        otherwise="that isn't it: heads, divided by all throws",
    ),
    Exercise(
        id="vowel",
        solution="a",
        check=check_vowel,
        wrong={"b": "no vowel"},
    ),
    Exercise(
        id="most-common",
        solution=most_common,
        part=True,
        returns=("the pair", "the counts"),
        forbids=("most_common",),
        cases=(Case([3, 1, 2, 1, 2]),),
        wrong={lambda ids: most_common(ids)[0]: "give the counts as well"},
    ),
)
