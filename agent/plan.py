"""Plan: a checked configuration turned into what is polled: lines, meters, requests, and the batch schema."""

from dataclasses import dataclass

from parkfleet.agent.configuration import Configuration
from parkfleet.protocols.config import LineAddress, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Entry
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.readplan import PlannedRequest, WireCost, plan_requests
from parkfleet.protocols.registers import column_of


@dataclass(frozen=True)
class MeterPlan:
    """One meter: what to ask, and where its readings stand in a batch."""

    config: MeterConfig
    entry: int  # index into the schema
    points: tuple[Point, ...]  # one a column
    requests: tuple[PlannedRequest, ...]


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
        seconds = (sum(r.seconds(self.cost) for r in m.requests) / m.config.interval for m in self.meters)
        return sum(seconds)


@dataclass(frozen=True)
class Plan:
    """All of a gateway."""

    schema: Schema
    lines: tuple[LinePlan, ...]


def make_plan(configuration: Configuration) -> Plan:
    """The plan of a configuration that has passed its checks."""
    gateway = configuration.gateway
    entries: list[Entry] = []
    meters: dict[str, list[MeterPlan]] = {line.id: [] for line in gateway.lines}
    addresses = {line.id: parse_line_url(line.url).under(configuration.folder) for line in gateway.lines}
    for config in gateway.meters:
        profile = configuration.profiles[config.profile]
        points = _chosen(profile, config)
        requests = plan_requests(profile, points, config.unit, WireCost.of(addresses[config.line]))
        meters[config.line].append(MeterPlan(config, len(entries), points, tuple(requests)))
        columns = tuple(column_of(point) for point in points)
        entries.append(Entry(config.id, profile.profile, profile.medium, columns))
    lines = tuple(
        LinePlan(line, addresses[line.id], WireCost.of(addresses[line.id]), tuple(meters[line.id]))
        for line in gateway.lines
    )
    return Plan(Schema(tuple(entries)), lines)


def _chosen(profile: Profile, config: MeterConfig) -> tuple[Point, ...]:
    return tuple(point for point in profile.points if not config.points or point.id in config.points)
