"""The cost of an operation, calculated without running it: bytes moved and operations computed.

A GPU's memory moves hundreds of times fewer bytes a second than its streaming multiprocessors (SMs) compute
operations. So what counts is how many operations are computed with each byte, the arithmetic intensity. Below
the machine's own ratio the memory is the limit, and a kernel is as good as the fraction of the memory's
bandwidth that it reaches (the "roofline": Williams et al. 2009).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The cost of one operation, or with `+` of several."""

    bytes: int  # read from the GPU's large memory, and written to it
    # Additions and multiplications; a fused multiply-add counts as two. Kernels without matrix products count
    # a division or an exponential as one operation. Costs of matrix products, and of attention, count the
    # products alone. Each cost function says whether it counts the elements that only fill tiles.
    flops: int

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.bytes

    def seconds(self, bandwidth: float, rate: float) -> float:
        """Return the shortest possible time on a machine of `bandwidth` bytes and `rate` operations a second.

        Both go on at the same time.
        """
        return max(self.bytes / bandwidth, self.flops / rate)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)
