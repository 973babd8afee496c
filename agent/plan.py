"""Plan: a checked configuration turned into what is polled: lines, meters, requests, and the batch schema."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.zone import UTC, Zone
from parkfleet.protocols.config import LineAddress, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.derived import Derivation, Ratios, make_derivation, needed_points
from parkfleet.protocols.learned import Learned
from parkfleet.protocols.modbus.rtu import silence
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Entry, Scan
from parkfleet.protocols.profile import Hole, Point, Profile
from parkfleet.protocols.quantity import Duration
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.readplan import NOTHING, TURNAROUND_S, PlannedRequest, WireCost, plan_requests
from parkfleet.protocols.registers import column_of


@dataclass(frozen=True)
class Group:
    """Points of a meter that are delivered at the same interval, in an entry of their own."""

    entry: int  # index into the schema
    every: int  # of the meter's slots; 1: in each
    columns: frozenset[int]  # of the points that are read for it


@dataclass(frozen=True)
class MeterPlan:
    """One meter: what to ask, and where its readings stand in a batch.

    Where its points have several intervals, slots are those of the shortest, and which groups of points are due in a
    slot is told by bits: bit i stands for groups[i + 1]; groups[0] is due in each. What is asked in a slot is the
    optimum for just the points that are due in it, so that all together take the least time on the wire.
    """

    config: MeterConfig
    entry: int  # index into the schema
    points: tuple[Point, ...]  # one a slot of a scan as it is read; the entry's columns are what derivation makes of it
    requests: tuple[PlannedRequest, ...]
    derivation: Derivation | None = None  # of all its points; None: delivered as it is read
    gap_s: float = 0.0  # silence the meter needs before each request
    turnaround_s: float = TURNAROUND_S  # in the cost of each request, as far as is known
    never_write: tuple[Hole, ...] = ()  # registers that nobody may write
    learned: Learned = NOTHING
    offset_s: float = 0.0  # its slots are so much behind the multiples of the interval
    groups: tuple[Group, ...] = ()  # none: all points are due in each slot
    variants: tuple[tuple[PlannedRequest, ...], ...] = ()  # with groups: what is asked, by the bits of those due

    @property
    def all_due(self) -> int:
        """The bits of all groups."""
        return (1 << max(0, len(self.groups) - 1)) - 1

    def due(self, index: int, before: int) -> int:
        """The bits of the groups that have a slot behind one and up to another; indices of the meter's slots."""
        slow = enumerate(self.groups[1:])
        return sum(1 << bit for bit, group in slow if index // group.every != before // group.every)

    def asked(self, due: int) -> tuple[PlannedRequest, ...]:
        """What is asked when groups are due."""
        return self.variants[due] if self.groups else self.requests

    def entries(self, due: int) -> list[int]:
        """Of the schema, that get readings when groups are due."""
        if not self.groups:
            return [self.entry]
        return [group.entry for bit, group in enumerate(self.groups) if bit == 0 or due >> bit - 1 & 1]

    def columns(self, due: int) -> frozenset[int]:
        """The points that are read when groups are due."""
        return frozenset().union(
            *(group.columns for bit, group in enumerate(self.groups) if bit == 0 or due >> bit - 1 & 1)
        )

    @property
    def shares(self) -> list[float]:
        """By the bits of the groups that are due: the part of the slots in which just these are; the sum is 1."""
        all_due = self.all_due
        at_least = [
            1 / math.lcm(1, *(group.every for bit, group in enumerate(self.groups[1:]) if due >> bit & 1))
            for due in range(all_due + 1)
        ]
        return [
            sum((-1) ** (more ^ due).bit_count() * at_least[more] for more in range(all_due + 1) if more & due == due)
            for due in range(all_due + 1)
        ]

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
        return sum(map(self.share, self.meters))

    def share(self, meter: MeterPlan) -> float:
        """A meter's part of the load."""
        seconds = (part * self.scan_seconds(meter, due) for due, part in enumerate(meter.shares))
        return sum(seconds) / meter.config.interval / self.config.lanes

    def scan_seconds(self, meter: MeterPlan, due: int | None = None) -> float:
        """Wire time of one scan of a meter, the silence it needs before each request included.

        due: bits of the groups that are; default: all.
        """
        return self.config.lanes * sum(self.request_seconds(meter, meter.all_due if due is None else due))

    def request_seconds(self, meter: MeterPlan, due: int) -> list[float]:
        """What each request of a scan takes of the line's time; of that there is more where several are under way."""
        beside = meter.gap_s + meter.turnaround_s - TURNAROUND_S
        return [(planned.seconds(self.cost) + beside) / self.config.lanes for planned in meter.asked(due)]


@dataclass(frozen=True)
class Plan:
    """All of a gateway."""

    schema: Schema
    lines: tuple[LinePlan, ...]
    derivations: dict[int, Derivation] = field(default_factory=dict)  # by entry, of the meters that need one
    zone: Zone = UTC  # on whose clock the slots lie

    def delivering(self, on_scan: Callable[[Scan], None]) -> Callable[[Scan], None]:
        """A taker of scans as they are read, that hands them on as they are delivered."""
        if not self.derivations:
            return on_scan
        return lambda scan: on_scan(self.delivered(scan))

    def delivered(self, scan: Scan) -> Scan:
        """A scan as it is delivered, of one as it is read."""
        derivation = self.derivations.get(scan.entry)
        return scan if derivation is None else derivation.scan(scan)


def make_plan(configuration: Configuration, learned: Mapping[str, Learned] | None = None) -> Plan:
    """The plan of a configuration that has passed its checks. learned: by meter id, from an earlier life."""
    gateway = configuration.gateway
    entries: list[Entry] = []
    meters: dict[str, list[MeterPlan]] = {line.id: [] for line in gateway.lines}
    addresses = {line.id: parse_line_url(line.url).under(configuration.folder) for line in gateway.lines}
    derivations: dict[int, Derivation] = {}
    kinds: dict[tuple[bytes, WireCost], tuple[MeterPlan, list[Derivation]]] = {}
    for config in gateway.meters:
        profile, line = configuration.profiles[config.profile], addresses[config.line]
        known = (learned or {}).get(config.id, NOTHING)
        kind = _kind(config), WireCost.of(line)
        if known is NOTHING and kind in kinds:
            like, delivered = kinds[kind]
            meter = _another(like, config, len(entries))
        else:
            plain, delivered = _meter(config, profile, len(entries))
            meter = with_learned(plain, profile, line, known)
            if known is NOTHING:
                kinds[kind] = meter, delivered
        meters[config.line].append(meter)
        for derivation in delivered:
            if not derivation.is_identity:
                derivations[len(entries)] = derivation
            entries.append(Entry(config.id, profile.profile, profile.medium, derivation.columns))
    lines = tuple(
        LinePlan(line, addresses[line.id], WireCost.of(addresses[line.id]), _phased(line, meters[line.id]))
        for line in gateway.lines
    )
    return Plan(Schema(tuple(entries)), lines, derivations, Zone(gateway.timezone))


def _meter(config: MeterConfig, profile: Profile, entry: int) -> tuple[MeterPlan, list[Derivation]]:
    """A meter before its requests are planned, and the derivation of each of its entries."""
    ratios = ratios_of(config)
    points = needed_points(profile, config.points, ratios)
    by_interval: dict[float, list[str]] = {}
    for name in config.points or profile.delivered:
        by_interval.setdefault(float(config.intervals.get(name, config.interval)), []).append(name)
    if len(by_interval) == 1:
        derivation = make_derivation(profile, points, config.points, ratios)
        derived = _changing(derivation, points)
        (interval,) = by_interval
        config = _at(config, interval)
        return MeterPlan(config, entry, points, (), derived, never_write=tuple(profile.never_write)), [derivation]
    place = {point.id: index for index, point in enumerate(points)}
    shortest = min(by_interval)
    groups: list[Group] = []
    derivations: list[Derivation] = []
    for interval in sorted(by_interval):
        names = by_interval[interval]
        columns = frozenset(place[point.id] for point in needed_points(profile, names, ratios))
        groups.append(Group(entry + len(groups), round(interval / shortest), columns))
        derivations.append(make_derivation(profile, points, names, ratios))
    whole = make_derivation(profile, points, config.points, ratios)
    plan = MeterPlan(
        _at(config, shortest),
        entry,
        points,
        (),
        _changing(whole, points),
        never_write=tuple(profile.never_write),
        groups=tuple(groups),
    )
    return plan, derivations


def _kind(config: MeterConfig) -> bytes:
    """The same for meters that differ by name, line and unit only: they are planned once, and share what they can."""
    return msgspec.msgpack.encode(msgspec.structs.replace(config, id="", line="", unit=0), enc_hook=float)


def _another(like: MeterPlan, config: MeterConfig, entry: int) -> MeterPlan:
    """The plan of a meter of the same kind as one of which nothing was learned."""

    def asked(requests: tuple[PlannedRequest, ...]) -> tuple[PlannedRequest, ...]:
        return tuple(replace(own, request=replace(own.request, unit=config.unit)) for own in requests)

    variants = tuple(map(asked, like.variants))
    return replace(
        like,
        config=msgspec.structs.replace(like.config, id=config.id, line=config.line, unit=config.unit),
        entry=entry,
        requests=variants[-1] if variants else asked(like.requests),
        groups=tuple(replace(group, entry=group.entry - like.entry + entry) for group in like.groups),
        variants=variants,
    )


def _changing(derivation: Derivation, points: tuple[Point, ...]) -> Derivation | None:
    """A derivation, unless what is delivered by it is what the points say. A constant ratio changes columns only."""
    same = derivation.is_identity and derivation.columns == tuple(map(column_of, points))
    return None if same else derivation


def _at(config: MeterConfig, interval: float) -> MeterConfig:
    """The meter's settings as those of its slots."""
    if interval == config.interval and not config.intervals:
        return config
    snap = Duration(config.snap_seconds)
    return msgspec.structs.replace(config, interval=Duration(interval), intervals={}, snap=snap)


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

    def planned(chosen: frozenset[int] | None) -> tuple[PlannedRequest, ...]:
        return tuple(plan_requests(profile, meter.points, meter.config.unit, cost, learned, chosen))

    variants = tuple(planned(meter.columns(due)) for due in range(meter.all_due + 1 if meter.groups else 0))
    requests = variants[-1] if variants else planned(None)
    return replace(meter, requests=requests, variants=variants, gap_s=gap, turnaround_s=turnaround, learned=learned)


def ratios_of(config: MeterConfig) -> Ratios:
    """A meter's transformers as its entry in gateway.yaml says."""
    ct, pt = (None if ratio is None else fraction(ratio) for ratio in (config.ct, config.pt))
    return Ratios(ct, pt, config.raw)
