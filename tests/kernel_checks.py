"""What all tests of kernels share: where they run, and how close to float64 they must come."""

import torch

from course_lib.kernels.language import INTERPRETED

DEVICE = "cpu" if INTERPRETED else "cuda"
# Kernels with matrix products can't be tested in bfloat16 by the interpreter; on a GPU they are.
HALVES = (torch.float16, torch.bfloat16)
PRODUCT_DTYPES = (torch.float32, torch.float16) if INTERPRETED else (torch.float32, *HALVES)
DTYPES = (torch.float32, *HALVES)
# Largest error allowed, relative to the largest number of the reference: a few roundings of each dtype.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def numbers(*shape, dtype=torch.float32, seed=0, scale=1.0, grad=False):
    """Normal random numbers of a dtype, on the device that kernels run on."""
    generator = torch.Generator().manual_seed(seed)
    x = (scale * torch.randn(shape, generator=generator)).to(dtype).to(DEVICE)
    return x.requires_grad_(grad)


def assert_close(ours, reference, dtype=None, factor=1.0, terms=0.0):
    """ours: of a kernel. reference: the same in float64. Places that are inf or nan must be so in both.

    The error is measured by the largest number of the reference; where numbers cancel, which happens to
    gradients, by the size of the terms that they are sums of.
    """
    assert ours.shape == reference.shape
    if not reference.numel():
        return
    tolerance = factor * TOLERANCE[dtype or ours.dtype]
    ours, reference = ours.detach().double(), reference.detach().double()
    finite = reference.isfinite()
    torch.testing.assert_close(ours[~finite], reference[~finite], equal_nan=True, rtol=0, atol=0)
    assert ours[finite].isfinite().all()
    error, size = (ours - reference)[finite].abs(), reference[finite].abs()
    if error.numel():
        assert error.max() <= tolerance * max(terms, size.max()), (
            f"error {error.max():.2e}, size {size.max():.2e}"
        )


def gradients(function, inputs, grad_y):
    """The function's result, and its gradients in all inputs, for a gradient of its result."""
    y = function(*inputs)
    return y, torch.autograd.grad(y, inputs, grad_y.to(y.dtype))


def in_64_bits(*tensors):
    return [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]


def assert_same_as_in_64_bits(kernel, reference, *inputs, factor=1.0):
    """Result and gradients of `kernel`, beside those of `reference` in float64."""
    wide = in_64_bits(*inputs)
    grad_y = torch.randn(reference(*wide).shape, generator=torch.Generator().manual_seed(9)).to(DEVICE)
    grad_y = grad_y.to(inputs[0].dtype)
    y, grads = gradients(kernel, inputs, grad_y)
    wanted_y, wanted_grads = gradients(reference, wide, grad_y.double())
    assert y.dtype == inputs[0].dtype
    assert_close(y, wanted_y, factor=factor)
    for grad, wanted, x in zip(grads, wanted_grads, inputs, strict=True):
        assert grad.dtype == x.dtype
        assert_close(grad, wanted, factor=factor, terms=1.0)
