"""Every entry of `course_lib.course` under odd arguments."""

from sweep.frame import Call, printed, sweep

from course_lib.course import check, hint, lessons, mine, progress, quiz, solution, start

FIRST = next(iter(lessons.parts().values()))
HUGE = "4611686018427387904"


LETTER = "the answers are listed, to choose from"
CALLS = {
    # an answer may be anything: test_course says what each kind of wrong answer is told
    "check": Call(printed(check), {"id": FIRST.id, "answer": FIRST.solution}, keep=("answer",)),
    "hint": Call(printed(hint), {"id": FIRST.id}),
    "mine": Call(mine, {"id": FIRST.id}),
    "progress": Call(printed(progress), {"reset": False}),
    "quiz": Call(
        printed(quiz),
        {"id": "why-bytes", "letter": "a"},
        {
            f"letter {odd}": LETTER
            for odd in (
                "is an object",
                "is empty",
                "is half a character",
                "is an unknown word",
                "is bytes",
                "is a number",
            )
        },
    ),
    "solution": Call(printed(solution), {"id": FIRST.id}),
    "start": Call(printed(start), {"seed": 1}, {"seed is 0": "another seed"}),
}

test_every_entry_is_swept, test_sweep = sweep("course_lib.course", CALLS)
