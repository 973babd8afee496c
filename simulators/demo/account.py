"""Account: both records of a demo, joined into the verdict and the report."""

from collections.abc import Iterator
from dataclasses import dataclass

from parkfleet.protocols.derived import Ratios, make_derivation, needed_points
from parkfleet.protocols.payload.series import Value, has_value
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode
from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.park import Park
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.record import Answer
from parkfleet.simulators.verdict import ANSWERED, Sample, Series, Verdict, judge

#: (slot, quality, text) of a point.
Decoded = tuple[int, Quality, str | None]


@dataclass(frozen=True)
class Account:
    """What a demo comes to."""

    verdict: Verdict
    meters: int
    batches: int
    repeated: int
    payload_bytes: int
    wire_bytes: int
    broker: str
    gateway_online: bool

    @classmethod
    def of(cls, park: Park, subscriber: Subscriber, link: LinkProxy, broker: str, gateway_online: bool) -> "Account":
        """Takes both records as they stand."""
        tolerance = {meter.id: 1000 * meter.interval for meter in park.meters}
        answered = list(answered_samples(park))
        return cls(
            verdict=judge(answered, delivered_samples(subscriber), tolerance),
            meters=len({series.meter for series, _ in answered}),
            batches=subscriber.batches,
            repeated=subscriber.repeated,
            payload_bytes=subscriber.payload_bytes,
            wire_bytes=link.bytes_up + link.bytes_down,
            broker=broker,
            gateway_online=gateway_online,
        )

    def report(self, outage_s: float) -> dict[str, object]:
        """The account as JSON; docs/demo.md has each key's meaning."""
        verdict = self.verdict
        readings = max(verdict.readings_delivered, 1)
        return {
            "ok": verdict.ok and self.gateway_online,
            "meters": self.meters,
            "readings_answered": verdict.readings_answered,
            "readings_delivered": verdict.readings_delivered,
            "lost": verdict.lost,
            "duplicates": verdict.duplicates,
            "mismatched": verdict.mismatched,
            "batches": self.batches,
            "batches_repeated": self.repeated,
            "payload_bytes": self.payload_bytes,
            "payload_bytes_per_reading": round(self.payload_bytes / readings, 3),
            "bytes_on_wire": self.wire_bytes,
            "bytes_per_reading": round(self.wire_bytes / readings, 3),
            "outage_s": outage_s,
            "gateway_online": self.gateway_online,
            "broker": self.broker,
            "deviations": verdict.examples,
        }


def answered_samples(park: Park) -> Iterator[tuple[Series, Sample]]:
    """Every reading the simulated meters gave, out of the registers that left them."""
    meters = {(meter.line, meter.simulated.unit): (meter.id, _Meter(meter.profile)) for meter in park.meters}
    for answer in park.record:
        if answer.ok:
            meter_id, meter = meters[answer.line, answer.unit]
            for point, value in meter.readings(answer):
                yield Series(meter_id, point), Sample(round(answer.time * 1000), value)


class _Meter:
    """What a meter's answers come to: a reading is there once all the registers it is made of were answered."""

    def __init__(self, profile: Profile) -> None:
        self._points = profile.points
        self._ways = [(own, needed_points(profile, [own])) for own in profile.delivered]
        both = Ratios(keep_raw=True)  # as a meter is configured by default: both sides of its transformers
        self._derivations = {own: make_derivation(profile, needed, [own], both) for own, needed in self._ways}
        self._answered: dict[str, dict[str, Decoded]] = {own: {} for own in profile.delivered}

    def readings(self, answer: Answer) -> Iterator[tuple[str, Value]]:
        """Those that an answer completes, by their points."""
        end = answer.address + answer.count
        decoded = {
            point.id: decode(point, answer.values[point.address - answer.address :][: point.count])
            for point in self._points
            if point.table == answer.table and answer.address <= point.address and point.end <= end
        }
        for own, needed in self._ways:
            known = self._answered[own]
            fresh = {point.id: decoded[point.id] for point in needed if point.id in decoded}
            known |= fresh
            if fresh and len(known) == len(needed):
                yield from self._values(own, [known[point.id] for point in needed])
                known.clear()

    def _values(self, own: str, parts: list[Decoded]) -> Iterator[tuple[str, Value]]:
        """The value of a point, and that before its transformers where some are."""
        derivation = self._derivations[own]
        slots, codes = derivation.derive([slot for slot, _, _ in parts], bytes(code for _, code, _ in parts))
        for column, slot, code in zip(derivation.columns, slots, codes, strict=True):
            yield column.point, column.value(slot, parts[0][2]) if has_value(code) else None


def delivered_samples(subscriber: Subscriber) -> Iterator[tuple[Series, Sample]]:
    """Every reading the subscriber decoded that says a meter answered."""
    for batch in subscriber.taken:
        for reading in batch.readings():
            if reading.quality in ANSWERED:
                yield Series(reading.meter, reading.point), Sample(reading.ts, reading.value)
