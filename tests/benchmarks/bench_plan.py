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
    ours: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {}
    for name in profile_names():
        profile = load_profile(name)
        ours[name] = sum(planned.seconds(cost) for planned in plan_requests(profile, profile.points, 1, cost))
        peers[name] = {
            peer: telegraf.seconds(telegraf.requests(profile, fill), cost) for peer, fill in telegraf.FILLS.items()
        }
    rows = [_row(name, ours[name], peers[name]) for name in ours]
    total = {peer: sum(own[peer] for own in peers.values()) for peer in telegraf.FILLS}
    write_report("plan", HEADER, [*rows, _row(f"all {len(rows)} together", sum(ours.values()), total)])


def _row(name: str, ours: float, peers: dict[str, float]) -> Measure:
    """Seconds, told in milliseconds."""
    best = min(peers.values())
    told = {peer: round(1000 * value, 1) for peer, value in peers.items()}
    return Measure(name, "ms", round(1000 * ours, 1), told, ours / best, "≤ 1.000 of the best", ours <= best + 1e-12)


if __name__ == "__main__":
    main()
