"""Checkpoints: save a run to a file, and resume it later bit for bit.

A checkpoint holds each learner's weights, optimizer state and history, and the metrics. Batches are functions
of the step (`data`), so nothing else is needed. The tensors of a file, by name:

    model/weights/norm.weight           a parameter or buffer of the learner "model"
    model/optimizer/norm.weight/step    what AdamW keeps for this parameter: step, exp_avg, exp_avg_sq;
                                        what Muon keeps for a matrix: momentum_buffer
    model/history/losses                a list of its history
    metrics/reward                      a metric

Not handled: layers that draw random numbers, such as dropout.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from course_lib.families.tensor_file import (
    layout,
    read_tensors,
    require_finite,
    require_same,
    stored_weights,
    write_tensors,
)
from course_lib.interrupts import uninterrupted
from course_lib.model.exchange import replacement_kinds
from course_lib.train.history import History
from course_lib.train.learner import Learner
from course_lib.train.loop import Training
from course_lib.train.run_checks import METRICS

KIND = "checkpoint"
GRADIENT_AVERAGES = ("/exp_avg", "/momentum_buffer")


def save_checkpoint(path: str | Path, training: Training) -> None:
    """Write a run to a file: all of `training` except its loss function.

    An existing file is replaced only once the new one is complete. Beside the tensors, the file has their
    shapes ("holds"), by which a file that lost some of them is recognized, and the learners' configurations.

    Raises ValueError, leaving an existing file, for weights and averages of gradients that aren't finite.
    """
    for learner in training.learners.values():
        state = _optimizer_tensors(learner)
        averages = {name: tensor for name, tensor in state.items() if name.endswith(GRADIENT_AVERAGES)}
        require_finite("this run can't be saved", dict(learner.model.named_parameters()) | averages)
    tensors = _add_prefix(METRICS, _lists_to_tensors(training.metrics))
    for name, learner in training.learners.items():
        tensors |= _add_prefix(name, _learner_tensors(learner))
    facts = {"kind": KIND, "holds": _shapes(tensors), "learners": _describe(training)}
    write_tensors(path, tensors, facts)


def load_checkpoint(path: str | Path, training: Training) -> None:
    """Load a saved run into a new `training` of the same models and configurations.

    Raises ValueError, and changes nothing, for a file that is damaged or no checkpoint, for weights that
    aren't finite, and for a file whose models or configurations differ.
    """
    tensors, facts = read_tensors(path, KIND)  # facts: what `save_checkpoint` wrote beside the tensors
    if facts.get("holds") != _shapes(tensors):
        raise ValueError(f"{path} is damaged: its tensors aren't those that it lists")
    _require_same_learners(facts.get("learners"), _describe(training))
    loaded = {
        name: _load_learner(path, _select_prefix(name, tensors), learner)
        for name, learner in training.learners.items()
    }
    metrics = _select_prefix(METRICS, tensors)
    layouts = {((len(history.losses),), torch.float64) for _, _, history in loaded.values()}
    if len(layouts) != 1 or not set(layout(metrics).values()) <= layouts:
        raise ValueError(f"{path} is damaged: its histories or metrics aren't whole")
    with uninterrupted():
        for name, (weights, state, history) in loaded.items():
            learner = training.learners[name]
            learner.model.load_state_dict(weights, strict=False)
            learner.optimizer.load_state_dict(state)
            learner.history = history
        training.metrics = {name: values.tolist() for name, values in metrics.items()}


# Both ways: what a run is, and the names of its tensors


def _describe(training: Training) -> dict[str, dict]:
    """Return each learner's configurations, what it trains and exchanged parts, as they come back from JSON.

    Exchanged parts are modules that replace a model's own, such as quantized layers (`model.exchange`). Those
    that were exchanged for kernels are left out: they compute the same, so they may differ.
    """
    facts = {}
    for name, learner in training.learners.items():
        config, parts = getattr(learner.model, "config", None), replacement_kinds(learner.model)
        trained = set(_parameter_names(learner))
        facts[name] = {
            "run": asdict(learner.config),
            "configuration": asdict(config) if is_dataclass(config) else {},
            "exchanged parts": {path: kind for path, kind in parts.items() if kind != "kernels"},
            "trained part": {
                path: "trained" if path in trained else "frozen"
                for path, _ in learner.model.named_parameters()
            },
        }
    return json.loads(json.dumps(facts, default=str))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _parameter_names(learner: Learner) -> list[str]:
    """Return the names of the trained parameters, in the optimizer's order."""
    return [name for group in learner.optimizer.state_dict()["param_groups"] for name in group["param_names"]]


def _add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with this prefix, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


# Saving


def _learner_tensors(learner: Learner) -> dict[str, Tensor]:
    weights, state = stored_weights(learner.model), _optimizer_tensors(learner)
    history = _lists_to_tensors(asdict(learner.history))
    return _add_prefix("weights", weights) | _add_prefix("optimizer", state) | _add_prefix("history", history)


def _optimizer_tensors(learner: Learner) -> dict[str, Tensor]:
    """Return what the optimizer keeps for each parameter."""
    state, names = learner.optimizer.state_dict()["state"], _parameter_names(learner)
    return {f"{names[i]}/{key}": tensor for i, entry in state.items() for key, tensor in entry.items()}


def _lists_to_tensors(lists: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in lists.items()}


# Loading


def _require_same_learners(stored: object, wanted: Mapping[str, dict]) -> None:
    stored = stored if isinstance(stored, dict) else {}
    if stored.keys() != wanted.keys():
        raise ValueError(f"the file's learners are {list(stored)}, and this run's are {list(wanted)}")
    for name, facts in wanted.items():
        for what, fact in facts.items():
            entries = stored[name].get(what) if isinstance(stored[name], dict) else None
            require_same(f"the {what} of {name}", entries or {}, fact or {})


def _load_learner(
    path: str | Path, tensors: Mapping[str, Tensor], learner: Learner
) -> tuple[dict[str, Tensor], dict, History]:
    """Return weights, optimizer state and history. Raises ValueError if they don't fit this learner."""
    weights = _select_prefix("weights", tensors)
    require_same("the model", layout(weights), layout(stored_weights(learner.model)))
    parameters = {name: weights[name] for name, _ in learner.model.named_parameters()}
    require_finite(f"{path} can't be loaded", parameters)
    state = _optimizer_state(path, learner, _select_prefix("optimizer", tensors))
    return weights, state, _history(path, _select_prefix("history", tensors))


def _optimizer_state(path: str | Path, learner: Learner, tensors: Mapping[str, Tensor]) -> dict:
    """Return `tensors` as the optimizer's state. A parameter that never had a gradient has no entry."""
    layouts, weights = layout(stored_weights(learner.model)), dict(learner.model.named_parameters())
    of_muon = {id(weight) for group in _muon_groups(learner) for weight in group["params"]}
    state = {}
    for i, name in enumerate(_parameter_names(learner)):
        if entry := _select_prefix(name, tensors):
            wanted = {"exp_avg": layouts[name], "exp_avg_sq": layouts[name], "step": ((), torch.float32)}
            if id(weights[name]) in of_muon:
                wanted = {"momentum_buffer": layouts[name]}
            require_same(f"what the optimizer keeps for {name}", layout(entry), wanted)
            _require_possible(path, name, entry)
            state[i] = {key: _with_strides(tensor, weights[name]) for key, tensor in entry.items()}
    return learner.optimizer.state_dict() | {"state": state}


def _muon_groups(learner: Learner) -> list[dict]:
    """Return the groups of matrices that Muon trains; those of another optimizer have no such mark."""
    return [group for group in learner.optimizer.param_groups if group.get("muon")]


def _require_possible(path: str | Path, name: str, entry: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a state that no run leads to. A mean square may have overflowed to ∞."""
    finite = all(tensor.isfinite().all() for key, tensor in entry.items() if key != "exp_avg_sq")
    possible = "step" not in entry or (entry["step"] >= 1 and (entry["exp_avg_sq"] >= 0).all())
    if not (finite and possible):
        raise ValueError(f"{path} is damaged: what the optimizer keeps for {name} can't be right")


def _with_strides(tensor: Tensor, weight: Tensor) -> Tensor:
    """Copy a moving average to the weight's strides, which the fused AdamW assumes without a check."""
    if tensor.shape != weight.shape:
        return tensor  # the number of steps
    return torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)


def _history(path: str | Path, tensors: Mapping[str, Tensor]) -> History:
    names = [field.name for field in fields(History)]
    whole = tensors.keys() == set(names) and len({tensor.shape for tensor in tensors.values()}) == 1
    for tensor in tensors.values():
        whole &= tensor.dtype == torch.float64 and tensor.dim() == 1 and bool(tensor.isfinite().all())
    if not whole:
        raise ValueError(f"{path} is damaged: its history isn't whole")
    tokens = tensors["tokens"]
    grows = bool((tokens.diff(prepend=tokens.new_zeros(1)) >= 0).all() and (tokens == tokens.round()).all())
    if not (grows and (tensors["grad_norms"] >= 0).all() and (tensors["learning_rates"] >= 0).all()):
        raise ValueError(f"{path} is damaged: no run has the history that it holds")
    history = History(**{name: tensors[name].tolist() for name in names})
    history.tokens = [int(count) for count in history.tokens]
    return history
