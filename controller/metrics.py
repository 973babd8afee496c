"""Metrics: what a controller counts, in the text that Prometheus reads (exposition format 0.0.4)."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from parkfleet import __version__
from parkfleet.controller import load
from parkfleet.controller.server import ControllerServer

if TYPE_CHECKING:
    from parkfleet.controller.config_delivery import ConfigDelivery

#: Gateways whose drift is looked at before others have their turn: some milliseconds.
AT_ONCE: Final = 100
#: Counting the fleet's drift looks at every gateway: done anew after so long, whoever asks. Seconds.
KEPT_S: Final = 5.0


class Metrics:
    """One controller's numbers. text() may be asked for at any rate."""

    def __init__(self, server: ControllerServer) -> None:
        self._server = server
        self._drift: Counter[str] = Counter()
        self._counted = float("-inf")
        self._counting = asyncio.Lock()

    async def text(self) -> str:
        """All of them, now."""
        drift = await self._drifts()
        return "".join(f"{line}\n" for line in self._lines(drift))

    def _lines(self, drift: Mapping[str, int]) -> Iterator[str]:
        server = self._server
        fleet, door = server.fleet, server.door.counts
        online = fleet.registry.online
        yield from _metric(
            "parkfleet_info", "gauge", "this controller", {_labels(version=__version__, replica=server.replica): 1}
        )
        states = {_labels(state="online"): online, _labels(state="offline"): len(fleet.registry) - online}
        yield from _metric("parkfleet_gateways", "gauge", "gateways of the fleet, at any replica", states)
        if drift:
            found = {_labels(state=state): count for state, count in sorted(drift.items())}
            yield from _metric("parkfleet_configuration", "gauge", "gateways by desired against reported", found)
        yield from _one("parkfleet_sessions", "gauge", "sessions open here", fleet.sessions)
        yield from _one("parkfleet_sessions_waiting", "gauge", "gateways that wait here for their turn", door.held)
        yield from _one("parkfleet_sessions_begun_total", "counter", "sessions that have begun here", door.begun)
        sent_away = "gateways that were told to come back later"
        yield from _one("parkfleet_sessions_sent_away_total", "counter", sent_away, door.sent_away)
        refused = "streams that ended because of what the agent sent"
        yield from _one("parkfleet_sessions_refused_total", "counter", refused, door.refused)
        yield from _one("parkfleet_admission_rate", "gauge", "sessions that may begin a second", server.door.rate)
        yield from _one("parkfleet_heartbeats_total", "counter", "heartbeats taken", fleet.heartbeats)
        yield from self._storage_lines()
        late = "latest the event loop was within the last second"
        yield from _one("parkfleet_loop_late_seconds", "gauge", late, server.load.late_s)
        yield from _one("parkfleet_tasks", "gauge", "asyncio tasks; some three a session", len(asyncio.all_tasks()))
        yield from _process_lines()

    def _storage_lines(self) -> Iterator[str]:
        vitals = self._server.vitals()
        if vitals is None:
            return
        yield from _one("parkfleet_commits_total", "counter", "transactions that wrote to the database", vitals.commits)
        yield from _one("parkfleet_storing", "gauge", "1: the last changes could be stored", int(vitals.is_storing))
        told = "1: other replicas' changes are told to this one"
        yield from _one("parkfleet_listening", "gauge", told, int(vitals.is_listening))
        yield from _one("parkfleet_other_replicas", "gauge", "replicas that live beside this one", vitals.others)

    async def _drifts(self) -> Mapping[str, int]:
        """Gateways by drift, at most KEPT_S old; empty where no configuration is managed."""
        delivery = self._server.delivery
        if delivery is None:
            return {}
        async with self._counting:
            if time.monotonic() - self._counted > KEPT_S:
                self._drift = await _count(self._server, delivery)
                self._counted = time.monotonic()
        return self._drift


async def _count(server: ControllerServer, delivery: "ConfigDelivery") -> Counter[str]:
    found: Counter[str] = Counter()
    seen = set()
    for number, gateway in enumerate(list(server.fleet.gateways()), 1):
        seen.add(gateway.key)
        found[delivery.drift(gateway).state.name.lower()] += 1
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    found["pending"] += sum(key not in seen for key in delivery.config.gateways())
    return found


def _process_lines() -> Iterator[str]:
    yield from _one("process_resident_memory_bytes", "gauge", "resident memory", load.rss_bytes())
    yield from _one("process_cpu_seconds_total", "counter", "CPU time, user and system", load.cpu_seconds())
    yield from _one("process_open_fds", "gauge", "open file descriptors", load.descriptors())


def _one(name: str, kind: str, told: str, value: float) -> Iterator[str]:
    return _metric(name, kind, told, {"": value})


def _metric(name: str, kind: str, told: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{labels} {value:.15g}"


def _labels(**labels: str) -> str:
    escaped = (
        (key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for key, value in labels.items()
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
