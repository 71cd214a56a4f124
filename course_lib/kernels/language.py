"""Launching Triton kernels, compiled or interpreted, and choosing between a kernel and PyTorch.

A kernel is one function that runs as many small programs; each program reads its own index and works on one
tile. On a GPU, Triton compiles the kernel. Without one, Triton's interpreter runs the same source on CPU
tensors, one program after the other, with NumPy: slowly, but exactly enough for tests. Triton decides between
the two when it is first imported: `TRITON_INTERPRET=1` selects the interpreter, and here that is the default
on a machine without a GPU. PyTorch imports Triton too, at an optimizer's first step for example: there this
package must be imported earlier.

The kernels use only what works in both. The interpreter stores bfloat16 as raw bits, which must be converted
before arithmetic. So kernels without matrix products convert what they load to float32, and matrix products
of bfloat16 are refused there. `interpreted` mends what the interpreter rounds, or warns of, otherwise than a
GPU.

Positions and ids in tensors (pages, targets, experts, starts) are checked on a CPU. On a GPU that means
waiting for it, so there an argument `check=True` asks for it. Without it, a wrong number reads or writes
foreign memory, except for a target of a loss: there it gives nan.

Every `tl.dot` here, a product of matrices, has `input_precision="ieee"`: float32 inputs are multiplied in
full float32, not in TF32, which keeps 10 bits of the mantissa. It changes nothing for 16-bit inputs.

Not handled: AMD and Intel GPUs; autotuning (tile sizes are chosen by a function, or are a constant, in the
file of each kernel).
"""

import os

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

try:
    import triton
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
except ImportError:
    # macOS and Windows have no Triton. With this stand-in kernels can be defined, and PyTorch computes.
    class _NoTriton:
        def __getattr__(self, name: str) -> "_NoTriton":
            return self

        def __call__(self, function):
            return function

    triton = tl = _NoTriton()
    INSTALLED = INTERPRETED = False
else:
    INSTALLED, INTERPRETED = True, isinstance(tl.sum, InterpretedFunction)

from course_lib.kernels import compiled
from course_lib.kernels.checks import check_flags
from course_lib.kernels.chosen_tiles import Tile
from course_lib.kernels.interpreted import as_on_a_gpu

BACKENDS = ("auto", "torch", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TENSOR_CORES = (8, 0)  # the oldest compute capability whose tensor cores Triton uses; Colab's T4 is (7, 5)
SM_COUNT = 132  # streaming multiprocessors (SMs) of an H100; an A100 has 108
MOST_PROGRAMS = 65_535  # along a grid's second axis and along its third; along the first, 2³¹ − 1


def use_triton(backend: str, *tensors: Tensor, products: bool = False, integers: bool = False) -> bool:
    """Return whether the Triton kernel computes on these tensors, and not PyTorch.

    backend: "torch", "triton", or "auto", which takes the kernel if all tensors are on a GPU that can run it.
    products: the kernel multiplies matrices, which is fast only on a GPU whose tensor cores Triton uses.
    integers: the first tensor may hold integers; most kernels round their result to the first tensor's dtype.

    Raises ValueError for another backend, and for "triton" where the kernel can't run, saying what to do.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; not {backend!r}")
    check_flags(products=products, integers=integers)
    if not tensors:
        raise ValueError("give the tensors that are computed on: they decide whether a kernel can run")
    if backend == "torch":
        return False
    obstacle = _obstacle(tensors, products, integers)
    if obstacle and backend == "triton":
        raise ValueError(f"the Triton kernel can't run here: {obstacle}, or use backend='torch'")
    return obstacle is None and (backend == "triton" or all(x.is_cuda for x in tensors))


def _obstacle(tensors: tuple[Tensor, ...], products: bool, integers: bool) -> str | None:
    """Return why a kernel can't run on these tensors, with what to do about it, or None if it can."""
    if not INSTALLED:
        return "Triton isn't installed (there is none for macOS and Windows); run this on Linux"
    devices = sorted({str(x.device) for x in tensors})
    if len(devices) > 1:
        return f"the tensors are on {' and '.join(devices)}; move them to one device"
    floating = {x.dtype for x in tensors if x.is_floating_point() or x.is_complex()}
    if not integers and not tensors[0].is_floating_point() and not tensors[0].is_complex():
        return f"it doesn't compute with {tensors[0].dtype}; convert to float32, float16 or bfloat16"
    if not floating <= set(DTYPES):
        return "kernels compute in 32 bits at most; convert to float32, float16 or bfloat16"
    if compiled.is_compiling():
        return None
    return _obstacle_here(tensors[0], products, torch.bfloat16 in floating)


def _obstacle_here(tensor: Tensor, products: bool, bfloat16: bool) -> str | None:
    """Return why a kernel can't run on the tensor's device, or None."""
    if INTERPRETED and products and bfloat16:
        return "Triton's interpreter multiplies bfloat16 wrongly; use float32 or float16 there"
    if INTERPRETED:
        return None
    if not tensor.is_cuda:
        return (
            "the tensors are on the CPU, where only Triton's interpreter runs; set TRITON_INTERPRET=1 before "
            "Python starts, or import course_lib.kernels before anything is trained"
        )
    capability = torch.cuda.get_device_capability(tensor.device)
    if products and capability < TENSOR_CORES:
        return f"Triton uses no tensor cores on a GPU of capability {capability}; take one of 8.0 or newer"
    return None


def product_dtype(*tensors: Tensor) -> torch.dtype | None:
    """Return the dtype in which torch.autocast multiplies these tensors.

    None where autocast is off, and for float64, which autocast leaves as it is.
    """
    device = tensors[0].device.type
    casts = torch.is_autocast_enabled(device) and torch.float64 not in {x.dtype for x in tensors}
    return torch.get_autocast_dtype(device) if casts else None


def in_product_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in the dtype in which torch.autocast multiplies them; without it as they are."""
    dtype = product_dtype(*tensors)
    return tensors if dtype is None else tuple(x.to(dtype) for x in tensors)


def hopper(tensor: Tensor) -> bool:
    """Return whether a kernel on this tensor runs on a GPU of compute capability 9.0 (an H100) or newer.

    The larger tiles for such GPUs were chosen on an H100, which has more shared memory than an A100. Consumer
    GPUs of capability 12.0 have less; their tiles can be set with `use_tiles`. The interpreter takes the
    tiles of an H100.
    """
    if compiled.is_compiling():
        return compiled.target_capability() >= 90
    return not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device) >= (9, 0)


def launch(kernel, grid: tuple[int, ...], *arguments, tile: Tile | None = None, **constants) -> None:
    """Run the programs of a kernel on the device of the tensors among the arguments.

    grid: how many programs there are along each of up to three axes.
    tile: what each program works on, and with how many threads; the kernel is compiled for its sizes.
    constants: the other arguments that the kernel is compiled for.

    Raises ValueError for more programs than a GPU takes.
    """
    if 0 in grid:
        return
    if max(grid[1:], default=0) > MOST_PROGRAMS:
        size = " × ".join(map(str, grid))
        raise ValueError(
            f"{size} programs are too many; at most {MOST_PROGRAMS} fit along the second and the third axis: "
            "take smaller batches"
        )
    tile = tile or Tile()
    constants = tile.sizes | constants
    if compiled.is_compiling():
        return compiled.compile_launch(kernel, arguments, constants, tile.warps, tile.stages)
    tensor = next(x for x in arguments if isinstance(x, Tensor))
    with as_on_a_gpu() if INTERPRETED else torch.cuda.device(tensor.device):
        kernel[grid](*arguments, **constants, num_warps=tile.warps, num_stages=tile.stages)


def tile_count(length: int, tile: int) -> int:
    """Return how many tiles cover a length (as `triton.cdiv`, which needs Triton)."""
    return -(-length // tile)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n; the sizes of tiles are powers of two."""
    return 1 << max(n - 1, 0).bit_length()
