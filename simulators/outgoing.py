"""Outgoing: an answer on its way from a simulated meter, decided when the request arrives, sent when it is due."""

from collections.abc import Mapping
from dataclasses import dataclass

from parkfleet.simulators.frames import Request, Requests
from parkfleet.simulators.meter import Reply, SimulatedMeter
from parkfleet.simulators.record import Answer


@dataclass(frozen=True)
class Outgoing:
    """The bytes of an answer, when they are due, and what they stand for."""

    unit: int  # who was asked
    frame: bytes  # with the faults of the wire in it
    wait: float  # seconds after the request's last byte
    reply: Reply
    ok: bool
    disconnect: bool

    def answer(self, line: str, began: float, ended: float) -> Answer:
        """The entry of the record; unix seconds of the first and the last byte."""
        reply = self.reply
        return Answer(line, self.unit, ended, reply.table, reply.address, reply.count, reply.values, self.ok, began)


def respond(
    meters: Mapping[int, SimulatedMeter], request: Request, requests: Requests, time: float, *, has_crc: bool
) -> Outgoing | None:
    """What the asked meter does at a unix time; None when it is silent, or no meter has the unit id."""
    meter = meters.get(request.unit)
    if meter is None or meter.faults.silent:
        return None
    faults = meter.faults
    reply = meter.answer(request.pdu, time)
    frame = faults.on_wire(requests.frame(reply.pdu, request.transaction), has_crc=has_crc)
    wait = meter.turnaround + faults.delay + faults.late
    ok = bool(reply.values) and not faults.spoil
    return Outgoing(request.unit, frame, wait, reply, ok, faults.disconnect)
