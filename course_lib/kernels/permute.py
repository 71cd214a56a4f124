"""Sorting tokens by expert with a counting sort, in which no two programs write to the same address.

    chosen  2 0 2 1 │ 0 2 2 0 │ …            a program reads a tile of CHOICES
    counts  per tile: expert 0, 1, 2         1 1 2 │ 2 0 2 │ …       kernel 1: each program counts its own
    first   where a tile's choices of an expert go: the exclusive prefix sum of counts,
            over all tiles of expert 0, then all of expert 1, …                      PyTorch: one small sum
    order   0: 1 4 7 … │ 1: 3 … │ 2: 0 2 5 6 …                       kernel 2: each program writes its own

The sort is stable and deterministic and needs no atomic additions. The CPU never waits to learn how many
tokens an expert got.
"""

import torch
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.expert_checks import MOST_EXPERTS, check_choices
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton
from course_lib.model.checks import plain


def group_by_expert(
    chosen: Tensor, n_experts: int, backend: str = "auto", check: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the choices sorted by expert: order (choices,) and starts (n_experts + 1,), both of int32.

    order holds indices into chosen.flatten(). starts[e] is the index in order of the first choice of expert
    e, and the last element is the number of choices. chosen: (…) expert ids, int32 or int64. The sort is
    stable, as argsort(stable=True) is.

    Raises ValueError for ids that aren't int32 or int64, for n_experts below 1, and for an id outside the
    experts. On a GPU ids are looked at only with `check`, since that means waiting for the GPU; without it
    `order` is undefined for such an id. For other errors see `use_triton`.
    """
    flat, n_experts = chosen.flatten().contiguous(), plain(n_experts)
    check_choices(flat, n_experts, backend, check)
    if not use_triton(backend, flat, integers=True) or not len(flat) or n_experts > MOST_EXPERTS:
        return flat.argsort(stable=True).int(), _starts(flat.bincount(minlength=n_experts))
    return _counting_sort(flat, n_experts)


def _counting_sort(flat: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Return order (choices,) and starts (n_experts + 1,), by the kernels. flat: (choices,)."""
    tile = _tile(n_experts)
    programs = tile_count(len(flat), tile.sizes["CHOICES"])
    counts = torch.empty(programs, n_experts, dtype=torch.int32, device=flat.device)
    launch(count_choices, (programs,), flat, counts, len(flat), n_experts, tile=tile)
    sums = counts.T.flatten().cumsum(0).view(n_experts, programs).T  # (programs, n_experts)
    first = (sums - counts).to(torch.int32).contiguous()  # (programs, n_experts)
    order = torch.empty(len(flat), dtype=torch.int32, device=flat.device)
    tile = Tile(tile.sizes, warps=8)
    launch(place_choices, (programs,), flat, first, order, len(flat), n_experts, tile=tile)
    return order, _starts(counts.sum(0))


def group_by_expert_cost(choices: int, n_experts: int, bytes_each: int = 8) -> Cost:
    """Return the cost of both kernels.

    They read the choices twice and write their order, and write and read an integer for each tile and expert.
    bytes_each: the bytes of a choice.
    """
    (choices,) = check_sizes(choices=choices)
    bytes_each = check_bytes(bytes_each)
    (n_experts,) = check_sizes(1, n_experts=n_experts)
    programs = tile_count(choices, _tile(n_experts).sizes["CHOICES"])
    return Cost(choices * (2 * bytes_each + 4) + 2 * 4 * programs * n_experts, 0)


def _starts(counts: Tensor) -> Tensor:
    """Return where each expert's choices start in the order, and where the last ends, (n_experts + 1,)."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()


def _tile(n_experts: int) -> Tile:
    """Return a tile of all experts, with as many choices as keep the (choices, experts) table on the chip."""
    experts = power_of_two(n_experts)
    return Tile({"CHOICES": max(16, min(1_024, 8_192 // experts)), "EXPERTS": experts})


@triton.jit
def count_choices(chosen_ptr, counts_ptr, choices, n_experts, CHOICES: tl.constexpr, EXPERTS: tl.constexpr):
    """counts[tile, expert] = how many of the tile's choices are this expert."""
    # index: (CHOICES,), expert: (EXPERTS,)
    index, expert = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES), tl.arange(0, EXPERTS)
    chosen = tl.load(chosen_ptr + index, mask=index < choices, other=-1).to(tl.int32)  # (CHOICES,)
    one_hot = (chosen[:, None] == expert[None, :]).to(tl.int32)  # (CHOICES, EXPERTS)
    counts_ptr += tl.program_id(0).to(tl.int64) * n_experts
    tl.store(counts_ptr + expert, tl.sum(one_hot, axis=0), mask=expert < n_experts)


@triton.jit
def place_choices(
    chosen_ptr, first_ptr, order_ptr, choices, n_experts, CHOICES: tl.constexpr, EXPERTS: tl.constexpr
):
    """order[first[tile, expert] + i] = index of the tile's i-th choice of this expert, counted from 0."""
    # index: (CHOICES,), expert: (EXPERTS,)
    index, expert = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES), tl.arange(0, EXPERTS)
    chosen = tl.load(chosen_ptr + index, mask=index < choices, other=-1).to(tl.int32)  # (CHOICES,)
    one_hot = (chosen[:, None] == expert[None, :]).to(tl.int32)  # (CHOICES, EXPERTS)
    first_ptr += tl.program_id(0).to(tl.int64) * n_experts
    first = tl.load(first_ptr + expert, mask=expert < n_experts, other=0)  # (EXPERTS,)
    # How many earlier choices of this tile are the same expert.
    earlier = tl.cumsum(one_hot, axis=0) - one_hot  # (CHOICES, EXPERTS)
    target = tl.sum(one_hot * (first[None, :] + earlier), axis=1)  # (CHOICES,)
    tl.store(order_ptr + target, index, mask=(index < choices) & (chosen >= 0) & (chosen < n_experts))
