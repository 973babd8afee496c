"""Drift: how what a gateway runs compares with what it should. Pure."""

from dataclasses import dataclass
from enum import Enum

from parkfleet.proto import common_pb2


class DriftState(Enum):
    """Where a gateway stands on its way to its desired configuration."""

    UNMANAGED = "unmanaged"  # it has no layer of its own: it runs its local file
    IN_SYNC = "in sync"  # it runs what it should, confirmed
    APPLYING = "applying"  # it has it, or will have it in a moment; its trial may run
    ROLLED_BACK = "rolled back"  # it tried it and went back, for a reason
    PENDING = "offline, pending"  # it gets it when it comes back


@dataclass(frozen=True, slots=True)
class Drift:
    """One gateway's drift."""

    state: DriftState
    desired: int = 0  # revision; 0 when unmanaged
    desired_hash: str = ""
    reason: str = ""  # why it was rolled back


def drift(desired: tuple[int, str] | None, reported: common_pb2.ReportedState | None, online: bool) -> Drift:
    """desired: revision and hash. reported: the gateway's last word, None when it has not said any."""
    if desired is None:
        return Drift(DriftState.UNMANAGED)
    revision, name = desired
    if reported is not None:
        if reported.running.hash == name and not reported.on_trial:
            return Drift(DriftState.IN_SYNC, revision, name)
        if is_name(reported.last_failed.configuration, desired):
            return Drift(DriftState.ROLLED_BACK, revision, name, reported.last_failed.reason)
    return Drift(DriftState.APPLYING if online else DriftState.PENDING, revision, name)


def is_to_be_offered(desired: tuple[int, str], reported: common_pb2.ReportedState) -> bool:
    """Whether a gateway should be sent a configuration.

    Not when it runs it or has it already, and never again one that has just failed: for that a later revision of one
    of its layers is needed.
    """
    if reported.running.hash == desired[1]:
        return False
    return not any(is_name(name, desired) for name in (reported.last_received, reported.last_failed.configuration))


def is_name(name: common_pb2.Configuration, desired: tuple[int, str]) -> bool:
    """Whether a gateway means a certain configuration, of a certain revision."""
    return (name.revision, name.hash) == desired
