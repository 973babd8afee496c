"""Report: changes, histories and origins of values as lines for people. Pure."""

import time
from collections.abc import Iterable, Iterator

from parkfleet.controller.config_client import Outcome
from parkfleet.controller.config_diff import MeterImpact
from parkfleet.proto import config_pb2 as pb


def outcome_lines(outcome: Outcome, layer: str, dry_run: bool) -> Iterator[str]:
    """A change: of the layer, of the gateways that it touches, and whether it was stored."""
    if outcome.good and not outcome.layer:
        yield f"{layer} says that already: nothing was stored"
        return
    yield f"{layer}:"
    yield from (f"  {change_line(change)}" for change in outcome.layer)
    yield from _impact_lines(outcome.gateways)
    yield from (f"warning: {warning}" for warning in outcome.warnings)
    if not outcome.good:
        return
    if dry_run:
        yield "dry run: nothing was stored"
    else:
        stored = outcome.result.stored
        yield f"stored as revision {stored.revision}: gateways try it now, those that are offline when they are back"


def change_line(change: pb.KeyChange) -> str:
    """One value that differs."""
    before, after = (_short(change.before), _short(change.after))
    if not change.HasField("before"):
        return f"+ {change.key}: {after}" if change.HasField("after") else change.key
    return f"~ {change.key}: {before} -> {after}" if change.HasField("after") else f"- {change.key}: {before}"


def revision_line(info: pb.RevisionInfo) -> str:
    """A revision in one line."""
    return f"revision {info.revision}  {moment_text(info.at_ms)}  {info.author}: {info.reason}"


def why_lines(answer: pb.ExplainResponse, gateway: str, key: str) -> Iterator[str]:
    """What each layer says of a key, the one that holds first."""
    if not answer.sayings:
        if answer.model_default:
            yield f"{gateway} {key} = {answer.model_default}: the agent's own default, no layer says anything of it"
        else:
            yield f"{gateway} {key}: no layer says anything of it"
        return
    *below, holds = answer.sayings
    what = "removed" if holds.value == "null" else f"= {holds.value}"
    yield f"{gateway} {key} {what}"
    yield f"  by {holds.info.layer}, {revision_line(holds.info)}"
    for one in reversed(below):
        yield f"  over {one.value} by {one.info.layer}, {revision_line(one.info)}"


def moment_text(at_ms: int) -> str:
    """A time as people here read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def _impact_lines(impacts: Iterable[pb.GatewayImpact]) -> Iterator[str]:
    """Gateways whose documents change alike are told together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for impact in impacts:
        meters = MeterImpact(tuple(impact.gains), tuple(impact.loses), tuple(impact.changes_meters))
        lines = [f"  meters: {meters}", *(f"  {change_line(change)}" for change in impact.changes)]
        alike = tuple(lines if impact.changes else ["  nothing changes for it: another layer says otherwise"])
        groups.setdefault(alike, []).append(f"{impact.park}/{impact.gateway}")
    if not groups:
        yield "no gateway is touched"
    for lines_of, names in groups.items():
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{others}:"
        yield from lines_of


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}…"
