"""The cost of an operation, calculated without running it: bytes moved and operations computed.

A GPU's memory moves hundreds of times fewer bytes a second than its streaming multiprocessors (SMs) compute
operations. So what counts is how many operations are computed with each byte, the arithmetic intensity. Below
the machine's own ratio the memory is the limit, and a kernel is as good as the fraction of the memory's
bandwidth that it reaches (the "roofline": Williams et al. 2009).
"""

from dataclasses import dataclass
from numbers import Real

from course_lib.kernels.checks import check_sizes


@dataclass(frozen=True)
class Cost:
    """The cost of one operation, or with `+` of several. Raises ValueError for what isn't a whole number."""

    bytes: int  # read from the GPU's large memory, and written to it
    # Additions and multiplications; a fused multiply-add counts as two. Kernels without matrix products count
    # a division or an exponential as one operation. Costs of matrix products, and of attention, count the
    # products alone. Each cost function says whether it counts the elements that only fill tiles.
    flops: int

    def __post_init__(self):
        moved, flops = check_sizes(bytes=self.bytes, flops=self.flops)
        object.__setattr__(self, "bytes", moved)
        object.__setattr__(self, "flops", flops)

    @property
    def intensity(self) -> float:
        """Operations for each byte. Raises ValueError where nothing moves."""
        if not self.bytes:
            raise ValueError("what moves no bytes has no number of operations for each")
        return self.flops / self.bytes

    def seconds(self, bandwidth: float, rate: float) -> float:
        """Return the shortest possible time on a machine of `bandwidth` bytes and `rate` operations a second.

        Both go on at the same time. Raises ValueError for rates that aren't above 0.
        """
        if not all(isinstance(x, Real) and x > 0 for x in (bandwidth, rate)):
            raise ValueError(f"bandwidth and rate must be above 0, not {bandwidth!r} and {rate!r}")
        return max(self.bytes / bandwidth, self.flops / rate)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)
