"""The last matrix product and cross entropy together, so that there are never all logits at once.

    hidden (tokens, d)      weightᵀ (d, vocab)       logits (chunk, vocab)
    ┌───────────────┐                              ┌──────────────────────┐
    │ chunk 1       │  ×  ┌─────────────────┐  =   │ → losses             │  kernel: logits become their own gradient g
    ├───────────────┤     │                 │      └──────────────────────┘
    │ chunk 2       │     └─────────────────┘        g × weight → the chunk's rows of hidden's gradient
    ├───────────────┤                                gᵀ × chunk → added to weight's gradient
    │ …             │        and the next chunk, when this one's logits are gone
    └───────────────┘

Both gradients are ready when the loss is, and backward only scales them. The logits of 8,192 tokens in a vocabulary of 49,152
take 0.8 GB in 16 bits, and their gradient as much again; here it takes their place, and there is a chunk of them at a time
(without the kernel, PyTorch holds the chunk's log-probabilities as well). This is the way of Liger Kernel (Hsu et al. 2024,
"Liger Kernel: Efficient Triton Kernels for LLM Training"). The other way is to put the products into the kernel too, so that
logits don't leave the chip, and to compute them again for the gradient (Wijmans et al. 2024, "Cut Your Losses in
Large-Vocabulary Language Models").

Not handled: a bias, capped logits, a second derivative. Tokens whose target doesn't count are multiplied like the others.
"""

import torch
from torch import Tensor

from course_lib.kernels.cost import Cost
from course_lib.kernels.cross_entropy import (
    check_reduction,
    check_targets,
    cross_entropy_cost,
    losses_in_place,
)
from course_lib.kernels.language import product_dtype, tiles, use_triton

# Each chunk moves the weights and their gradient: with fewer tokens to a chunk than d, that is most of the traffic (see
# `linear_cross_entropy_cost`). In 16 bits, 2,048 tokens' logits take 0.2 GB for a vocabulary of 49,152, 1 GB for 256,000.
CHUNK = 2_048


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto", chunk: int = CHUNK,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """`cross_entropy` of the logits hidden @ weightᵀ: the mean in nats over targets that aren't `ignore`; nan if all are.

    reduction: "mean", or "sum" of the losses, or "none": the loss of each token, (…) as targets, 0 where the target is `ignore`.
    How much each of those will weigh in the end isn't known before backward, so that for "none" the logits are computed there
    once more.

    hidden: (…, d). weight: (vocab, d), as nn.Linear has it. targets: tokens' numbers (…). chunk: tokens at a time. The loss has
    32 bits (64 for inputs of 64). Differentiable in hidden and weight, once. What needs no gradient has none computed: with
    the weight frozen, as in LoRA, its product and its memory are saved, and under no_grad only losses are computed.

    The logits of 16-bit inputs have 16 bits. The weight's gradient is added up over the chunks in 32, so that many chunks are
    as good as one; that takes 4 bytes a weight until backward rounds it. Gradients are divided by the number of targets only
    in backward, together with the loss's own gradient, lest float16 lose small ones. Under torch.autocast the products are in
    its dtype, and each gradient in its input's.

    backend: who computes the losses; the products are PyTorch's. Raises ValueError for shapes and dtypes that don't fit; for
    others see `token_losses`.
    """
    _check(hidden, weight, targets, ignore, chunk)
    check_reduction(reduction)
    dtype = _product_dtype(hidden, weight)
    kernel = use_triton(backend, hidden, weight, targets)
    wanted = tuple(torch.is_grad_enabled() and x.requires_grad for x in (hidden, weight))
    flat = targets.flatten().long().contiguous()
    if reduction == "none":
        return _LinearTokenLosses.apply(hidden, weight, flat, ignore, chunk, kernel, dtype, wanted).view(
            targets.shape
        )
    divisor = (
        (flat != ignore).sum()
        if reduction == "mean"
        else torch.ones((), dtype=torch.int64, device=flat.device)
    )
    return _LinearCrossEntropy.apply(hidden, weight, flat, ignore, chunk, kernel, dtype, wanted, divisor)


def linear_cross_entropy_cost(
    tokens: int, d: int, vocab: int, bytes_each: int, chunk: int = CHUNK, ignored: int = 0, hidden: bool = True,
    weight: bool = True,
) -> Cost:  # fmt: skip
    """The loss and the gradients in hidden and weight (or fewer), each matrix of a product being read or written once.

    Left out, being small or the same for every way: scaling the gradients in backward, and clearing the weight's at first.
    bytes_each: of a number of hidden and weight. ignored: tokens whose target doesn't count.
    """
    activations, weights, logits = (bytes_each * size for size in (tokens * d, vocab * d, tokens * vocab))
    chunks, flops = tiles(tokens, chunk), 2 * tokens * vocab * d
    product = Cost(activations + chunks * weights + logits, flops)
    cost = product + cross_entropy_cost(tokens, vocab, bytes_each, ignored=ignored)
    if hidden or weight:
        cost += cross_entropy_cost(tokens, vocab, bytes_each, backward=True, ignored=ignored)
    if hidden:
        cost += product
    if weight:
        cost += Cost(activations + chunks * 2 * max(4, bytes_each) * vocab * d + logits, flops)
    return cost


class _LinearCrossEntropy(torch.autograd.Function):
    """The losses' sum, divided. Both gradients are ready when it is."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, ignore, chunk, kernel, dtype, wanted, divisor) -> Tensor:
        rows, matrix = hidden.reshape(len(targets), hidden.shape[-1]).to(dtype), weight.to(dtype)
        losses, *grads = _in_chunks(rows, matrix, targets, ignore, chunk, kernel, wanted)
        ctx.save_for_backward(*grads, divisor)
        ctx.shape, ctx.dtypes = hidden.shape, (hidden.dtype, weight.dtype)
        return losses.sum() / divisor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss: Tensor) -> tuple:
        grad_rows, grad_matrix, divisor = ctx.saved_tensors
        factor = grad_loss / divisor.clamp(min=1)  # where no target counts, the gradients are 0
        grad_hidden = None if grad_rows is None else _scaled(grad_rows, factor, ctx.dtypes[0]).view(ctx.shape)
        grad_weight = None if grad_matrix is None else _scaled(grad_matrix, factor, ctx.dtypes[1])
        return grad_hidden, grad_weight, *[None] * 7


class _LinearTokenLosses(torch.autograd.Function):
    """Losses one by one. Backward takes each chunk's logits anew, for only there it is known by what each loss counts."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, ignore, chunk, kernel, dtype, wanted) -> Tensor:
        rows, matrix = hidden.reshape(len(targets), hidden.shape[-1]).to(dtype), weight.to(dtype)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.dials, ctx.dtype, ctx.wanted = (ignore, chunk, kernel), dtype, wanted
        return _in_chunks(rows, matrix, targets, ignore, chunk, kernel, (False, False))[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor) -> tuple:
        hidden, weight, targets = ctx.saved_tensors
        rows, matrix = hidden.reshape(len(targets), hidden.shape[-1]).to(ctx.dtype), weight.to(ctx.dtype)
        # Up to 1, so that small ones aren't lost in 16 bits; the largest is multiplied at the end, in 32.
        largest = grad_losses.abs().sum() if not len(rows) else grad_losses.abs().max()
        counts = grad_losses / torch.where(largest == 0, 1.0, largest)
        _, grad_rows, grad_matrix = _in_chunks(rows, matrix, targets, *ctx.dials, ctx.wanted, counts[:, None])
        grad_hidden = (
            None
            if grad_rows is None
            else _scaled(grad_rows, grad_losses[:, None], hidden.dtype).view(hidden.shape)
        )
        grad_weight = None if grad_matrix is None else _scaled(grad_matrix, largest, weight.dtype)
        return grad_hidden, grad_weight, *[None] * 6


def _in_chunks(
    rows: Tensor, matrix: Tensor, targets: Tensor, ignore: int, chunk: int, kernel: bool, wanted: tuple[bool, bool],
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Losses (rows,), and where wanted their gradients: of each row's own loss, and of the losses' sum in the matrix, in 32 bits
    or more. counts: (rows, 1), by what each loss counts in that sum; 1 unless told otherwise."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    grad_rows = torch.empty_like(rows) if wanted[0] else None
    grad_matrix = torch.zeros_like(matrix, dtype=wide) if wanted[1] else None
    losses = torch.empty(len(rows), dtype=wide, device=rows.device)
    with torch.autocast(
        rows.device.type, enabled=False
    ):  # what is to be converted has been, the rest must not be
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            logits = rows[part] @ matrix.T
            losses[part] = losses_in_place(logits, targets[part], ignore, any(wanted), kernel)
            if grad_rows is not None:
                torch.mm(logits, matrix, out=grad_rows[part])
            if grad_matrix is not None:
                weighed = rows[part] if counts is None else (rows[part] * counts[part]).to(rows.dtype)
                _add_product(grad_matrix, logits.T, weighed)
            del logits  # before the next chunk's are made
    return losses, grad_rows, grad_matrix


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where total may have more bits than a and b, and nothing is rounded to theirs in between."""
    if total.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # elsewhere PyTorch's products have one dtype
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def _scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """x · factor in dtype, multiplied in the factor's, which has 32 bits or more."""
    return torch.mul(x.to(factor.dtype), factor, out=torch.empty_like(x, dtype=dtype))


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What is multiplied: under autocast its dtype, otherwise that of both."""
    if (dtype := product_dtype(hidden, weight)) is not None:
        return dtype
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}: convert one, or use torch.autocast"
        )
    return hidden.dtype


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int, chunk: int) -> None:
    if not hidden.dim() or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        shapes = f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}"
        raise ValueError(f"{shapes} don't fit: (…, d) and (vocab, d) are wanted")
    check_targets((*hidden.shape[:-1], len(weight)), targets, ignore)
    if chunk < 1:
        raise ValueError(f"a chunk has at least 1 token, not {chunk}")
