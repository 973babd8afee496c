"""FleetService: what operators ask: list the gateways, watch them."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import grpc
from grpc import aio

from parkfleet.controller.caller import caller, visible_gateways
from parkfleet.controller.checks import RefusedError
from parkfleet.controller.config_drift import Drift, DriftState
from parkfleet.controller.fleet import FleetState
from parkfleet.controller.registry import Gateway, GatewayKey, State
from parkfleet.proto import fleet_pb2
from parkfleet.proto.fleet_pb2_grpc import FleetServicer

if TYPE_CHECKING:
    from parkfleet.controller.config_delivery import ConfigDelivery  # with the controller's own packages only

#: A page ends with the gateway that passes this: with one gateway more at most (256 KiB of heartbeat) it stays
#: below the bound of a message. Bytes.
PAGE_BYTES: Final = 512 * 1024
#: Gateways that are put on a page before others have their turn: some milliseconds.
AT_ONCE: Final = 100

_STATES: Final = {
    State.ONLINE: fleet_pb2.Gateway.STATE_ONLINE,
    State.OFFLINE: fleet_pb2.Gateway.STATE_OFFLINE,
}

_DRIFTS: Final = {
    DriftState.UNMANAGED: fleet_pb2.Drift.STATE_UNMANAGED,
    DriftState.IN_SYNC: fleet_pb2.Drift.STATE_IN_SYNC,
    DriftState.APPLYING: fleet_pb2.Drift.STATE_APPLYING,
    DriftState.ROLLED_BACK: fleet_pb2.Drift.STATE_ROLLED_BACK,
    DriftState.PENDING: fleet_pb2.Drift.STATE_PENDING,
}


class FleetService(FleetServicer):
    """The service operators use."""

    def __init__(self, fleet: FleetState, delivery: "ConfigDelivery | None" = None) -> None:
        self._fleet = fleet
        self._delivery = delivery

    async def ListGateways(
        self,
        request: fleet_pb2.ListGatewaysRequest,
        context: aio.ServicerContext[fleet_pb2.ListGatewaysRequest, fleet_pb2.ListGatewaysResponse],
    ) -> fleet_pb2.ListGatewaysResponse:
        """One page, by park and gateway."""
        after = tuple(request.page_token.split("/", 1)) if request.page_token else ("", "")
        managed = self._delivery.config.gateways() if self._delivery else ()
        found: dict[GatewayKey, Gateway | None] = dict.fromkeys(managed)
        found.update((gateway.key, gateway) for gateway in self._fleet.gateways())
        rest = visible_gateways(sorted(key for key in found if key > after and request.park in ("", key.park)))
        page = fleet_pb2.ListGatewaysResponse()
        size = 0
        for key in rest:
            if size >= PAGE_BYTES or (request.page_size and len(page.gateways) >= request.page_size):
                page.next_page_token = "/".join((page.gateways[-1].park, page.gateways[-1].gateway))
                break
            message = self._message(found[key] or key)
            size += message.ByteSize()
            page.gateways.append(message)
            if len(page.gateways) % AT_ONCE == 0:
                await asyncio.sleep(0)
        return page

    async def WatchGateways(
        self,
        request: fleet_pb2.WatchGatewaysRequest,
        context: aio.ServicerContext[fleet_pb2.WatchGatewaysRequest, fleet_pb2.GatewayChange],
    ) -> AsyncIterator[fleet_pb2.GatewayChange]:
        """Every gateway as it is, then each when it changes, until the caller or the controller leaves."""
        try:
            watcher, gateways = self._fleet.watch(request.park)
        except RefusedError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        try:
            for gateway in gateways:
                if caller().sees(gateway.key.park):
                    yield fleet_pb2.GatewayChange(gateway=self._message(gateway), initial=True)
            while changes := await watcher.next():
                for gateway in changes:
                    if caller().sees(gateway.key.park):
                        yield fleet_pb2.GatewayChange(gateway=self._message(gateway))
        finally:
            self._fleet.unwatch(watcher)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the controller is stopping")

    def _message(self, gateway: Gateway | GatewayKey) -> fleet_pb2.Gateway:
        """A gateway, or one that only its configuration is known of."""
        if isinstance(gateway, GatewayKey):
            message = fleet_pb2.Gateway(
                park=gateway.park,
                gateway=gateway.gateway,
                state=fleet_pb2.Gateway.STATE_OFFLINE,
                offline_reason="never seen",
            )
        else:
            message = gateway_message(gateway)
        if self._delivery is not None:
            message.drift.CopyFrom(drift_message(self._delivery.drift(gateway)))
        return message


def drift_message(drift: Drift) -> fleet_pb2.Drift:
    """Drift as operators see it."""
    return fleet_pb2.Drift(
        state=_DRIFTS[drift.state],
        desired_revision=drift.desired,
        desired_hash=drift.desired_hash,
        reason=drift.reason,
    )


def gateway_message(gateway: Gateway) -> fleet_pb2.Gateway:
    """A gateway as operators see it."""
    return fleet_pb2.Gateway(
        park=gateway.key.park,
        gateway=gateway.key.gateway,
        state=_STATES[gateway.state],
        since_ms=gateway.since_ms,
        last_seen_ms=gateway.last_seen_ms,
        peer=gateway.peer,
        offline_reason=gateway.reason,
        hello=gateway.hello,
        heartbeat=gateway.heartbeat,
        status=gateway.status,
        replica=gateway.replica,
    )
