"""What an operation costs before anybody runs it: bytes moved and operations computed.

A GPU's memory hands over some thousand times fewer bytes a second than its processor does operations, so what counts is how many
operations an operation does with each byte, its arithmetic intensity: below the machine's own ratio, memory is the limit, and a
kernel is as good as the share of the memory's speed that it reaches (the "roofline": Williams et al. 2009).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """bytes: read from and written to the large memory. flops: additions and multiplications, of which a fused one is two."""

    bytes: int
    flops: int

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The least time on a machine of so many bytes and so many operations a second, if both go on at once."""
        return max(self.bytes / bandwidth, self.flops / rate)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)
