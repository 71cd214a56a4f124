"""The argument checks of a mixture of experts, which raise ValueError with what to do."""

import torch
from torch import Tensor

from course_lib.kernels.checks import INTEGERS, check_flags, check_floats, values_are_checked
from course_lib.model.checks import is_whole

MOST_EXPERTS = 1_024  # of the kernels that sort
MOST_IDS = 2**20  # of PyTorch's sort


def check_choices(chosen: Tensor, n_experts: int, backend: str, check: bool) -> None:
    """Check the arguments of `group_by_expert`. check: as in `values_are_checked`."""
    if chosen.dtype not in INTEGERS:
        raise ValueError(f"chosen must be expert ids, int32 or int64, not {chosen.dtype}")
    if not is_whole(n_experts, 1):
        raise ValueError(f"n_experts must be 1 or more, not {n_experts!r}")
    if n_experts > MOST_IDS:
        raise ValueError(f"{n_experts} experts are too many to count the choices of each: at most {MOST_IDS}")
    check_flags(check=check)
    if values_are_checked(check, chosen) and ((chosen < 0) | (chosen >= n_experts)).any():
        raise ValueError(f"expert ids go from 0 to {n_experts - 1}, not {chosen.min()} to {chosen.max()}")
    if n_experts > MOST_EXPERTS and backend == "triton":
        table = f"a table for {n_experts} experts doesn't fit on the chip (at most {MOST_EXPERTS})"
        raise ValueError(f"{table}: use backend='torch'")


def check_groups(
    x: Tensor, weight: Tensor, starts: Tensor, order: Tensor | None, n_active: int, check: bool
) -> None:
    """Check the arguments of `grouped_matmul`. check: as in `values_are_checked`."""
    matrices = (x.dim(), weight.dim()) == (2, 3) and x.shape[1] == weight.shape[2]
    if not matrices or starts.shape != (len(weight) + 1,):
        shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and starts {tuple(starts.shape)}"
        raise ValueError(f"{shapes} must be (rows, d_in), (experts, d_out, d_in) and (experts + 1,)")
    check_floats(x=x, weight=weight)
    if x.dtype != weight.dtype:
        raise ValueError(f"x and weight must have one dtype, not {x.dtype} and {weight.dtype}")
    if not is_whole(n_active, 1):
        raise ValueError(f"n_active must be 1 or more, not {n_active!r}")
    rows = len(x) * n_active
    if order is None and n_active > 1:
        raise ValueError(f"with n_active = {n_active}, an order of {len(x)} · {n_active} rows is needed")
    if order is not None and order.shape != (rows,):
        wanted = f"an order of {len(x)} · {n_active} rows"
        raise ValueError(f"{wanted} is needed, not one of shape {tuple(order.shape)}")
    for name, index in {"starts": starts, "order": order}.items():
        if index is not None and index.dtype not in INTEGERS:
            raise ValueError(f"{name} must be rows, int32 or int64, not {index.dtype}")
    check_flags(check=check)
    if values_are_checked(check, starts):
        _check_rows(starts, order, rows)


def _check_rows(starts: Tensor, order: Tensor | None, rows: int) -> None:
    """Check where the experts' rows start, and that the order holds each row once."""
    if starts[0] != 0 or starts[-1] != rows or (starts.diff() < 0).any():
        raise ValueError(f"starts must rise from 0 to {rows}, the number of rows; not {starts.tolist()}")
    if order is None:
        return
    if ((order < 0) | (order >= rows)).any():
        raise ValueError(f"order must hold rows from 0 to {rows - 1}, not {order.min()} to {order.max()}")
    counts = torch.bincount(order, minlength=rows)
    if (counts != 1).any():
        raise ValueError(f"order must hold each row once, but it holds row {counts.argmax()} several times")


def check_mixture(
    x: Tensor, router_weights: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor
) -> None:
    """Check the shapes and dtypes of the arguments of `mixture`."""
    fits = x.dim() == chosen.dim() == 2 and router_weights.shape == chosen.shape
    if not fits or len(chosen) != len(x) or not chosen.shape[1]:
        shapes = f"router_weights {tuple(router_weights.shape)} and chosen {tuple(chosen.shape)}"
        raise ValueError(f"{shapes} for x {tuple(x.shape)}: both must be (tokens, n_active)")
    check_floats(x=x, router_weights=router_weights)
    if not x.dtype == gate.dtype == up.dtype == down.dtype:
        dtypes = f"{x.dtype}, {gate.dtype}, {up.dtype} and {down.dtype}"
        raise ValueError(f"x, gate, up and down must have one dtype, not {dtypes}")
    d_model = x.shape[1]
    fits = gate.dim() == 3 and gate.shape == up.shape and gate.shape[2] == d_model
    if not fits or down.shape != (len(gate), d_model, gate.shape[1]):
        shapes = f"gate {tuple(gate.shape)}, up {tuple(up.shape)} and down {tuple(down.shape)}"
        raise ValueError(
            f"{shapes} must be twice (experts, d_ff, {d_model}) and (experts, {d_model}, d_ff), for x "
            f"{tuple(x.shape)}"
        )
