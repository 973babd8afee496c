"""Plan: a checked configuration turned into what is polled: lines, meters, requests, and the batch schema."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.zone import UTC, Zone
from parkfleet.protocols.config import LineAddress, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.derived import Derivation, Ratios, make_derivation, needed_points
from parkfleet.protocols.learned import Learned
from parkfleet.protocols.modbus.rtu import silence
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Entry, Scan
from parkfleet.protocols.profile import Hole, Point, Profile
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.readplan import NOTHING, TURNAROUND_S, PlannedRequest, WireCost, plan_requests


@dataclass(frozen=True)
class MeterPlan:
    """One meter: what to ask, and where its readings stand in a batch."""

    config: MeterConfig
    entry: int  # index into the schema
    points: tuple[Point, ...]  # one a slot of a scan as it is read; the entry's columns are what derivation makes of it
    requests: tuple[PlannedRequest, ...]
    derivation: Derivation | None = None  # None: delivered as it is read
    gap_s: float = 0.0  # silence the meter needs before each request
    turnaround_s: float = TURNAROUND_S  # in the cost of each request, as far as is known
    never_write: tuple[Hole, ...] = ()  # registers that nobody may write
    learned: Learned = NOTHING
    offset_s: float = 0.0  # its slots are so much behind the multiples of the interval

    @cached_property
    def refused(self) -> dict[int, int]:
        """Points that no request asks for, as the meter refuses them: their columns and quality codes."""
        asked = {index for planned in self.requests for index in planned.points}
        found = ((index, self.learned.refusal(point)) for index, point in enumerate(self.points))
        return {index: refusal.quality for index, refusal in found if refusal and index not in asked}


@dataclass(frozen=True)
class LinePlan:
    """One line and its meters."""

    config: LineConfig
    address: LineAddress
    cost: WireCost
    meters: tuple[MeterPlan, ...]

    @property
    def load(self) -> float:
        """Share of the line's time that the plan needs, 0 to 1; above 1 it cannot be kept."""
        return sum(self.scan_seconds(meter) / meter.config.interval for meter in self.meters) / self.config.lanes

    def scan_seconds(self, meter: MeterPlan) -> float:
        """Wire time of one scan of a meter, the silence it needs before each request included."""
        beside = meter.gap_s + meter.turnaround_s - TURNAROUND_S
        return sum(planned.seconds(self.cost) + beside for planned in meter.requests)


@dataclass(frozen=True)
class Plan:
    """All of a gateway."""

    schema: Schema
    lines: tuple[LinePlan, ...]
    derivations: dict[int, Derivation] = field(default_factory=dict)  # by entry, of the meters that need one
    zone: Zone = UTC  # on whose clock the slots lie

    def delivering(self, on_scan: Callable[[Scan], None]) -> Callable[[Scan], None]:
        """A taker of scans as they are read, that hands them on as they are delivered."""
        derivations = self.derivations
        if not derivations:
            return on_scan

        def deliver(scan: Scan) -> None:
            derivation = derivations.get(scan.entry)
            on_scan(scan if derivation is None else derivation.scan(scan))

        return deliver


def make_plan(configuration: Configuration, learned: Mapping[str, Learned] | None = None) -> Plan:
    """The plan of a configuration that has passed its checks. learned: by meter id, from an earlier life."""
    gateway = configuration.gateway
    entries: list[Entry] = []
    meters: dict[str, list[MeterPlan]] = {line.id: [] for line in gateway.lines}
    addresses = {line.id: parse_line_url(line.url).under(configuration.folder) for line in gateway.lines}
    for config in gateway.meters:
        profile = configuration.profiles[config.profile]
        ratios = ratios_of(config)
        points = needed_points(profile, config.points, ratios)
        derivation = make_derivation(profile, points, config.points, ratios)
        plain = MeterPlan(
            config,
            len(entries),
            points,
            (),
            None if derivation.is_identity else derivation,
            never_write=tuple(profile.never_write),
        )
        known = (learned or {}).get(config.id, NOTHING)
        meters[config.line].append(with_learned(plain, profile, addresses[config.line], known))
        entries.append(Entry(config.id, profile.profile, profile.medium, derivation.columns))
    lines = tuple(
        LinePlan(line, addresses[line.id], WireCost.of(addresses[line.id]), _phased(line, meters[line.id]))
        for line in gateway.lines
    )
    derivations = {meter.entry: meter.derivation for line in lines for meter in line.meters if meter.derivation}
    return Plan(Schema(tuple(entries)), lines, derivations, Zone(gateway.timezone))


def _phased(line: LineConfig, meters: list[MeterPlan]) -> tuple[MeterPlan, ...]:
    """The meters of a line; where it is to be spread, those of one interval evenly over it, in whole milliseconds."""
    if not line.spread:
        return tuple(meters)
    counts = Counter(float(meter.config.interval) for meter in meters)
    places: Counter[float] = Counter()
    phased = []
    for meter in meters:
        interval = float(meter.config.interval)
        phased.append(replace(meter, offset_s=int(1000 * interval * places[interval] / counts[interval]) / 1000))
        places[interval] += 1
    return tuple(phased)


def with_learned(meter: MeterPlan, profile: Profile, line: LineAddress, learned: Learned) -> MeterPlan:
    """The meter as it is asked best, with what is known of it. What it delivers stays as it is."""
    gap = learned.gap_ms(profile.min_gap) / 1000
    turnaround = TURNAROUND_S
    if learned.turnaround:  # as measured, the silence before its answer in it
        pause = silence(line.baud, line.bits_per_byte) if line.is_serial else 0.0
        turnaround = max(0.0, learned.turnaround.us / 1e6 - pause)
    cost = WireCost.of(line, turnaround + gap)
    requests = plan_requests(profile, meter.points, meter.config.unit, cost, learned)
    return replace(meter, requests=tuple(requests), gap_s=gap, turnaround_s=turnaround, learned=learned)


def ratios_of(config: MeterConfig) -> Ratios:
    """A meter's transformers as its entry in gateway.yaml says."""
    ct, pt = (None if ratio is None else fraction(ratio) for ratio in (config.ct, config.pt))
    return Ratios(ct, pt, config.raw)
