"""bench-plan: wire time of our read plan beside Telegraf's request optimisations, over the whole profile library."""

from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.readplan import WireCost, plan_requests
from tests.benchmarks import telegraf
from tests.benchmarks.reporting import Measure, write_report

HEADER = (
    "Wire time to read all points of a profile once, at 9600 8N1, 10 ms turnaround; ours beside Telegraf's\n"
    "optimisations as its documentation describes them (tests/benchmarks/telegraf.py), given the same limits and holes."
)


def main() -> None:
    """Prints the table; no arguments."""
    cost = WireCost.of(LineAddress(kind="serial", baud=9600))
    measures = []
    for name in profile_names():
        profile = load_profile(name)
        ours = sum(planned.seconds(cost) for planned in plan_requests(profile, profile.points, 1, cost))
        peers = {
            peer: telegraf.seconds(telegraf.requests(profile, fill), cost) for peer, fill in telegraf.FILLS.items()
        }
        best = min(peers.values())
        rounded = {peer: round(1000 * value, 1) for peer, value in peers.items()}
        measures.append(
            Measure(
                name, "ms", round(1000 * ours, 1), rounded, ours / best, "≤ 1.000 of the best", ours <= best + 1e-12
            )
        )
    write_report("plan", HEADER, measures)


if __name__ == "__main__":
    main()
