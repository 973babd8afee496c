"""GatewayView: a gateway as operators see it, plain data for tables, scripts and the demo."""

from dataclasses import dataclass, field
from typing import Any, Final

from parkfleet.proto import fleet_pb2

_STATES: Final = {fleet_pb2.Gateway.STATE_ONLINE: "online", fleet_pb2.Gateway.STATE_OFFLINE: "offline"}
_DRIFTS: Final = {
    fleet_pb2.Drift.STATE_UNMANAGED: "unmanaged",
    fleet_pb2.Drift.STATE_IN_SYNC: "in sync",
    fleet_pb2.Drift.STATE_APPLYING: "applying",
    fleet_pb2.Drift.STATE_ROLLED_BACK: "rolled back",
    fleet_pb2.Drift.STATE_PENDING: "pending",
}


@dataclass(frozen=True, slots=True)
class LineView:
    """One line of a gateway, since its agent started."""

    id: str
    up: bool
    load: float  # part of the time it was busy, 0 to 1
    requests: int
    errors: dict[str, int]  # by cause
    told: str  # why it is down, or its last error

    def as_json(self) -> dict[str, Any]:
        """As it stands in --json."""
        return {
            "id": self.id,
            "up": self.up,
            "load": round(self.load, 4),
            "requests": self.requests,
            "errors": self.errors,
            "told": self.told,
        }


@dataclass(frozen=True, slots=True)
class GatewayView:
    """One gateway. Times are ms UTC; counts are the last heartbeat's, 0 before the first."""

    park: str
    gateway: str
    state: str  # online | offline
    since: int  # in this state
    last_seen: int
    reason: str  # why offline
    peer: str  # address of the last session
    version: str  # of the agent
    boot_id: str
    uptime_s: int
    rss_bytes: int
    meters: int  # configured
    meters_ok: int
    meters_bad: int
    alarms: int  # raised by the gateway's rules
    broker_connected: bool
    broker_told: str
    buffer_batches: int
    buffer_readings: int
    buffer_bytes: int
    buffer_oldest_ts: int | None
    buffer_last_seq: int
    buffer_epoch: int
    buffer_thinned: int  # readings, for want of room
    buffer_dropped: int
    delivered_batches: int
    delivered_readings: int
    delivered_bytes: int
    configuration_revision: int  # that runs; 0 is the local file
    configuration_hash: str
    on_trial: bool = False  # what runs is not confirmed yet
    drift: str = "unmanaged"  # in sync | applying | rolled back | pending (offline) | unmanaged
    drift_reason: str = ""  # why it was rolled back
    desired_revision: int = 0  # that should run; 0 when unmanaged
    desired_hash: str = ""
    replica: str = ""  # the controller that has its session, or had the last one
    lines: tuple[LineView, ...] = field(default=())

    @property
    def online(self) -> bool:
        """Whether a session of it is open."""
        return self.state == "online"

    @classmethod
    def of(cls, message: fleet_pb2.Gateway) -> "GatewayView":
        """From the controller's answer."""
        hello, beat, running = message.hello, message.heartbeat, message.status.running
        return cls(
            park=message.park,
            gateway=message.gateway,
            state=_STATES.get(message.state, "unknown"),
            since=message.since_ms,
            last_seen=message.last_seen_ms,
            reason=message.offline_reason,
            peer=message.peer,
            version=hello.agent_version,
            boot_id=hello.boot_id,
            uptime_s=beat.uptime_s,
            rss_bytes=beat.rss_bytes,
            meters=hello.meters,
            meters_ok=beat.meters_ok,
            meters_bad=beat.meters_bad,
            alarms=beat.alarms,
            broker_connected=beat.broker.connected,
            broker_told=beat.broker.told,
            buffer_batches=beat.buffer.batches,
            buffer_readings=beat.buffer.readings,
            buffer_bytes=beat.buffer.bytes,
            buffer_oldest_ts=beat.buffer.oldest_ts if beat.buffer.HasField("oldest_ts") else None,
            buffer_last_seq=beat.buffer.last_seq,
            buffer_epoch=beat.buffer.epoch,
            buffer_thinned=beat.buffer.thinned_readings,
            buffer_dropped=beat.buffer.dropped_readings,
            delivered_batches=beat.delivered.batches,
            delivered_readings=beat.delivered.readings,
            delivered_bytes=beat.delivered.bytes,
            configuration_revision=running.revision,
            configuration_hash=running.hash,
            on_trial=message.status.on_trial,
            drift=_DRIFTS.get(message.drift.state, "unmanaged"),
            drift_reason=message.drift.reason,
            desired_revision=message.drift.desired_revision,
            desired_hash=message.drift.desired_hash,
            replica=message.replica,
            lines=tuple(
                LineView(line.id, line.up, line.load, line.requests, dict(line.errors), line.told)
                for line in beat.lines
            ),
        )

    def as_json(self) -> dict[str, Any]:
        """As it stands in --json: what belongs together is grouped."""
        return {
            "park": self.park,
            "gateway": self.gateway,
            "state": self.state,
            "since": self.since,
            "last_seen": self.last_seen,
            "reason": self.reason,
            "peer": self.peer,
            "replica": self.replica,
            "version": self.version,
            "boot_id": self.boot_id,
            "uptime_s": self.uptime_s,
            "rss_bytes": self.rss_bytes,
            "configuration": {
                "revision": self.configuration_revision,
                "hash": self.configuration_hash,
                "on_trial": self.on_trial,
                "state": self.drift,
                "reason": self.drift_reason,
                "desired": {"revision": self.desired_revision, "hash": self.desired_hash},
            },
            "alarms": self.alarms,
            "meters": {"configured": self.meters, "ok": self.meters_ok, "bad": self.meters_bad},
            "broker": {"connected": self.broker_connected, "told": self.broker_told},
            "buffer": {
                "batches": self.buffer_batches,
                "readings": self.buffer_readings,
                "bytes": self.buffer_bytes,
                "oldest_ts": self.buffer_oldest_ts,
                "last_seq": self.buffer_last_seq,
                "epoch": self.buffer_epoch,
                "thinned_readings": self.buffer_thinned,
                "dropped_readings": self.buffer_dropped,
            },
            "delivered": {
                "batches": self.delivered_batches,
                "readings": self.delivered_readings,
                "bytes": self.delivered_bytes,
            },
            "lines": [line.as_json() for line in self.lines],
        }
