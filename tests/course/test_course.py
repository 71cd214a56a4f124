"""What is said to an answer, and hints, solutions and quizzes."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from notebook_files import remember

from course_lib.course import lessons
from course_lib.course.checking import Mistake, NotStarted, agree, call, close, equal, same
from course_lib.course.exercise import Case
from course_lib.course.judging import _run, alike
from course_lib.course.reading import is_blank, is_untouched, shown

SAMPLES = Path(__file__).parent / "samples"


def typed(source, name="answer"):
    """A function as a learner types it into a cell."""
    filename = remember(source, f"/nowhere/ipykernel_1/{abs(hash(source))}.py")
    namespace = {"torch": torch}
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102
    return namespace[name]


# What is said to an answer


def test_check_has_three_outcomes(session):
    assert session.check("count-pairs", None).startswith("count-pairs not started yet: write your answer")
    assert session.check("count-pairs", lambda ids: {(1, 2): 2} if ids else {}) == (
        "count-pairs not yet: pairs overlap: step by one, not by two\n"
    )
    passed = session.check("count-pairs", lessons.find_exercise("count-pairs").solution)
    assert passed.splitlines()[0] == "count-pairs passed: pairs that overlap count too."


def test_where_no_wrong_answer_is_recognised_the_first_difference_is_named(session):
    def count(ids):
        return {(1, 2): 2, (2, 1): len(ids) - 1} if ids else {}

    assert session.check("count-pairs", count) == (
        "count-pairs not yet: count_pairs([1, 2, 1, 2])[(2, 1)] should be 1, and is 3\n"
    )
    assert "the counts of no ids has a key that doesn't belong there" in session.check(
        "count-pairs", lambda ids: {(1, 2): 2, (2, 1): 1}
    )


def test_writing_on_what_was_given_is_a_mistake_and_can_be_named(session):
    def emptying(ids):
        counts = lessons.find_exercise("count-pairs").solution(ids)
        ids.clear()
        return counts

    assert "the caller's list is sorted now" in session.check("count-pairs", emptying)

    def popping(ids):
        answer = lessons.find_exercise("most-common").solution(ids)
        ids.pop()
        return answer

    assert "your function changed what it was given" in session.check("most-common", popping)


def test_several_results_are_told_apart_by_name(session):
    solution = lessons.find_exercise("most-common").solution
    assert "give the counts as well" in session.check("most-common", lambda ids: solution(ids)[0])
    assert "should give 2 things: the pair and the counts.\nIt gives" in session.check(
        "most-common", lambda ids: (1, 2, 3)
    )
    assert "most_common([3, 1, 2, 1, 2]): the pair[0] should be 1, and is 3" in session.check(
        "most-common", lambda ids: ((3, 1), solution(ids)[1])
    )


def test_what_an_exercise_forbids(session):
    def answer(ids):
        from collections import Counter

        counts = Counter(lessons.find_exercise("count-pairs").solution(ids))
        return counts.most_common(1)[0][0], dict(counts)

    assert "that calls most_common, which is what this exercise is about" in session.check(
        "most-common", answer
    )


def test_a_value_is_right_or_known_to_be_wrong_or_neither(session):
    assert session.check("half", 0.5).startswith("half passed")
    assert session.check("half", np.float32(0.5)).startswith("half passed")
    assert session.check("half", 2) == "half not yet: that is the other way round\n"
    assert session.check("half", 0.4) == "half not yet: that isn't it: heads, divided by all throws\n"
    assert session.check("half", "half") == "half not yet: the answer should be a number, and is 'half'\n"
    assert session.check("vowel", "e").startswith("vowel passed")
    assert session.check("vowel", "b") == "vowel not yet: b is no vowel\n"


def test_an_exception_is_told_without_a_traceback(session):
    answer = typed(
        "def answer(ids):\n    n = len(ids)\n    return help_me(n)\n\n"
        "def help_me(n):\n    return 1 / (n - n)\n"
    )
    assert session.check("count-pairs", answer) == (
        "count-pairs not yet: your code stopped with ZeroDivisionError: division by zero\n"
        "  line 6 of your cell: return 1 / (n - n)\n"
        "  asked for: count_pairs([1, 2, 1, 2])\n"
    )


def test_the_line_is_the_learners_own_when_a_library_raises(session):
    answer = typed("def answer(ids):\n    layer = torch.nn.Linear(2, 2)\n    return layer(torch.ones(3))\n")
    assert "\n  line 3 of your cell: return layer(torch.ones(3))\n" in session.check("count-pairs", answer)


def test_an_answer_of_the_wrong_kind(session):
    assert "wants a function, and got [1, 2]" in session.check("count-pairs", [1, 2])
    assert "should be a number, and is the function most_common" in session.check(
        "half", lessons.find_exercise("most-common").solution
    )


def test_a_check_that_stumbles_is_told_too(session, monkeypatch):
    exercise = lessons.find_exercise("vowel")
    monkeypatch.setitem(exercise.__dict__, "check", lambda answer: answer.shape)
    said = "vowel not yet: the check could not make sense of this answer. AttributeError: 'int' object has no"
    assert " ".join(session.check("vowel", 3).split()).startswith(said)


def test_an_unknown_id_names_those_that_are_near(session):
    with pytest.raises(ValueError, match="there is no exercise 'count-pair'. Did you mean 'count-pairs'"):
        session.check("count-pair", 1)
    with pytest.raises(ValueError, match="there is no question 'count-pairs'. Did you mean 'zip'"):
        session.quiz("count-pairs")
    with pytest.raises(ValueError, match="there is no exercise"):
        session.hint("")


@pytest.mark.parametrize(
    "source",
    [
        "def answer(ids):\n    ...",
        "def answer(ids):\n    '''Count.'''\n    ...  # your code here",
        "def answer(ids):\n    pass",
        "def answer(ids):\n    raise NotImplementedError('your code here')",
        "def answer(ids):\n    n = ...\n    return len(ids) + n",
        "def answer(ids):\n    return ...",
        "def answer(ids):\n    total = sum(...)\n    return total",
        "counts = ...\ndef answer(ids):\n    return counts, 1",
    ],
)
def test_a_stub_is_not_started(source, session):
    assert session.check("count-pairs", typed(source)).startswith("count-pairs not started yet:")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def answer(ids):\n    n = len(ids)", "answer gave back None. Is there a `return`"),
        ("def answer(ids):\n    n = len(ids)\n    ...", "answer gave back None"),
        ("def answer(ids):\n    return torch.tensor(ids)[..., None, 9]", "IndexError"),
        ("def answer(ids):\n    ids.clear()\n    return {}", "should have the key (1, 2)"),
        ("def answer(ids):\n    exit()", "your code calls exit()"),
        (
            "def answer(ids):\n    return torch.ones(2, 2).sort(0).softmax(0)",
            "(topk, sort, and max or min with a dim, give two things",
        ),
        ("def answer():\n    return {}", "is called with 1 argument here, and yours takes ()"),
    ],
)
def test_code_that_was_begun_is_not_a_stub(source, message, session):
    assert message in session.check("count-pairs", typed(source))


def test_blank_values():
    assert all(map(is_blank, (None, ..., [1, ...], (..., 2), {"a": ...})))
    assert not any(map(is_blank, (0, "", [], {}, [None], np.zeros(2), torch.zeros(2))))
    assert not is_untouched(torch.nn.Linear(1, 1)) and not is_untouched(len)


def test_call_hands_over_copies():
    inputs = [1, 2], {"a": [1]}, np.ones(2), torch.ones(2)

    def spoil(*args):
        args[0].clear()
        args[1]["a"].clear()
        args[2][:] = 0
        args[3].zero_()
        return True

    assert call(spoil, *inputs)
    assert inputs[0] == [1, 2] and inputs[1] == {"a": [1]} and inputs[2].sum() == 2 and inputs[3].sum() == 2
    module = torch.nn.Linear(1, 1)
    copy = call(lambda given: given.requires_grad_(False), module)
    assert copy is not module and same(copy, module, 0) and module.weight.requires_grad
    assert call(lambda given: given, torch.nn.Linear) is torch.nn.Linear


def test_one_interrupt_ends_the_whole_check(session):
    calls = []

    def interrupted(ids):
        calls.append(ids)
        raise KeyboardInterrupt

    said = "count-pairs not yet: you stopped it while it ran. Does every loop come to its end?\n"
    assert session.check("count-pairs", interrupted) == said and len(calls) == 1


def test_an_interrupt_in_what_a_probe_runs_ends_the_check_too(session):
    class Endless(torch.nn.Module):
        def __init__(self, config):
            raise KeyboardInterrupt

    assert "you stopped it while it ran" in session.check("decoder", Endless)


@pytest.mark.parametrize("error", [BaseException("odd"), GeneratorExit()])
def test_an_answer_may_raise_anything(error, session):
    def answer(ids):
        raise error

    assert f"not yet: your code stopped with {type(error).__name__}" in session.check("count-pairs", answer)


def test_no_answer_is_not_started():
    with pytest.raises(NotStarted):
        call(None)


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        ([1, 2], [1, 2, 3], "it should have 3 items, and has 2: [1, 2]"),
        ([1, [2, 5]], (1, [2, 3]), "it[1][1] should be 3, and is 5"),
        ([1, None], [1, 2], "it[1] should be 2, and is None"),
        ({"a": 1}, {"a": 1, "b": 2}, "it should have the key 'b', and hasn't"),
        ({"a": 1, "c": 2}, {"a": 1}, "it has a key that doesn't belong there: 'c'"),
        ({"a": [1]}, {"a": [2]}, "it['a'][0] should be 2, and is 1"),
        (3, [3], "it should be a list, and is 3"),
        ([3], "3", "it should be a string, and is [3]"),
        ("tigre", "tiger", "it should be 'tiger', and is 'tigre'"),
        (torch.ones(2), 1, "it should be 1, and is an array of shape (2,)"),
        (len, 1, "it should be 1, and is the function len"),
    ],
)
def test_equal_names_the_first_difference(got, want, message):
    with pytest.raises(Mistake) as raised:
        equal(got, want, "it")
    assert str(raised.value) == message
    equal(want, want, "it")


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        (0.25, 0.5, "it should be 0.5, and is 0.25"),
        ([0.5, 0.25], [0.5, 0.5], "it[1] should be 0.5, and is 0.25"),
        (torch.ones(2, 3), np.ones((3, 2)), "it should have the shape (3, 2), not (2, 3)"),
        (torch.tensor([[1.0, float("nan")]]), [[1, 2]], "it[0, 1] should be 2, and is nan"),
        (torch.ones(1, requires_grad=True, dtype=torch.bfloat16), [2], "it[0] should be 2, and is 1"),
        ("many", 2, "it should be numbers, and is 'many'"),
        ([[1], [1, 2]], [1], "it should be numbers, and is [[1], [1, 2]]"),
        (torch.ones(2, dtype=torch.bool), np.array([True, False]), "it[1] should be False, and is True"),
        (torch.ones(1), np.array([True]), "it should be truth values, and is of the type torch.float32"),
        (torch.ones(1), np.array([1]), "it should be whole numbers, and is of the type torch.float32"),
        ([1, 2], torch.tensor(1.0), "it should be one number, and is [1, 2]"),
        (torch.ones(2), 1.0, "it should be one number, and has the shape (2,)"),
        ([torch.ones(2)] * 2, torch.ones(2, 2), "it should be one tensor, and is a list of 2 items"),
        (torch.tensor([49_152]), torch.tensor([49_151]), "it[0] should be 49151, and is 49152"),
        (None, 2, "it should be numbers, and is None"),
        (["0.5"], [0.5], "it should be numbers, and is ['0.5']"),
        (torch.ones(1) * 1j, torch.ones(1), "it should be numbers, and is an array of shape (1,)"),
        (12345678, 12345, "it should be 12345, and is 12345678"),
    ],
)
def test_close_names_shape_then_value(got, want, message):
    with pytest.raises(Mistake) as raised:
        close(got, want, "it")
    assert str(raised.value) == message
    assert not same(got, want)


def test_agree_takes_an_array_for_a_list_and_a_list_for_a_tuple():
    agree(torch.tensor([1, 2]), [1, 2], "it")
    agree(np.int64(3), 3, "it")
    agree([torch.ones(2), 3], (np.ones(2), 3), "it")
    for got, want, message in (
        ([1], (1, 2), "it should give 2 things. It gives [1]"),
        ((1, 3), (1, 2), "it[1] should be 2, and is 3"),
        ({"a": 0.5001}, {"a": 0.6}, "it['a'] should be 0.6, and is 0.5001"),
    ):
        with pytest.raises(Mistake) as raised:
            agree(got, want, "it")
        assert str(raised.value) == message
    with pytest.raises(Mistake, match="it: the sum should be 2"):
        agree((1, 3), (1, 2), "it", returns=("the head", "the sum"))


def test_close_forgives_rounding_only():
    close(torch.tensor([1.0, 1000.0]), [1.00005, 1000.05], "it")
    close([float("inf")], [float("inf")], "it")
    assert not same(1.0, 1.001) and same(1.0, 1.001, tolerance=0.01)


def test_what_is_shown_has_no_addresses_and_stays_short():
    class Thing:
        pass

    values = [
        Thing(),
        Thing,
        [Thing()],
        lambda: 0,
        torch.zeros(9),
        {"b", "a", "c"},
        1 / 3,
        "x" * 999,
        list(range(99)),
    ]
    texts = [*map(shown, values), shown(np.float32(0.1)), shown(torch.tensor(2)), shown(True), shown(b"a")]
    assert not any("0x" in text or len(text) > 90 for text in texts)
    assert texts[5:7] == ["{'a', 'b', 'c'}", "0.333333"]
    assert texts[-4:] == ["0.1", "2", "True", "b'a'"]


def test_an_exercise_may_be_called_with_underscores(session):
    solution = lessons.find_exercise("count-pairs").solution
    assert session.check("count_pairs", solution).startswith("count-pairs passed")
    assert "1 of 4" in session.progress()
    assert not session.solution("count-pairs").startswith("You haven't tried")
    assert session.hint("count_pairs").startswith("count-pairs hint 1") and "hint 2" in session.hint(
        "count-pairs"
    )


def test_what_a_learner_made_and_a_probe_runs_may_fail(session):
    class Broken(torch.nn.Module):
        def __init__(self, config):
            super().__init__()

        def forward(self, tokens):
            return tokens @ tokens

    said = session.check("decoder", Broken)
    assert "your code stopped with RuntimeError" in said and "return tokens @ tokens" in said


def test_a_forbidden_call_is_found_behind_a_decorator_and_own_helpers_are_allowed(session):
    decorated = typed("@torch.no_grad()\ndef answer(ids):\n    return ids.most_common()")
    assert "that calls most_common" in session.check("most-common", decorated)
    own = typed("def most_common(ids):\n    return 1\n\ndef answer(ids):\n    return most_common(ids)")
    assert "that calls most_common" not in session.check("most-common", own)


def test_a_small_change_of_what_was_given_is_seen_too(session):
    def shifting(x):
        x += 1e-6
        return x.sum()

    case = Case(torch.ones(3))
    outcome = _run(case, shifting)
    assert outcome.changed == (0,) and not alike(outcome, _run(case, torch.sum), 1e-3)


def test_modules_that_were_given_stay_as_they_are_and_a_change_is_seen():
    """Also in a list, and where a change spoils the weights for good."""

    def spoiling(x, router, experts):
        y = experts[0](router(x))
        with torch.no_grad():
            router.weight.mul_(2)
            experts[0].weight.fill_(torch.nan)
        return y

    router, experts = torch.nn.Linear(2, 2), [torch.nn.Linear(2, 2)]
    case = Case(torch.ones(1, 2), router, experts)
    before = [module.weight.clone() for module in (router, *experts)]
    first, second = _run(case, spoiling), _run(case, spoiling)
    assert first.changed == second.changed == (1, 2) and alike(first, second, 0)
    assert all(map(torch.equal, before, (router.weight, experts[0].weight)))
    assert _run(case, lambda x, router, experts: experts[0](router(x))).changed == ()


@pytest.mark.parametrize("want", [[1, 2], (1, 2), 0.5, "text", {}, torch.zeros(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_huge_array_is_not_copied_to_see_that_it_is_wrong(want, dtype):
    with pytest.raises(Mistake, match=r"it should be .*, and is an array of shape \(1000000000000,\)"):
        agree(torch.zeros(1, dtype=dtype).expand(10**12), want, "it")


# Hints, solutions, quizzes


def test_hints_come_one_by_one_and_stay_at_the_last(session):
    said = [session.hint("count-pairs") for _ in range(3)]
    assert said[0] == "count-pairs hint 1 of 2: itertools.pairwise walks a list in pairs.\n"
    assert said[1] == said[2] == "count-pairs hint 2 of 2: counts.get(pair, 0) + 1 counts up.\n"
    assert session.hint("half").startswith("half hint 1 of 2:")


def test_the_solution_nudges_and_is_shown_all_the_same(session):
    nudged = session.solution("count-pairs")
    assert nudged.startswith("You haven't tried count-pairs yet.")
    assert "def count_pairs(ids):\n    counts = {}\n" in nudged
    session.check("count-pairs", ...)
    assert session.solution("count-pairs") == nudged
    session.check("count-pairs", 3)
    assert session.solution("count-pairs") == nudged.partition("\n\n")[2]
    assert session.solution("half").endswith("One way to do half:\n\n0.5\n\nOne of two.\n")


def test_a_quiz_is_asked_and_answered_in_text(session, own_record):
    assert session.quiz("zip").splitlines() == [
        "What does `zip` do with lists of different lengths?",
        "  a) It stops at the shorter",
        "  b) It fills up with None",
        'Answer with a button, or with quiz("zip", "a").',
    ]
    assert session.quiz("zip", "b") == "b) Not this one. That is itertools.zip_longest.\n"
    assert not own_record.exists()
    assert session.quiz("zip", " A") == "a) Right. So the last item has no pair.\n"
    assert session.quiz("zip", "e") == "zip has the answers a, b: choose one of those.\n"
    assert json.loads((own_record / "progress.json").read_text())["quiz"] == ["zip"]


# In a real kernel


CELLS = [
    f"""import course_lib.course.lessons as lessons
lessons.__path__[:] = [{str(SAMPLES)!r}]
import pathlib, course_lib.course.contents as contents
contents.TABLE = pathlib.Path({str(SAMPLES / "contents.toml")!r})
from course_lib.course import check, quiz""",
    'def answer(ids):\n    ...\n\ncheck("count-pairs", answer)',
    'def answer(ids):\n    return ids / 2\n\ncheck("count-pairs", answer)',
    'quiz("zip")',
    """from ipywidgets.widgets.widget import _instances
def click(letter):
    {getattr(widget, "description", ""): widget for widget in _instances.values()}[letter].click()
    print(*[widget.value for widget in _instances.values() if type(widget).__name__ == "HTML"])""",
    'click("b"); click("a")',
]


@pytest.fixture(scope="module")
def outputs():
    """The outputs of CELLS, run by a real kernel."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)))
    root = Path(__file__).parents[2]
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": root}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_kernel_finds_stub_and_line(outputs):
    assert outputs[1][0].text.startswith("count-pairs not started yet:")
    assert " ".join(outputs[2][0].text.split()) == (
        "count-pairs not yet: your code stopped with TypeError: unsupported operand type(s) for /: 'list' "
        "and 'int' line 2 of your cell: return ids / 2 asked for: count_pairs([1, 2, 1, 2])"
    )


def test_a_kernel_shows_buttons_that_answer(outputs):
    text, buttons = outputs[3]
    assert text.text.startswith("What does")
    assert buttons.data["text/plain"] == "Buttons a and b appear here when you run this cell."
    assert set(buttons.data) == {"text/plain", "application/vnd.jupyter.widget-view+json"}
    wrong, right = outputs[5][0].text.splitlines()
    assert "b) Not this one. That is itertools.zip_longest." in wrong
    assert "a) Right. So the last item has no pair." in right
