"""Messages of the configuration service, made from the controller's own data. Pure."""

import json
from collections.abc import Iterable
from typing import Final

from parkfleet.controller.config_diff import Change, ChangeKind
from parkfleet.controller.config_fleet import Impact
from parkfleet.controller.config_layers import Revision
from parkfleet.controller.config_merge import path_text
from parkfleet.controller.config_store import Moment, SecretChange
from parkfleet.proto import config_pb2 as pb
from parkfleet.protocols.document import Problem

#: Values of a diff that are told of one gateway or layer; beyond, a message would be too large.
MAX_CHANGES: Final = 1000


def moment_of(message: pb.Moment) -> Moment | None:
    """A moment; None: now."""
    if message.HasField("revision"):
        return Moment(number=message.revision)
    return Moment(at_ms=message.at_ms) if message.HasField("at_ms") else None


def revision_info(revision: Revision) -> pb.RevisionInfo:
    """A revision without what it says."""
    return pb.RevisionInfo(
        revision=revision.number,
        layer=str(revision.layer),
        author=revision.author,
        reason=revision.reason,
        at_ms=revision.at_ms,
    )


def secret_info(change: SecretChange) -> pb.SecretInfo:
    """A change of a secret."""
    return pb.SecretInfo(
        revision=change.number, name=change.name, author=change.author, reason=change.reason, at_ms=change.at_ms
    )


def problem_message(problem: Problem, warning: bool = False) -> pb.ConfigProblem:
    """A problem."""
    return pb.ConfigProblem(**problem._asdict(), warning=warning)


def changes_message(changes: Iterable[Change], most: int = MAX_CHANGES) -> list[pb.KeyChange]:
    """At most so many: the rest is told as one."""
    told = []
    every = list(changes)
    for change in every[:most]:
        message = pb.KeyChange(key=path_text(change.path))
        if change.kind is not ChangeKind.ADDED:
            message.before = json_text(change.before)
        if change.kind is not ChangeKind.REMOVED:
            message.after = json_text(change.after)
        told.append(message)
    if len(every) > most:
        told.append(pb.KeyChange(key=f"… and {len(every) - most} more"))
    return told


def impact_message(impact: Impact) -> pb.GatewayImpact:
    """What becomes of a gateway."""
    return pb.GatewayImpact(
        park=impact.key.park,
        gateway=impact.key.gateway,
        changes=changes_message(impact.changes),
        gains=impact.meters.gains,
        loses=impact.meters.loses,
        changes_meters=impact.meters.changes,
    )


def json_text(value: object) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False)
