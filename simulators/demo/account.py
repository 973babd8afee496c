"""Account: both records of a demo, joined into the verdict and the report."""

from collections.abc import Iterator
from dataclasses import dataclass

from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import column_of, decode
from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.park import Park
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.verdict import ANSWERED, Sample, Series, Verdict, judge


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
    meters = {(meter.line, meter.simulated.unit): meter for meter in park.meters}
    for answer in park.record:
        if not answer.ok:
            continue
        meter = meters[answer.line, answer.unit]
        end = answer.address + answer.count
        for point in meter.profile.points:
            if point.table == answer.table and answer.address <= point.address and point.end <= end:
                start = point.address - answer.address
                slot, quality, text = decode(point, answer.values[start : start + point.count])
                value = column_of(point).value(slot, text) if quality is Quality.GOOD else None
                yield Series(meter.id, point.id), Sample(round(answer.time * 1000), value)


def delivered_samples(subscriber: Subscriber) -> Iterator[tuple[Series, Sample]]:
    """Every reading the subscriber decoded that says a meter answered."""
    for batch in subscriber.taken:
        for reading in batch.readings():
            if reading.quality in ANSWERED:
                yield Series(reading.meter, reading.point), Sample(reading.ts, reading.value)
