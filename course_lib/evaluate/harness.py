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
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_lib import __version__
from course_lib.evaluate.intervals import Estimate, accuracy, bootstrap, paired_difference

KIND = "evaluation report"


@dataclass(frozen=True)
class Task:
    """A data set and the scorer of its answers.

    scorer  an answer and its item → whether the answer is right, or a number
    prompt  an item → its prompt; by default the item's attribute `prompt`

    Raises ValueError for fewer than two items, whose mean would have no interval.
    """

    name: str
    items: Sequence[Any]
    scorer: Callable[[Any, Any], bool | float]
    prompt: Callable[[Any], Any] = attrgetter("prompt")

    def __post_init__(self):
        if len(self.items) < 2:
            raise ValueError(f"task {self.name!r} needs two items or more, not {len(self.items)}")


class Table(dict[str, Estimate]):
    """The name of each task → its `Estimate`, all of one confidence; it prints as a table."""

    def __str__(self) -> str:
        rows = self._rows()
        w = [max(map(len, column)) for column in zip(*rows, strict=True)]  # the width of each column
        return "\n".join(f"{a:{w[0]}}  {b:>{w[1]}}  {c:>{w[2]}}  {d}" for a, b, c, d in rows)

    def _repr_markdown_(self) -> str:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in self._rows()]
        head, *rows = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([head, "|:--|--:|--:|:--|", *rows])

    def _rows(self) -> list[tuple[str, str, str, str]]:
        interval = f"{next(iter(self.values())).confidence:.0%} interval" if self else "interval"
        rows = [
            (task, f"{each.n}", f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}")
            for task, each in self.items()
        ]
        return [("task", "n", "score", interval), *rows]


@dataclass(frozen=True)
class Result:
    """The answers to one task and their scores.

    task     the task's name
    scorer   the scorer's module and name
    prompts  a hash of all prompts, not the prompts; results with the same hash are of the same items
    answers  in the order of the items
    scores   in the order of the items
    """

    task: str
    scorer: str
    prompts: str
    answers: list[Any]
    scores: list[bool] | list[float]

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """Return the share of right answers by `accuracy`, or the mean of numeric scores by `bootstrap`."""
        right_or_wrong = all(isinstance(score, bool) for score in self.scores)
        return (accuracy if right_or_wrong else bootstrap)(self.scores, confidence=confidence)


@dataclass(frozen=True)
class Report:
    """The results of an evaluation; it prints as a table.

    results  one for each task
    facts    what the caller recorded about the model
    made     the environment: the date, and the versions of the software
    """

    results: list[Result]
    facts: dict[str, Any]
    made: dict[str, str]

    def table(self, confidence: float = 0.95) -> Table:
        """Return the mean score of each task with its interval."""
        return Table({result.task: result.estimate(confidence) for result in self.results})

    def __str__(self) -> str:
        return str(self.table())

    def _repr_markdown_(self) -> str:
        return self.table()._repr_markdown_()

    def save(self, path: str | Path) -> None:
        """Write the report as JSON; if writing fails, no incomplete file remains.

        Objects that JSON can't represent are written as strings.
        """
        path, table = Path(path), self.table()
        sizes = {task: each.n for task, each in table.items()}
        means = {task: each.value for task, each in table.items()}
        fields = {"kind": KIND, **asdict(self), "sizes": sizes, "means": means}
        text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote.

        Raises FileNotFoundError if there is no such file, and ValueError if it isn't a report.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            if fields["kind"] != KIND:
                raise ValueError(f"it is a {fields['kind']}")
            results = [Result(**result) for result in fields["results"]]
            return cls(results, fields["facts"], fields["made"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} holds no {KIND}: {type(error).__name__} {error}") from error


def evaluate(
    answer: Callable[[Any], Any],
    tasks: Sequence[Task],
    batch: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Report:
    """Answer and score every item of every task, and return a report.

    answer: a prompt → an answer; with `batch`, a list of up to `batch` prompts → a list of as many answers.
    facts: what to record about the model, such as its name and seed. Raises ValueError for no tasks, two
    tasks of one name, and a batch below 1; raises RuntimeError, with the task and the item, if answering or
    scoring fails.
    """
    if not tasks or len({task.name for task in tasks}) < len(tasks) or (batch is not None and batch < 1):
        raise ValueError("give at least one task, each with a name of its own, and batches of 1 or more")
    results = [_run_task(answer, task, batch) for task in tasks]
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


def _run_task(answer: Callable, task: Task, batch: int | None) -> Result:
    prompts = [task.prompt(item) for item in task.items]
    answers: list[Any] = []
    for start in range(0, len(prompts), batch or 1):
        part = prompts[start : start + (batch or 1)]
        answers += _answer_prompts(answer, task, start, part, batched=batch is not None)
    scores = [_score_answer(task, i, given) for i, given in enumerate(answers)]
    prompts_hash = hashlib.sha256(repr(prompts).encode()).hexdigest()[:16]
    return Result(task.name, _qualified_name(task.scorer), prompts_hash, answers, scores)


def _answer_prompts(answer: Callable, task: Task, start: int, prompts: list, batched: bool) -> list:
    """Return the answers to `prompts`, those of the items from `start` on."""
    last = start + len(prompts) - 1
    items = f"item {start}" if last == start else f"items {start} to {last}"
    with _locate_errors(f"task {task.name!r}, {items}, {prompts[0]!r}"):
        answers = answer(prompts) if batched else [answer(prompts[0])]
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
    """Return the scorer's module and name; for a partial function, those of the function inside it."""
    inner = getattr(scorer, "func", scorer)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"
