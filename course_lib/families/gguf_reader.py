"""What a GGUF file holds: settings, and where each tensor lies.

    "GGUF", version, number of tensors, number of settings
    settings: name, type, value; the first is usually the architecture
    tensors: name, dimensions, type, where it begins
    the tensors' bytes

All numbers are little-endian. Each length is compared with the file's own size before it is used, so that
nothing is allocated for the lengths in a damaged file.

Not handled: version 1, big-endian files, lists of lists, tensor types other than those in `BLOCK_FORMATS` and
`FLOAT_FORMATS`.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from course_lib.families.family import NotHandled
from course_lib.quantize import Q4_0, Q4_1, Q8_0

# Quantization blocks: groups of weights with a scale. The model's layers are called blocks too ("blk.0").
BLOCK_FORMATS = {Kind.Q8_0: Q8_0, Kind.Q4_0: Q4_0, Kind.Q4_1: Q4_1}
FLOAT_FORMATS: dict[Kind, Callable[[Tensor], Tensor]] = {
    Kind.F32: lambda raw: raw.view(torch.float32),
    Kind.F16: lambda raw: raw.view(torch.float16).float(),
}
HANDLED = {int(kind): kind for kind in (*FLOAT_FORMATS, *BLOCK_FORMATS)}

# The number of a setting's type → the letter of `struct` for it.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, LIST = 8, 9
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. shape: (rows, columns) of a matrix, (rows,) of a vector. raw: its bytes."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    raw: memoryview

    def read(self) -> Tensor:
        """Return a copy of the bytes, which outlives the file."""
        return torch.from_numpy(np.array(self.raw))


class GGUFFile:
    """The settings of a file, by name, and its tensors. Raises ValueError for a file that is damaged."""

    def __init__(self, path: Path):
        header = _Header(path)
        self.settings: dict[str, object] = {}
        for name, value in header.read_settings():
            _require(name not in self.settings, f"it has two settings {name}")
            self.settings[name] = value
        self.tensors = _read_tensors(header, self.settings.get("general.alignment", 32))


def read_setting(path: Path, wanted: str) -> object:
    """Return one setting, reading no further than to it; None where the file lacks it."""
    return next((value for name, value in _Header(path).read_settings() if name == wanted), None)


class _Header:
    """Reads a file from front to back. at: the next byte."""

    def __init__(self, path: Path):
        _require(path.stat().st_size >= 4, "it isn't a GGUF file: it is empty")
        self.data, self.at = memoryview(np.memmap(path, mode="r")), 0
        _require(bytes(self.take(4)) == b"GGUF", "it isn't a GGUF file: its magic number, “GGUF”, is missing")
        version = self.number("I")
        if version not in (2, 3):
            big = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            raise NotHandled(f"it is a {big} GGUF file; handled are little-endian ones of version 2 or 3")
        self.n_tensors, self.n_settings = self.number("Q"), self.number("Q")

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        end = self.at + count
        _require(end <= len(self.data), f"it ends within {count} bytes that should begin at byte {self.at}")
        taken, self.at = self.data[self.at : end], end
        return taken

    def numbers(self, code: str, count: int) -> tuple:
        """Return the next `count` numbers, of the type that `struct` has this letter for."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def number(self, code: str):
        return self.numbers(code, 1)[0]

    def string(self) -> str:
        try:
            return str(self.take(self.number("Q")), "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"it has a text that isn't UTF-8, which ends at byte {self.at}") from None

    def value(self, kind: int):
        """Return the next value of a setting: a number, a string, or a list of either."""
        if kind == STRING:
            return self.string()
        if kind == LIST:
            inner, count = self.number("I"), self.number("Q")
            if inner == LIST:
                raise NotHandled("it has a setting that is a list of lists")
            if inner == STRING:
                return [self.string() for _ in range(count)]
            return list(self.numbers(_letter(inner), count))
        return self.number(_letter(kind))

    def read_settings(self) -> Iterator[tuple[str, object]]:
        """Yield each setting's name and value."""
        for _ in range(self.n_settings):
            yield self.string(), self.value(self.number("I"))


def _read_tensors(header: _Header, alignment: object) -> list[StoredTensor]:
    """Return the tensors that the header lists from here on. Each begins at a multiple of the alignment."""
    found = {}
    for _ in range(header.n_tensors):
        name, n_dimensions = header.string(), header.number("I")
        _require(name not in found, f"it has two tensors {name}")
        _require(1 <= n_dimensions <= MAX_DIMENSIONS, f"{name} has {n_dimensions} dimensions")
        shape = header.numbers("Q", n_dimensions)[::-1]
        found[name] = (shape, header.number("I"), header.number("Q"))
    powers = [2**i for i in range(32)]
    _require(alignment in powers, f"its alignment is {alignment!r}, which should be a power of two")
    start = math.ceil(header.at / alignment) * alignment
    spans = {name: _span(name, start, *about) for name, about in found.items()}
    for name, (_, end) in spans.items():
        _require(end <= len(header.data), f"it ends before {name} does, which ends at byte {end}")
    for (_, end, name), (begin, _, other) in pairwise(sorted((*spans[name], name) for name in spans)):
        _require(end <= begin, f"the tensors {name} and {other} share bytes")
    return [
        StoredTensor(name, HANDLED[kind], shape, header.data[slice(*spans[name])])
        for name, (shape, kind, _) in found.items()
    ]


def _span(name: str, start: int, shape: tuple[int, ...], kind: int, offset: int) -> tuple[int, int]:
    """Return where a tensor begins and ends in the file."""
    if kind not in HANDLED:
        stated = Kind(kind).name if kind in list(Kind) else f"type {kind}"
        handled = ", ".join(known.name for known in HANDLED.values())
        raise NotHandled(f"{name} is stored as {stated}; handled are {handled}")
    block, size = GGML_QUANT_SIZES[HANDLED[kind]]  # weights of a block, and its bytes
    _require(
        min(shape) > 0 and shape[-1] % block == 0, f"{name} has the shape {shape}, which can't be stored"
    )
    return start + offset, start + offset + math.prod(shape) // block * size


def _letter(kind: int) -> str:
    _require(kind in NUMBERS, f"it has a setting of type {kind}, which doesn't exist")
    return NUMBERS[kind]


def _require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)
