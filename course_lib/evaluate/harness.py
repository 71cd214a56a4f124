"""Tasks × whatever answers → a report, to keep and to compare.

    >>> from course_lib.world import answers, questions, take
    >>> task = Task("questions", take(50, questions(0, "held_out", kinds=("it",))), scorer=answers)
    >>> print(evaluate(lambda prompt: "the tiger", [task]))
    task        n  score  95% interval
    questions  50  0.020  0.004 to 0.105

The same in any harness: items with prompts, something that answers a prompt, a scorer for an answer and its
item, a mean with an interval. Not handled: scores of all items together, such as BLEU: compute those from a
result's `answers`.
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
    """A data set, and how an answer to one of its items is scored.

    scorer: an answer and its item → whether it's right, or a number. prompt: an item → what is to be
    answered; as it stands, the item's `prompt`. Raises ValueError for fewer than two items, which have no
    interval.
    """

    name: str
    items: Sequence[Any]
    scorer: Callable[[Any, Any], bool | float]
    prompt: Callable[[Any], Any] = attrgetter("prompt")

    def __post_init__(self):
        if len(self.items) < 2:
            raise ValueError(f"task {self.name!r} needs two items or more, not {len(self.items)}")


class Table(dict[str, Estimate]):
    """Task → its `Estimate`; printed as a table."""

    def __str__(self) -> str:
        rows = self._rows()
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(f"{a:{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}  {d}" for a, b, c, d in rows)

    def _repr_markdown_(self) -> str:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in self._rows()]
        head, *rows = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([head, "|:--|--:|--:|:--|", *rows])

    def _rows(self) -> list[tuple[str, str, str, str]]:
        sure = {f"{each.confidence:.0%} interval" for each in self.values()}
        rows = [
            (task, f"{each.n}", f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}")
            for task, each in self.items()
        ]
        return [("task", "n", "score", *sure), *rows]


@dataclass(frozen=True)
class Result:
    """What came of one task: every answer with its score, in the order of the items. prompts: a hash of all
    prompts, by which two results are known to be of the same items."""

    task: str
    scorer: str
    prompts: str
    answers: list[Any]
    scores: list[bool] | list[float]

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """The share that is right with `accuracy`, or the mean of numbers with `bootstrap`."""
        right_or_wrong = all(isinstance(score, bool) for score in self.scores)
        return (accuracy if right_or_wrong else bootstrap)(self.scores, confidence=confidence)


@dataclass(frozen=True)
class Report:
    """facts: what the caller said of the model. made: when, and with which versions."""

    results: list[Result]
    facts: dict[str, Any]
    made: dict[str, str]

    def table(self, confidence: float = 0.95) -> Table:
        """The mean score of each task with its interval."""
        return Table({result.task: result.estimate(confidence) for result in self.results})

    def __str__(self) -> str:
        return str(self.table())

    def _repr_markdown_(self) -> str:
        return self.table()._repr_markdown_()

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, all or nothing. What JSON has no form for is written as its string."""
        path, table = Path(path), self.table()
        sizes, means = ({task: getattr(e, of) for task, e in table.items()} for of in ("n", "value"))
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
        """What `save` wrote. Raises FileNotFoundError, and ValueError for another file."""
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
    """Ask for an answer to every item of every task, and score it.

    answer: a prompt → an answer; with `batch`, a list of at most so many prompts → a list of as many answers.
    facts: what made the answers, such as the model and its seed; they stand in the report. Raises ValueError
    for no tasks, or two of one name, and RuntimeError, naming task and item, where an answer or its score
    fails.
    """
    if not tasks or len({task.name for task in tasks}) < len(tasks) or (batch is not None and batch < 1):
        raise ValueError("give at least one task, each with a name of its own, and batches of 1 or more")
    return Report([_run(answer, task, batch) for task in tasks], dict(facts or {}), _made())


def compare(first: Report, second: Report, confidence: float = 0.95) -> Table:
    """How much better the first is than the second on each task: the mean of the items' differences, with its
    interval.

    Raises ValueError unless both are of the same tasks, with the same items and scorers.
    """
    for one, other in zip(first.results, second.results, strict=False):
        if (one.task, one.scorer, one.prompts) != (other.task, other.scorer, other.prompts):
            raise ValueError(
                f"{one.task!r} and {other.task!r} can't be compared: other items, another order or scorer"
            )
    if len(first.results) != len(second.results):
        raise ValueError(f"{len(first.results)} tasks can't be compared with {len(second.results)}")
    pairs = zip(first.results, second.results, strict=True)
    return Table({a.task: paired_difference(a.scores, b.scores, confidence) for a, b in pairs})


def _made() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "course_lib": __version__, **versions}


def _run(answer: Callable, task: Task, batch: int | None) -> Result:
    prompts = [task.prompt(item) for item in task.items]
    answers: list[Any] = []
    for start in range(0, len(prompts), batch or 1):
        answers += _ask(answer, task, start, prompts[start : start + (batch or 1)], batch is not None)
    scores = [_score(task, i, given) for i, given in enumerate(answers)]
    fingerprint = hashlib.sha256(repr(prompts).encode()).hexdigest()[:16]
    return Result(task.name, _full_name(task.scorer), fingerprint, answers, scores)


def _ask(answer: Callable, task: Task, start: int, prompts: list, batched: bool) -> list:
    last = start + len(prompts) - 1
    items = f"item {start}" if last == start else f"items {start} to {last}"
    with _naming(f"task {task.name!r}, {items}, {prompts[0]!r}"):
        answers = answer(prompts) if batched else [answer(prompts[0])]
        if isinstance(answers, str) or len(answers) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts want a list of as many answers, not {answers!r}")
        return list(answers)


def _score(task: Task, i: int, answer: Any) -> bool | float:
    with _naming(f"task {task.name!r}, item {i}, answer {answer!r}"):
        score = task.scorer(answer, task.items[i])
        score = score.item() if hasattr(score, "item") else score  # of NumPy or PyTorch
        if not isinstance(score, bool | int | float) or not np.isfinite(score):
            raise ValueError(f"the scorer gave {score!r}, neither right or wrong nor a finite number")
        return score


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Errors inside say where they happened."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error


def _full_name(scorer: Callable) -> str:
    """Module and name; of a partial function, the function's."""
    inner = getattr(scorer, "func", scorer)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"
