"""Where kernels meet the machine: which backend computes, and how a Triton kernel is launched, interpreted or compiled.

A kernel is one function that runs as many small programs; each program knows its number and works on one tile. On a GPU Triton
compiles it. Without one, Triton's interpreter runs the same source on CPU tensors, program after program, with NumPy: slow, and
exact enough to test with. Which of the two is decided once, when Triton is first imported: `TRITON_INTERPRET=1` asks for the
interpreter, and here it is the default on a machine with no GPU.

The kernels keep to what both can do. In the interpreter bfloat16 is 16 bits without meaning until it is converted, so every
kernel converts what it loads to float32, and products of bfloat16 are refused there.

Not handled: AMD and Intel GPUs, autotuning (tile sizes are chosen in plain sight, next to each launch).
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
except (
    ImportError
):  # macOS and Windows have no Triton: a stand-in, so that the PyTorch references can be used

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
from course_lib.kernels.chosen_tiles import Tile

BACKENDS = ("auto", "torch", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TENSOR_CORES = (
    8,
    0,
)  # the oldest compute capability whose tensor cores Triton uses; a T4, in Colab, is (7, 5)
MOST_PROGRAMS = 65_535  # along a grid's second axis and along its third; along the first, 2³¹ − 1


def use_triton(backend: str, *tensors: Tensor, products: bool = False, integers: bool = False) -> bool:
    """Whether the Triton kernel is to compute, rather than PyTorch, on these tensors.

    backend: "torch" and "triton" decide it themselves; "auto" takes the kernel where all tensors are on a GPU that can run it.
    products: the kernel multiplies matrices, which pays only on a GPU whose tensor cores Triton uses. integers: it may be
    given these alone; other kernels round their results to the first tensor's dtype, and can't use such a one.

    Raises ValueError for another backend, and where "triton" was asked for and can't be: the message says why, and what to do.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; not {backend!r}")
    if backend == "torch":
        return False
    obstacle = _obstacle(tensors, products, integers)
    if obstacle and backend == "triton":
        raise ValueError(f"the Triton kernel can't run here: {obstacle}, or use backend='torch'")
    return obstacle is None and (backend == "triton" or all(x.is_cuda for x in tensors))


def _obstacle(tensors: tuple[Tensor, ...], products: bool, integers: bool) -> str | None:
    """Why these tensors can't go through a kernel, with what to do about it; None when they can."""
    if not INSTALLED:
        return "Triton isn't installed (there is none for macOS and Windows); run this on Linux"
    if len({x.device for x in tensors}) > 1:
        return f"the tensors are on {' and '.join(sorted({str(x.device) for x in tensors}))}; move them to one device"
    floating = {x.dtype for x in tensors if x.is_floating_point() or x.is_complex()}
    if not integers and not tensors[0].is_floating_point() and not tensors[0].is_complex():
        return f"it doesn't compute with {tensors[0].dtype}; convert to float32, float16 or bfloat16"
    if not floating <= set(DTYPES):
        return "kernels compute in 32 bits at most; convert to float32, float16 or bfloat16"
    if compiled.wanted():
        return None
    if INTERPRETED:
        mixed_up = products and torch.bfloat16 in floating
        return (
            "Triton's interpreter multiplies bfloat16 wrongly; use float32 or float16 there"
            if mixed_up
            else None
        )
    if not tensors[0].is_cuda:
        return "the tensors are on the CPU, where only Triton's interpreter runs; set TRITON_INTERPRET=1 before Python starts"
    capability = torch.cuda.get_device_capability(tensors[0].device)
    if products and capability < TENSOR_CORES:
        return f"Triton uses no tensor cores on a GPU of compute capability {capability}; take one of 8.0 or newer"
    return None


def product_dtype(*tensors: Tensor) -> torch.dtype | None:
    """What torch.autocast wants these multiplied in; None where it is off or, as it has it, for 64 bits."""
    device = tensors[0].device.type
    wanted = torch.is_autocast_enabled(device) and torch.float64 not in {x.dtype for x in tensors}
    return torch.get_autocast_dtype(device) if wanted else None


def hopper(tensor: Tensor) -> bool:
    """Whether a kernel on this tensor runs on an H100 or newer, which has registers and tensor cores for larger tiles. The
    interpreter computes as an H100 would."""
    if compiled.wanted():
        return compiled.capability() >= 90
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
            f"{size} programs are too many, {MOST_PROGRAMS} along the second and third axis: take smaller batches"
        )
    tile = tile or Tile()
    constants = tile.sizes | constants
    if compiled.wanted():
        return compiled.compile_instead(kernel, arguments, constants, tile.warps, tile.stages)
    tensor = next(x for x in arguments if isinstance(x, Tensor))
    with torch.cuda.device(tensor.device if tensor.is_cuda else -1):
        kernel[grid](*arguments, **constants, num_warps=tile.warps, num_stages=tile.stages)


def tiles(length: int, tile: int) -> int:
    """How many tiles cover a length."""
    return -(-length // tile)


def power_of_two(n: int) -> int:
    """The next power of two: the only sizes that tiles may have."""
    return 1 << max(n - 1, 0).bit_length()
