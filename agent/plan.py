"""Plan: a checked configuration turned into what is polled: lines, meters, requests, and the batch schema."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from parkfleet.agent.configuration import Configuration
from parkfleet.protocols.config import LineAddress, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.derived import Derivation, Ratios, make_derivation, needed_points
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Entry, Scan
from parkfleet.protocols.profile import Hole, Point
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.readplan import PlannedRequest, WireCost, plan_requests


@dataclass(frozen=True)
class MeterPlan:
    """One meter: what to ask, and where its readings stand in a batch."""

    config: MeterConfig
    entry: int  # index into the schema
    points: tuple[Point, ...]  # one a slot of a scan as it is read; the entry's columns are what derivation makes of it
    requests: tuple[PlannedRequest, ...]
    derivation: Derivation | None = None  # None: delivered as it is read
    gap_s: float = 0.0  # silence the meter needs before each request
    never_write: tuple[Hole, ...] = ()  # registers that nobody may write


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
        return sum(planned.seconds(self.cost) + meter.gap_s for planned in meter.requests)


@dataclass(frozen=True)
class Plan:
    """All of a gateway."""

    schema: Schema
    lines: tuple[LinePlan, ...]
    derivations: dict[int, Derivation] = field(default_factory=dict)  # by entry, of the meters that need one

    def delivering(self, on_scan: Callable[[Scan], None]) -> Callable[[Scan], None]:
        """A taker of scans as they are read, that hands them on as they are delivered."""
        derivations = self.derivations
        if not derivations:
            return on_scan

        def deliver(scan: Scan) -> None:
            derivation = derivations.get(scan.entry)
            on_scan(scan if derivation is None else derivation.scan(scan))

        return deliver


def make_plan(configuration: Configuration) -> Plan:
    """The plan of a configuration that has passed its checks."""
    gateway = configuration.gateway
    entries: list[Entry] = []
    meters: dict[str, list[MeterPlan]] = {line.id: [] for line in gateway.lines}
    addresses = {line.id: parse_line_url(line.url).under(configuration.folder) for line in gateway.lines}
    for config in gateway.meters:
        profile = configuration.profiles[config.profile]
        ratios = ratios_of(config)
        points = needed_points(profile, config.points, ratios)
        derivation = make_derivation(profile, points, config.points, ratios)
        gap = profile.min_gap / 1000
        cost = WireCost.of(addresses[config.line])
        requests = plan_requests(profile, points, config.unit, replace(cost, request=cost.request + gap))
        meters[config.line].append(
            MeterPlan(
                config,
                len(entries),
                points,
                tuple(requests),
                None if derivation.is_identity else derivation,
                gap,
                tuple(profile.never_write),
            )
        )
        entries.append(Entry(config.id, profile.profile, profile.medium, derivation.columns))
    lines = tuple(
        LinePlan(line, addresses[line.id], WireCost.of(addresses[line.id]), tuple(meters[line.id]))
        for line in gateway.lines
    )
    derivations = {meter.entry: meter.derivation for line in lines for meter in line.meters if meter.derivation}
    return Plan(Schema(tuple(entries)), lines, derivations)


def ratios_of(config: MeterConfig) -> Ratios:
    """A meter's transformers as its entry in gateway.yaml says."""
    ct, pt = (None if ratio is None else fraction(ratio) for ratio in (config.ct, config.pt))
    return Ratios(ct, pt, config.raw)
