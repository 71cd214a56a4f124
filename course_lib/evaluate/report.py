"""Reports: what models answered and how it was scored, to print as a table, to save and to compare.

`harness.evaluate` makes them.
"""

import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.arguments import short
from course_lib.evaluate.intervals import Estimate, accuracy, bootstrap
from course_lib.whole_files import replacing

KIND = "evaluation report"


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
    scorer   the scorer's module and name. Not handled: what it takes from elsewhere, such as the arguments of
             a partial function
    prompts  a hash of all prompts, not the prompts; results with the same hash are of the same items, unless
             the prompts are objects that look the same when they are printed
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

        Objects that JSON can't represent are written as strings. Raises ValueError for NaN or infinity among
        the facts and answers, and for other things that have no JSON, such as half a character, or names 1
        and "1" in one dictionary.
        """
        table = self.table()
        sizes = {task: each.n for task, each in table.items()}
        means = {task: each.value for task, each in table.items()}
        contents = {"kind": KIND, **_as_json(self), "sizes": sizes, "means": means}
        try:
            text = (
                json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False, default=_as_json) + "\n"
            )
            json.loads(text, object_pairs_hook=_check_names)
            data = text.encode("utf-8")
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the facts or the answers can't be written as JSON: {error}") from error
        with replacing(path) as file:
            file.write_bytes(data)

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote.

        Raises FileNotFoundError if there is no such file, and ValueError if it isn't a report.
        """
        try:
            contents = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            if contents["kind"] != KIND:
                raise ValueError(f"it is a {contents['kind']}")
            results, facts, made = contents["results"], contents["facts"], contents["made"]
            if not (isinstance(results, list) and isinstance(facts, dict) and isinstance(made, dict)):
                raise TypeError("it needs a list of results, and dictionaries of facts and of versions")
            results = [_check_result(Result(**result)) for result in results]
            _check_names([(result.task, result) for result in results])
            return cls(results, facts, made)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} holds no {KIND}: {type(error).__name__} {error}") from error


def _as_json(value: Any) -> dict[str, Any] | str:
    """Return what is written of an object that JSON doesn't know: a dataclass's fields, or its text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return str(value)


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError for a name that occurs twice."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"two entries have one name, of {short(names)}")


def _check_result(result: Result) -> Result:
    """Return a result from a file.

    Raises ValueError unless its names are texts, and its scores numbers, one for each answer.
    """
    if not all(isinstance(text, str) and text for text in (result.task, result.scorer, result.prompts)):
        raise ValueError("each result needs the names of its task and its scorer, and a hash of its prompts")
    if not isinstance(result.answers, list) or not result.answers or not isinstance(result.scores, list):
        raise ValueError(f"the task {result.task!r} needs a list of answers and one of scores")
    numbers = all(isinstance(score, bool | int | float) and np.isfinite(score) for score in result.scores)
    if not numbers or len(result.scores) != len(result.answers):
        raise ValueError(f"the task {result.task!r} needs a score for each answer, each a number")
    return result
