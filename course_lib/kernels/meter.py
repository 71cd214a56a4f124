"""Counting what a kernel really moves, by standing between it and memory.

    with Meter() as meter:
        rms_norm(x, weight, backend="triton")
    meter.loaded, meter.stored, meter.flops

Triton's interpreter performs each load, store and matrix product of each program in turn; the meter notes them as they pass. So
the byte counts that are calculated beside the kernels can be held against what the kernels do. Interpreter only.

A number that two programs read is counted twice. On a GPU the second time may be served by a cache on the way, which this does
not model; matrix products alone are counted as operations.
"""

import math
from typing import NamedTuple, Self

from course_lib.kernels.language import INSTALLED, INTERPRETED

WATCHED = ("create_masked_load", "create_masked_store", "create_dot")


class Event(NamedTuple):
    """One load, store or product of one program. program: its number along each axis of the grid. size: bytes of a load or store,
    floating-point operations of a product. shape: of the tile; (rows, inner, columns) of a product. address: of the
    first byte that is touched."""

    program: tuple[int, int, int]
    kind: str
    size: int
    shape: tuple[int, ...]
    address: int | None = None


class Meter:
    """Notes what kernels do while it is open. events: all of it, in order."""

    def __init__(self):
        if not INSTALLED:
            raise RuntimeError(
                "Triton isn't installed (there is none for macOS and Windows); run this on Linux"
            )
        if not INTERPRETED:
            raise RuntimeError(
                "the meter stands in Triton's interpreter: set TRITON_INTERPRET=1 before Python starts"
            )
        self.events: list[Event] = []

    @property
    def loaded(self) -> int:
        """Bytes read from memory."""
        return self._total("load")

    @property
    def stored(self) -> int:
        """Bytes written to memory."""
        return self._total("store")

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.loaded + self.stored

    @property
    def flops(self) -> int:
        """Operations in matrix products, an addition and a multiplication each."""
        return self._total("dot")

    def _total(self, kind: str) -> int:
        return sum(event.size for event in self.events if event.kind == kind)

    def __enter__(self) -> Self:
        from triton.runtime.interpreter import interpreter_builder as builder

        self._builder, self._outer = builder, {name: vars(builder).get(name) for name in WATCHED}
        load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot

        def noted_load(pointers, mask, *rest):
            self._note("load", pointers, mask)
            return load(pointers, mask, *rest)

        def noted_store(pointers, value, mask, *rest):
            self._note("store", pointers, mask)
            return store(pointers, value, mask, *rest)

        def noted_dot(a, b, *rest):
            shape = (*a.data.shape, b.data.shape[-1])
            self.events.append(Event(self._program(), "dot", 2 * math.prod(shape), shape))
            return dot(a, b, *rest)

        builder.create_masked_load, builder.create_masked_store, builder.create_dot = (
            noted_load,
            noted_store,
            noted_dot,
        )
        return self

    def __exit__(self, *_) -> None:
        for name, outer in self._outer.items():
            delattr(self._builder, name)  # the class's own method is back …
            if outer is not None:
                setattr(self._builder, name, outer)  # … or another open meter's

    def _note(self, kind: str, pointers, mask) -> None:
        touched = pointers.data[mask.data]
        size = touched.size * pointers.get_element_ty().primitive_bitwidth // 8
        address = int(touched.min()) if touched.size else None
        self.events.append(Event(self._program(), kind, size, pointers.data.shape, address))

    def _program(self) -> tuple[int, int, int]:
        return tuple(int(i) for i in self._builder.grid_idx)
