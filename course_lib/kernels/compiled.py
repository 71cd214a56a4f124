"""What the compiler makes of a kernel, without a GPU to run it on.

    with compile_for(90) as kernels:                  # an H100
        flash_attention(q, k, v, backend="triton")    # on CPU tensors: compiled, not run
    kernels[0].spills, "wgmma" in kernels[0].ptx

Each launch inside is compiled for the types and sizes of its arguments, as on a GPU of that kind, instead of being run; outputs
are memory as it came. It needs a Python in which Triton doesn't interpret: TRITON_INTERPRET=0.
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
    """ptx: NVIDIA's assembly. registers: 32-bit ones a thread. spills: bytes a thread that didn't fit them and live in slow memory.
    shared: bytes of the fast memory that a program's threads share."""

    name: str
    ptx: str
    registers: int
    spills: int
    shared: int


@dataclass
class _Target:
    capability: int
    kernels: list[Compiled]


_target: ContextVar[_Target | None] = ContextVar("target", default=None)


@contextmanager
def compile_for(capability: int) -> Iterator[list[Compiled]]:
    """Launches inside are compiled for a GPU of this compute capability (75, 80, 90 …) and gathered in a list.

    Raises RuntimeError where Triton can't compile: it isn't installed, or interprets in this Python.
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


def wanted() -> bool:
    """Whether launches are to be compiled instead of run."""
    return _target.get() is not None


def capability() -> int:
    """What launches are compiled for."""
    return _target.get().capability


def compile_instead(kernel, arguments: tuple, constants: dict, warps: int, stages: int) -> None:
    """Compile a launch for the target, specialized as a real launch is: for strides of 1, and sizes and addresses that divide by
    16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = _target.get()
    signature, attributes = {}, {}
    constants = dict(constants)
    for place, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if value is None or value is True or value is False or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = _type(value)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    signature |= {name: "constexpr" for name in constants}
    signature = {name: signature[name] for name in kernel.arg_names}
    built = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", target.capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    ptx = built.asm["ptx"]
    registers, spills = _report(ptx, target.capability)
    target.kernels.append(Compiled(kernel.__name__, ptx, registers, spills, built.metadata.shared))


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
    if isinstance(value, Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _report(ptx: str, capability: int) -> tuple[int, int]:
    """Registers a thread and bytes spilled, as ptxas, NVIDIA's assembler, reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    arch = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [
            get_ptxas(capability).path,
            "-v",
            f"--gpu-name={arch}",
            source,
            "-o",
            Path(folder, "kernel.cubin"),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) registers", said)[1]), sum(
        map(int, re.findall(r"(\d+) bytes spill", said))
    )
