"""The way of a text is as `course_lib`'s docstring tells it."""

import inspect
import re
import sys
from itertools import islice

import course_lib
from course_lib.families import load_smollm2
from course_lib.generate import complete

STEPS = re.findall(r"^(\d)\. (.*?)(?=^\d\. |\Z)", course_lib.__doc__, re.MULTILINE | re.DOTALL)
NAMES = [name for _, step in STEPS for name in re.findall(r"`([\w.]+)`", step)]


def called_while(run):
    """The course's functions in the order in which they first began; generators, in which they first yielded.

    Named such as "model.block.Block.forward".
    """
    names = {}

    def record(frame, event, _):
        module, generator = frame.f_globals.get("__name__", ""), frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == ("return" if generator else "call") and module.startswith("course_lib."):
            names.setdefault(f"{module.removeprefix('course_lib.')}.{frame.f_code.co_qualname}")

    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(names)


def test_a_text_takes_these_eight_steps_in_this_order():
    lm = load_smollm2()
    called = called_while(lambda: list(islice(complete(lm, "Hello"), 3)))
    assert [number for number, _ in STEPS] == list("12345678") and len(NAMES) == 15
    assert [name for name in called if name in NAMES] == NAMES
