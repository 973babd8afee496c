"""Line facts: what is known of a line and its meters beyond their configuration, as it is shown and sent."""

import msgspec

from parkfleet.agent.activity import MeterActivity
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.protocols.learned import Learned


class Share(msgspec.Struct, frozen=True):
    """Part of the line's time, 0 to 1."""

    planned: float
    last_minute: float | None = None  # measured; None: not polled
    last_quarter: float | None = None  # over 15 min, or since the agent started


class MeterFacts(msgspec.Struct, frozen=True):
    """One meter."""

    meter: str
    unit: int
    profile: str
    interval_s: float
    requests_a_scan: int
    share: Share
    learned: Learned
    requests: int = 0  # since the agent started, as all that follow
    answers: int = 0
    timeouts: int = 0
    missed: int = 0  # slots that passed before its turn came


class LineFacts(msgspec.Struct, frozen=True):
    """One line."""

    id: str
    url: str
    share: Share
    meters: list[MeterFacts]


def line_facts(
    line: LinePlan,
    plans: list[MeterPlan],
    activities: dict[str, MeterActivity],
    measured: "dict[str, tuple[float, float]]",
) -> LineFacts:
    """plans: of its meters, as they are asked now. measured: by meter id, over a minute and a quarter of an hour."""
    meters = []
    for plan in plans:
        config, done = plan.config, activities.get(plan.config.id, MeterActivity())
        of_line = [share / line.config.lanes for share in measured.get(config.id, ())]
        share = Share(line.share(plan), *of_line)
        meters.append(
            MeterFacts(
                config.id,
                config.unit,
                config.profile,
                float(config.interval),
                len(plan.requests),
                share,
                plan.learned,
                done.requests,
                done.answers,
                done.timeouts,
                done.missed,
            )
        )
    both = zip(*measured.values(), strict=True) if measured else ()
    sums = [min(1.0, sum(part) / line.config.lanes) for part in both]
    return LineFacts(line.config.id, line.config.url, Share(sum(own.share.planned for own in meters), *sums), meters)
