"""A small evaluation harness: tasks and a function that answers prompts → a report, to save and to compare.

    >>> from course_lib.world import answers, questions, take
    >>> task = Task("questions", take(50, questions(0, "held_out", kinds=("it",))), scorer=answers)
    >>> print(evaluate(lambda prompt: "the tiger", [task]))
    task        n  score  95% interval
    questions  50  0.020  0.004 to 0.105

Other harnesses have the same parts: items with prompts, a function that answers a prompt, a scorer of an
answer and its item, and a mean with an interval. Not handled: scores of all items together, such as BLEU;
compute those from a result's `answers`.
"""

import hashlib
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from types import CodeType
from typing import Any

import numpy as np
import torch

from course_lib import __version__
from course_lib.arguments import listed, short, whole
from course_lib.evaluate.intervals import paired_difference
from course_lib.evaluate.report import Report, Result, Table

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")  # as in <PIL.Image.Image size=8x8 at 0x7F3A2C0B9D50>


@dataclass(frozen=True)
class Task:
    """A data set and the scorer of its answers.

    scorer  an answer and its item → whether the answer is right, or a number
    prompt  an item → its prompt; by default the item's attribute `prompt`

    Raises ValueError for fewer than two items, whose mean would have no interval, and TypeError for items
    that are no list, a name that is no text, and a scorer or prompt that can't be called.
    """

    name: str
    items: Sequence[Any]
    scorer: Callable[[Any, Any], bool | float]
    prompt: Callable[[Any], Any] = attrgetter("prompt")

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"a task needs a name, a text, not {short(self.name)}")
        single = getattr(self.items, "ndim", 1) == 0  # an array of one item, which has no length
        if isinstance(self.items, str) or single or not hasattr(self.items, "__getitem__"):
            raise TypeError(f"task {self.name!r} needs a list of items, not {short(self.items)}")
        if not (callable(self.scorer) and callable(self.prompt)):
            raise TypeError(f"task {self.name!r} needs functions as its scorer and its prompt")
        if len(self.items) < 2:
            raise ValueError(f"task {self.name!r} needs two items or more, not {len(self.items)}")


def evaluate(
    answer: Callable[[Any], Any],
    tasks: Sequence[Task],
    batch: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Report:
    """Answer and score every item of every task, and return a report.

    answer: a prompt → an answer; with `batch`, a list of up to `batch` prompts → a list of as many answers.
    facts: what to record about the model, such as its name and seed. Raises ValueError for no tasks, two
    tasks of one name, and a batch below 1; TypeError for what isn't a task, and for facts that are no
    dictionary; RuntimeError, with the task and the item, if making its prompt, answering or scoring fails.
    """
    if not callable(answer):
        raise TypeError(f"answer must be a function, from a prompt to an answer; not {short(answer)}")
    tasks = listed("tasks", tasks, "a list of tasks")
    if not all(isinstance(task, Task) for task in tasks):
        raise TypeError("tasks must be a list of `Task`s: Task(name, items, scorer)")
    batch = None if batch is None else whole("batch", batch)
    if not tasks or len({task.name for task in tasks}) < len(tasks) or (batch is not None and batch < 1):
        raise ValueError("give at least one task, each with a name of its own, and batches of 1 or more")
    if not isinstance(facts, Mapping | None):
        raise TypeError(f"facts must be a dictionary, such as {{'seed': 0}}, not {short(facts)}")
    prompts = [_make_prompts(task) for task in tasks]
    results = [_run_task(answer, *each, batch) for each in zip(tasks, prompts, strict=True)]
    return Report(results, dict(facts or {}), _describe_environment())


def compare(first: Report, second: Report, confidence: float = 0.95) -> Table:
    """Return for each task the mean of the items' score differences, first minus second, with its interval.

    Raises ValueError unless both reports have the same tasks, with the same items and scorers.
    """
    for one, other in zip(first.results, second.results, strict=False):
        if (one.task, one.scorer, one.prompts) != (other.task, other.scorer, other.prompts):
            names = f"{one.task!r} and {other.task!r}"
            raise ValueError(f"{names} can't be compared: other items, another order or scorer")
    if len(first.results) != len(second.results):
        raise ValueError(f"{len(first.results)} tasks can't be compared with {len(second.results)}")
    pairs = zip(first.results, second.results, strict=True)
    return Table({a.task: paired_difference(a.scores, b.scores, confidence) for a, b in pairs})


def _describe_environment() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "course_lib": __version__, **versions}


def _make_prompts(task: Task) -> list[Any]:
    prompts = []
    for i, item in enumerate(task.items):
        with _locate_errors(f"task {task.name!r}, item {i}"):
            prompts.append(task.prompt(item))
            _comparable(prompts[i])
    return prompts


def _run_task(answer: Callable, task: Task, prompts: list[Any], batch: int | None) -> Result:
    prompts_hash = _hash(repr([_comparable(prompt) for prompt in prompts]))
    answers: list[Any] = []
    for start in range(0, len(prompts), batch or 1):
        part = prompts[start : start + (batch or 1)]
        answers += _answer_prompts(answer, task, start, part, batched=batch is not None)
    scores = [_score_answer(task, i, given) for i, given in enumerate(answers)]
    return Result(task.name, _qualified_name(task.scorer), prompts_hash, answers, scores)


def _comparable(prompt: Any) -> Any:
    """Return a prompt with lists for its arrays and tensors, of whose numbers their own text shows only some.

    Raises TypeError for an object whose text only says where it is in memory.
    """
    if isinstance(prompt, torch.Tensor | np.ndarray):
        return str(prompt.dtype), tuple(prompt.shape), prompt.tolist()
    if isinstance(prompt, list | tuple):
        parts = [_comparable(part) for part in prompt]
        return parts if isinstance(prompt, list) else tuple(parts)
    if isinstance(prompt, dict):
        return {key: _comparable(part) for key, part in prompt.items()}
    if not isinstance(prompt, str) and ADDRESS.search(repr(prompt)):
        raise TypeError(
            f"a prompt must be text, numbers, arrays or lists of them, so that `compare` can tell it from "
            f"others; not {short(prompt)}"
        )
    return prompt


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _answer_prompts(answer: Callable, task: Task, start: int, prompts: list, batched: bool) -> list:
    """Return the answers to `prompts`, those of the items from `start` on."""
    last = start + len(prompts) - 1
    items = f"item {start}" if last == start else f"items {start} to {last}"
    with _locate_errors(f"task {task.name!r}, {items}, {prompts[0]!r}"):
        answers = answer(list(prompts)) if batched else [answer(prompts[0])]
        if isinstance(answers, str) or len(answers) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts want a list of as many answers, not {answers!r}")
        return list(answers)


def _score_answer(task: Task, i: int, answer: Any) -> bool | float:
    with _locate_errors(f"task {task.name!r}, item {i}, answer {answer!r}"):
        score = task.scorer(answer, task.items[i])
        score = score.item() if hasattr(score, "item") else score  # a NumPy or PyTorch scalar
        if not isinstance(score, bool | int | float) or not np.isfinite(score):
            raise ValueError(f"the scorer gave {score!r}, neither right or wrong nor a finite number")
        return score


@contextmanager
def _locate_errors(where: str) -> Iterator[None]:
    """Turn any error into a RuntimeError whose message says where it happened."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error


def _qualified_name(scorer: Callable) -> str:
    """Return the scorer's module and name; for a partial function, those of the function inside it.

    A lambda has no name of its own: a hash of what it computes follows.
    """
    inner = getattr(scorer, "func", scorer)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    name = f"{named.__module__}.{named.__qualname__}"
    return f"{name} {_hash(_code_text(inner.__code__))}" if name.endswith("<lambda>") else name


def _code_text(code: Any) -> str:
    """Return the instructions of a function, or one of its constants, the same text in every run."""
    if isinstance(code, CodeType):
        return repr((code.co_code, code.co_names, [_code_text(constant) for constant in code.co_consts]))
    return repr(sorted(map(repr, code)) if isinstance(code, frozenset) else code)
