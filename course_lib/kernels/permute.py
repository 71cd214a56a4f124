"""Sorting tokens by expert: a counting sort that no two programs write the same place of.

    chosen  2 0 2 1 │ 0 2 2 0 │ …            a program takes TILE choices
    counts  per tile: expert 0, 1, 2         1 1 2 │ 2 0 2 │ …        kernel 1: each program counts its own
    first   their running sum, experts before tiles: where a tile's choices of an expert go          PyTorch: one small sum
    order   0: 1 4 7 … │ 1: 3 … │ 2: 0 2 5 6 …                        kernel 2: each program puts its own there, in order

So it is stable, the same each time, and needs no atomic additions; and the processor never waits to learn how many tokens an
expert got.
"""

import torch
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton

MOST_EXPERTS = 1_024


def group_by_expert(chosen: Tensor, n_experts: int, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Choices sorted by expert: order (choices,), the places in chosen.flatten(), and starts (n_experts + 1,), where each expert's
    run begins and, at last, where all end; both of int32.

    chosen: (…) experts' numbers, int32 or int64. Stable, as argsort(stable=True). A number that is no expert's raises
    ValueError on a CPU; to look for one on a GPU would be to wait for it, and what `order` then holds is undefined.
    """
    if chosen.dtype not in (torch.int32, torch.int64) or n_experts < 1:
        raise ValueError(
            f"chosen must be experts' numbers, int32 or int64, not {chosen.dtype}; n_experts {n_experts}, from 1 on"
        )
    flat = chosen.flatten()
    if flat.device.type == "cpu" and ((flat < 0) | (flat >= n_experts)).any():
        raise ValueError(f"experts have numbers from 0 to {n_experts - 1}, not {flat.min()} to {flat.max()}")
    if n_experts > MOST_EXPERTS and backend == "triton":
        raise ValueError(
            f"a table for {n_experts} experts doesn't fit on the chip (at most {MOST_EXPERTS}): use backend='torch'"
        )
    if not use_triton(backend, flat, integers=True) or not len(flat) or n_experts > MOST_EXPERTS:
        counts = flat.bincount(minlength=n_experts)
        return flat.argsort(stable=True).int(), _starts(counts)
    tile = _tile(n_experts)
    programs = tiles(len(flat), tile.sizes["TILE"])
    counts = torch.empty(programs, n_experts, dtype=torch.int32, device=flat.device)
    launch(count_choices, (programs,), flat, counts, len(flat), n_experts, tile=tile)
    before = counts.T.flatten().cumsum(0).view(n_experts, programs).T - counts
    order = torch.empty(len(flat), dtype=torch.int32, device=flat.device)
    first = before.to(torch.int32).contiguous()
    tile = Tile(tile.sizes, warps=8)
    launch(place_choices, (programs,), flat, first, order, len(flat), n_experts, tile=tile)
    return order, _starts(counts.sum(0))


def group_by_expert_cost(choices: int, n_experts: int, bytes_each: int = 8) -> Cost:
    """Both kernels: choices in twice, their order out, and a number for each tile and expert out and in."""
    programs = tiles(choices, _tile(n_experts).sizes["TILE"])
    return Cost(choices * (2 * bytes_each + 4) + 2 * 4 * programs * n_experts, 0)


def _starts(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()


def _tile(n_experts: int) -> Tile:
    """All experts, and as many choices as keep the table of choices by experts on the chip."""
    experts = power_of_two(n_experts)
    return Tile({"TILE": max(16, min(1_024, 8_192 // experts)), "EXPERTS": experts})


@triton.jit
def count_choices(chosen_ptr, counts_ptr, choices, n_experts, TILE: tl.constexpr, EXPERTS: tl.constexpr):
    place, expert = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, EXPERTS)
    chosen = tl.load(chosen_ptr + place, mask=place < choices, other=-1).to(tl.int32)
    mine = (chosen[:, None] == expert[None, :]).to(tl.int32)
    counts_ptr += tl.program_id(0).to(tl.int64) * n_experts
    tl.store(counts_ptr + expert, tl.sum(mine, axis=0), mask=expert < n_experts)


@triton.jit
def place_choices(
    chosen_ptr, first_ptr, order_ptr, choices, n_experts, TILE: tl.constexpr, EXPERTS: tl.constexpr
):
    place, expert = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, EXPERTS)
    chosen = tl.load(chosen_ptr + place, mask=place < choices, other=-1).to(tl.int32)
    mine = (chosen[:, None] == expert[None, :]).to(tl.int32)
    first_ptr += tl.program_id(0).to(tl.int64) * n_experts
    first = tl.load(first_ptr + expert, mask=expert < n_experts, other=0)
    earlier = (
        tl.cumsum(mine, axis=0) - mine
    )  # of this tile's choices, how many before this one took the same expert
    to = tl.sum(mine * (first[None, :] + earlier), axis=1)
    tl.store(order_ptr + to, place, mask=(place < choices) & (chosen >= 0) & (chosen < n_experts))
