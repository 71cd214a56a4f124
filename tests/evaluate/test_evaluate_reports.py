"""What a report keeps, which reports can be compared, and which files are reports."""

import json
import threading
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from course_lib.evaluate import Report, Task, compare, evaluate, exact_match


def always_right(answer, item) -> bool:
    return True


def report_of(items, scorer=always_right, facts=None) -> Report:
    return evaluate(lambda prompt: "a", [Task("t", items, scorer, lambda item: item)], facts=facts)


# Which reports can be compared

LONG = torch.zeros(2000)
CHANGED = LONG.index_fill(0, torch.tensor([1000]), 1)


@pytest.mark.parametrize(
    "one, other",
    [
        (LONG, CHANGED),
        (LONG.numpy(), CHANGED.numpy()),
        ({"pixels": [(LONG,)]}, {"pixels": [(CHANGED,)]}),
        (torch.tensor([0.12341]), torch.tensor([0.12342])),
        (np.array([0.123456789]), np.array([0.123456788])),
        (LONG, LONG.double()),
        (LONG, LONG.view(2, 1000)),
        ("a", "b"),
    ],
)
def test_reports_on_other_items_cannot_be_compared(one, other):
    assert compare(report_of([one, "end"]), report_of([one, "end"]))["t"].value == 0
    with pytest.raises(ValueError, match="other items, another order or scorer"):
        compare(report_of([one, "end"]), report_of([other, "end"]))


def test_prompts_whose_text_is_their_place_in_memory_are_refused():
    for odd in (object(), [len, object()], {"a": lambda: 1}):
        with pytest.raises(RuntimeError, match="task 't', item 1: TypeError: a prompt must be text, numbers"):
            report_of(["a", odd])
    report_of(["<object object at 0x7f2ff0c1a830>", [1.5, None, True]])  # a text may say what it likes


def test_lambdas_are_told_by_what_they_do():
    def scored(scorer):
        return report_of(["a", "b"], scorer)

    same = scored(lambda answer, item: answer in {"a", "c"} and any(x for x in item))
    assert compare(same, scored(lambda answer, item: answer in {"a", "c"} and any(x for x in item)))
    for other in (
        lambda answer, item: answer in {"a", "d"} and any(x for x in item),
        lambda answer, item: answer in {"a", "c"} and any(not x for x in item),
        lambda answer, item: answer.isupper(),
    ):
        with pytest.raises(ValueError, match="other items, another order or scorer"):
            compare(same, scored(other))


# What an evaluation looks at


@pytest.mark.parametrize("facts", ["SmolLM", 5, ["ab", "cd"]])
def test_facts_are_looked_at_before_anything_is_answered(facts):
    asked = []
    with pytest.raises(TypeError, match="facts must be a dictionary"):
        evaluate(asked.append, [Task("t", ["a", "b"], always_right, str)], facts=facts)
    assert not asked


def test_prompts_that_cannot_be_made_are_located_before_anything_is_answered():
    asked = []
    tasks = [Task("fine", ["a", "b"], always_right, str), Task("bad", ["a", "b"], exact_match)]
    with pytest.raises(RuntimeError, match="task 'bad', item 0: AttributeError"):
        evaluate(asked.append, tasks)
    assert not asked
    with pytest.raises(RuntimeError, match="task 'own', item 1: ZeroDivisionError"):
        evaluate(asked.append, [Task("own", [1, 0], always_right, lambda item: 1 / item)])


def test_items_without_a_length_are_refused():
    for one in (np.array(5), torch.tensor(5)):
        with pytest.raises(TypeError, match="task 't' needs a list of items"):
            Task("t", one, exact_match)


def test_no_item_is_lost_to_a_function_that_takes_from_its_list():
    task = Task("t", list("abcdef"), exact_match, str)
    with pytest.raises(RuntimeError, match="4 prompts want a list of as many answers"):
        evaluate(lambda prompts: [prompts.pop() for _ in range(len(prompts) // 2)], [task], batch=4)
    taken = evaluate(lambda prompts: [prompts.pop(0) for _ in range(len(prompts))], [task], batch=4)
    assert taken.results[0].answers == list("abcdef") and all(taken.results[0].scores)


# Files


@dataclass
class Settings:
    rate: float
    inner: object = None


def test_facts_and_answers_that_cannot_be_copied_are_written_as_text(tmp_path):
    path = tmp_path / "report.json"
    tensor = torch.ones(2, requires_grad=True) * 2
    facts = {
        "lock": threading.Lock(),
        "loss": tensor,
        "items": (x for x in "ab"),
        "s": [Settings(1, Settings(2))],
    }
    task = Task("t", ["a", "b"], always_right, str)
    evaluate(lambda prompt: tensor, [task], facts=facts | {"pair": namedtuple("P", "a b")(1, 2)}).save(path)
    loaded = Report.load(path)
    assert loaded.results[0].answers == [str(tensor)] * 2
    assert loaded.facts["loss"] == str(tensor) and "lock" in loaded.facts["lock"]
    assert loaded.facts["s"] == [{"rate": 1, "inner": {"rate": 2, "inner": None}}]
    assert loaded.facts["pair"] == [1, 2]


@pytest.mark.parametrize("facts", [{1: 2, "1": 3}, {"deep": [{None: 1, "null": 2}]}])
def test_no_entry_is_lost_as_names_become_texts(tmp_path, facts):
    with pytest.raises(ValueError, match="two entries have one name"):
        report_of(["a", "b"], facts=facts).save(tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields, result: result.update(task=None),
        lambda fields, result: result.update(task=5),
        lambda fields, result: result.update(task=["t"]),
        lambda fields, result: result.update(task=""),
        lambda fields, result: result.update(scorer=None),
        lambda fields, result: result.update(prompts=1),
        lambda fields, result: result.update(answers="aa"),
        lambda fields, result: result.update(answers=[], scores=[]),
        lambda fields, result: result.update(scores={"0": 1, "1": 1}),
        lambda fields, result: fields["results"].append(result),
        lambda fields, result: fields.update(results={}),
        lambda fields, result: fields.update(facts=5),
        lambda fields, result: fields.update(made=None),
    ],
)
def test_a_damaged_report_is_not_loaded(tmp_path, damage):
    path = tmp_path / "report.json"
    report_of(["a", "b"]).save(path)
    fields = json.loads(path.read_text())
    damage(fields, fields["results"][0])
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"report.json holds no evaluation report: \w+Error ."):
        Report.load(path)
