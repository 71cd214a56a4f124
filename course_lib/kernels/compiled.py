"""The code that Triton's compiler makes of a kernel, without a GPU to run it on.

    with compile_for(90) as kernels:                  # an H100
        flash_attention(q, k, v, backend="triton")    # on CPU tensors: compiled, not run
    kernels[0].spills, "wgmma" in kernels[0].ptx

Each launch inside the `with` block is compiled for the types and sizes of its arguments, as on a GPU of that
kind, instead of being run. Outputs are uninitialized memory. It needs a Python in which Triton doesn't
interpret: TRITON_INTERPRET=0.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel, and what it needs of a GPU."""

    name: str
    ptx: str  # NVIDIA's assembly
    registers: int  # of 32 bits, for each thread
    # Bytes for each thread that ptxas reports as spill stores and spill loads, added up: values that don't
    # fit into registers are stored to slow memory and loaded again. 0 means that all fit.
    spills: int
    shared: int  # bytes of the fast memory that the threads of a program share


@dataclass
class _Target:
    capability: int
    kernels: list[Compiled]


_target: ContextVar[_Target | None] = ContextVar("target", default=None)


@contextmanager
def compile_for(capability: int) -> Iterator[list[Compiled]]:
    """Compile the launches inside for a GPU of this compute capability (75, 80, 90 …), and list the results.

    Raises RuntimeError where Triton can't compile: it isn't installed, or it interprets in this Python.
    """
    try:
        from triton import knobs
    except ImportError:
        raise RuntimeError(
            "Triton isn't installed (there is none for macOS and Windows); run this on Linux"
        ) from None
    if knobs.runtime.interpret:
        raise RuntimeError("Triton interprets in this Python: set TRITON_INTERPRET=0 before it starts")
    token = _target.set(_Target(capability, []))
    try:
        yield _target.get().kernels
    finally:
        _target.reset(token)


def is_compiling() -> bool:
    """Return whether launches are compiled instead of run."""
    return _target.get() is not None


def target_capability() -> int:
    """Return the compute capability that launches are compiled for."""
    return _target.get().capability


def compile_launch(kernel, arguments: tuple, constants: dict, warps: int, stages: int) -> None:
    """Compile a launch for the target, and add it to the list of `compile_for`."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = _target.get()
    built = triton.compile(
        _specialize(kernel, arguments, constants),
        target=GPUTarget("cuda", target.capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    ptx = built.asm["ptx"]
    registers, spills = _assemble(ptx, target.capability)
    target.kernels.append(Compiled(kernel.__name__, ptx, registers, spills, built.metadata.shared))


def _specialize(kernel, arguments: tuple, constants: dict):
    """Return the kernel's source with types, specialized as in a real launch.

    None, booleans and integers of 1 become constants; sizes and addresses are marked if 16 divides them.
    """
    from triton.compiler import ASTSource

    types, attributes, constants = {}, {}, dict(constants)
    for index, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if value is None or isinstance(value, bool) or (isinstance(value, int) and value == 1):
            constants[name] = value
            continue
        types[name] = _type(value)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    return ASTSource(kernel, signature, constants, attributes)


_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


def _type(value) -> str:
    """Return Triton's name for the type of an argument."""
    if isinstance(value, Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _assemble(ptx: str, capability: int) -> tuple[int, int]:
    """Return a thread's registers and the bytes of its spill stores and loads, by NVIDIA's ptxas."""
    from triton.backends.nvidia.compiler import get_ptxas

    arch = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        binary = Path(folder, "kernel.cubin")
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", source, "-o", binary]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    return registers, sum(map(int, re.findall(r"(\d+) bytes spill", report)))
