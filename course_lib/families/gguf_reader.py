"""Finding what a GGUF file holds, settings and tensors: by the `gguf` package, with checks that it lacks.

The package trusts the numbers in a file. Here each length is compared with the file's own size before it is
used, so that a damaged file ends in an error, and not in a full memory; and a file that isn't handled is
refused as soon as this is known, the architecture first of all.

Not handled: version 1, big-endian files, lists of lists, tensor types other than those in `BLOCK_FORMATS` and
`FLOAT_FORMATS`.
"""

import reprlib
import struct
from collections.abc import Callable, Collection
from itertools import pairwise
from os import PathLike
from pathlib import Path

import gguf
import numpy as np
import torch
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
HANDLED = (*FLOAT_FORMATS, *BLOCK_FORMATS)
VERSIONS = (2, 3)
MOST_VALUES = 2**21  # of a list; the largest vocabularies have some 500,000 merges


class Reader(gguf.GGUFReader):
    """The package's reader, faster and with checks.

    architectures: those that are handled; by default all.

    Raises NotHandled for what isn't handled. A damaged file may lead to any exception.
    """

    def __init__(self, path: str | PathLike, architectures: Collection[str] | None = None):
        _check_start(Path(path))
        self.architectures = architectures
        super().__init__(path)
        self._check_bytes()

    def settings(self) -> dict[str, object]:
        """Return the settings by name: numbers, texts and lists of either."""
        return {name: field.contents() for name, field in self.fields.items()}

    def _get(self, offset, dtype, count=1, override_order=None):
        """Return `count` numbers at an offset.

        The package looks at its mapped file through a slow class of NumPy for each of a vocabulary's 150,000
        values, and reads on beyond the end of the file.
        """
        if isinstance(self.data, np.memmap):
            self.data = np.asarray(self.data)
        dtype = np.dtype(dtype)
        end = int(offset) + int(count) * dtype.itemsize
        if end > len(self.data):
            raise ValueError(f"it ends within the {count} values that should begin at byte {offset}")
        return self.data[int(offset) : end].view(dtype)

    def _push_field(self, field, skip_sum=False):
        """Keep a setting."""
        if field.name == "general.architecture" and self.architectures is not None:
            held = field.contents()
            if not isinstance(held, str) or held not in self.architectures:
                handled = ", ".join(self.architectures)
                raise NotHandled(f"it holds a {reprlib.repr(held)} model; handled are {handled}")
        return super()._push_field(field, skip_sum)

    def _get_field_parts(self, orig_offs, raw_type):
        """Return where a setting's value and its parts lie."""
        if raw_type == gguf.GGUFValueType.ARRAY:
            inner, count = self._get(orig_offs, np.uint32)[0], self._get(orig_offs + 4, np.uint64)[0]
            if inner == gguf.GGUFValueType.ARRAY:
                raise NotHandled("it has a setting that is a list of lists")
            if count > MOST_VALUES:
                raise ValueError(f"it has a setting that is a list of {count} values")
        return super()._get_field_parts(orig_offs, raw_type)

    def _build_tensors(self, start_offs, fields):
        """Find the tensors in the file."""
        for field in fields:
            kind = int(field.parts[4][0])
            if kind not in HANDLED:
                stored = Kind(kind).name if kind in list(Kind) else f"type {kind}"
                handled = ", ".join(known.name for known in HANDLED)
                raise NotHandled(f"{field.name} is stored as {stored}; handled are {handled}")
        super()._build_tensors(start_offs, fields)

    def _check_bytes(self) -> None:
        """Raise ValueError for tensors that share bytes with each other or with the settings."""
        begin = (0, self.data_offset, "the settings")
        spans = sorted((x.data_offset, x.data_offset + x.n_bytes, x.name) for x in self.tensors)
        for (_, end, one), (start, _, other) in pairwise([begin, *spans]):
            if start < end:
                raise ValueError(f"{one} and {other} share bytes")


def _check_start(path: Path) -> None:
    """Raise ValueError unless a file begins as a GGUF file does, NotHandled for a version that isn't."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or start[:4] != b"GGUF":
        raise ValueError("it isn't a GGUF file: its magic number, “GGUF”, is missing")
    (version,) = struct.unpack("<I", start[4:])
    if version not in VERSIONS:
        big = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
        raise NotHandled(f"it is a {big} GGUF file; handled are little-endian ones of version 2 or 3")


def shape_of(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    """Return (rows, columns) of a matrix, (rows,) of a vector; the file has them in the reverse order."""
    return tuple(tensor.shape.tolist()[::-1])


def read_bytes(tensor: gguf.ReaderTensor) -> Tensor:
    """Return a copy of the tensor's bytes, which outlives the file."""
    return torch.from_numpy(np.array(tensor.data)).view(torch.uint8)
