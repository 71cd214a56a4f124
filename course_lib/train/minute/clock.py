"""The time that a run has."""

from time import perf_counter

GRACE = 1.5  # seconds that a run may take beyond its own: the last step ends late


class Clock:
    """A clock that starts when it is made, and says which share of its seconds has passed.

    asked: how often it was asked, which in a loop that asks once a step is one more than the steps taken.
    """

    def __init__(self, seconds: float):
        self.seconds, self.start, self.asked = seconds, perf_counter(), 0

    def share(self) -> float:
        """Return the share of the time that has passed: 0 at the start, 1 or more when it is over.

        Raises TimeoutError for who asks long after the end.
        """
        self.asked += 1
        self.check()
        return self.taken / self.seconds

    @property
    def taken(self) -> float:
        """The seconds that have passed."""
        return perf_counter() - self.start

    def check(self) -> None:
        """Raise TimeoutError once the time has been over for longer than one step takes."""
        if self.taken > self.seconds + GRACE:
            raise TimeoutError(
                f"this run has taken {self.taken:.1f} seconds, and had {self.seconds:g}: "
                "return the model as soon as clock.share() is 1 or more"
            )
