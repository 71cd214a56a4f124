"""Stop today, go on tomorrow, as if nothing had been.

A checkpoint holds the weights, the optimizer's averages and the history, bit for bit; with batches that are functions of the
step (`data`), nothing else is needed. Not handled: layers that draw random numbers, such as dropout.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.families.tensor_file import layout, read_tensors, require_same, stored_weights, write_tensors
from course_lib.model.exchange import exchanged
from course_lib.train.loop import History, Training

KIND = "checkpoint"


def save_checkpoint(path: str | Path, training: Training) -> None:
    """Write all of `training`, but for its loss function, to a file. An older one there stays until this one is whole."""
    tensors = _prefixed("model", stored_weights(training.model)) | _prefixed("optimizer", _averages(training))
    history = {
        name: torch.tensor(values, dtype=torch.float64) for name, values in asdict(training.history).items()
    }
    tensors |= _prefixed("history", history)
    about = {"kind": KIND, "holds": _sizes(tensors), "parts": _parts(training.model), **_configs(training)}
    write_tensors(path, tensors, about)


def load_checkpoint(path: str | Path, training: Training) -> None:
    """Bring a new `training` of the same model and dials to where the saved one was.

    Raises ValueError, changing nothing, for a damaged or foreign file, and for one whose model or dials differ.
    """
    tensors, facts = read_tensors(path, KIND)
    if facts.get("holds") != _sizes(tensors):
        raise ValueError(f"{path} is damaged: what it holds isn't what it says it holds")
    for name, config in _configs(training).items():
        require_same(f"the configuration of the {name}", facts.get(name) or {}, config or {})
    weights, averages, columns = (_part(name, tensors) for name in ("model", "optimizer", "history"))
    require_same("the model", layout(weights), layout(stored_weights(training.model)))
    require_same("the model", facts.get("parts") or {}, _parts(training.model))
    history, state = _history(path, columns), _optimizer_state(training, averages)
    training.model.load_state_dict(weights, strict=False)
    training.optimizer.load_state_dict(state)
    training.history = history


def _parts(model: nn.Module) -> dict[str, str]:
    """Which parts were exchanged, and for what, by path. Kernels compute the same, so they may differ."""
    return {path: kind for path, kind in exchanged(model).items() if kind != "kernels"}


def _configs(training: Training) -> dict[str, dict | None]:
    """The dials of run and model, as JSON gives them back."""
    model = getattr(training.model, "config", None)
    return json.loads(json.dumps({"run": asdict(training.config), "model": model and asdict(model)}))


def _sizes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _names(training: Training) -> list[str]:
    """Parameters in the optimizer's order."""
    return [
        name for group in training.optimizer.state_dict()["param_groups"] for name in group["param_names"]
    ]


def _averages(training: Training) -> dict[str, Tensor]:
    """What AdamW keeps for each parameter: two averages, and how many steps it took."""
    state, names = training.optimizer.state_dict()["state"], _names(training)
    return {f"{names[i]}/{key}": tensor for i, kept in state.items() for key, tensor in kept.items()}


def _optimizer_state(training: Training, averages: dict[str, Tensor]) -> dict:
    """The optimizer's own form of `averages`. A parameter that never had a gradient has none."""
    sizes, weights = layout(stored_weights(training.model)), dict(training.model.named_parameters())
    state = {}
    for i, name in enumerate(_names(training)):
        if kept := _part(name, averages):
            wanted = {"exp_avg": sizes[name], "exp_avg_sq": sizes[name], "step": ((), torch.float32)}
            require_same(f"what the optimizer keeps for {name}", layout(kept), wanted)
            state[i] = {key: _strided_like(weights[name], tensor) for key, tensor in kept.items()}
    return training.optimizer.state_dict() | {"state": state}


def _strided_like(weight: Tensor, average: Tensor) -> Tensor:
    """The same numbers in the order in which the weight's lie in memory: the fused AdamW takes it for granted."""
    return torch.empty_like(weight, dtype=average.dtype).copy_(average) if average.shape == weight.shape else average


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
