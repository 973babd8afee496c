"""Watch: which meters have given a value since a configuration began to run."""

from parkfleet.agent.activity import OnScan
from parkfleet.protocols.payload.series import Scan, has_value


class Watch:
    """Looks at scans as they pass."""

    def __init__(self) -> None:
        self.answered: set[int] = set()  # entries of the schema

    def over(self, on_scan: OnScan) -> OnScan:
        """A taker of scans that hands them on."""
        answered = self.answered

        def watch(scan: Scan) -> None:
            if scan.entry not in answered and any(map(has_value, scan.quality)):
                answered.add(scan.entry)
            on_scan(scan)

        return watch
