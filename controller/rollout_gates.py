"""Gates: what the readings say of the gateways that run a new release. Pure.

Each updated gateway is compared with itself in the hour before its switch, and all of them with the gateways of the
same rollout that have not switched, over the same minutes: a park's link that is bad today is no fault of the release.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parkfleet.controller.rollout_model import Gate, Verdict

#: Readings of a gateway, before and after, from which on its share is believed.
MIN_READINGS: Final = 20
#: Meters named in a sentence.
NAMED: Final = 3


@dataclass(frozen=True)
class Tally:
    """Readings of one meter (or of anything that is counted so) over some time."""

    good: int = 0
    total: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.good + other.good, self.total + other.total)

    @property
    def share(self) -> float:
        """Good ones, 0 to 1; 0 of nothing."""
        return self.good / self.total if self.total else 0.0


@dataclass(frozen=True)
class Record:
    """What a gateway delivered in some span: per meter, and how late (median ms from reading to arrival)."""

    meters: Mapping[str, Tally]
    lag_ms: float | None = None

    @property
    def all(self) -> Tally:
        """Over its meters."""
        return sum(self.meters.values(), Tally())


@dataclass(frozen=True)
class Bounds:
    """How much worse is worse."""

    share: float = 0.02  # of good readings, lost beyond what the others lost
    meter_share: float = 0.5  # of one meter's good readings, lost: a meter that is no longer read
    lag_ms: float = 60_000.0  # and later by more than this
    lag_factor: float = 3.0  # and by this factor


def judge_data(
    before: Mapping[str, Record], after: Mapping[str, Record], others: tuple[Tally, Tally], bounds: Bounds = Bounds()
) -> Gate:
    """What the records of updated gateways say, by name. others: those not updated, then and now."""
    judged = {key: (before[key], record) for key, record in after.items() if key in before}
    judged = {key: pair for key, pair in judged.items() if min(one.all.total for one in pair) >= MIN_READINGS}
    lost = [told for key, (old, new) in sorted(judged.items()) for told in _lost_meters(key, old, new, bounds)]
    if lost:
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        return Gate(Verdict.BAD, "; ".join(lost[:NAMED]) + more)
    if not judged or len(judged) < len(after):
        return Gate(Verdict.UNKNOWN, f"{len(after) - len(judged)} of {len(after)} gateways gave too few readings yet")
    then = sum((old.all for old, _ in judged.values()), Tally())
    now = sum((new.all for _, new in judged.values()), Tally())
    drift = others[0].share - others[1].share if min(one.total for one in others) >= MIN_READINGS else 0.0
    if then.share - now.share - max(drift, 0.0) > bounds.share:
        return Gate(Verdict.BAD, f"{now.share:.1%} of the readings are good, {then.share:.1%} before the switch")
    late = [key for key, (old, new) in sorted(judged.items()) if _is_late(old, new, bounds)]
    if late:
        return Gate(Verdict.BAD, f"readings arrive later than before the switch: {', '.join(late[:NAMED])}")
    return Gate(Verdict.GOOD, f"{now.share:.1%} of the readings are good, {then.share:.1%} before the switch")


def _lost_meters(key: str, old: Record, new: Record, bounds: Bounds) -> list[str]:
    """Meters that were read before and are not now; a meter that is silent altogether has a tally of nothing good."""
    found = []
    for meter, tally in sorted(old.meters.items()):
        now = new.meters.get(meter, Tally())
        if tally.good and tally.share - now.share > bounds.meter_share:
            found.append(f"{meter} of {key} gives {now.share:.0%} good readings, {tally.share:.0%} before the switch")
    return found


def _is_late(old: Record, new: Record, bounds: Bounds) -> bool:
    if old.lag_ms is None or new.lag_ms is None:
        return False
    return new.lag_ms - old.lag_ms > bounds.lag_ms and new.lag_ms > bounds.lag_factor * old.lag_ms
