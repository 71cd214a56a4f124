"""Counting the bytes that a kernel really moves and the operations that it really computes.

    with Meter() as meter:
        rms_norm(x, weight, backend="triton")
    meter.loaded, meter.stored, meter.flops

Triton's interpreter performs each load, store and matrix product of each program in turn, and the meter
records them. So the bytes of a `Cost` can be compared with what the kernel moves.

An element that two programs read is counted twice. On a GPU the second read may be served by a cache, which
the meter doesn't model. Matrix products alone are counted as operations, of whole tiles, with the zeros that
only fill them. So softmax has 0 operations here, and a `Cost` that leaves out the filling has fewer.

Not handled: compiled kernels on a GPU.
"""

import math
from typing import NamedTuple, Self

from course_lib.kernels.language import INSTALLED, INTERPRETED

WATCHED = ("create_masked_load", "create_masked_store", "create_dot")


class Event(NamedTuple):
    """One load, store or matrix product of one program."""

    program: tuple[int, int, int]  # its index along each axis of the grid
    kind: str  # "load", "store" or "dot"
    size: int  # bytes of a load or store, floating-point operations of a product
    shape: tuple[int, ...]  # of the tile; (m, k, n) of a product (m, k) × (k, n)
    address: int | None = None  # of the first byte that is read or written


class Meter:
    """A recorder of what kernels do inside its `with` block.

    Raises RuntimeError where Triton isn't installed, or doesn't interpret.
    """

    def __init__(self):
        if not INSTALLED:
            raise RuntimeError(
                "Triton isn't installed (there is none for macOS and Windows); run this on Linux"
            )
        if not INTERPRETED:
            raise RuntimeError(
                "the meter works in Triton's interpreter: set TRITON_INTERPRET=1 before Python starts"
            )
        self.events: list[Event] = []  # all events, in order

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
        """Operations in products of whole tiles, additions and multiplications counted separately."""
        return self._total("dot")

    def _total(self, kind: str) -> int:
        return sum(event.size for event in self.events if event.kind == kind)

    def __enter__(self) -> Self:
        from triton.runtime.interpreter import interpreter_builder as builder

        self._builder, self._outer = builder, {name: vars(builder).get(name) for name in WATCHED}
        load, store, dot = (getattr(builder, name) for name in WATCHED)

        def recorded_load(pointers, mask, *rest):
            self._record("load", pointers, mask)
            return load(pointers, mask, *rest)

        def recorded_store(pointers, value, mask, *rest):
            self._record("store", pointers, mask)
            return store(pointers, value, mask, *rest)

        def recorded_dot(a, b, *rest):
            shape = (*a.data.shape, b.data.shape[-1])
            self.events.append(Event(self._program(), "dot", 2 * math.prod(shape), shape))
            return dot(a, b, *rest)

        for name, recorded in zip(WATCHED, (recorded_load, recorded_store, recorded_dot), strict=True):
            setattr(builder, name, recorded)
        return self

    def __exit__(self, *_) -> None:
        for name, outer in self._outer.items():
            delattr(self._builder, name)  # now the method of the class is found again
            if outer is not None:
                setattr(self._builder, name, outer)  # another meter's, which is still open

    def _record(self, kind: str, pointers, mask) -> None:
        touched = pointers.data[mask.data]
        size = touched.size * pointers.get_element_ty().primitive_bitwidth // 8
        address = int(touched.min()) if touched.size else None
        self.events.append(Event(self._program(), kind, size, pointers.data.shape, address))

    def _program(self) -> tuple[int, int, int]:
        return tuple(int(i) for i in self._builder.grid_idx)
