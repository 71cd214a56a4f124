"""LoRA, low-rank adaptation (Hu et al. 2021, section 4.1).

The weight W of a linear layer, (out, in), stays frozen. Two narrow matrices learn an update of rank `rank` at
most:

    y = x Wᵀ + (alpha / rank) · x Aᵀ Bᵀ          A: (rank, in)    B: (out, rank)

B is initialized with zeros, so that attaching it changes no output.

Not handled: dropout, ranks that differ between layers, the scaling of rsLoRA and DoRA.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.model.exchange import require_mergeable
from course_lib.train.checks import own_whole
from course_lib.train.peft.attach import Wrapper, factory_kwargs


@dataclass(frozen=True)
class LoRA:
    """LoRA's settings.

    rank: the rank of each update.
    alpha: the update is multiplied by alpha / rank.
    targets: the linear layers to update, by the last parts of their paths: "attention.query" is that of every
        block.

    Raises ValueError for a rank below 1, an alpha that isn't above 0, or no target.
    """

    rank: int = 8
    alpha: float = 16
    targets: Sequence[str] = ("attention.query", "attention.value")

    def __post_init__(self):
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        targets = tuple(targets) if isinstance(targets, Iterable) else ()
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "rank", own_whole("rank", self.rank, 1))
        is_number = isinstance(self.alpha, Real) and not isinstance(self.alpha, bool)
        if not is_number or not 0 < self.alpha <= sys.float_info.max:
            raise ValueError(f"alpha must be a finite number above 0, not {self.alpha!r}")
        alpha = self.alpha if type(self.alpha) is int else float(self.alpha)  # Python's own: a file holds it
        object.__setattr__(self, "alpha", alpha)
        if not targets or not all(isinstance(target, str) and target for target in targets):
            raise ValueError(f'name at least one target, such as "attention.query", not {targets!r}')

    def wrap(self, model: nn.Module, generator: torch.Generator) -> dict[str, Wrapper]:
        """See `attach.Method`. The layers may be quantized: only in_features and out_features are needed."""
        kwargs = factory_kwargs(model)
        return {
            path: LoRALinear(layer, self.rank, self.alpha, generator, kwargs)
            for path, layer in _target_layers(model, self.targets).items()
        }


class LoRALinear(Wrapper):
    """A linear layer with a low-rank update, (…, in_features) → (…, out_features).

    base: the linear layer.
    rank, alpha: as in `LoRA`.
    generator: for the initial values of A.
    kwargs: dtype and device of A and B, which are cast to the input's dtype at each use.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        kwargs: dict | None = None,
    ):
        super().__init__(base)
        self.in_features, self.out_features = base.in_features, base.out_features
        most = min(self.in_features, self.out_features)
        if rank > most:
            raise ValueError(
                f"a matrix of {self.out_features} × {self.in_features} has rank {most} at most, not {rank}"
            )
        # As in the package peft: the initial values of nn.Linear ("Kaiming uniform" with a = √5).
        bound = self.in_features**-0.5
        initial = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        kwargs = kwargs or {}
        self.A = nn.Parameter(initial.to(**kwargs))  # (rank, in_features)
        self.B = nn.Parameter(torch.zeros(self.out_features, rank, **kwargs))  # (out_features, rank)
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.A.to(x.dtype))  # (…, rank)
        return self.base(x) + self.scale * F.linear(narrow, self.B.to(x.dtype))  # (…, out_features)

    def change(self) -> Tensor:
        """Return the update of the base's weight, (out_features, in_features), of rank `rank` at most."""
        return self.scale * self.B @ self.A

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return one `nn.Linear` with the updated weight.

        Raises ValueError unless the base is an `nn.Linear`.
        """
        require_mergeable(self.base)
        old = self.base.weight
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter((old + self.change()).to(old.dtype), requires_grad=old.requires_grad)
        layer.bias = self.base.bias
        return layer.train(self.base.training)


def _target_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Return the linear layers whose paths end in a target, by path.

    Raises ValueError for a target that matches no layer, or one that isn't linear.
    """
    matched = {}
    for target in targets:
        layers = {path: m for path, m in model.named_modules() if f".{path}".endswith(f".{target}")}
        if not layers:
            raise ValueError(f"no layer is called {target!r}; there are {', '.join(_target_names(model))}")
        other = [path for path, module in layers.items() if not _is_linear(module)]
        if other:
            raise ValueError(f"{other[0]} is not a linear layer: name its parts")
        matched |= layers
    return {path: module for path, module in model.named_modules() if path in matched}


def _target_names(model: nn.Module) -> list[str]:
    """Return all possible targets: the linear layers' paths without the block's number."""
    paths = (path for path, module in model.named_modules() if _is_linear(module))
    return sorted({re.sub(r"^.*blocks\.\d+\.", "", path) for path in paths})


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")
