"""Cross entropy that never stores the probabilities: loss = log Σ exp(logits) − logit of the target.

    logits (rows, vocab)            Forward: a program computes ROWS whole rows, COLUMNS tokens at a time.
    ┌───────┬───────┬───────┬──┐    It keeps the largest logit so far and the sum of the exponentials
    │ tile ───→ tile ──→ tile →│    relative to it; when a larger logit comes, it scales the sum down
    ├───────┼───────┼───────┼──┤    ("online softmax": Milakov & Gimelshein 2018). For each row it stores
    │       │       │       │  │    one loss and one log-sum-exp.
    ├───────┼───────┼───────┼──┤    Backward: a program computes one tile. The gradient of a logit is its
    │ …     │       │       │  │    probability, exp(logit − log-sum-exp), minus 1 at the target, times the
    └───────┴───────┴───────┴──┘    gradient of the row's loss.

Rows whose target is ignored are not read. Where the vocabulary is a multiple of 16, a thread loads 16 bytes
at a time; other sizes work too, with narrower loads.

Not handled: label smoothing, weights of classes, a penalty on the log-sum-exp, a second derivative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.checks import INTEGERS, check_bytes, check_flags, check_floats, check_sizes
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.cost import Cost
from course_lib.kernels.language import launch, power_of_two, tile_count, tl, triton, use_triton
from course_lib.model.checks import is_whole, plain

TILE_ELEMENTS = 4_096  # that a program works on at a time
REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    logits: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto", reduction: str = "mean"
) -> Tensor:
    """Return the mean over the targets of −log of the target's probability, in nats.

    Targets that are `ignore` don't count; if all are, the mean is nan. The loss and its gradient equal those
    of F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore), except that the loss of
    16-bit logits has 32 bits. reduction: "mean", "sum", or "none", which returns `token_losses`. Shapes and
    errors are those of `token_losses`.
    """
    check_reduction(reduction)
    losses = token_losses(logits, targets, ignore, backend)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (targets.long() != ignore).sum()


def token_losses(logits: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto") -> Tensor:
    """Return minus the log-probability of each target, (…) as targets; 0 where the target is `ignore`.

    logits: (…, vocab), −inf for banned tokens. targets: token ids, (…). The losses are computed and returned
    in 32 bits (64 for logits of 64). Differentiable once, in logits. The loss of a row with nan or +∞ is nan.

    Raises ValueError for shapes that don't fit and, on a CPU, for a target outside the vocabulary, such as −1
    where `ignore` is another number. A check on a GPU would have to wait for the GPU: there the kernel reads
    no logit for such a target, and its loss and its row's gradient are nan. For other errors see
    `use_triton`.
    """
    ignore = plain(ignore)
    check_floats(logits=logits)
    check_targets(tuple(logits.shape), targets, ignore)
    rows = logits.reshape(targets.numel(), logits.shape[-1])  # (rows, vocab)
    flat = targets.flatten().long().contiguous()  # (rows,)
    if use_triton(backend, logits, targets):
        losses = _TokenLosses.apply(rows, flat, ignore)
    else:
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        losses = F.cross_entropy(wide, flat, ignore_index=ignore, reduction="none")
    return losses.view(targets.shape)


def cross_entropy_cost(
    rows: int, vocab: int, bytes_each: int, backward: bool = False, ignored: int = 0
) -> Cost:
    """Return the cost. bytes_each: the bytes of a logit. ignored: the rows whose target is ignored.

    For each row, forward reads the logits, the target (8 bytes) and the target's logit again, and writes the
    loss and the log-sum-exp. Backward reads the logits and writes their gradient, and each tile reads its
    rows' targets, log-sum-exps and gradients. Operations: four for each logit that is read, of which one is
    an exponential.
    """
    rows, vocab, ignored = check_sizes(rows=rows, vocab=vocab, ignored=ignored)
    if ignored > rows:
        raise ValueError(f"{ignored} of {rows} rows can't be ignored")
    bytes_each = check_bytes(bytes_each)
    check_flags(backward=backward)
    counted = rows - ignored
    if not backward:
        return Cost(bytes_each * counted * (vocab + 1) + (8 + 4 + 4) * rows, 4 * counted * vocab)
    across = tile_count(vocab, _tile(rows, vocab).sizes["COLUMNS"])
    moved = bytes_each * (counted + rows) * vocab + across * (8 * rows + (4 + 4) * counted)
    return Cost(moved, 4 * counted * vocab)


def losses_in_place(logits: Tensor, targets: Tensor, ignore: int, gradient: bool, kernel: bool) -> Tensor:
    """Return the losses (rows,) of logits (rows, vocab); with `gradient`, replace the logits by it.

    The gradient is that of the losses' sum. kernel: whether Triton computes, rather than PyTorch. Used by
    `linear_cross_entropy`, which needs its logits only once.
    """
    if kernel:
        losses, lse = _forward(logits, targets, ignore)
        if gradient:
            _backward(logits, targets, lse, torch.ones_like(losses), logits, ignore)
        return losses
    log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    losses = F.nll_loss(log_probs, targets, ignore_index=ignore, reduction="none")
    if gradient:
        ignored = (targets == ignore)[:, None]  # (rows, 1)
        index = targets[:, None].masked_fill(ignored, 0)  # (rows, 1)
        grad = log_probs.exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=log_probs.dtype))
        logits.copy_(grad.masked_fill_(ignored, 0.0))
    return losses


def check_reduction(reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; not {reduction!r}")


def check_targets(logits_shape: tuple[int, ...], targets: Tensor, ignore: int) -> None:
    """Raise ValueError unless the targets fit logits of this shape, (…, vocab)."""
    if not is_whole(ignore, -(2**63), 2**63 - 1):
        raise ValueError(f"ignore must be a whole number, such as -100; not {ignore!r}")
    if logits_shape[:-1] != targets.shape or not logits_shape:
        shapes = f"targets {tuple(targets.shape)} don't fit logits {logits_shape}"
        raise ValueError(f"{shapes}: they must be (…) and (…, vocab)")
    if targets.dtype not in INTEGERS:
        raise ValueError(f"targets are token ids, of torch.int64 or int32; not of {targets.dtype}")
    if targets.device.type == "cpu":
        vocab, targets = logits_shape[-1], targets.long()
        outside = (targets != ignore) & ((targets < 0) | (targets >= vocab))
        if outside.any():
            raise ValueError(f"target {targets[outside][0]} is outside the vocabulary of {vocab} tokens")


@triton.jit
def cross_entropy_forward(
    logits_ptr, targets_ptr, losses_ptr, lse_ptr, rows, vocab, row_stride, ignore,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """loss = log Σ exp(x − m) − (x[target] − m), lse = m + log Σ exp(x − m); m is the largest x of a row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (ROWS,), as all except the tiles
    target = tl.load(targets_ptr + row, mask=row < rows, other=ignore)
    counted = target != ignore
    logits_ptr += row.to(tl.int64) * row_stride
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, vocab, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[None, :]  # (1, COLUMNS)
        mask = counted[:, None] & (column < vocab)  # (ROWS, COLUMNS)
        x = tl.load(logits_ptr[:, None] + column, mask=mask, other=-float("inf")).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(x, axis=1))
        base = tl.where(new_largest == -float("inf"), 0.0, new_largest)  # −inf − −inf would be nan
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(x - base[:, None]), axis=1)
        largest = new_largest
    inside = (target >= 0) & (target < vocab)
    target_logit = tl.load(logits_ptr + target, mask=counted & inside, other=0.0).to(tl.float32)
    log_total = tl.where(inside, tl.log(tl.where(counted, total, 1.0)), float("nan"))
    loss = tl.where(counted, log_total - (target_logit - largest), 0.0)
    tl.store(losses_ptr + row, loss, mask=row < rows)
    tl.store(lse_ptr + row, largest + log_total, mask=row < rows)


@triton.jit
def cross_entropy_backward(
    logits_ptr, targets_ptr, lse_ptr, grad_losses_ptr, grad_ptr, rows, vocab, row_stride, grad_stride, ignore,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad = (exp(x − lse) − [column is the target]) · grad_loss, for a tile of ROWS × COLUMNS.

    grad_ptr may be logits_ptr: a program reads its tile before it writes it, and no other program reads it.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # (1, COLUMNS)
    # target, counted, lse, grad_loss: (ROWS,)
    target = tl.load(targets_ptr + row, mask=row < rows, other=ignore)
    counted = target != ignore
    lse = tl.load(lse_ptr + row, mask=counted, other=0.0)
    # The gradient of a row whose target is ignored is 0.
    grad_loss = tl.load(grad_losses_ptr + row, mask=counted, other=0.0)
    mask = (row < rows)[:, None] & (column < vocab)  # (ROWS, COLUMNS), as x, probability and grad
    logits_ptr += row.to(tl.int64) * row_stride
    grad_ptr += row.to(tl.int64) * grad_stride
    x = tl.load(logits_ptr[:, None] + column, mask=mask & counted[:, None], other=-float("inf"))
    probability = tl.exp(x.to(tl.float32) - lse[:, None])
    grad = (probability - tl.where(column == target[:, None], 1.0, 0.0)) * grad_loss[:, None]
    tl.store(grad_ptr[:, None] + column, grad.to(grad_ptr.dtype.element_ty), mask=mask)


def _forward(logits: Tensor, targets: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return the losses and the log-sum-exps, (rows,) each."""
    losses, lse = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    tile = _tile(*logits.shape)
    grid = (tile_count(len(logits), tile.sizes["ROWS"]),)
    sizes = *logits.shape, logits.stride(0)
    launch(cross_entropy_forward, grid, logits, targets, losses, lse, *sizes, ignore, tile=tile)
    return losses, lse


def _backward(
    logits: Tensor, targets: Tensor, lse: Tensor, grad_losses: Tensor, grad: Tensor, ignore: int
) -> None:
    """Write the logits' gradient (rows, vocab) into grad. grad_losses: the gradient of each loss, (rows,)."""
    tile = _tile(*logits.shape)
    grid = tuple(map(tile_count, logits.shape, tile.sizes.values()))
    sizes = *logits.shape, logits.stride(0), grad.stride(0)
    launch(cross_entropy_backward, grid, logits, targets, lse, grad_losses, grad, *sizes, ignore, tile=tile)


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
    """Return a tile of up to TILE_ELEMENTS columns, and of as many rows as fill TILE_ELEMENTS."""
    columns = min(power_of_two(vocab), TILE_ELEMENTS)
    rows = max(1, min(TILE_ELEMENTS // columns, power_of_two(rows)))
    return Tile({"ROWS": rows, "COLUMNS": columns}, warps=8 if rows * columns > 2_048 else 4)
