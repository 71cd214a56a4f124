"""Stop today, go on tomorrow, as if nothing had been.

A checkpoint holds the weights, the optimizer's averages and the history, bit for bit; with batches that are
functions of the step (`data`), nothing else is needed. Not handled: layers that draw random numbers, such as
dropout.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from course_lib.families.tensor_file import layout, read_tensors, require_same, stored_weights, write_tensors
from course_lib.model.exchange import exchanged
from course_lib.train.history import History
from course_lib.train.learner import Learner
from course_lib.train.loop import Training

KIND = "checkpoint"


def save_checkpoint(path: str | Path, training: Training) -> None:
    """Write all of `training`, but for its loss function, to a file. An older one there stays until this one
    is whole.
    """
    tensors = _prefixed("metrics", _columns(training.metrics))
    for name, learner in training.learners.items():
        tensors |= _prefixed(name, _held(learner))
    write_tensors(path, tensors, {"kind": KIND, "holds": _sizes(tensors), "learners": _facts(training)})


def load_checkpoint(path: str | Path, training: Training) -> None:
    """Bring a new `training` of the same models and dials to where the saved one was.

    Raises ValueError, changing nothing, for a damaged or foreign file, and for one whose models or dials
    differ.
    """
    tensors, facts = read_tensors(path, KIND)
    if facts.get("holds") != _sizes(tensors):
        raise ValueError(f"{path} is damaged: what it holds isn't what it says it holds")
    _require_same_facts(facts.get("learners"), _facts(training))
    read = {name: _read(path, _part(name, tensors), learner) for name, learner in training.learners.items()}
    metrics = {name: column.tolist() for name, column in _part("metrics", tensors).items()}
    if {len(column) for column in metrics.values()} - {
        len(history.losses) for _, _, history in read.values()
    }:
        raise ValueError(f"{path} is damaged: its metrics aren't whole")
    for name, (weights, state, history) in read.items():
        learner = training.learners[name]
        learner.model.load_state_dict(weights, strict=False)
        learner.optimizer.load_state_dict(state)
        learner.history = history
    training.metrics = metrics


def _held(learner: Learner) -> dict[str, Tensor]:
    """All that a learner's file holds."""
    tensors = _prefixed("weights", stored_weights(learner.model)) | _prefixed("optimizer", _averages(learner))
    return tensors | _prefixed("history", _columns(asdict(learner.history)))


def _read(
    path: str | Path, tensors: dict[str, Tensor], learner: Learner
) -> tuple[dict[str, Tensor], dict, History]:
    """Weights, the optimizer's state, and history. Raises ValueError where they aren't this learner's."""
    weights, averages, columns = (_part(name, tensors) for name in ("weights", "optimizer", "history"))
    require_same("the model", layout(weights), layout(stored_weights(learner.model)))
    return weights, _optimizer_state(learner, averages), _history(path, columns)


def _columns(lists: dict[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in lists.items()}


def _require_same_facts(stored: object, wanted: dict[str, dict]) -> None:
    stored = stored if isinstance(stored, dict) else {}
    if stored.keys() != wanted.keys():
        raise ValueError(f"in the file {list(stored)} learned, and here it is {list(wanted)}")
    for name, about in wanted.items():
        for what, fact in about.items():
            require_same(f"the {what} of {name}", stored[name].get(what) or {}, fact or {})


def _facts(training: Training) -> dict[str, dict]:
    """The dials of each run and model, and which parts were exchanged (kernels compute the same, so they may
    differ), as JSON gives them back.
    """
    facts = {}
    for name, learner in training.learners.items():
        config, parts = getattr(learner.model, "config", None), exchanged(learner.model)
        parts = {path: kind for path, kind in parts.items() if kind != "kernels"}
        facts[name] = {
            "run": asdict(learner.config),
            "configuration": config and asdict(config),
            "exchanged parts": parts,
        }
    return json.loads(json.dumps(facts))


def _sizes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _names(learner: Learner) -> list[str]:
    """Parameters in the optimizer's order."""
    return [name for group in learner.optimizer.state_dict()["param_groups"] for name in group["param_names"]]


def _averages(learner: Learner) -> dict[str, Tensor]:
    """What AdamW keeps for each parameter: two averages, and how many steps it took."""
    state, names = learner.optimizer.state_dict()["state"], _names(learner)
    return {f"{names[i]}/{key}": tensor for i, kept in state.items() for key, tensor in kept.items()}


def _optimizer_state(learner: Learner, averages: dict[str, Tensor]) -> dict:
    """The optimizer's own form of `averages`. A parameter that never had a gradient has none."""
    sizes, weights = layout(stored_weights(learner.model)), dict(learner.model.named_parameters())
    state = {}
    for i, name in enumerate(_names(learner)):
        if kept := _part(name, averages):
            wanted = {"exp_avg": sizes[name], "exp_avg_sq": sizes[name], "step": ((), torch.float32)}
            require_same(f"what the optimizer keeps for {name}", layout(kept), wanted)
            state[i] = {key: _strided_like(weights[name], tensor) for key, tensor in kept.items()}
    return learner.optimizer.state_dict() | {"state": state}


def _strided_like(weight: Tensor, average: Tensor) -> Tensor:
    """The same numbers in the order in which the weight's lie in memory: the fused AdamW takes it for
    granted.
    """
    return (
        torch.empty_like(weight, dtype=average.dtype).copy_(average)
        if average.shape == weight.shape
        else average
    )


def _history(path: str | Path, columns: dict[str, Tensor]) -> History:
    names = [field.name for field in fields(History)]
    lengths = {columns[name].shape for name in names if name in columns}
    if columns.keys() != set(names) or len(lengths) != 1:
        raise ValueError(f"{path} is damaged: its history isn't whole")
    history = History(**{name: columns[name].tolist() for name in names})
    history.tokens = [int(count) for count in history.tokens]
    return history


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
