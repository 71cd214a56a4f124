"""The last linear layer and cross entropy, a chunk of tokens at a time: the full logits never exist.

    hidden (tokens, d_model)    weightᵀ (d_model, vocab)     logits (chunk, vocab)
    ┌───────────────┐                                      ┌──────────────────────┐
    │ chunk 1       │  ×      ┌─────────────────┐     =    │ → losses             │  the gradient g replaces
    ├───────────────┤         │                 │          └──────────────────────┘  the logits in memory
    │ chunk 2       │         └─────────────────┘            g × weight → the chunk of hidden's gradient
    ├───────────────┤                                        gᵀ × chunk → added to weight's gradient
    │ …             │            The chunk's logits are freed before the next chunk's are computed.
    └───────────────┘

Both gradients are ready when the loss is, and backward only scales them. The logits of 8,192 tokens in a
vocabulary of 49,152 take 0.8 GB in 16 bits, and their gradient takes as much again; here the gradient is
written over the logits, and only one chunk of them exists at a time (without the kernel, PyTorch holds the
chunk's log-probabilities as well). Liger Kernel works in this way (Hsu et al. 2024, "Liger Kernel: Efficient
Triton Kernels for LLM Training"). The other way is to compute the products inside the kernel too, so that the
logits never leave the chip, and to compute them again for the gradient (Wijmans et al. 2024, "Cut Your Losses
in Large-Vocabulary Language Models").

Precision. The logits of 16-bit inputs have 16 bits. The weight's gradient is summed over the chunks in 32
bits, so that many chunks are as exact as one; that takes 4 bytes a weight until backward rounds it. The
gradients are divided by the number of targets only in backward, together with the loss's own gradient, so
that float16 doesn't lose small ones. Under torch.autocast the products are in autocast's dtype, and each
gradient is in its input's.

Not handled: a bias, capped logits, a second derivative. Tokens whose target is ignored are multiplied as
well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.kernels.checks import check_bytes, check_flags, check_floats, check_sizes
from course_lib.kernels.cost import Cost
from course_lib.kernels.cross_entropy import (
    check_reduction,
    check_targets,
    cross_entropy_cost,
    losses_in_place,
)
from course_lib.kernels.language import product_dtype, tile_count, use_triton
from course_lib.model.checks import is_whole, plain

# Each chunk reads the weights and updates their gradient: where a chunk has fewer tokens than d_model, that
# is most of the traffic (see `linear_cross_entropy_cost`). In 16 bits, the logits of 2,048 tokens take 0.2 GB
# for a vocabulary of 49,152 and 1 GB for 256,000.
CHUNK = 2_048


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int = -100, backend: str = "auto",
    chunk: int = CHUNK, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Return the `cross_entropy` of the logits hidden @ weightᵀ, in nats: a scalar, or for "none" (…).

    hidden: (…, d_model). weight: (vocab, d_model), as in nn.Linear. targets: token ids, (…).
    ignore: the target of tokens that don't count. chunk: the number of tokens whose logits exist at a time.
    backend: the backend for the losses, as in `use_triton`; the products always use PyTorch.
    reduction: "mean" over the targets that count (nan if none does), "sum", or "none": the loss of each
    token, 0 where the target is `ignore`. For "none" the logits are computed twice, because the weight of
    each loss is known only in backward.

    The loss has 32 bits (64 for inputs of 64). Differentiable once, in hidden and weight. A gradient that
    isn't needed is not computed: a frozen weight, as in LoRA, saves its product and its memory, and under
    no_grad only losses are computed. Raises ValueError for shapes and dtypes that don't fit; for others see
    `token_losses`.
    """
    ignore, chunk = plain(ignore), plain(chunk)
    options = _checked_options(hidden, weight, targets, ignore, backend, chunk, reduction)
    flat = targets.flatten().long().contiguous()
    if reduction == "none":
        return _LinearTokenLosses.apply(hidden, weight, flat, options).view(targets.shape)
    divisor = (flat != ignore).sum() if reduction == "mean" else flat.new_ones(())
    return _LinearCrossEntropy.apply(hidden, weight, flat, options, divisor)


def linear_cross_entropy_cost(
    tokens: int, d_model: int, vocab: int, bytes_each: int, chunk: int = CHUNK, ignored: int = 0,
    hidden_grad: bool = True, weight_grad: bool = True,
) -> Cost:  # fmt: skip
    """Return the cost of the loss and of the gradients that are computed.

    Each matrix of a product is read or written once. Two small costs are left out: scaling the gradients in
    backward, and clearing the weight's gradient at first. bytes_each: the bytes of an element of hidden and
    weight. ignored: the number of tokens whose target doesn't count; their products are counted. Operations:
    2 · m · n · k of each product (m, k) × (k, n), and those of `cross_entropy_cost`.
    """
    tokens, d_model, vocab = check_sizes(tokens=tokens, d_model=d_model, vocab=vocab)
    bytes_each = check_bytes(bytes_each)
    (chunk,) = check_sizes(1, chunk=chunk)
    check_flags(hidden_grad=hidden_grad, weight_grad=weight_grad)
    activations, weights, logits = (
        bytes_each * size for size in (tokens * d_model, vocab * d_model, tokens * vocab)
    )
    chunks, flops = tile_count(tokens, chunk), 2 * tokens * vocab * d_model
    product = Cost(activations + chunks * weights + logits, flops)
    cost = product + cross_entropy_cost(tokens, vocab, bytes_each, ignored=ignored)
    if hidden_grad or weight_grad:
        cost += cross_entropy_cost(tokens, vocab, bytes_each, backward=True, ignored=ignored)
    if hidden_grad:
        cost += product
    if weight_grad:
        cost += Cost(activations + chunks * 2 * max(4, bytes_each) * vocab * d_model + logits, flops)
    return cost


@dataclass(frozen=True)
class _Options:
    ignore: int  # the target of tokens that don't count
    chunk: int  # tokens at a time
    kernel: bool  # whether Triton computes the losses, rather than PyTorch
    dtype: torch.dtype  # of the products
    needs_grad: tuple[bool, bool]  # whether hidden and weight do


class _LinearCrossEntropy(torch.autograd.Function):
    """The sum of the losses over a divisor. Forward computes the gradients too; backward only scales them."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, targets: Tensor, options: _Options, divisor: Tensor
    ) -> Tensor:
        rows, matrix = _operands(hidden, weight, options.dtype)
        losses, *grads = _losses_in_chunks(rows, matrix, targets, options, options.needs_grad)
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
        return grad_hidden, grad_weight, None, None, None


class _LinearTokenLosses(torch.autograd.Function):
    """The loss of each token. Backward computes the logits again: each loss's weight is known only there."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, options: _Options) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.options = options
        rows, matrix = _operands(hidden, weight, options.dtype)
        return _losses_in_chunks(rows, matrix, targets, options, needs_grad=(False, False))[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor) -> tuple:
        hidden, weight, targets = ctx.saved_tensors
        rows, matrix = _operands(hidden, weight, ctx.options.dtype)
        # The losses' weights are scaled to at most 1, so that 16 bits don't lose small ones; the scale is
        # multiplied in at the end, in 32 bits.
        scale = grad_losses.abs().max() if len(rows) else grad_losses.new_zeros(())
        loss_weights = grad_losses / torch.where(scale == 0, 1.0, scale)
        _, grad_rows, grad_matrix = _losses_in_chunks(
            rows, matrix, targets, ctx.options, ctx.options.needs_grad, loss_weights[:, None]
        )
        grad_hidden = grad_weight = None
        if grad_rows is not None:
            grad_hidden = _scaled(grad_rows, grad_losses[:, None], hidden.dtype).view(hidden.shape)
        if grad_matrix is not None:
            grad_weight = _scaled(grad_matrix, scale, weight.dtype)
        return grad_hidden, grad_weight, None, None


def _operands(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return hidden as rows (tokens, d_model), and weight, both in the dtype of the products."""
    return hidden.reshape(hidden.shape[:-1].numel(), hidden.shape[-1]).to(dtype), weight.to(dtype)


def _losses_in_chunks(
    rows: Tensor, matrix: Tensor, targets: Tensor, options: _Options, needs_grad: tuple[bool, bool],
    loss_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Return the losses (tokens,) and the gradients that are needed, None for the others.

    The gradient in rows, (tokens, d_model), is that of each row's own loss. The gradient in matrix, (vocab,
    d_model), is that of Σ loss_weights · losses, in 32 bits or more. loss_weights: (tokens, 1), all 1 by
    default.
    """
    sum_dtype = torch.promote_types(rows.dtype, torch.float32)
    grad_rows = torch.empty_like(rows) if needs_grad[0] else None
    grad_matrix = torch.zeros_like(matrix, dtype=sum_dtype) if needs_grad[1] else None
    losses = torch.empty(len(rows), dtype=sum_dtype, device=rows.device)
    with torch.autocast(rows.device.type, enabled=False):  # rows and matrix have the products' dtype already
        for start in range(0, len(rows), options.chunk):
            part = slice(start, start + options.chunk)
            logits = rows[part] @ matrix.T  # (chunk, vocab); losses_in_place replaces them by their gradient
            losses[part] = losses_in_place(
                logits, targets[part], options.ignore, any(needs_grad), options.kernel
            )
            if grad_rows is not None:
                torch.mm(logits, matrix, out=grad_rows[part])  # (chunk, d_model)
            if grad_matrix is not None:
                weighted = rows[part]
                if loss_weights is not None:
                    weighted = (weighted * loss_weights[part]).to(rows.dtype)
                _add_product(grad_matrix, logits.T, weighted)  # (vocab, d_model)
            del logits  # frees the memory before the next chunk's logits take theirs
    return losses, grad_rows, grad_matrix


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to total, which may have more bits than a and b, without rounding the product to theirs."""
    if total.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # on other devices PyTorch's products have one dtype
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def _scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x · factor in dtype, multiplied in the factor's dtype, which has 32 bits or more."""
    return torch.mul(x.to(factor.dtype), factor, out=torch.empty_like(x, dtype=dtype))


def _checked_options(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int, backend: str, chunk: int, reduction: str
) -> _Options:
    """Return the options. Raises ValueError for arguments that don't fit."""
    if not hidden.dim() or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        shapes = f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}"
        raise ValueError(f"{shapes} don't fit: they must be (…, d_model) and (vocab, d_model)")
    check_floats(hidden=hidden, weight=weight)
    check_targets((*hidden.shape[:-1], len(weight)), targets, ignore)
    if not is_whole(chunk, 1):
        raise ValueError(f"a chunk has at least 1 token, not {chunk!r}")
    check_reduction(reduction)
    dtype = product_dtype(hidden, weight)
    if dtype is None and hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}: convert one, or use torch.autocast"
        )
    kernel = use_triton(backend, hidden, weight, targets)
    needs_grad = tuple(torch.is_grad_enabled() and x.requires_grad for x in (hidden, weight))
    return _Options(ignore, chunk, kernel, dtype or hidden.dtype, needs_grad)
