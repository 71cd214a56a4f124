"""Cross entropy that never writes the probabilities down.

    logits (rows, vocab)            a program takes ROWS whole rows, COLUMNS tokens of the vocabulary at a time
    ┌───────┬───────┬───────┬──┐
    │ tile ───→ tile ──→ tile →│    Forward: the largest logit so far, and the sum of the exponentials relative to it; when a
    ├───────┼───────┼───────┼──┤    larger one turns up, the sum is scaled down to it ("online softmax": Milakov & Gimelshein
    │       │       │       │  │    2018). One loss and one log-sum-exp leave the chip for each row.
    ├───────┼───────┼───────┼──┤
    │ …     │       │       │  │    Back: each tile is a program of its own. probability = exp(logit − log-sum-exp), less 1 at
    └───────┴───────┴───────┴──┘    the target, times the gradient of the row's loss.

Rows whose target doesn't count are not read. Where the vocabulary is a multiple of 16, a thread loads 16 bytes at a time; any
other works, with narrower loads.

Not handled: label smoothing, weights of classes, a penalty on the log-sum-exp, a second derivative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tiles, tl, triton, use_triton

TILE = 4_096  # numbers that a program works on at a time
REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    logits: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto", reduction: str = "mean"
) -> Tensor:
    """−log of the probability given to the right token, in nats: the mean over targets that aren't `ignore`; nan if all are.

    What F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore) gives, and its gradient, except that the
    loss of 16-bit logits has 32 bits. reduction: "mean", "sum", or "none" for `token_losses`. Shapes and errors: there.
    """
    check_reduction(reduction)
    losses = token_losses(logits, targets, ignore, backend)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (targets != ignore).sum()


def token_losses(logits: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto") -> Tensor:
    """The loss of each token, (…) as targets, 0 where the target is `ignore`. Its negative is the target's log-probability.

    logits: (…, vocab); banned tokens may be −inf. targets: tokens' numbers (…). Computed in 32 bits, and returned so (in 64
    for logits of 64). Differentiable in logits, once.

    Raises ValueError for shapes that don't fit and, on a CPU, for a target outside the vocabulary. To look for one on a GPU
    would be to wait for it: there the kernel looks up no logit for such a target, and makes its loss and its row's gradient
    nan. For other errors see `use_triton`.
    """
    check_targets(tuple(logits.shape), targets, ignore)
    rows, flat = logits.reshape(targets.numel(), logits.shape[-1]), targets.flatten().long().contiguous()
    if use_triton(backend, logits, targets):
        losses = _TokenLosses.apply(rows, flat, ignore)
    else:
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        losses = F.cross_entropy(wide, flat, ignore_index=ignore, reduction="none")
    return losses.view(targets.shape)


def cross_entropy_cost(
    rows: int, vocab: int, bytes_each: int, backward: bool = False, ignored: int = 0
) -> Cost:
    """Forward: logits in and the target's again, a target (8 bytes) in and two numbers out for each row. Backward: logits in,
    a gradient out, and each tile reads its rows' targets, log-sum-exps and gradients. bytes_each: of a logit. ignored: rows
    whose target doesn't count."""
    counted = rows - ignored
    if not backward:
        return Cost(bytes_each * counted * (vocab + 1) + (8 + 4 + 4) * rows, 4 * counted * vocab)
    across = tiles(vocab, _tile(rows, vocab).sizes["COLUMNS"])
    return Cost(
        bytes_each * (counted + rows) * vocab + across * (8 * rows + (4 + 4) * counted), 4 * counted * vocab
    )


def losses_in_place(logits: Tensor, targets: Tensor, ignore: int, gradient: bool, kernel: bool) -> Tensor:
    """Losses (rows,) of logits (rows, vocab). With `gradient`, the gradient of the losses' sum takes the logits' place.

    For `linear_cross_entropy`, whose logits nobody else has. kernel: by Triton's, otherwise by PyTorch.
    """
    if kernel:
        losses, lse = _forward(logits, targets, ignore)
        if gradient:
            _backward(logits, targets, lse, torch.ones_like(losses), logits, ignore)
        return losses
    log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    losses = F.nll_loss(log_probs, targets, ignore_index=ignore, reduction="none")
    if gradient:
        left_out = (targets == ignore)[:, None]
        right = targets[:, None].masked_fill(left_out, 0)
        grad = log_probs.exp_().scatter_add_(1, right, -torch.ones_like(right, dtype=log_probs.dtype))
        logits.copy_(grad.masked_fill_(left_out, 0.0))
    return losses


def check_reduction(reduction: str) -> None:
    """Raises ValueError for one that there isn't."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; not {reduction!r}")


def check_targets(logits_shape: tuple[int, ...], targets: Tensor, ignore: int) -> None:
    """Raises ValueError unless these are targets for logits of this shape."""
    if logits_shape[:-1] != targets.shape or not logits_shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} don't fit logits {logits_shape}: (…) and (…, vocab) are wanted"
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets are tokens' numbers, of torch.int64 or int32; not of {targets.dtype}")
    if targets.device.type == "cpu":
        outside = (targets != ignore) & ((targets < 0) | (targets >= logits_shape[-1]))
        if outside.any():
            raise ValueError(
                f"target {targets[outside][0]} is outside the vocabulary of {logits_shape[-1]} tokens"
            )


@triton.jit
def cross_entropy_forward(
    logits_ptr, targets_ptr, losses_ptr, lse_ptr, rows, vocab, row_stride, ignore,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    target = tl.load(targets_ptr + row, mask=row < rows, other=ignore)
    counts = target != ignore
    logits_ptr += row.to(tl.int64) * row_stride
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, vocab, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[None, :]
        there = counts[:, None] & (column < vocab)
        x = tl.load(logits_ptr[:, None] + column, mask=there, other=-float("inf")).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(x, axis=1))
        base = tl.where(new_largest == -float("inf"), 0.0, new_largest)  # −inf − −inf would be nan
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(x - base[:, None]), axis=1)
        largest = new_largest
    inside = (target >= 0) & (target < vocab)
    right = tl.load(logits_ptr + target, mask=counts & inside, other=0.0).to(tl.float32)
    log_total = tl.where(inside, tl.log(tl.where(counts, total, 1.0)), float("nan"))
    tl.store(losses_ptr + row, tl.where(counts, log_total - (right - largest), 0.0), mask=row < rows)
    tl.store(lse_ptr + row, largest + log_total, mask=row < rows)


@triton.jit
def cross_entropy_backward(
    logits_ptr, targets_ptr, lse_ptr, grad_losses_ptr, grad_ptr, rows, vocab, row_stride, grad_stride, ignore,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # grad_ptr may be logits_ptr: a program reads its tile before it writes there, and no other one reads it.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    target = tl.load(targets_ptr + row, mask=row < rows, other=ignore)
    counts = target != ignore
    lse = tl.load(lse_ptr + row, mask=counts, other=0.0)
    factor = tl.load(
        grad_losses_ptr + row, mask=counts, other=0.0
    )  # a row that doesn't count gets a gradient of 0
    there = (row < rows)[:, None] & (column < vocab)
    logits_ptr += row.to(tl.int64) * row_stride
    grad_ptr += row.to(tl.int64) * grad_stride
    x = tl.load(logits_ptr[:, None] + column, mask=there & counts[:, None], other=-float("inf"))
    probability = tl.exp(x.to(tl.float32) - lse[:, None])
    grad = (probability - tl.where(column == target[:, None], 1.0, 0.0)) * factor[:, None]
    tl.store(grad_ptr[:, None] + column, grad.to(grad_ptr.dtype.element_ty), mask=there)


def _forward(logits: Tensor, targets: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Losses and log-sum-exps, (rows,) each."""
    tile = _tile(*logits.shape)
    losses, lse = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    launch(
        cross_entropy_forward, (tiles(len(logits), tile.sizes["ROWS"]),), logits, targets, losses, lse, *logits.shape,
        logits.stride(0), ignore, tile=tile,
    )  # fmt: skip
    return losses, lse


def _backward(
    logits: Tensor, targets: Tensor, lse: Tensor, grad_losses: Tensor, grad: Tensor, ignore: int
) -> None:
    """Writes the logits' gradient into grad, for a gradient of each loss."""
    tile = _tile(*logits.shape)
    launch(
        cross_entropy_backward, tuple(map(tiles, logits.shape, tile.sizes.values())), logits, targets, lse,
        grad_losses, grad, *logits.shape, logits.stride(0), grad.stride(0), ignore, tile=tile,
    )  # fmt: skip


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
        logits = logits if logits.stride(-1) == 1 else logits.contiguous()
        losses, lse = _forward(logits, targets, ignore)
        ctx.save_for_backward(logits, targets, lse)
        ctx.ignore = ignore
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor) -> tuple:
        logits, targets, lse = ctx.saved_tensors
        grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
        _backward(logits, targets, lse, grad_losses.contiguous(), grad, ctx.ignore)
        return grad, None, None


def _tile(rows: int, vocab: int) -> Tile:
    """Up to TILE columns, and as many rows as fill TILE."""
    across = min(power_of_two(vocab), TILE)
    down = max(1, min(TILE // across, power_of_two(rows)))
    return Tile({"ROWS": down, "COLUMNS": across}, warps=8 if down * across > 2_048 else 4)
