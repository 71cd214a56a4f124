"""Low-rank adaptation (Hu et al. 2021, section 4.1).

A matrix of out × in numbers stays as it is; beside it, a narrow path learns what to add to its result:

    y = x Wᵀ + (alpha / rank) · x Aᵀ Bᵀ          A: (rank, in)    B: (out, rank)

B A is a change of W of rank at most `rank`. B begins as zeros, so at first nothing is changed, bit for bit.

Not handled: dropout on the path, ranks that differ between matrices, rsLoRA's and DoRA's other scales.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import require_mergeable
from course_lib.train.peft.attach import Wrapper, kind_of_numbers


@dataclass(frozen=True)
class LoRA:
    """rank: how narrow the path is. alpha: its strength, divided by the rank. targets: which linear layers get one, by the
    last parts of their paths ("attention.query" is every block's).

    Raises ValueError for a rank below 1, an alpha that isn't above 0, or no target.
    """

    rank: int = 8
    alpha: float = 16
    targets: Sequence[str] = ("attention.query", "attention.value")

    def __post_init__(self):
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"rank must be a whole number of at least 1, not {self.rank!r}")
        if type(self.alpha) not in (int, float) or not 0 < self.alpha <= sys.float_info.max:
            raise ValueError(f"alpha must be a number above 0, Python's own, not {self.alpha!r}")
        if not targets:
            raise ValueError('name at least one target, such as "attention.query"')

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`. The wrapped layers may be quantized: what is needed is in_features and out_features."""
        numbers = kind_of_numbers(model)
        return {
            path: LoRALinear(layer, self.rank, self.alpha, generator, numbers)
            for path, layer in _linears(model, self.targets).items()
        }


class LoRALinear(Wrapper):
    """A linear layer with a low-rank path beside it, (…, in_features) → (…, out_features).

    The path's weights are kept in 32 bits and used in those of the input.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        numbers: dict | None = None,
    ):
        super().__init__(base)
        self.in_features, self.out_features = base.in_features, base.out_features
        most = min(self.in_features, self.out_features)
        if rank > most:
            raise ValueError(
                f"a matrix of {self.out_features} × {self.in_features} has rank {most} at most, not {rank}"
            )
        # As in the package peft: what nn.Linear itself begins with ("Kaiming uniform" with a = √5).
        bound = self.in_features**-0.5
        first = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        numbers = numbers or {}
        self.A = nn.Parameter(first.to(**numbers))
        self.B = nn.Parameter(torch.zeros(self.out_features, rank, **numbers))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.A.to(x.dtype))
        return self.base(x) + self.scale * F.linear(narrow, self.B.to(x.dtype))

    def change(self) -> Tensor:
        """What is added to the base's weight, (out_features, in_features), of rank at most `rank`."""
        return self.scale * self.B @ self.A

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One ordinary layer in place of both. Raises ValueError where the base is none."""
        require_mergeable(self.base)
        old = self.base.weight
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter((old + self.change()).to(old.dtype), requires_grad=old.requires_grad)
        layer.bias = self.base.bias
        return layer.train(self.base.training)


def _linears(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """The modules whose path ends in a target. Raises ValueError for a target that fits none, or none that is linear."""
    found = {}
    for target in targets:
        fits = {path: m for path, m in model.named_modules() if f".{path}".endswith(f".{target}")}
        if not fits:
            raise ValueError(f"no layer is called {target!r}; there are {', '.join(_names(model))}")
        other = [path for path, module in fits.items() if not _is_linear(module)]
        if other:
            raise ValueError(f"{other[0]} is not a linear layer: name its parts")
        found |= fits
    return {path: module for path, module in model.named_modules() if path in found}


def _names(model: nn.Module) -> list[str]:
    """What targets can be called: the linear layers' paths, without the block's number."""
    paths = (path for path, module in model.named_modules() if _is_linear(module))
    return sorted({re.sub(r"^.*blocks\.\d+\.", "", path) for path in paths})


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")
