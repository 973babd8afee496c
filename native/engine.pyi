"""Engine: one thread that reads the meters of many lines. See engine.pyx for how it is made."""

from parkfleet.native.spec import LineCounters, LineSpec, MeterCounters, MeterSpec, Record

class Engine:
    """Lines are added before or while it runs. All methods but run() return at once; any thread may call them.

    Serial ports come open, configured and non-blocking, and belong to the engine from then on. A port that fails is
    closed and told by line_counters().failed; the owner opens it anew and hands it over by line_opened(). TCP
    endpoints are connected by the engine itself, again and again from half a second to ten seconds apart.
    """

    def __init__(
        self, lines: int = 1024, ring_bytes: int = 4_194_304, notify_ns: int = 2_000_000, seed: int = 0
    ) -> None:
        """lines: at most so many at a time. ring_bytes: a power of two; holds the scans that were not taken yet.

        notify_ns: results_fd is raised at most this often. seed: of the jitter, for tests; 0: random.
        """

    @property
    def results_fd(self) -> int:
        """An eventfd: readable when take() has something, a line's state changed, or run() returned."""

    @property
    def overruns(self) -> int:
        """Scans dropped because they were not taken in time."""

    @property
    def changes(self) -> int:
        """Grows whenever a line goes up or down, or fails for another reason."""

    def run(self) -> None:
        """The engine's thread: returns after stop(). Holds no GIL. Raises RuntimeError when it runs already."""

    def turn(self) -> None:
        """One round of run()'s loop in the caller's thread, in run()'s stead: for fuzzing. Waits a second at most."""

    def stop(self, within_s: float = 2.0) -> None:
        """No scan is begun any more; run() returns when those under way have ended, at the latest after within_s."""

    def close(self) -> None:
        """Frees everything and closes all descriptors. Raises RuntimeError while run() runs."""

    def add_line(self, spec: LineSpec) -> int:
        """The line's index. Raises ValueError for a specification out of bounds."""

    def remove_line(self, index: int) -> None:
        """Hangs up; scans under way are dropped. Raises KeyError, as all that take an index."""

    def line_opened(self, index: int, fd: int) -> None:
        """A serial port was opened; -1: it could not be, its meters are told as disconnected."""

    def set_address(self, index: int, address: bytes) -> None:
        """Where the next connection goes, as LineSpec.address; empty: not known, the line is down."""

    def wake(self, index: int, unit: int) -> None:
        """Asks a silent unit at once."""

    def replace_meter(self, index: int, meter: int, spec: MeterSpec) -> None:
        """New requests for a meter of a line, by its place in the specification; taken over between two of its scans.

        Tag and gap are the specification's, unit, interval and offset stay as they were. Records tell by their tag
        which requests they come of. Raises ValueError for a specification out of bounds.
        """

    def lend(self, index: int) -> None:
        """No scan is begun on a serial line until take_back(); loans() grows once those under way have ended."""

    def take_back(self, index: int) -> None:
        """The port is the engine's again, after t3.5 of silence."""

    def hold(self, index: int, unit: int, span_ns: int) -> None:
        """Asks a unit nothing for so long: a guest's request has no answer yet, and RTU no way to tell whose it is."""

    def held_ns(self, index: int, unit: int) -> int:
        """For how long a unit is to be asked nothing, for the same reason or its own gap; 0 for an unknown one."""

    def loans(self, index: int) -> int:
        """How often the port was free for another asker. `changes` grows with it."""

    def set_clock(self, offset_ns: int | None) -> None:
        """UTC minus monotonic clock; None: the system's, looked at every second (as from the start)."""

    def set_zone(self, offset_ns: int) -> None:
        """How far local time is ahead of UTC: slots are multiples of the interval on the local clock. At first 0."""

    def missed(self, index: int) -> list[int]:
        """Slots that passed before the meter's turn came, one a meter: cheaper than all of meter_counters()."""

    def take(self, limit: int = 0) -> list[Record]:
        """The finished scans, oldest first, as plain tuples; limit 0: all. Only one thread may take."""

    def tap(self, index: int, wanted: bool) -> None:
        """Writes down what goes over a line's wire, until it is no longer wanted."""

    def tapped(self) -> tuple[list[tuple[bool, int, bytes]], int]:
        """What was written down and not taken yet, oldest first: (came in, ns UTC, bytes as they came).

        And how many pieces were dropped since the engine was made, because they were not taken in time.
        """

    def line_counters(self, index: int) -> LineCounters:
        """Counted since the line was added."""

    def meter_counters(self, index: int) -> list[MeterCounters]:
        """One a meter, in the order of the specification."""
