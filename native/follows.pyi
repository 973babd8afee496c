"""Whether the counters of a scan plainly follow the readings before. See follows.pyx."""

from array import array

# column, kind (i, u, f, d), multiply, add, divide, units an hour, slack above them
Spec = tuple[int, str, float, float, float, float, float]

class Counters:
    """The guarded counters of one entry, and the last reading of each."""

    def __init__(self, specs: list[Spec]) -> None:
        """Raises ValueError for a factor that order does not survive: of a float, one that adds or turns round."""

    def follow(self, slots: array[int], quality: bytes, ts: int) -> bool:
        """Whether every counter that has a good reading plainly follows; then these are its last ones.

        False: nothing has changed. ts: ms UTC. Raises IndexError for a scan of fewer columns.
        """

    def know(self, index: int, slot: int, ts: int) -> None:
        """The last reading of a counter, by its place in the specification."""

    def forget(self, index: int) -> None:
        """There is none."""

    def last(self, index: int) -> tuple[int, int] | None:
        """(slot, ts) of a counter's last reading; None where it is not known here."""
